"""Log lines: what the lines of the workers' log files mean, and which of them a reader asks for. Pure.

Three forms stand in the files: a JSON object a line (a worker under supervisord), a line for a person (a
worker in a terminal, or `log.format = "text"`, without a date) and supervisord's own. Anything else (a
traceback, faulthandler's stacks) belongs to the line before it, and has its time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

LEVELS = {"TRACE": 5, "DEBUG": 10, "INFO": 20, "SUCCESS": 25, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
"""Loguru's levels, by rising gravity."""
_SUPERVISORS = {"TRAC": "TRACE", "BLAT": "TRACE", "DEBG": "DEBUG", "WARN": "WARNING", "CRIT": "CRITICAL"}
"""supervisord's names of levels that differ; ERRO is cut off, too."""
_SUPERVISOR_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) ([A-Z]{4}) (.*)", re.DOTALL)
_PERSON_LINE = re.compile(
    r"(?:[\d:.]{12} )?(TRACE|DEBUG|INFO|SUCCESS|WARNING|ERROR|CRITICAL) +[\w-]+: (.*)", re.DOTALL
)
_COMMAND_LINE = "edgectl: "
_AGO = re.compile(r"(\d+(?:\.\d+)?) *(s|sec|m|min|h|d|w)")
_UNITS_S = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class LogLine:
    """One event in a log, with the lines that belong to it."""

    program: str
    time_s: float
    """Unix time by the clock of then; that of the line before where the line itself has none."""
    level: str
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """The line as one JSON object, with the keys that a worker writes."""
        stamp = datetime.fromtimestamp(self.time_s, UTC).isoformat(timespec="milliseconds")
        return {
            "time": stamp,
            "level": self.level,
            "worker": self.program,
            **self.fields,
            "message": self.message,
        }


@dataclass(frozen=True, slots=True)
class LogFilter:
    """The lines that a reader asks for."""

    since_s: float = 0.0
    level: str = "TRACE"
    pattern: re.Pattern[str] | None = None

    def takes(self, line: LogLine) -> bool:
        if line.time_s < self.since_s or LEVELS.get(line.level, 20) < LEVELS[self.level]:
            return False
        return self.pattern is None or self.pattern.search(_searched(line)) is not None


def events(program: str, lines: Iterable[str], otherwise_s: float, zone: tzinfo) -> Iterator[LogLine]:
    """The events of one program in the order of its log.

    `otherwise_s` is the Unix time of lines before the first that has a time; in `zone` supervisord writes
    its own.
    """
    event: LogLine | None = None
    for line in lines:
        found = _parsed(program, line, event.time_s if event else otherwise_s, zone)
        if found is None and event is not None:
            event = replace(event, message=f"{event.message}\n{line}")
            continue
        if event is not None:
            yield event
        event = found or LogLine(program, otherwise_s, "INFO", line)
    if event is not None:
        yield event


def since(text: str, now_s: float, zone: tzinfo) -> float:
    """Unix time of `2h`, `30min`, `7d` ago, or of a date and time in ISO form (in `zone` if it names none).
    Raises ValueError.
    """
    if ago := _AGO.fullmatch(text.strip()):
        return now_s - float(ago[1]) * _UNITS_S[ago[2]]
    stamp = datetime.fromisoformat(text.strip())
    return (stamp if stamp.tzinfo else stamp.replace(tzinfo=zone)).timestamp()


def _searched(line: LogLine) -> str:
    fields = "".join(f" {name}={value}" for name, value in line.fields.items())
    return f"{line.program}: {line.message}{fields}"


def _parsed(program: str, line: str, before_s: float, zone: tzinfo) -> LogLine | None:
    """The event that begins with this line; None where the line goes on with another."""
    if line.startswith("{"):
        return _json(program, line, before_s)
    if own := _SUPERVISOR_LINE.fullmatch(line):
        level = _SUPERVISORS.get(own[3], "ERROR" if own[3] == "ERRO" else own[3])
        at = datetime.fromisoformat(own[1]).replace(tzinfo=zone) + timedelta(milliseconds=int(own[2]))
        return LogLine(program, at.timestamp(), level if level in LEVELS else "INFO", own[4])
    if person := _PERSON_LINE.fullmatch(line):
        return LogLine(program, before_s, person[1], person[2])
    if line.startswith(_COMMAND_LINE):
        return LogLine(program, before_s, "ERROR", line.removeprefix(_COMMAND_LINE))
    return None


def _json(program: str, line: str, before_s: float) -> LogLine | None:
    try:
        entry = json.loads(line)
        time_s = datetime.fromisoformat(entry.pop("time")).timestamp()
        level, message = str(entry.pop("level")), str(entry.pop("message"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        return None  # cut by a rotation or a full disk
    worker = entry.pop("worker", program)
    return LogLine(str(worker), time_s, level if level in LEVELS else "INFO", message, entry)
