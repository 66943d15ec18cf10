"""Crash reports: an uncaught exception leaves one record, and never a secret.

One JSON object a line in log/crashes.jsonl: when, worker, version, reason, and the frames with their local
variables, shortened and redacted. `edgectl status` counts them.
"""

from __future__ import annotations

import contextlib
import json
import re
import reprlib
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from loguru import logger

from runtime import __version__
from runtime.adapters.process.logs import redact
from runtime.core.log_events import LogEvent
from runtime.layout import Layout

KEEP_BYTES = 262_144
FRAMES = 8
CAUSES = 5
SHOWN = 160
"""Characters of a local variable that are shown."""
_TELLING = "token|secret|sas|password|credential|signature|authorization|key"
_TELLING_NAME = re.compile(_TELLING, re.IGNORECASE)
_TOLD_BY_NAME = re.compile(
    rf"""((?:{_TELLING})[\w-]*\\?["']?\s*[:=]\s*b?\\?)(["'])(?!\*\*\*).*?\2""", re.IGNORECASE
)
_LOOKS_RANDOM = re.compile(
    r"(?=[\w+/=-]*\d)(?=[\w+/=-]*[a-z])(?=[\w+/=-]*[A-Z])[\w+/=-]{20,}|\b[0-9a-fA-F]{32,}\b"
)
_brief = reprlib.Repr()
_brief.maxstring = _brief.maxother = (
    4000  # far more than is shown: first clean, then cut, never inside a secret
)


def crash_file(layout: Layout) -> Path:
    return layout.log / "crashes.jsonl"


def report_crashes(worker: str, layout: Layout) -> None:
    """Have every exception that is uncaught in this process reported from now on."""

    def on_crash(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            return
        record = describe(worker, exc, trace)
        with contextlib.suppress(OSError):  # a full disk: the log line below is all there is
            record_crash(layout, record)
        logger.bind(event=LogEvent.CRASHED, at=record["at"]).critical("crashed: {}", record["reason"])

    def in_thread(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread else "?"
        logger.bind(event=LogEvent.THREAD_ENDED).warning(
            "thread {} ended: {}", name, _message_of(args.exc_value or args.exc_type())
        )

    sys.excepthook = on_crash
    threading.excepthook = in_thread  # a library's thread: progress decides if the worker can go on


def describe(worker: str, exc: BaseException, trace: TracebackType | None) -> dict[str, Any]:
    """The facts about a crash, with nothing secret in them."""
    frames = [
        {
            "at": f"{Path(frame.f_code.co_filename).name}:{line} {frame.f_code.co_name}",
            "locals": {name: _shown(name, value) for name, value in frame.f_locals.items()},
        }
        for frame, line in list(traceback.walk_tb(trace))[-FRAMES:]
    ]
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "worker": worker,
        "version": __version__,
        "reason": _message_of(exc),
        "causes": [_message_of(cause) for cause in _causes(exc)],
        "at": frames[-1]["at"] if frames else "?",
        "frames": frames,
    }


def _message_of(exc: BaseException) -> str:
    return _clean("".join(traceback.format_exception_only(exc)).strip())


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """The exceptions that it was raised from, the nearest first."""
    seen = {id(exc)}
    while (cause := exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)) is not None:
        if id(cause) in seen or len(seen) > CAUSES:
            return
        seen.add(id(cause))
        yield cause
        exc = cause


def record_crash(layout: Layout, record: dict[str, Any]) -> None:
    """Append the record to those before: two files of KEEP_BYTES and one record more at most."""
    path = crash_file(layout)
    if path.exists() and path.stat().st_size > KEEP_BYTES:
        path.replace(_older(path))
    with path.open("a") as out:
        out.write(json.dumps(record) + "\n")


def count_crashes(layout: Layout) -> tuple[int, str]:
    """The number of reports that are kept, and the last one's worker and reason."""
    path = crash_file(layout)
    lines = [line for file in (_older(path), path) for line in _lines(file)]
    try:
        last = json.loads(lines[-1])
        return len(lines), f"{last['worker']}: {last['reason']}"
    except (ValueError, RecursionError, IndexError, KeyError, TypeError):  # none, or torn by a power cut
        return len(lines), "(cannot be read)" if lines else ""


def crash_reports(layout: Layout) -> list[Any]:
    """The reports that are kept, oldest first; None for one that cannot be read."""
    path = crash_file(layout)
    return [_parsed(line) for file in (_older(path), path) for line in _lines(file)]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # torn by a power cut
        return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _older(path: Path) -> Path:
    return path.with_suffix(".1.jsonl")


def _shown(name: str, value: object) -> str:
    if _TELLING_NAME.search(name):
        return "***"
    try:
        return _clean(_brief.repr(value))[:SHOWN]
    except Exception as exc:  # any __repr__ may raise
        return f"<no repr: {type(exc).__name__}>"


def _clean(text: str) -> str:
    return _LOOKS_RANDOM.sub("***", _TOLD_BY_NAME.sub(r"\1\2***\2", redact(text)))
