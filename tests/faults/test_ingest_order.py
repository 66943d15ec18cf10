"""What strace sees: no acknowledgement leaves before the fdatasync that covers it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from runtime.producer import Producer
from tests.harness import Home, clean_environment, eventually, require_tool, short_folder

MESSAGES = 60
_CALL = re.compile(r"^\d+\s+[\d.]+ (\w+)\((\d+)")


def test_no_acknowledgement_leaves_before_the_flush_that_covers_it() -> None:
    """The replies leave through libzmq's own thread: each follows an fdatasync of the WAL, one for one."""
    strace = require_tool("strace")
    with short_folder() as folder:
        home = Home(folder, "[store]\nmin_free_bytes = 0\n")
        trace = folder / "trace"
        traced = subprocess.Popen(
            [strace, "-f", "-y", "-ttt", "-s", "300", "-o", str(trace), "-e",
             "trace=fdatasync,fsync,sendto,sendmsg,write",
             sys.executable, "-m", "runtime", "--home", str(folder), "worker", "ingest"],
            env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with Producer(home.config.producer_endpoint(), retry_for_s=60, answer_timeout_s=30) as producer:
                producer.ping()
                for number in range(MESSAGES):
                    producer.put(f"payload-{number}".encode(), stream="traced")
        finally:
            os.kill(
                int(home.layout.lock("ingest").read_text()), signal.SIGTERM
            )  # strace itself blocks signals
            traced.wait(20)
        eventually(lambda: "exited" in trace.read_text(errors="replace"), what="the trace is complete")
        _check(trace)


def _check(trace: Path) -> None:
    """One REQ at a time: between any two acknowledgements lies a completed flush of the WAL."""
    flushed, acknowledged, flushing = False, 0, set()
    for line in trace.read_text(errors="replace").splitlines():
        thread = line.split()[0]
        if "messages.db-wal" in line and re.search(r"f(data)?sync\(", line):
            flushing.add(thread)
        if thread in flushing and re.search(r"sync.*= 0$", line):
            flushed = True
            flushing.discard(thread)
        if '\\"stored\\"' in line and re.search(r"(sendto|sendmsg|write)\(", line):
            assert flushed, f"no flush since the acknowledgement before: {line}"
            flushed = False
            acknowledged += 1
    assert acknowledged == MESSAGES, "the trace does not show the acknowledgements: are they sent otherwise?"
