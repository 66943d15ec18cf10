"""`edgectl logs`: what every worker logged, in the order of time."""

from __future__ import annotations

import argparse
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from runtime.cli import Commands, load_config

if TYPE_CHECKING:
    from pathlib import Path

    from runtime.adapters.process.log_files import LogFollower
    from runtime.core.operations.log_lines import LogFilter, LogLine

LINES = 100
LOOK_EVERY_S = 0.25


def register(commands: Commands) -> None:
    logs = commands.add_parser("logs", help="what the workers logged, merged by time; -f follows")
    logs.add_argument("worker", nargs="*", help="only these: ingest, upload, sentinel, supervisord, ...")
    logs.add_argument("--since", metavar="WHEN", help="2h, 30min, 7d, or 2026-01-31T12:00")
    logs.add_argument(
        "--level", metavar="LEVEL", default="trace", help="this and graver: info, warning, error"
    )
    logs.add_argument("--grep", metavar="REGEX", help="only lines in which this is found")
    logs.add_argument(
        "-n", "--lines", type=int, metavar="N", help=f"the last N (default {LINES}; all with --since)"
    )
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is logged from now on")
    logs.add_argument("--json", action="store_true", help="one JSON object a line, for a program")
    logs.set_defaults(run=_logs)


def _logs(arguments: argparse.Namespace) -> int:
    from runtime.errors import UsageError

    folder = load_config(arguments, warn=False).layout.log
    wanted = _filter(arguments)
    names = _programs(folder, arguments.worker)
    most = arguments.lines if arguments.lines is not None else None if arguments.since else LINES
    follower = _follower(folder, names) if arguments.follow else None  # before reading: no line in between
    try:
        for line in _last(_merged(folder, names, wanted), most):
            _write(line, as_json=arguments.json)
    except BrokenPipeError:
        raise
    except OSError as exc:
        raise UsageError(f"a log in {folder} cannot be read: {exc.strerror or exc}") from exc
    if follower is not None:
        while True:  # until Ctrl-C
            time.sleep(LOOK_EVERY_S)
            _write_new(follower.new_lines(), wanted, as_json=arguments.json)
    return 0


def _filter(arguments: argparse.Namespace) -> LogFilter:
    """The filter that the options describe. Raises UsageError."""
    from runtime.adapters.process.clock import LocalZone
    from runtime.core.operations.log_lines import LEVELS, LogFilter, since
    from runtime.errors import UsageError

    level = arguments.level.upper()
    if level not in LEVELS:
        raise UsageError(
            f"--level {arguments.level!r} is no level; use one of {', '.join(map(str.lower, LEVELS))}"
        )
    if arguments.lines is not None and arguments.lines < 0:
        raise UsageError("--lines must be 0 or more")
    try:
        pattern = re.compile(arguments.grep) if arguments.grep is not None else None
    except re.error as exc:
        raise UsageError(f"--grep {arguments.grep!r} is no regular expression: {exc}") from exc
    try:
        since_s = since(arguments.since, time.time(), LocalZone()) if arguments.since else 0.0
    except ValueError:
        raise UsageError(f"--since {arguments.since!r} must read 2h, 30min, 7d or 2026-01-31T12:00") from None
    return LogFilter(since_s, level, pattern)


def _programs(folder: Path, asked: list[str]) -> list[str]:
    """The programs to read. Raises UsageError where there is no such log."""
    from runtime.adapters.process.log_files import programs
    from runtime.errors import UsageError

    try:
        there = programs(folder)
    except FileNotFoundError:
        raise UsageError(f"{folder} is not there yet: `edgectl up` makes it") from None
    except OSError as exc:
        raise UsageError(f"{folder} cannot be read: {exc.strerror}; be root or the runtime's user") from exc
    if missing := [name for name in asked if name not in there]:
        raise UsageError(f"{missing[0]} has no log; there are {', '.join(there) or 'none'}")
    return asked or there


def _follower(folder: Path, names: list[str]) -> LogFollower:
    from runtime.adapters.process.log_files import LogFollower

    return LogFollower(folder, names)


def _merged(folder: Path, names: list[str], wanted: LogFilter) -> Iterator[LogLine]:
    """The events of all programs in the order of time; within one program in the order of its file."""
    import heapq

    from runtime.adapters.process.clock import LocalZone
    from runtime.adapters.process.log_files import lines, written_s
    from runtime.core.operations.log_lines import events

    by_program = (events(name, lines(folder, name), written_s(folder, name), LocalZone()) for name in names)
    merged = heapq.merge(*by_program, key=lambda event: event.time_s)
    return filter(wanted.takes, merged)


def _last(events: Iterable[LogLine], most: int | None) -> Iterable[LogLine]:
    return events if most is None else deque(events, maxlen=most)


def _write_new(new: dict[str, list[str]], wanted: LogFilter, *, as_json: bool) -> None:
    from runtime.adapters.process.clock import LocalZone
    from runtime.core.operations.log_lines import events

    read_s = time.time()
    read = [event for name, lines in new.items() for event in events(name, lines, read_s, LocalZone())]
    for event in sorted(filter(wanted.takes, read), key=lambda event: event.time_s):
        _write(event, as_json=as_json)


def _write(event: LogLine, *, as_json: bool) -> None:
    from datetime import datetime

    from runtime.cli.terminal import TextRow, write_json, write_lines

    if as_json:
        write_json(event.as_record(), indent=None)
        return
    stamp = datetime.fromtimestamp(event.time_s).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    head = f"{stamp} {event.level:<7} {event.program}:"
    fields = "".join(f" {name}={value}" for name, value in event.fields.items())
    first, *rest = f"{event.message}{fields}".split("\n")
    colour = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}.get(event.level, "")
    write_lines(TextRow(f"{head} {first}", head if colour else "", colour, indent=4))
    write_lines(*(f"    {line}" for line in rest))
