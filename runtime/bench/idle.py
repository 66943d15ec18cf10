"""An idle runtime: memory, CPU and wake-ups of everything, in its second life.

The first life compiles what it imports; a device's never does again.
"""

from __future__ import annotations

import time

from runtime.bench import FigureRow
from runtime.bench.upload import Rig
from runtime.bench.whole import shared_out_bytes, used, whole

_WHY_MEMORY = (
    "upload alone takes 28 MB with azure and requests, which no other shares; each other worker has 11 MB of "
    "its own, nearly all of it pages that it shares but for reference counts and bytecode that Python adapts"
)


def measure(quick: bool) -> list[FigureRow]:
    """The table of an idle runtime's figures."""
    seconds = 10.0 if quick else 60.0
    with Rig() as rig:
        with whole(rig):
            pass
        with whole(rig) as processes:
            memory_mb = shared_out_bytes(processes) / 1e6
            before = used(processes)
            time.sleep(seconds)
            after = used(processes)
    cpu = 100 * (after.cpu_s - before.cpu_s) / seconds
    wake_ups = (after.wake_ups - before.wake_ups) / seconds
    kib = (after.written_bytes - before.written_bytes) / 1024 / seconds
    return [
        FigureRow(
            f"memory of all {len(processes)} processes",
            memory_mb,
            "MB PSS",
            reach="<= 95",
            reason="" if memory_mb <= 95 else _WHY_MEMORY,
        ),
        FigureRow("processor", cpu, "% of a core", reach="<= 0.5"),
        FigureRow("wake-ups", wake_ups, "1/s", reach="<= 12"),
        FigureRow("handed to the disk, by /proc/PID/io", kib, "KiB/s", reach="<= 0.2"),
    ]
