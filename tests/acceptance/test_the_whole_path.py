"""The shipped supervisord.conf against the stand-in cloud: what was acknowledged arrives, whoever dies."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.supervisor.rpc import Supervisor
from runtime.errors import EdgeError
from runtime.layout import WORKERS
from tests.support.harness import Cloud, Home, Process, eventually

PRODUCERS = 8
MESSAGES = 5_000
KILLS_EACH = 3


@pytest.fixture
def runtime(device: Home) -> Iterator[Home]:
    """The whole runtime, supervised."""
    up = Process(
        sys.executable, "-m", "runtime", "--home", str(device.folder), "up", log=device.folder / "up.log"
    )
    try:
        yield device
    finally:
        with contextlib.suppress(Exception):
            up.terminate(30)
        up.close()


def worker_pid(home: Home, worker: str) -> int:
    with contextlib.suppress(EdgeError):
        program = Supervisor(home.layout.supervisor_socket).programs()[worker]
        return program.pid if program.state == "RUNNING" else 0
    return 0


def start_senders(home: Home, folder: Path) -> list[tuple[Process, Path]]:
    senders = []
    for number in range(PRODUCERS):
        ledger = folder / f"ledger-{number}"
        arguments = [
            home.config.producer_endpoint(),
            f"p{number}",
            str(MESSAGES // PRODUCERS),
            "40",
            str(ledger),
        ]
        process = Process(
            sys.executable, "-m", "tests.support.sender", *arguments, log=folder / f"p{number}.log"
        )
        senders.append((process, ledger))
    return senders


def kill_every_worker(home: Home, times: int) -> None:
    """SIGKILL each worker in turn, the next only when the last is back."""
    for _ in range(times):
        for worker in WORKERS:
            victim = eventually(lambda w=worker: worker_pid(home, w), 60, f"{worker} runs")
            os.kill(victim, signal.SIGKILL)
            eventually(
                lambda w=worker, v=victim: worker_pid(home, w) not in (0, v), 60, f"{worker} comes back"
            )


def first_arrivals(cloud: Cloud) -> list[str]:
    """Payloads in the order in which each arrived first."""
    return list(dict.fromkeys(message.payload.decode() for message in cloud.messages()))


@pytest.mark.timeout(300)
def test_every_acknowledged_message_arrives_in_order_while_every_worker_is_killed_three_times(
    runtime: Home, cloud: Cloud, folder: Path
) -> None:
    eventually(lambda: cloud.approve_all(), 60, "the device asks to be provisioned")
    senders = start_senders(runtime, folder)
    kill_every_worker(runtime, KILLS_EACH)
    for process, _ in senders:
        assert process.popen.wait(120) == 0, process.said()
    acknowledged = [line for _, ledger in senders for line in ledger.read_text().splitlines()]
    assert len(acknowledged) == MESSAGES
    eventually(lambda: cloud.message_count() >= MESSAGES, 120, "the backlog drains")

    arrived = first_arrivals(cloud)
    assert set(acknowledged) == set(arrived)
    for sender in range(PRODUCERS):
        for stream in (0, 1):
            start = f"p{sender} stream-{stream} "
            numbers = [int(payload.removeprefix(start)) for payload in arrived if payload.startswith(start)]
            assert numbers == sorted(numbers), f"{start}arrived out of order"
    by_id: dict[str, set[bytes]] = {}
    for message in cloud.messages():
        by_id.setdefault(message.message_id, set()).add(message.payload)
    assert all(len(payloads) == 1 for payloads in by_id.values()), (
        "a repeat does not carry its own message id"
    )
    assert len(by_id) == MESSAGES, "a message was stored twice"
