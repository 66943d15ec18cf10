"""The client: delay is all that a producer notices."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import zmq

from runtime.adapters.store.reader import StoreReader
from runtime.core.message import Kind, StoredMessage
from runtime.errors import UsageError
from runtime.producer import Fields, Forgotten, Invalid, NoAnswer, Producer, TooLarge
from runtime.producer_async import AsyncProducer
from tests.support.harness import Home, short_folder

SMALL = '[stream.small]\nmax_messages = 10\npolicy = "drop-oldest"\n'


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with short_folder() as folder:
        made = Home(folder, "[store]\nmin_free_bytes = 0\n[ingest]\nmax_message_bytes = 100000\n" + SMALL)
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


def test_put_returns_when_it_is_on_disk(home: Home, endpoint: str) -> None:
    with Producer(endpoint, name="me") as producer:
        number = producer.put("21.5", stream="put", properties={"unit": "°C"}, priority=9, ttl_s=60)
    (message,) = stored(home, "put")
    assert (message.id, message.payload, message.properties) == (number, b"21.5", {"unit": "°C"})
    assert message.key.startswith("me/")
    assert message.key.endswith("/1")


def test_many_messages_go_in_packs_and_in_order(home: Home, endpoint: str) -> None:
    with Producer(endpoint) as producer:
        ids = producer.put_many([str(n) for n in range(1_200)], stream="many")
        producer.put_many(["plain", ("own", {"stream": "own"})], stream="many")
    messages = stored(home, "many")
    assert [m.id for m in messages[:-1]] == ids
    assert [int(m.payload) for m in messages[:-1]] == list(range(1_200))
    assert [m.payload for m in stored(home, "own")] == [b"own"]


def described_at_length(count: int) -> list[tuple[bytes, Fields]]:
    return [(b"%d" % number, Fields(properties={"a": "y" * 2_000})) for number in range(count)]


def test_messages_that_are_too_large_only_together_are_stored_in_order(home: Home, endpoint: str) -> None:
    """The headers of 200 made a megabyte, a stream held less than a pack: all were refused for good."""
    with Producer(endpoint) as producer:
        ids = producer.put_many(described_at_length(200), stream="at length")
        assert ids == [message.id for message in stored(home, "at length")]
        assert [m.payload for m in stored(home, "at length")] == [b"%d" % number for number in range(200)]
        producer.put_many([b"%d" % number for number in range(90)], stream="small")
        assert [m.payload for m in stored(home, "small")] == [b"%d" % number for number in range(80, 90)]
        with pytest.raises(TooLarge):
            producer.put_many([b"before", b"x" * 100_001, b"behind"], stream="one of them")
        assert [m.payload for m in stored(home, "one of them")] == [b"before"]
        producer.put(b"after", stream="one of them")
    keys = [int(m.key.rpartition("/")[2]) for m in stored(home, "one of them")]
    assert keys == [291, 292], "no gap"


def test_the_asyncio_twin_stores_what_is_too_large_only_together(home: Home, endpoint: str) -> None:
    async def put_all() -> list[int | None]:
        async with AsyncProducer(endpoint) as producer:
            return await producer.put_many(described_at_length(200), stream="at length, async")

    assert asyncio.run(put_all()) == [message.id for message in stored(home, "at length, async")]


def test_a_source_that_puts_by_itself_is_no_deadlock(home: Home, endpoint: str) -> None:
    """`put_many` held the lock while its messages were made: a `put` among them waited for ever."""
    with Producer(endpoint) as producer:

        def readings() -> Iterator[bytes]:
            for number in range(2):
                yield str(number).encode()
                producer.put(b"beside", stream="nested")

        done = threading.Thread(target=producer.put_many, args=(readings(),), kwargs={"stream": "nested"})
        done.daemon = True
        done.start()
        done.join(60)
        assert not done.is_alive()
    assert [m.payload for m in stored(home, "nested")] == [b"beside", b"beside", b"0", b"1"]


def test_completions_are_stored_behind_what_they_complete(home: Home, endpoint: str) -> None:
    with Producer(endpoint) as producer:
        producer.put(b"x", stream="batches", batch_id="b", message_id="m")
        producer.complete_message(stream="batches", batch_id="b", message_id="m")
        producer.complete_batch(stream="batches", batch_id="b")
    kinds = [m.kind for m in stored(home, "batches")]
    assert kinds == [Kind.MESSAGE, Kind.COMPLETE_MESSAGE, Kind.COMPLETE_BATCH]


def test_every_refusal_has_a_type_of_its_own_and_leaves_no_gap(home: Home, endpoint: str) -> None:
    with Producer(endpoint, answer_timeout_s=30) as producer:  # a question that is repeated costs a number
        with pytest.raises(Invalid, match="priority"):
            producer.put(b"x", priority=11)
        with pytest.raises(TooLarge):
            producer.put(b"x" * 100_001)
        with pytest.raises(TooLarge):  # also beyond a whole request, where silence was all one heard
            producer.put(b"x" * 9_000_000)
        with pytest.raises(Invalid, match="UTF-8"):
            producer.put(b"x", stream="\udcff")
        with pytest.raises(Invalid):
            producer.complete_batch()
        with pytest.raises(TypeError):
            producer.put(b"x", properties={"a": object()})  # type: ignore[dict-item]
        producer.put(b"x", stream="after-refusals")
    assert stored(home, "after-refusals")[0].key.endswith("/1")
    assert issubclass(Forgotten, Exception)


def test_nobody_there_is_said_after_the_time_allowed_and_resending_is_safe(home: Home) -> None:
    with short_folder() as folder:
        late = Home(folder, "[store]\nmin_free_bytes = 0\n")
        producer = Producer(late.config.producer_endpoint(), retry_for_s=0.4, answer_timeout_s=0.1)
        start = time.monotonic()
        with pytest.raises(NoAnswer) as caught:
            producer.put(b"x", stream="s")
        assert 0.3 < time.monotonic() - start < 10
        late.start_worker("ingest")
        patient = Producer(late.config.producer_endpoint(), retry_for_s=20)
        patient.ping()
        assert caught.value.request is not None
        assert producer.resend(caught.value.request) == patient.resend(caught.value.request) == [1]
        producer.close()
        patient.close()
        late.stop()


def test_an_answer_that_is_none_is_asked_for_again() -> None:
    """Something else answers at first; the producer hangs up, and asks again."""
    with short_folder() as folder:
        where = f"ipc://{folder}/sock"
        with zmq.Context.instance().socket(zmq.ROUTER) as impostor:
            impostor.bind(where)

            def answer() -> None:
                reply = b"nonsense"
                while not over.is_set():
                    if impostor.poll(20):
                        peer, *_ = impostor.recv_multipart()
                        impostor.send_multipart([peer, b"", reply])
                        reply = b'{"ok":true,"stored":1,"ids":[7]}'

            over = threading.Event()
            thread = threading.Thread(target=answer)
            thread.start()
            try:
                with Producer(where, retry_for_s=10, answer_timeout_s=0.2) as producer:
                    assert producer.put(b"x") == 7
            finally:
                over.set()
                thread.join()


def test_a_forked_child_goes_on_as_another_boot_and_its_parent_is_not_disturbed(
    home: Home, endpoint: str
) -> None:
    with Producer(endpoint) as producer:
        producer.put(b"before", stream="fork")
        child = os.fork()
        if child == 0:  # pragma: no cover
            try:
                producer.put(b"child", stream="fork")
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        producer.put(b"after", stream="fork")
    keys = {m.payload: m.key.split("/")[1:] for m in stored(home, "fork")}
    assert keys[b"before"][0] == keys[b"after"][0] != keys[b"child"][0]
    assert [keys[p][1] for p in (b"before", b"after", b"child")] == ["1", "2", "1"]


class Interrupted(str):
    """A signal comes while it is put."""

    def encode(self, *_: str) -> bytes:
        signal.raise_signal(signal.SIGALRM)
        return super().encode()


def test_a_signal_handler_that_puts_is_told_so_and_does_not_wait_for_ever(home: Home, endpoint: str) -> None:
    """It waited for the put that it had interrupted, and with it the program: SIGTERM did not end it."""
    told: list[UsageError] = []

    def last_words(*_: object) -> None:
        try:
            producer.put("last words", stream="interrupted")
        except UsageError as error:
            told.append(error)

    before = signal.signal(signal.SIGALRM, last_words)
    try:
        with Producer(endpoint) as producer:
            producer.put(Interrupted("first"), stream="interrupted")
            producer.put("second", stream="interrupted")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert len(told) == 1
    assert [message.payload for message in stored(home, "interrupted")] == [b"first", b"second"]


def test_threads_may_share_a_producer(home: Home, endpoint: str) -> None:
    with Producer(endpoint) as producer:
        threads = [
            threading.Thread(target=lambda: [producer.put(b"x", stream="threads") for _ in range(20)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert [int(m.key.split("/")[2]) for m in stored(home, "threads")] == list(range(1, 81))


def test_the_asyncio_twin_does_the_same(home: Home, endpoint: str) -> None:
    async def talk() -> None:
        async with AsyncProducer(endpoint, name="twin") as producer:
            await producer.ping()
            await asyncio.gather(*(producer.put(str(n), stream="twin") for n in range(20)))
            await producer.put_many(["a", "b"], stream="twin")
            await producer.complete_batch(stream="twin", batch_id="b")
            with pytest.raises(Invalid):
                await producer.put(b"x", priority=11)
            waiting = asyncio.ensure_future(producer.put(b"cancelled?", stream="twin"))
            await asyncio.sleep(0)
            waiting.cancel()
            await producer.put(b"last", stream="twin")

    asyncio.run(talk())
    payloads = [m.payload for m in stored(home, "twin")]
    assert payloads[:23] == [*(str(n).encode() for n in range(20)), b"a", b"b", b""]
    assert payloads[-1] == b"last"


def test_edgectl_send_stores_text_stdin_and_lines(home: Home) -> None:
    assert home.edgectl("send", "--stream", "cli", "hello").returncode == 0
    assert home.edgectl("send", "--stream", "cli", "-", stdin="from stdin").returncode == 0
    assert home.edgectl("send", "--stream", "cli", "--lines", stdin="a\n\nb").returncode == 0
    assert home.edgectl("send", "--stream", "cli", "--complete-batch", "1").returncode == 0
    assert [m.payload for m in stored(home, "cli")] == [b"hello", b"from stdin", b"a", b"", b"b", b""]
    refused = home.edgectl("send", "--priority", "11", "x")
    assert (refused.returncode, refused.stdout) == (2, "")  # 1 would be: not now
    assert "priority must be 0 to 9" in refused.stderr


def test_edgectl_send_takes_any_bytes_and_says_in_one_sentence_what_it_cannot_take(home: Home) -> None:
    assert home.edgectl("send", "--stream", "bytes", "\udcff\udcfe").returncode == 0
    assert [m.payload for m in stored(home, "bytes")] == [b"\xff\xfe"]
    bad_name = home.edgectl("send", "--stream", "\udcff", "x")
    too_much = [home.edgectl("send", *more, stdin="x" * 200_000) for more in ((), ("--lines",))]
    edgectl = shlex.join([sys.executable, "-m", "runtime", "--home", str(home.folder)])
    closed = subprocess.run(["sh", "-c", f"{edgectl} send <&-"], capture_output=True, text=True)
    whys = ("UTF-8", "at most 100000", "at most 100000", "closed")
    for refused, why in zip((bad_name, *too_much, closed), whys, strict=True):
        assert refused.returncode in (1, 2)
        assert why in refused.stderr
        assert refused.stderr.count("\n") == 1, "no traceback"


def test_edgectl_keys_writes_a_pair_and_never_over_another(home: Home) -> None:
    made = home.edgectl("keys", "make", "friend", "--dir", str(home.folder))
    assert made.returncode == 0
    assert (home.folder / "friend.secret").stat().st_mode & 0o777 == 0o600
    assert (home.folder / "friend.secret").read_text().strip() not in made.stdout
    assert home.edgectl("keys", "make", "friend", "--dir", str(home.folder)).returncode == 2


def test_an_endpoint_that_cannot_be_is_said_at_every_call_and_never_waited_for(home: Home) -> None:
    """The socket of the first call was kept, unconnected, and the second one waited in it for ever."""
    with Producer(f"ipc:///{'x' * 200}", retry_for_s=1) as producer:
        for _ in range(2):
            with pytest.raises(UsageError, match=r"cannot connect to ipc:///x+: File name too long"):
                producer.put(b"x")
    too_long = home.folder / ("x" * 200)
    failed = home.edgectl("--home", str(too_long), "send", "x")
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1


def test_send_says_where_nobody_answered_and_what_to_look_at(home: Home) -> None:
    missed = home.edgectl("--home", "/tmp/nobody-here", "send", "x", "--retry-for", "0.3")
    assert missed.returncode == 1
    assert "no answer within 0.3 s at ipc:///tmp/nobody-here/ingest.sock; is the runtime up?" in missed.stderr
