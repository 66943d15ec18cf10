"""`edgectl top` and `edgectl tap`: what passes, read beside ingest."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.store.stream_reader import PassingMessage
from runtime.adapters.store.writer import MessageStore
from runtime.cli.tap import tapped_record, tapped_row
from runtime.core.message import StreamName
from runtime.core.operations.stream_figures import stream_figures
from runtime.core.settlement import Settled
from runtime.operations.streams import Missed, StreamWatch, Tap
from tests.support.harness import Home, clean_environment, eventually
from tests.support.other_user import edgectl
from tests.support.store_tools import ObedientClock, keep, put

A, B = StreamName(None, "a"), StreamName("g", "b")


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "messages.db"


@pytest.fixture
def store(path: Path) -> Iterator[MessageStore]:
    store = MessageStore(path, ObedientClock())
    yield store
    store.close()


def test_a_look_has_every_stream_with_its_counters_and_its_oldest(store: MessageStore, path: Path) -> None:
    keep(store, put([b"x", b"yy"], stream="a"), put([b"z"], stream="b", stream_group="g"))
    store.commit(None, Settled(delivered=[1]))
    with closing(StreamWatch(path, ObedientClock())) as watch:
        look = watch.look()
    assert look.levels[A][2:] == (2, 1) and look.levels[A].messages == 1
    assert set(look.oldest) == {A, B}
    rows = stream_figures(None, look, "backlog")
    assert {row.stream: row.oldest_age_s for row in rows} == {"-/a": 0.0, "g/b": 0.0}


def test_where_there_is_no_store_a_look_is_empty_and_a_tap_waits(path: Path) -> None:
    with closing(StreamWatch(path, SystemClock())) as watch:
        assert watch.look().levels == {}
    with closing(Tap(path, [A], 0)) as tap:
        assert list(tap.new()) == []
        made = MessageStore(path, ObedientClock())
        keep(made, put([b"first"], stream="a"))
        assert [heads(each) for each in tap.new()] == [(1, "-/a", 5)]
        made.close()


def heads(each: PassingMessage | Missed) -> tuple[int, str, int]:
    assert isinstance(each, PassingMessage)
    record = tapped_record(each, payload=False)
    return record["id"], record["stream"], record["bytes"]


def test_a_tap_shows_what_is_stored_from_now_on_of_its_streams_alone(store: MessageStore, path: Path) -> None:
    keep(store, put([b"before"], stream="a"))
    with closing(Tap(path, [A], 0)) as tap:
        assert list(tap.new()) == []
        keep(store, put([b"one", b"two"], stream="a", properties={"p": "1"}), put([b"other"], stream="b"))
        shown = list(tap.new())
        assert [heads(each) for each in shown] == [(2, "-/a", 3), (3, "-/a", 3)]
        assert all(isinstance(each, PassingMessage) and each.message.payload == b"" for each in shown)  # type: ignore[union-attr]
        assert list(tap.new()) == []


def test_what_was_delivered_between_two_looks_is_counted(store: MessageStore, path: Path) -> None:
    with closing(Tap(path, [A], 0)) as tap:
        keep(store, put([b"one", b"two", b"three"], stream="a"), put([b"other"], stream="b"))
        store.commit(None, Settled(delivered=[1, 2, 4]))
        assert [each if isinstance(each, Missed) else heads(each) for each in tap.new()] == [
            (3, "-/a", 5),
            Missed(2),
        ]
        store.commit(None, Settled(delivered=[3]))
        assert list(tap.new()) == []


def test_a_payload_is_shown_escaped_and_bounded(store: MessageStore, path: Path) -> None:
    with closing(Tap(path, [A], 200)) as tap:
        keep(store, put([b"\x1b[31mred\n\xff" + b"x" * 5000], stream="a", content_type="text/plain"))
        (each,) = tap.new()
    record = tapped_record(each, payload=True)
    assert record["bytes"] == 5010 and record["cut"] and record["content_type"] == "text/plain"
    assert record["payload"].startswith("\\x1b[31mred\\n\\xff") and len(record["payload"]) < 1000
    assert tapped_row(record).text.endswith("x...") and "\x1b" not in tapped_row(record).text


def test_a_damaged_row_is_named(store: MessageStore, path: Path) -> None:
    with closing(Tap(path, [A], 0)) as tap:
        keep(store, put([b"one"], stream="a"))
        store._db.execute("UPDATE messages SET properties = '{'")
        (each,) = tap.new()
    assert "its row is damaged: cannot be read" in tapped_row(tapped_record(each, payload=False)).text


def test_in_a_pipe_both_end_by_themselves(home: Home) -> None:
    nothing = home.edgectl("top")
    assert (nothing.returncode, nothing.stdout) == (0, "nothing was stored yet\n")
    store = MessageStore(home.layout.messages_db, SystemClock())
    keep(store, put([b"x"], stream="weather"))
    table = home.edgectl("top", "--interval", "0.1")
    assert table.stdout.splitlines()[1].split()[:4] == ["-/weather", "0.0", "0.0", "1"]
    looks = home.edgectl("top", "--json", "--looks", "2", "--interval", "0.1").stdout.splitlines()
    assert [json.loads(look)["streams"][0]["messages"] for look in looks] == [1, 1]

    ended = threading.Event()

    def produce() -> None:
        producing = MessageStore(home.layout.messages_db, SystemClock())
        while not ended.wait(0.1):
            keep(producing, put([b"21.5"], stream="weather"))
        producing.close()

    store.close()
    producer = threading.Thread(target=produce)
    producer.start()
    try:
        tapped = home.edgectl("tap", "weather", "--payload", "--json", "-n", "1")
    finally:
        ended.set()
        producer.join()
    shown = json.loads(tapped.stdout.splitlines()[0])
    assert (shown["stream"], shown["payload"]) == ("-/weather", "21.5")


def test_only_root_and_the_runtimes_user_may_tap(home: Home) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    home.folder.parent.chmod(0o711)
    for arguments in (("tap", "s"), ("top",)):
        answer = edgectl(65_534, "--home", str(home.folder), *arguments)
        assert answer.returncode == 2 and answer.stdout == ""
        assert "may be read by root and the runtime's user only" in answer.stderr


def test_a_screen_is_drawn_again_when_its_size_changes_and_given_back_at_the_end(home: Home) -> None:
    store = MessageStore(home.layout.messages_db, SystemClock())
    keep(store, *(put([b"x"], stream=f"s{n:02}") for n in range(30)))
    store.close()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 60, 0, 0))
    environ = {k: v for k, v in clean_environment(TERM="xterm").items() if k not in ("COLUMNS", "LINES")}
    top = subprocess.Popen(
        [sys.executable, "-m", "runtime", "--home", str(home.folder), "top", "--interval", "30"],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environ,
    )  # fmt: skip
    os.close(theirs)
    written = bytearray()

    def says(text: bytes) -> bool:
        os.set_blocking(ours, False)
        with suppress(OSError):
            written.extend(os.read(ours, 65_536))
        return text in written

    try:
        eventually(lambda: says(b"... 24 more"), 20)
        assert written.startswith(b"\x1b[?1049h")
        fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 60, 0, 0))
        eventually(lambda: says(b"s29"), 5, "it uses the new lines")
        top.send_signal(signal.SIGTERM)
        assert top.wait(10) == 128 + signal.SIGTERM
        eventually(lambda: says(b"\x1b[?25h\x1b[?1049l"), 5)
        assert written.endswith(b"\x1b[?25h\x1b[?1049l")
    finally:
        top.kill()
        top.wait(10)
        os.close(ours)
