"""Device management beside telemetry: what it costs a message while programs report twenty times a second."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator

from runtime.bench import FigureRow
from runtime.bench.hub import processor_s
from runtime.bench.upload import Rig, wait_for

COST_REACH = 1.03
_ON = "[management]\nenabled = true\nreport_every_s = 0.1\n"
_REPORTING = """
import sys, time
from runtime.device import Device
with Device(sys.argv[1]) as device:
    number = 0
    while True:
        number += 1
        device.set(f"/bench/p{number % 20}", number)
        time.sleep(0.05)
"""


def measure(quick: bool) -> list[FigureRow]:
    """Processor time of upload for a message, with management on and off by turns."""
    count, rounds = (10_000, 2) if quick else (30_000, 5)
    turns = [(_message_us(count, on=False), _message_us(count, on=True)) for _ in range(rounds)]
    off, on = (statistics.median(each) for each in zip(*turns, strict=True))
    name = "upload's processor time for a message, with subscriptions and 20 reports/s, against without"
    return [FigureRow(name, on, "us/msg", off, on / off, f"<= {COST_REACH}")]


def _message_us(count: int, *, on: bool) -> float:
    with Rig(_ON if on else "") as rig:
        rig.fill(count)
        rig.start("ingest")
        for process in _management(rig) if on else ():
            assert process.poll() is None
        upload = rig.start("upload")
        wait_for(lambda: rig.arrivals() >= count // 10)
        began_s, first = processor_s(upload.pid), rig.arrivals()
        wait_for(lambda: rig.arrivals() >= count)
        used_s, carried = processor_s(upload.pid) - began_s, rig.arrivals() - first
        if on and not rig.twin_patches():
            raise RuntimeError("nothing was reported meanwhile: the figure would say nothing")
        return used_s / carried * 1e6


def _management(rig: Rig) -> Iterator[subprocess.Popen[bytes]]:
    """The worker, and a program that reports."""
    yield rig.start("management")
    wait_for(rig.layout.management_socket.exists)
    yield rig.run(sys.executable, "-c", _REPORTING, f"ipc://{rig.layout.management_socket}")
