"""`edgectl health`: does every worker make progress, and does ingest store? By status files and locks."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING

from runtime.cli import Commands, seconds

if TYPE_CHECKING:
    from pathlib import Path

LOOK_EVERY_S = 0.25


def register(commands: Commands) -> None:
    health = commands.add_parser(
        "health",
        help="exit 0 where every worker makes progress and messages are stored, else 1; for containers",
        description="Exit 0 where every worker makes progress and messages are stored, else 1. It reads "
        "status files and locks only and does not ask for the cloud: a device without a network is well",
    )
    health.add_argument(
        "--wait", type=seconds, default=0.0, metavar="SECONDS", help="give it so long to become well"
    )
    health.add_argument("--json", action="store_true", help="for a program")
    health.set_defaults(run=_health)


def _health(arguments: argparse.Namespace) -> int:
    from runtime.cli.terminal import write_json, write_lines
    from runtime.config_file import find_home

    home = find_home(os.environ, arguments.home)
    until_s = time.monotonic() + arguments.wait
    while (faults := _faults(home)) and time.monotonic() < until_s:
        time.sleep(LOOK_EVERY_S)
    if arguments.json:
        write_json({"healthy": not faults, "faults": faults})
    else:
        write_lines(*(faults or ["healthy"]))
    return 1 if faults else 0


def _faults(home: Path) -> list[str]:
    from runtime.adapters.process.clock import SystemClock
    from runtime.adapters.process.process import lock_is_free
    from runtime.adapters.process.status_file import BUSY, last_record
    from runtime.core.operations.liveness import WorkerProgress, faults
    from runtime.layout import WORKERS, Layout

    clock, layout, seen = SystemClock(), Layout(home), {}
    names = (*WORKERS, "sentinel")
    free = {name for name in names if lock_is_free(layout.lock(name))}
    # a worker that has just ended is started again, where there is a supervisor, and it is not ending itself
    gone = free if lock_is_free(layout.lock("supervisor")) or len(free) == len(names) else set()
    for name in names:
        record = last_record(layout.status_file(name), clock.boot_id())
        age_s = record.age_s("progress_boot_s", clock.boot_s())
        busy = record.values.get(BUSY) is True
        seen[name] = WorkerProgress(age_s, busy, record.text("store") or "", name in gone)
    return faults(seen)
