"""Very many connections, very many producers behind few, and one that floods: others hardly notice."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from runtime.adapters.bus.connection_guard import LOOK_EVERY_S, ConnectionGuard
from runtime.adapters.process.process import Stop
from runtime.adapters.process.status_file import read_status
from runtime.core.address import IpcEndpoint
from runtime.producer import Producer
from runtime.workers.ingest import IngestLoop
from tests.support.harness import Home, Process, at_full_size, eventually
from tests.support.store_tools import ObedientClock

FILES = 600
LEAKS = 2
"""Connections between two messages."""
LEAK = """
import resource, socket, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
held = []
for _ in sys.stdin:
    held += [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[2]))]
    for one in held[-int(sys.argv[2]):]:
        one.connect(sys.argv[1])
"""
LIMITED = (
    "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); "
    "sys.argv[0] = 'edgectl'; runpy.run_module('runtime', run_name='__main__')"
)
PRODUCERS, REMEMBERED = at_full_size((30_000, 10_000), (6_000, 2_000))
LANES, UNDER_WAY = 4, 20
MOST_GROWTH_BYTES = 16_000_000


def start(home: Home, *, soft: int, hard: int) -> Process:
    """Ingest, under a limit of open files."""
    process = Process(
        sys.executable, "-c", LIMITED.format(soft=soft, hard=hard),
        "--home", str(home.folder), "worker", "ingest", log=home.layout.log / "ingest.log",
    )  # fmt: skip
    home.workers["ingest"] = process
    return process


def test_connections_that_are_never_closed_are_cut_and_do_not_end_ingest(home: Home) -> None:
    """libzmq aborts the process where it can open no more: a leak in one program shut the door to all."""
    ingest = start(home, soft=FILES // 2, hard=FILES)
    argv = [sys.executable, "-c", LEAK, str(home.layout.producer_socket), str(LEAKS)]
    with (
        Producer(home.config.producer_endpoint(), retry_for_s=30) as producer,
        subprocess.Popen(argv, stdin=subprocess.PIPE) as leak,
    ):
        assert producer.put(b"before") == 1
        assert resource.prlimit(ingest.pid, resource.RLIMIT_NOFILE)[0] == FILES, "it takes what it may"
        assert leak.stdin is not None
        for number in range(2, 2 * FILES // LEAKS):
            leak.stdin.write(b"\n")
            leak.stdin.flush()
            time.sleep(0.003)  # hundreds a second: thousands between two looks still end it
            assert producer.put(b"meanwhile") == number
        eventually(lambda: said(home, "connections_cut") >= FILES)
        eventually(lambda: len(list(Path(f"/proc/{ingest.pid}/fd").iterdir())) < FILES / 2)
    assert ingest.running(), ingest.said()[-800:]
    assert ingest.said().count("is cut") == 1, "once a minute is enough"


def said(home: Home, name: str) -> int:
    status = read_status(home.layout.status_file("ingest"))
    return int(status[name]) if status else 0


def test_tens_of_thousands_of_producers_take_little_memory_and_those_too_many_are_told_so(
    home: Home,
) -> None:
    """Who was met is remembered: a repeat could still come. Nobody is forgotten for somebody new."""
    home.write_config(f"[ingest]\nmax_producers = {REMEMBERED}\n")
    ingest = home.start_worker("ingest")
    with Producer(home.config.producer_endpoint(), retry_for_s=30) as producer:
        producer.put(b"first", stream="s")
    before = peak_bytes(ingest)
    answers = Counter(
        str(answer.get("error", {}).get("code") if not answer["ok"] else "stored")
        for answer in ask_as_many(home.config.producer_endpoint())
    )
    assert answers == {"stored": REMEMBERED - 1, "too_many_producers": PRODUCERS - REMEMBERED + 1}
    print(f"{PRODUCERS} producers: {(peak_bytes(ingest) - before) / 1e6:.1f} MB more, at the highest")
    assert peak_bytes(ingest) - before < MOST_GROWTH_BYTES


def peak_bytes(process: Process) -> int:
    (line,) = (
        line
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def ask_as_many(endpoint: str) -> Iterator[dict[str, Any]]:
    """One message of each producer, over a few sockets; the answers."""
    sockets = [zmq.Context.instance().socket(zmq.DEALER) for _ in range(LANES)]
    for lane in sockets:
        lane.connect(endpoint)
    try:
        for first in range(0, PRODUCERS, UNDER_WAY):
            lane = sockets[first // UNDER_WAY % LANES]
            for number in range(first, first + UNDER_WAY):
                header = {"stream": "s", "producer": f"producer-{number}", "boot": "b", "sequence": 1}
                lane.send_multipart([b"", json.dumps(header).encode(), b"x" * 100])
            for _ in range(UNDER_WAY):
                assert lane.poll(20_000), "no answer"
                yield json.loads(lane.recv_multipart()[1])
    finally:
        for lane in sockets:
            lane.close(0)


@pytest.mark.parametrize(
    ("messages", "size"), [(1, 100), (500, 10), (1, 1_000_000)], ids=["many", "full", "large"]
)
def test_a_flood_from_one_producer_adds_one_commit_to_the_wait_of_another(
    home: Home, messages: int, size: int
) -> None:
    """Whoever asks while one is on its way waits for that one, for one more, and shares the next."""
    home.write_config("[store]\nmin_free_bytes = 0\n")
    ingest = IngestLoop(home.config, Stop(), ObedientClock())
    flood, other = (zmq.Context.instance().socket(kind) for kind in (zmq.DEALER, zmq.REQ))
    for each in (flood, other):
        each.setsockopt(zmq.SNDHWM, 0)
        each.connect(home.config.producer_endpoint())
    try:
        for _ in range(max(40, 4_000 // messages if size < 1_000 else 0)):
            flood.send_multipart([b"", b'{"stream":"flood"}', *[b"x" * size] * messages])
        waits = [commits_until_answered(ingest, other, home) for _ in range(8)]
        assert flood.poll(20_000), "the flood was served meanwhile"
        assert max(waits) <= 3, f"commits: {waits}"
    finally:
        flood.close(0)
        other.close(0)
        ingest.close()


def carried(home: Home) -> None:
    """Return when libzmq's thread has carried all that was sent before: it carries in order."""
    near, far = (zmq.Context.instance().socket(zmq.PAIR) for _ in range(2))
    try:
        far.bind(f"ipc://{home.folder}/carried")
        near.connect(f"ipc://{home.folder}/carried")
        for sender, receiver in 2 * ((near, far), (far, near)):
            sender.send(b"")
            assert receiver.poll(20_000)
            receiver.recv()
    finally:
        near.close(0)
        far.close(0)


def commits_until_answered(ingest: IngestLoop, socket: zmq.Socket[bytes], home: Home) -> int:
    """Of how many turns, each of one commit at most, the answer needed: the last is its own."""
    ingest.turn()  # in the middle of the flood
    socket.send_multipart([b'{"stream":"other"}', b"x"])
    carried(home)
    for turns in range(1, 100):
        ingest.turn()
        carried(home)
        if socket.poll(1):
            assert json.loads(socket.recv())["ok"]
            return turns
    raise AssertionError("no answer")


def test_the_connection_guard_lives_on_after_a_moment_without_a_file_to_look_with() -> None:
    """It ended with the first look that failed, and nobody stood at the doors until the next start."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    guard = ConnectionGuard([IpcEndpoint("/nowhere.sock")], 10**9)
    resource.setrlimit(resource.RLIMIT_NOFILE, (16, limits[1]))
    taken = []
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                taken.append(os.open("/", os.O_RDONLY))
        guard._thread.join(10 * LOOK_EVERY_S)
        assert guard._thread.is_alive()
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        guard.close()


def test_the_connection_guard_looks_where_there_is_traffic_and_rests_where_there_is_none(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty of the thirty-three wake-ups a second of an idle device were its looks."""
    looks: list[float] = []
    look = ConnectionGuard._look
    monkeypatch.setattr(ConnectionGuard, "_look", lambda guard: looks.append(time.monotonic()) or look(guard))
    context = zmq.Context()
    router, peer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    router.bind(f"ipc://{home.layout.producer_socket}")
    guard = ConnectionGuard([IpcEndpoint(str(home.layout.producer_socket))], 10**9)
    try:
        peer.connect(f"ipc://{home.layout.producer_socket}")
        peer.send(b"here")
        assert router.poll(5_000)
        time.sleep(4 * LOOK_EVERY_S)  # what connecting brought is over
        before = len(looks)
        time.sleep(10 * LOOK_EVERY_S)
        assert len(looks) == before, "all is calm"
        sent_s = time.monotonic()
        for _ in range(200):
            peer.send(b"more")
            time.sleep(0.002)
        eventually(lambda: len(looks) > before, 5, "it looks")
        assert looks[before] - sent_s < 4 * LOOK_EVERY_S, "as soon as by looking all the time"
        assert len(looks) - before <= (time.monotonic() - sent_s) / LOOK_EVERY_S + 1, "and no more often"
    finally:
        guard.close()
        context.destroy(0)
