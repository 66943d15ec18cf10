"""Logging by loguru: text for a person, one JSON object a line for a machine, secrets taken out."""

from __future__ import annotations

import json
import re
import sys
import traceback
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

from loguru import logger

from runtime.adapters.process.journal import SystemdJournal
from runtime.adapters.process.known_secrets import hide_known

if TYPE_CHECKING:
    from loguru import Message, Record

MOST_COMPLAINT = 300
"""Characters of a worker's last log lines that are put in a status line."""
_SECRETS = re.compile(
    r"(SharedAccessSignature\s+sr=)[^\s\"']+|(SharedAccessKey=)[^;\s\"']+|((?:DeviceToken|Bearer)\s+)[^\s\"',]+"
    r"|([?&](?:sig|se|sv|sr)=)[^&\s\"']+"
    r"|((?:registrationToken|connectionString)[\\\"']*\s*:\s*[\\\"']*)[^\\\"',}]+",  # in answers
    re.IGNORECASE,
)


_BEGINNINGS = (
    "sharedaccess", "devicetoken", "bearer", "sig=", "se=", "sv=", "sr=", "registrationtoken",
    "connectionstring",
)  # fmt: skip
"""One of these stands in each text with a credential; to look for them is far quicker than the pattern."""


def redact(text: str) -> str:
    """Take out what looks like a credential: the last line of defence behind `Secret`."""
    text = hide_known(text)
    folded = text.lower()
    if not any(beginning in folded for beginning in _BEGINNINGS):
        return text
    return _SECRETS.sub(lambda m: next(g for g in m.groups() if g) + "***", text)


class _JournalSink:
    """Hands lines to systemd's journal, as loguru's sinks do."""

    def __init__(self, journal: SystemdJournal) -> None:
        self._journal = journal

    def write(self, message: Message) -> None:
        record = message.record
        fields = {name: redact(str(value)) for name, value in record["extra"].items()}
        text = redact(record["message"] + _traceback(record))
        self._journal.write(record["level"].name, text, fields)

    def stop(self) -> None:
        self._journal.close()


def configure(
    worker: str, level: str = "INFO", form: str = "auto", journal: SystemdJournal | None = None
) -> None:
    """Send everything this process logs to stderr, in the form its reader needs, and to `journal`.

    `form`: `text` for a person, `json` for a machine; `auto` looks whether stderr is a terminal.
    """
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    logger.remove()
    logger.configure(extra={"worker": worker})
    logger.add(_write_text if text else _write_json, level=level, format="{message}", catch=False)
    if journal is not None:
        logger.add(_JournalSink(journal), level=level, format="{message}", catch=False)


def tail(path: Path, lines: int) -> str:
    """The last lines of a log, for a report of why a process died."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, log.seek(0, 2) - 200 * lines))
            return redact(b"\n".join(log.read().splitlines()[-lines:]).decode(errors="replace"))
    except OSError:
        return ""


def last_complaint(path: Path, *, only_at_the_end: bool = False) -> str:
    """The reason why a worker ended, in one line out of its own log; empty where the log gives none.

    `only_at_the_end`: only a complaint that no other line follows.
    """
    lines = [complaint for line in tail(path, 20).splitlines() if (complaint := _complaint(line)) is not None]
    complaints = lines[-1:] if only_at_the_end else [line for line in lines if line]
    return complaints[-1][:MOST_COMPLAINT] if complaints else ""


def _complaint(line: str) -> str | None:
    """The problem in this line; empty where it tells of none, None where it is no log line at all."""
    if line.startswith("edgectl: "):
        return line.removeprefix("edgectl: ")
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return line if re.match(r"[\d:.]+ (ERROR|CRITICAL) ", line) else None
    if isinstance(entry, dict) and entry.get("level") in ("ERROR", "CRITICAL"):
        return str(entry.get("message"))
    return ""


def _write_text(message: Message) -> None:
    record = message.record
    stamp = record["time"].strftime("%H:%M:%S.%f")[:-3]
    extra = {k: v for k, v in record["extra"].items() if k != "worker"}
    fields = "".join(f" {name}={value}" for name, value in extra.items())
    line = f"{stamp} {record['level'].name:<7} {record['extra']['worker']}: {record['message']}{fields}"
    sys.stderr.write(redact(line + _traceback(record)) + "\n")
    sys.stderr.flush()


def _write_json(message: Message) -> None:
    record = message.record
    entry = {
        "time": record["time"].astimezone(UTC).isoformat(timespec="milliseconds"),
        "level": record["level"].name,
        **record["extra"],
        "message": record["message"],
    }
    if record["exception"]:
        entry["exception"] = _traceback(record).strip()
    sys.stderr.write(redact(json.dumps(entry, default=str, ensure_ascii=False)) + "\n")
    sys.stderr.flush()


def _traceback(record: Record) -> str:
    caught = record["exception"]
    if caught is None:
        return ""
    return "\n" + "".join(traceback.format_exception(caught.type, caught.value, caught.traceback)).rstrip()
