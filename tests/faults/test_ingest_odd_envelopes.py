"""What comes in front of a request, and what is in it: every request gets its own answer, and no other."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.process import Stop
from runtime.adapters.store.reader import StoreReader
from runtime.core.ingest.admission import Admission
from runtime.core.ingest.protocol import Request, Stored
from runtime.core.ingest.reply_route import split_envelope
from runtime.core.message import StoredMessage
from runtime.core.settlement import Settled
from runtime.workers.ingest import IngestLoop
from tests.support.harness import Home, short_folder

PING = b'{"operation": "ping"}'


@pytest.fixture(scope="module")
def worker() -> Iterator[IngestLoop]:
    """In this very process, so that whatever leaves a turn is seen."""
    with short_folder() as folder:
        home = Home(folder, "[ingest]\nmax_message_bytes = 10000\n[store]\nmin_free_bytes = 0\n")
        home.layout.run.mkdir(parents=True, exist_ok=True)
        home.layout.state.mkdir(parents=True, exist_ok=True)
        made = IngestLoop(home.config, Stop(), SystemClock())
        yield made
        made.close()


def endpoint(worker: IngestLoop) -> str:
    return str(worker._sockets.open[0].endpoint)


def replies(worker: IngestLoop, socket: zmq.Socket[bytes], count: int) -> list[list[bytes]]:
    """What comes back while the loop turns, which it does when there is something for it to do."""
    found: list[list[bytes]] = []
    until_s = time.monotonic() + 20
    while len(found) < count:
        assert time.monotonic() < until_s, f"{len(found)} replies of {count}"
        if worker._sockets.open[0].socket.poll(2):
            worker.turn()
        while socket.poll(2):
            found.append(socket.recv_multipart())
    return found


def connect(where: str, kind: int = zmq.REQ, **options: int) -> zmq.Socket[bytes]:
    socket = zmq.Context.instance().socket(kind)
    socket.linger = 0
    for name, value in options.items():
        socket.setsockopt(getattr(zmq, name), value)
    socket.connect(where)
    return socket


nested = st.builds(
    lambda field, depth, opening: f'{{"{field}":{opening * depth}'.encode(),
    st.sampled_from(
        ["stream", "priority", "ttl_s", "file", "operation", "messages", "properties", "sequence"]
    ),
    st.integers(1, 1_200),
    st.sampled_from(["[", '{"a":']),
)
closed = st.builds(
    lambda field, depth: f'{{"{field}":{"[" * depth}1{"]" * depth}}}'.encode(),
    st.sampled_from(["stream", "priority", "ttl_s", "file", "operation", "version", "messages", "producer"]),
    st.integers(1, 1_200),
)
frame = st.just(b"") | st.just(b"{}") | st.binary(max_size=300) | nested | closed


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(frames=st.lists(frame, min_size=1, max_size=20))
@example(frames=[b""])
@example(frames=[b"", b""])
@example(frames=[b"", b'{"stream":' + b"[" * 980 + b"1" + b"]" * 980 + b"}", b"x"])
def test_any_frames_at_all_are_answered_but_a_probe_and_end_no_turn(
    worker: IngestLoop, frames: list[bytes]
) -> None:
    route, request = split_envelope([b"us", *frames])
    silent = request is not None and not request
    with connect(endpoint(worker), zmq.DEALER) as socket:
        socket.send_multipart(frames)
        socket.send_multipart([b"", PING])
        *answer, pong = replies(worker, socket, 1 if silent else 2)
    assert len(answer) == (0 if silent else 1)
    assert json.loads(pong[-1]) == {"ok": True, "version": 1}
    for parts in answer:
        assert parts[:-1] == list(route[1:])
        assert isinstance(json.loads(parts[-1])["ok"], bool)


@pytest.mark.parametrize("depth", range(940, 1_001))
def test_a_header_of_nested_brackets_is_refused_and_the_next_request_served(
    worker: IngestLoop, depth: int
) -> None:
    """Of 970 to 992 the parser made a value that no error message could show: ingest died."""
    with connect(endpoint(worker)) as socket:
        for field in ("stream", "priority", "ttl_s", "file"):
            socket.send_multipart([f'{{"{field}":{"[" * depth}1{"]" * depth}}}'.encode(), b"x"])
            (reply,) = replies(worker, socket, 1)
            assert json.loads(reply[0])["error"]["code"] == "bad_header"


def test_a_bug_that_one_request_meets_refuses_that_one_alone(
    worker: IngestLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = Admission.decide

    def faulty(admission: Admission, request: Request) -> Any:
        reply = decide(admission, request)
        if b"poison" in getattr(request, "payloads", ()):
            raise ZeroDivisionError("words of a producer")
        return reply

    monkeypatch.setattr(Admission, "decide", faulty)
    with connect(endpoint(worker), zmq.DEALER) as socket:
        for payload in (b"before", b"poison", b"after", b"poison"):
            socket.send_multipart([b"", b'{"stream": "bug"}', payload])
        said = [json.loads(reply[-1]) for reply in replies(worker, socket, 4)]
    assert [reply["ok"] for reply in said] == [True, False, True, False]
    assert said[1]["error"]["code"] == "internal"
    assert stored(worker, "bug") == [b"before", b"after"]


def stored(worker: IngestLoop, stream: str) -> list[bytes]:
    reader = StoreReader(worker._manager._path)
    try:
        found = reader.after(0, 100_000, 10**9)
        return [m.payload for m in found if isinstance(m, StoredMessage) and m.stream == stream]
    finally:
        reader.close()


def test_a_probe_is_not_answered_or_every_later_answer_is_that_of_another_request(worker: IngestLoop) -> None:
    """The answer to the probe was taken for that of the first message, which was on no disk yet."""
    with connect(endpoint(worker), PROBE_ROUTER=1) as socket:
        for number in range(5):
            socket.send_multipart([b"{}" if number % 2 else b'{"stream": "s"}', b"%d" % number])
            (reply,) = replies(worker, socket, 1)
            assert json.loads(reply[0])["stored"] == 1
        socket.send_multipart([PING])
        (reply,) = replies(worker, socket, 1)
        assert json.loads(reply[0]) == {"ok": True, "version": 1}


def test_a_flood_of_probes_does_not_keep_the_loop_from_coming_round(worker: IngestLoop) -> None:
    with connect(endpoint(worker), zmq.DEALER) as flood, connect(endpoint(worker)) as socket:
        for _ in range(500):
            flood.send(b"")
        socket.send_multipart([PING])
        (reply,) = replies(worker, socket, 1)
        assert json.loads(reply[0])["ok"]


@pytest.fixture
def behind_proxies(worker: IngestLoop) -> Iterator[str]:
    """Two real ROUTER/DEALER proxies in a row in front of the door."""
    with short_folder() as folder, zmq.Context() as context:
        where = [f"ipc://{folder}/front", f"ipc://{folder}/middle", endpoint(worker)]
        threads, ends = [], []
        for number, (front, back) in enumerate(itertools.pairwise(where)):
            router, dealer, control = (context.socket(kind) for kind in (zmq.ROUTER, zmq.DEALER, zmq.PAIR))
            ends.append(context.socket(zmq.PAIR))
            for each in (router, dealer, control, ends[-1]):
                each.linger = 0
            router.bind(front)
            dealer.connect(back)
            control.bind(f"inproc://end-{number}")
            ends[-1].connect(f"inproc://end-{number}")
            threads.append(threading.Thread(target=proxy, args=(router, dealer, control)))
            threads[-1].start()
        yield where[0]
        for end in ends:
            end.send(b"TERMINATE")
        for thread in threads:
            thread.join()
        for end in ends:
            end.close()


def proxy(*sockets: Any) -> None:
    router, dealer, control = sockets
    zmq.proxy_steerable(router, dealer, None, control)
    for each in sockets:
        each.close()


@pytest.mark.parametrize("options", [{}, {"REQ_CORRELATE": 1}, {"REQ_CORRELATE": 1, "REQ_RELAXED": 1}])
def test_a_number_in_front_of_a_request_comes_back_with_its_answer(
    worker: IngestLoop, options: dict[str, int]
) -> None:
    """With ZMQ_REQ_CORRELATE every request was refused, by an answer that the socket threw away."""
    with connect(endpoint(worker), **options) as socket:
        for number in range(300):  # the first byte of the number goes through all values
            socket.send_multipart([PING if number else b'{"stream": 7}', *([] if number else [b"x"])])
            (reply,) = replies(worker, socket, 1)
            assert json.loads(reply[0])["ok"] is bool(number)


@pytest.mark.parametrize("options", [{}, {"REQ_CORRELATE": 1}, {"PROBE_ROUTER": 1}])
def test_behind_proxies_every_request_is_answered(
    worker: IngestLoop, behind_proxies: str, options: dict[str, int]
) -> None:
    with connect(behind_proxies, **options) as socket:
        for number in range(5):
            for frames, ok in (([b'{"stream": "p"}', b"%d" % number], True), ([b"nonsense"], False)):
                socket.send_multipart(frames)
                (reply,) = replies(worker, socket, 1)
                assert json.loads(reply[0])["ok"] is ok


def test_a_dealer_that_forgot_the_empty_frame_is_told_so(worker: IngestLoop) -> None:
    with connect(endpoint(worker), zmq.DEALER) as socket:
        for frames in ([b"{}", b"x"], [b"{}", b""]):
            socket.send_multipart(frames)
            (reply,) = replies(worker, socket, 1)
            assert json.loads(reply[0])["error"]["code"] == "bad_envelope"


def test_nothing_is_acknowledged_without_its_commit(worker: IngestLoop) -> None:
    """A bug that would promise a message which is not on disk ends the process instead."""
    with connect(endpoint(worker)) as socket:
        socket.send_multipart([b"{}", b"x"])
        pending = []
        while not pending:
            pending = worker._receive()
        with pytest.raises(AssertionError, match="without its commit"):
            worker._acknowledge(pending, [Stored(range(1, 2))])
        assert not socket.poll(50)
        worker._acknowledge(pending, worker._store(pending, Settled()))
        assert json.loads(socket.recv())["stored"] == 1
