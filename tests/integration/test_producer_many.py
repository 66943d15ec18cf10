"""`put_many`, forks and errors: what a program may do with its own objects, and what it is told."""

from __future__ import annotations

import asyncio
import os
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from runtime.adapters.store.reader import StoreReader
from runtime.core.ingest.exchange import Exchange, KeyedRequest, NotStored
from runtime.core.ingest.protocol import Refusal
from runtime.core.message import StoredMessage
from runtime.errors import EdgeError
from runtime.producer import Fields, Full, NoAnswer, Producer, TooLarge
from runtime.producer_async import AsyncProducer
from tests.support.harness import Home, short_folder


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with short_folder() as folder:
        small = '[stream.small]\nmax_messages = 3\npolicy = "reject"\n'
        made = Home(folder, "[store]\nmin_free_bytes = 0\n[ingest]\nmax_message_bytes = 100000\n" + small)
        made.start_worker("ingest")
        yield made
        made.stop()


@pytest.fixture
def endpoint(home: Home) -> str:
    return home.config.producer_endpoint()


def stored(home: Home, stream: str) -> list[StoredMessage]:
    reader = StoreReader(home.layout.messages_db)
    try:
        found = reader.after(0, 100_000, 10**9)
    finally:
        reader.close()
    return [m for m in found if isinstance(m, StoredMessage) and m.stream == stream]


def test_a_source_that_reuses_its_objects_does_not_store_the_last_message_many_times(
    home: Home, endpoint: str
) -> None:
    def readings() -> Iterator[Any]:
        buffer, fields, properties = bytearray(1), Fields(stream="reused"), {"n": ""}
        fields["properties"] = properties
        for number in range(5):
            buffer[0], properties["n"] = number, str(number)
            yield buffer, fields

    with Producer(endpoint) as producer:
        producer.put_many(readings())
    messages = stored(home, "reused")
    assert [m.payload for m in messages] == [bytes([n]) for n in range(5)]
    assert [m.properties for m in messages] == [{"n": str(n)} for n in range(5)]


def test_a_source_that_raises_does_not_drop_what_it_gave(home: Home, endpoint: str) -> None:
    def sensor() -> Iterator[bytes]:
        yield b"first"
        yield b"second"
        raise OSError("the sensor is gone")

    with Producer(endpoint) as producer, pytest.raises(OSError, match="sensor") as raised:
        producer.put_many(sensor(), stream="raises")
    assert [m.payload for m in stored(home, "raises")] == [b"first", b"second"]
    assert raised.value.__notes__ == ["put_many: the first 2 messages are stored"]


def test_a_source_that_raises_behind_messages_that_cannot_be_stored_is_named_too(endpoint: str) -> None:
    def sensor() -> Iterator[bytes]:
        yield b"x" * 100_001
        raise OSError("the sensor is gone")

    with Producer(endpoint) as producer, pytest.raises(TooLarge) as raised:
        producer.put_many(sensor())
    assert isinstance(raised.value.__cause__, OSError)


def test_an_error_of_put_many_names_what_is_stored_and_what_is_left(home: Home, endpoint: str) -> None:
    messages = [b"0", b"1", b"x" * 100_001, b"3"]
    with Producer(endpoint) as producer:
        with pytest.raises(TooLarge) as raised:
            producer.put_many(messages, stream="left")
        error = raised.value
        there = stored(home, "left")
        assert [m.payload for m in there] == [b"0", b"1"]
        assert error.ids == [m.id for m in there]
        assert error.request is None
        assert [payload for payload, _ in error.remaining] == messages[2:]
        producer.put_many(error.remaining[1:], stream="left")
    assert [m.payload for m in stored(home, "left")] == [b"0", b"1", b"3"]


def test_an_error_in_the_midst_of_put_many_names_the_request_that_may_be_stored() -> None:
    """600 messages are two requests, and ingest is killed before the second."""
    with short_folder() as folder:
        gone = Home(folder, "[store]\nmin_free_bytes = 0\n")
        ingest = gone.start_worker("ingest")
        producer = Producer(gone.config.producer_endpoint(), retry_for_s=30, answer_timeout_s=0.2)

        def readings() -> Iterator[bytes]:
            for number in range(600):
                if number == 550:
                    ingest.kill()
                    producer._retry_for_s = 0.3
                yield b"%d" % number

        with pytest.raises(NoAnswer) as raised:
            producer.put_many(readings(), stream="midst")
        error = raised.value
        assert len(error.ids) == 500
        assert error.request is not None and len(error.request.payloads) == len(error.remaining) == 100
        gone.start_worker("ingest")
        producer._retry_for_s = 30.0
        assert len(producer.resend(error.request)) == 100
        assert [int(m.payload) for m in stored(gone, "midst")] == list(range(600))
        producer.close()
        gone.stop()


def test_none_in_a_messages_own_fields_counts_as_left_out(home: Home, endpoint: str) -> None:
    with Producer(endpoint) as producer:
        producer.put_many([(b"x", Fields(stream=None, priority=None, properties=None))], stream="none")
    assert [m.payload for m in stored(home, "none")] == [b"x"]


def test_a_number_is_no_payload(endpoint: str) -> None:
    with Producer(endpoint) as producer, pytest.raises(TypeError, match="bytes or str, not int"):
        producer.put(7)  # type: ignore[arg-type]


def test_the_asyncio_twin_says_the_same_and_copies_as_well(home: Home, endpoint: str) -> None:
    async def talk() -> None:
        async with AsyncProducer(endpoint) as producer:
            buffer = bytearray(b"a")

            def readings() -> Iterator[bytearray]:
                for letter in b"abc":
                    buffer[0] = letter
                    yield buffer

            await producer.put_many(readings(), stream="async-copies")
            with pytest.raises(TooLarge) as raised:
                await producer.put_many([b"0", b"x" * 100_001, b"2"], stream="async-left")
            assert len(raised.value.ids) == 1
            assert [payload for payload, _ in raised.value.remaining][1:] == [b"2"]

    asyncio.run(talk())
    assert [m.payload for m in stored(home, "async-copies")] == [b"a", b"b", b"c"]


def test_threads_of_a_forked_child_never_give_one_key_to_two_messages(home: Home, endpoint: str) -> None:
    """Each thread found that it was in a child, and restarted the numbering under the others' feet."""
    rounds, threads = 20, 4
    producer = Producer(endpoint, name="forked")
    for number in range(rounds):
        child = os.fork()
        if child == 0:  # pragma: no cover
            try:
                together = threading.Barrier(threads)

                def put(thread: int, number: int = number, together: threading.Barrier = together) -> None:
                    together.wait()
                    producer.put(f"{number}/{thread}", stream="fork-threads")

                running = [threading.Thread(target=put, args=(thread,)) for thread in range(threads)]
                for thread in running:
                    thread.start()
                for thread in running:
                    thread.join()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
    producer.close()
    messages = stored(home, "fork-threads")
    assert sorted(m.payload for m in messages) == sorted(
        b"%d/%d" % (number, thread) for number in range(rounds) for thread in range(threads)
    )
    assert len({m.key for m in messages}) == len(messages)


def every_error(kind: type[EdgeError] = EdgeError) -> Iterator[type[EdgeError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from every_error(below)


@pytest.mark.parametrize("kind", sorted(set(every_error()), key=str))
def test_every_error_comes_through_a_pipe_between_processes(kind: type[EdgeError]) -> None:
    """multiprocessing unpickles what a worker raised; an error that cannot be hung the pool."""
    error = kind.__new__(kind, "why")
    if isinstance(error, NotStored):
        error.request, error.ids = KeyedRequest({"producer": "p"}, [b"x"]), [1, None]
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (kind, "why", vars(error))


def test_a_refusal_of_a_resend_never_says_that_nothing_is_stored() -> None:
    """The first copy may wait in a queue yet, and be stored after its producer was told that it was not."""
    request = KeyedRequest({"producer": "p", "boot": "b", "sequence": 1}, [b"x"])
    exchange = Exchange(request, retry_for_s=0.0, timeout_s=1.0, sent_before=True)
    exchange.begin(0.0)
    with pytest.raises(Full) as refused:
        exchange.answered(Refusal("store_full", "full", 1_000), 0.1)
    assert refused.value.request == request
    assert not exchange.left_no_trace


def test_a_source_that_fails_to_put_is_no_cause_of_itself(endpoint: str) -> None:
    with Producer(endpoint) as producer:

        def readings() -> Iterator[bytes]:
            yield b"stored"
            producer.put(b"x" * 100_001)

        with pytest.raises(TooLarge) as raised:
            producer.put_many(readings(), stream="nested-refusal")
    assert raised.value.__cause__ is not raised.value
    assert len(raised.value.ids) == 1 and raised.value.remaining == []
