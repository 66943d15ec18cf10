"""A producer's acknowledged message must be its own: no key may ever be used for two messages."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import tempfile
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import zmq

from runtime.core.ingest import sequences
from runtime.producer import Forgotten, NotStored, Producer
from runtime.producer_async import AsyncProducer
from tests.support.harness import Home, eventually


def stored(home: Home) -> list[bytes]:
    with sqlite3.connect(f"file:{home.layout.messages_db}?mode=ro", uri=True) as db:
        return [bytes(row[0]) for row in db.execute("SELECT payload FROM messages ORDER BY id").fetchall()]


@contextlib.contextmanager
def scripted(replies: Sequence[bytes]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An ingest that says what it was told to say; the headers that it was asked with."""
    asked: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, zmq.Context() as context:
        socket = context.socket(zmq.REP)
        socket.linger = 0
        socket.bind(endpoint := f"ipc://{folder}/p")

        def serve() -> None:
            for reply in replies:
                if not socket.poll(1_000):
                    break
                asked.append(json.loads(socket.recv_multipart()[0]))
                socket.send(reply)
            socket.close()

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield endpoint, asked
        finally:
            thread.join()


def test_a_resend_that_is_refused_does_not_make_later_messages_vanish(home: Home) -> None:
    """`resend` of an old request, refused: its key must not be given to the next message."""
    home.write_config("[stream.full]\nmax_messages = 1\n")
    producer = Producer(home.config.producer_endpoint(), retry_for_s=0.3, answer_timeout_s=0.1)
    with pytest.raises(NotStored) as no_answer:
        producer.put(b"a", stream="full")  # ingest does not run yet
    home.start_worker("ingest")
    eventually(lambda: home.config.producer_endpoint() and home.layout.messages_db.exists())
    patient = Producer(home.config.producer_endpoint(), retry_for_s=20)
    patient.put(b"fills the stream", stream="full")
    producer._retry_for_s = 5.0
    producer.put(b"b", stream="s")
    producer.put(b"c", stream="s")
    producer._retry_for_s = 0.3
    with pytest.raises(NotStored):
        producer.resend(no_answer.value.request)  # type: ignore[arg-type]  # it has one
    producer._retry_for_s = 5.0
    acknowledged = [b"d", b"e", b"f"]
    for payload in acknowledged:
        producer.put(payload, stream="s")
    assert [p for p in stored(home) if p in acknowledged] == acknowledged


def test_two_processes_that_share_an_async_producer_over_a_fork_lose_nothing(home: Home) -> None:
    home.start_worker("ingest")
    shared = AsyncProducer(home.config.producer_endpoint(), name="preloaded")
    children = []
    for number in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(shared.put(b"from child %d" % number))
                os._exit(0)
            finally:
                os._exit(1)
        children.append(pid)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert statuses == [0, 0], "both were acknowledged"
    assert sorted(stored(home)) == [b"from child 0", b"from child 1"]


def test_a_producer_that_is_put_back_to_a_snapshot_loses_no_message(home: Home) -> None:
    """A virtual machine that is put back numbers other messages as it numbered those before: they were
    acknowledged as repeats."""
    home.start_worker("ingest")
    producer = Producer(home.config.producer_endpoint(), name="snapshot")
    producer.put(b"before", stream="s")
    snapshot = producer._numbering._next
    producer.put(b"first life", stream="s")
    producer.put_many([b"first life"] * 3, stream="s")
    producer._numbering._next = snapshot
    ids = [producer.put(b"second life", stream="s"), *producer.put_many([b"second life"] * 3, stream="s")]
    producer.put(b"after", stream="s")
    producer.close()
    assert len(set(ids)) == 4
    assert stored(home) == [b"before", *[b"first life"] * 4, *[b"second life"] * 4, b"after"]
    with sqlite3.connect(f"file:{home.layout.messages_db}?mode=ro", uri=True) as db:
        keys = [row[0] for row in db.execute("SELECT key FROM messages")]
    assert len(set(keys)) == len(keys), "the cloud tells them apart by their names"


@pytest.mark.parametrize(
    "requests", [100, 3], ids=["from further back than ingest remembers", "in other packs"]
)
def test_numbers_that_were_used_before_acknowledge_no_message_that_is_stored_nowhere(
    home: Home, requests: int
) -> None:
    """Only what was sent before can be a repeat: the producer sees that its numbers were put back."""
    home.start_worker("ingest")
    producer = Producer(home.config.producer_endpoint(), name="snapshot")
    for _ in range(requests):
        producer.put(b"first life", stream="s")
    producer._numbering._next = 1
    producer.put_many([b"1", b"2"], stream="s")
    producer.put(b"3", stream="s")
    producer.close()
    assert stored(home)[requests:] == [b"1", b"2", b"3"]


def test_numbers_that_were_used_before_are_seen_by_an_async_producer(home: Home) -> None:
    home.start_worker("ingest")

    async def live() -> None:
        async with AsyncProducer(home.config.producer_endpoint(), name="snapshot") as producer:
            await producer.put_many([b"first life"] * 3, stream="s")
            producer._numbering._next = 1
            await producer.put(b"1", stream="s")
            await producer.put(b"2", stream="s")

    asyncio.run(live())
    assert stored(home)[3:] == [b"1", b"2"]


def test_a_producer_whose_numbers_are_forgotten_goes_on_with_others(home: Home) -> None:
    """Each message was refused under the same number, for ever: a refusal gives its number back."""
    home.start_worker("ingest")
    producer = Producer(home.config.producer_endpoint(), name="snapshot")
    for number in range(2, 2 * sequences.MAX_INTERVALS + 10, 2):  # gaps
        producer._numbering._next = number
        producer.put(b"first life", stream="s")
    producer._numbering._next = 1
    with pytest.raises(Forgotten):
        producer.put(b"refused", stream="s")
    producer.put(b"1", stream="s")
    producer.close()
    assert stored(home)[-1] == b"1"


def test_an_ingest_that_calls_everything_a_repeat_is_asked_twice_at_most() -> None:
    with scripted([b'{"ok":true,"stored":1,"ids":[7],"repeated":1}'] * 3) as (endpoint, asked):
        with Producer(endpoint) as producer:
            assert producer.put(b"x") == 7
        assert len(asked) == 2 and asked[0]["boot"] != asked[1]["boot"]
