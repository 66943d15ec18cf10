"""`edgectl doctor`: checks from outside if this device can do its work, and names the remedy."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from runtime.cli import Commands, load_config, seconds
from runtime.cli.terminal import TextRow, write_json, write_lines

if TYPE_CHECKING:
    from runtime.config import Config
    from runtime.core.operations.diagnosis import Check

_MARKS = {"ok": ("ok     ", "green"), "warning": ("WARNING", "yellow"), "error": ("ERROR  ", "red")}


DEEP_S = 60.0
STREAM = "_doctor"
"""The stream of the test message."""
STORE_S = 10.0
"""Longest time for ingest to take it."""


def register(commands: Commands) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="check configuration, disk, databases, clock and network, and say what helps",
        description="Check configuration, disk, databases, clock and network, and say what helps. With "
        f"--deep also send a test message (stream {STREAM}; it counts as one message of the hub's quota), "
        "wait for its PUBACK, and have the storage for files take a block",
        epilog="exit status: 0 all in order, 1 with a warning, 2 with an error",
    )
    doctor.add_argument("--json", action="store_true", help="for a program")
    doctor.add_argument(
        "--deep", action="store_true", help="send a message from end to end, too, and say what each step took"
    )
    doctor.add_argument(
        "--timeout",
        type=seconds,
        default=DEEP_S,
        metavar="SECONDS",
        help="with --deep: how long to wait for the PUBACK (default %(default)g)",
    )
    doctor.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    import dataclasses

    from runtime.core.operations.diagnosis import worst

    checks = []
    for check, took_s in _timed(_checks(arguments)):
        took = {"took_s": round(took_s, 3)} if arguments.deep else {}
        checks.append((check, {**dataclasses.asdict(check), **took}))
        if not arguments.json:
            _print(check, took.get("took_s"))
    if arguments.json:
        write_json([record for _, record in checks])
    return worst([check for check, _ in checks])


def _checks(arguments: argparse.Namespace) -> Iterator[Check]:
    """Every check that is asked for; a configuration that is wrong ends them."""
    from runtime.core.operations.diagnosis import Check
    from runtime.errors import ConfigError
    from runtime.operations.doctor import examine

    try:
        config = load_config(arguments, warn=False)
        yield from examine(config)
    except ConfigError as exc:
        yield Check("configuration", "error", str(exc), "correct it, then: edgectl reload")
        return
    if arguments.deep:
        from runtime.adapters.process.clock import SystemClock
        from runtime.operations.end_to_end import examine_deep

        yield from examine_deep(config, SystemClock(), lambda: _store(config, arguments), arguments.timeout)


def _store(config: Config, arguments: argparse.Namespace) -> int:
    """Store the test message as a producer does. Raises NotStored."""
    from runtime.errors import Retryable
    from runtime.producer import Producer

    retry_for_s = min(STORE_S, arguments.timeout)
    with Producer(config.producer_endpoint(), name="edgectl-doctor", retry_for_s=retry_for_s) as producer:
        payload = b'{"test": "edgectl doctor --deep"}'
        id = producer.put(payload, stream=STREAM, content_type="application/json", priority=9)
    if id is None:
        raise Retryable("it was stored before")  # its key was new
    return id


def _timed(checks: Iterator[Check]) -> Iterator[tuple[Check, float]]:
    """Each check with the seconds that it took."""
    began_s = time.monotonic()
    for check in checks:
        yield check, time.monotonic() - began_s
        began_s = time.monotonic()


def _print(check: Check, took_s: float | None) -> None:
    mark, colour = _MARKS[check.verdict]
    took = "" if took_s is None else f" ({took_s:.1f} s)"
    write_lines(TextRow(f"{mark}  {check.name}: {check.text}{took}", mark, colour, indent=9))
    if check.remedy:
        write_lines(TextRow(f"         -> {check.remedy}", indent=12))
