"""What strace sees: no acknowledgement leaves before the fdatasync that covers it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from runtime.producer import Producer
from tests.support.harness import Home, clean_environment, eventually, require_tool

MESSAGES = 60
RUNTIME = ("runtime", "worker", "ingest")


def test_no_acknowledgement_leaves_before_the_flush_that_covers_it(home: Home) -> None:
    """And the same trace, changed as it would be if one did, is seen through."""
    lines = trace(home, *RUNTIME)
    assert covered(lines) == [True] * MESSAGES
    flushes = [number for number, line in enumerate(lines) if _FLUSH.search(line)]
    replies = [number for number, line in enumerate(lines) if _REPLY.search(line)]
    middle = replies[MESSAGES // 2]
    before = max(number for number in flushes if number < middle)
    never_flushed = [line for number, line in enumerate(lines) if number != before]
    flushed_later = [*lines[:before], *lines[before + 1 : middle + 1], lines[before], *lines[middle + 1 :]]
    failed = [*lines[:before], lines[before].replace("= 0", "= -1 EIO"), *lines[before + 1 :]]
    for wrong in (never_flushed, flushed_later, failed):
        assert not covered(wrong)[MESSAGES // 2]


@pytest.mark.parametrize("weakness", ["OFF", "hasty"])
def test_a_weak_ingest_is_seen_through(home: Home, weakness: str) -> None:
    """One that does not flush its commits, and one that acknowledges first."""
    assert not all(covered(trace(home, "tests.support.weak_ingest", weakness)))


def trace(home: Home, *module: str) -> list[str]:
    """The calls of an ingest whose one producer sends one message after the other."""
    home.write_config("[store]\nmin_free_bytes = 0\n")
    file = home.folder / "trace"
    traced = subprocess.Popen(
        [require_tool("strace"), "-f", "-y", "-ttt", "-s", "300", "-o", str(file), "-e",
         "trace=fdatasync,fsync,sendto,recvfrom", sys.executable, "-m", *module],
        env=clean_environment(EDGE_HOME=str(home.folder)), cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        with Producer(home.config.producer_endpoint(), retry_for_s=60, answer_timeout_s=30) as producer:
            producer.ping()
            for number in range(MESSAGES):
                producer.put(f"payload-{number}".encode(), stream="traced")
    finally:
        child = Path(f"/proc/{traced.pid}/task/{traced.pid}/children").read_text().split()
        os.kill(int(child[0]), signal.SIGTERM)  # strace itself blocks signals
        traced.wait(20)
    eventually(lambda: "exited" in file.read_text(errors="replace"), what="the trace is complete")
    return list(_whole(file.read_text(errors="replace").splitlines()))


_FLUSH = re.compile(r"f(data)?sync\(.*messages\.db-wal.*= 0$")
_REQUEST = re.compile(r"recvfrom\(.*payload-")
_REPLY = re.compile(r'sendto\(.*\\"stored\\"')


def covered(lines: Iterable[str]) -> list[bool]:
    """Of each acknowledgement, whether the WAL was flushed to the end since its request came.

    One REQ at a time: so the flush was for it. (A flush since the last acknowledgement proves nothing: it may
    have been for that one, late.)
    """
    found, flushed = [], False
    for line in lines:
        if _FLUSH.search(line):
            flushed = True
        elif _REQUEST.search(line):
            flushed = False
        elif _REPLY.search(line):
            found.append(flushed)
    return found


def _whole(lines: Iterable[str]) -> Iterable[str]:
    """Calls that another thread interrupted, joined: a flush where it ended, a reply where it began."""
    begun: dict[str, str] = {}
    for line in lines:
        thread, _, call = line.partition(" ")
        if call.endswith("<unfinished ...>"):
            if _REPLY.search(call):
                yield line
            else:
                begun[thread] = line.removesuffix("<unfinished ...>")
        elif " resumed>" in call:
            yield begun.pop(thread, "") + call.partition(" resumed>")[2]
        else:
            yield line
