"""upload is killed in the midst of what it sends in parts: it goes on there, under the same ids."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.support.harness import Cloud, Home, eventually
from tests.support.upload import backlog, put, put_in_force, register

WINDOW = 4
CHUNKS = 150


def begin(home: Home, cloud: Cloud, toml: str) -> None:
    home.write_config(cloud.config_toml(upload=f"window = {WINDOW}") + toml)
    put_in_force(home.layout, register(cloud))
    home.start_worker("ingest")
    home.start_worker("upload")
    eventually(lambda: home.layout.messages_db.exists())


def test_a_message_in_chunks_goes_on_after_each_kill_at_the_first_that_was_not_acknowledged(
    home: Home, cloud: Cloud
) -> None:
    """Another chunk size meanwhile changes nothing: what the hub has would not fit to the rest."""
    cloud.faults(ack_delay_ms=10)
    begin(home, cloud, "[stream.big]\nchunk_bytes = 1000\n")
    payload = b"".join(b"%06d," % n for n in range(CHUNKS * 1000 // 7))
    put(home, {"stream": "big", "message_id": "m1"}, payload)
    for reached in (20, 60, 100):
        eventually(lambda n=reached: cloud.message_count() > n)
        home.workers["upload"].kill()
        toml = (home.folder / "edge.toml").read_text()
        home.write_config(toml.replace("chunk_bytes = 1000", f"chunk_bytes = {1000 + reached}"))
        home.start_worker("upload")
    eventually(lambda: backlog(home) == 0)
    assert eventually(lambda: len({m.message_id for m in cloud.messages()}) == CHUNKS + 1)
    repeats = Counter(m.message_id for m in cloud.messages())
    assert sum(repeats.values()) - len(repeats) <= 3 * WINDOW, "it did not go on where it was"
    first = {m.message_id: m for m in reversed(cloud.messages())}
    *chunks, done = sorted(first.values(), key=lambda m: m.seq)
    assert [c.properties["chunk-id"] for c in chunks] == [str(n) for n in range(CHUNKS)]
    assert b"".join(c.payload for c in chunks) == payload
    assert done.properties["complete-message"] == "true"
    assert {m.properties["message-id"] for m in cloud.messages()} == {"m1"}


def test_interleaved_batches_arrive_one_after_the_other_though_upload_is_killed(
    home: Home, cloud: Cloud
) -> None:
    cloud.faults(ack_delay_ms=10)
    begin(home, cloud, "")
    for n in range(100):
        put(home, {"stream": "s", "batch_id": "AB"[n % 2]}, b"%d" % n)
    put(home, {"operation": "complete_batch", "stream": "s", "batch_id": "A"})
    put(home, {"operation": "complete_batch", "stream": "s", "batch_id": "B"})
    for reached in (10, 30, 70):
        eventually(lambda n=reached: cloud.message_count() > n)
        home.workers["upload"].kill()
        home.start_worker("upload")
    eventually(lambda: backlog(home) == 0)
    payloads = list(dict.fromkeys((m.properties["batch-id"], m.payload) for m in cloud.messages()))
    assert payloads == [
        (b, p) for b in "AB" for p in (*(b"%d" % n for n in range("AB".index(b), 100, 2)), b"")
    ]


BEFORE = '[stream.s]\ncompression = "none"\nchunk_bytes = 1000\n'
AFTER = '[stream.s]\ncompression = "fastest"\nchunk_bytes = 1500\n'


@pytest.mark.parametrize(("first", "then"), [(BEFORE, AFTER), (AFTER, BEFORE)], ids=["larger", "smaller"])
def test_a_repeat_is_the_same_bytes_though_the_settings_were_changed_before_the_first_acknowledgement(
    home: Home, cloud: Cloud, first: str, then: str
) -> None:
    """Chunks of two sizes came under the same ids, and a payload that was plain before was compressed."""
    pytest.importorskip("brotli", reason="the extra [compress] is not installed")
    cloud.faults(ack_delay_ms=60_000)
    begin(home, cloud, first)
    put(home, {"stream": "s"}, b"short " * 100)
    put(home, {"stream": "s", "message_id": "m1"}, b"".join(b"%06d," % n for n in range(1_000)))
    eventually(lambda: cloud.message_count() >= WINDOW)
    home.workers["upload"].kill()
    toml = (home.folder / "edge.toml").read_text()
    home.write_config(toml.replace(first, then))
    cloud.no_faults()
    cloud.drop()
    home.start_worker("upload")
    eventually(lambda: backlog(home) == 0)
    put(home, {"stream": "s"}, *[b"%03d " % n * 100 for n in range(300)])  # beyond what may have been sent
    eventually(lambda: backlog(home) == 0)
    bodies: dict[str, set[tuple[bytes, str | None]]] = {}
    for message in cloud.messages():
        encoding = message.properties.get("content-encoding")
        bodies.setdefault(message.message_id, set()).add((message.payload, encoding))
    assert all(len(different) == 1 for different in bodies.values())
    sizes = [len(m.payload) for m in cloud.messages() if m.properties.get("chunk-id") == "0"]
    assert len(set(sizes)) == 1
    newest = cloud.messages()[-1].properties.get("content-encoding")
    assert newest == ("br" if then == AFTER else None), "the new settings do not count for new messages"
