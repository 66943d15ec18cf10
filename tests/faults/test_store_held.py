"""A process that keeps a transaction open on messages.db fills no disk, is named, and waited out."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.process.process import wal_readers
from runtime.adapters.store import disk as store_disk
from runtime.adapters.store.errors import StoreError, StoreHeld
from runtime.adapters.store.writer import MessageStore
from runtime.core.ingest.protocol import Code, Refusal, Stored
from runtime.core.settlement import Settled
from runtime.workers.store_manager import StoreManager, refusal
from tests.support.harness import Home, short_folder
from tests.support.store_tools import ObedientClock, put

READER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN")
print(db.execute("SELECT count(*) FROM messages").fetchall(), flush=True)
sys.stdin.read()
"""
SMALL = "[store]\nmin_free_bytes = 0\nmin_free_inodes = 0\n"


@contextlib.contextmanager
def reading(path: Path) -> Iterator[subprocess.Popen[str]]:
    """As somebody with the sqlite3 shell, who went home."""
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout is not None
    reader.stdout.readline()
    try:
        yield reader
    finally:
        reader.communicate(timeout=10)


class Keeping:
    """A storekeeper, turn by turn as ingest has it."""

    def __init__(self, home: Home) -> None:
        self.clock = ObedientClock()
        self.keeper = StoreManager(home.config, self.clock)
        self.path = home.layout.messages_db
        self.refused: list[Refusal] = []

    def turn(self) -> None:
        self.clock.boot += 0.3
        self.keeper.tick()

    def store(self, payloads: list[bytes]) -> bool:
        self.turn()
        try:
            admission = self.keeper.admission((), Settled())
            reply = admission.decide(put(payloads))
            self.keeper.commit(admission, Settled())
        except StoreError as error:
            self.keeper.failed(error)
            reply = refusal(error)
        if isinstance(reply, Refusal):
            self.refused.append(reply)
        return isinstance(reply, Stored)

    def remove(self, ids: list[int]) -> bool:
        self.turn()
        try:
            self.keeper.commit(None, Settled(delivered=ids))
        except StoreError as error:
            self.keeper.failed(error)
            return False
        return True

    def wal_bytes(self) -> int:
        return self.path.with_name("messages.db-wal").stat().st_size


@pytest.fixture
def keeping(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Keeping]:
    """With limits a tenth of the real ones, so that they come at once."""
    for name in ("JOURNAL_LIMIT_BYTES", "WAL_LOOK_BYTES", "WAL_MOST_BYTES", "REMOVALS_BYTES"):
        monkeypatch.setattr(store_disk, name, getattr(store_disk, name) // 10)
    home.write_config(SMALL)
    found = Keeping(home)
    yield found
    found.keeper.close()


def test_a_reader_that_stays_stops_the_wal_at_a_bound_is_named_and_waited_out(keeping: Keeping) -> None:
    """The WAL ate the disk, and its reserve; after the reader had left nothing could be stored or removed."""
    assert keeping.store([b"first"])
    with reading(keeping.path) as reader:
        stored = 1
        while keeping.store([b"x" * 10_000] * 20):
            stored += 20
        assert keeping.wal_bytes() < store_disk.WAL_MOST_BYTES + 5_000_000
        (refused,) = keeping.refused
        assert refused.code == Code.STORE_UNAVAILABLE and refused.retry_after_ms
        assert f"process {reader.pid} (python" in refused.message
        removed = 0
        while keeping.remove([*range(removed + 1, removed + 11)]):
            removed += 10
            assert removed <= stored, "the removals have a bound, too"
            if removed == stored // 20 * 20:
                break
        most = store_disk.WAL_MOST_BYTES + store_disk.REMOVALS_BYTES + 1_000_000
        assert removed > 0 and keeping.wal_bytes() < most
        for _ in range(20):
            keeping.turn()
        assert f"process {reader.pid}" in str(keeping.keeper.figures()["alarm"])
        assert keeping.keeper.figures()["store"] == "open"
    keeping.turn()
    keeping.turn()
    keeping.turn()
    keeping.turn()
    assert keeping.store([b"again"]), "by itself"
    assert "alarm" not in keeping.keeper.figures()
    assert keeping.wal_bytes() < 1_000_000
    assert keeping.keeper.figures()["messages"] == stored - removed + 1


def test_an_ingest_that_starts_beside_such_a_reader_keeps_the_bound(keeping: Keeping, home: Home) -> None:
    assert keeping.store([b"first"])
    with reading(keeping.path):
        while keeping.store([b"x" * 10_000] * 20):
            pass
        keeping.keeper.close()
        again = Keeping(home)
        assert not again.store([b"x" * 10_000] * 20)
        again.keeper.close()
        keeping.keeper.tick()
    again = Keeping(home)
    assert again.store([b"again"])
    again.keeper.close()


def test_what_a_checkpoint_needs_of_a_small_disk_is_given_to_no_message() -> None:
    with short_folder() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", "size=24m,mode=700", "edge-test", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
            pytest.skip("only root may mount a tmpfs")
        try:
            keeping = Keeping(Home(folder, SMALL))
            assert keeping.store([b"first"])
            keeping.turn()
            with reading(keeping.path):
                stored = 1
                while keeping.store([b"x" * 4_000] * 20):
                    stored += 20
                assert keeping.refused[0].code in (Code.STORE_UNAVAILABLE, Code.DISK_FULL)
                removed = 0
                while removed < stored and keeping.remove([*range(removed + 1, removed + 41)]):
                    removed += 40
                assert removed > 0, "room was left for that"
            for _ in range(4):
                keeping.turn()
            assert keeping.remove([stored]), "there is room to copy the WAL, so there is room again"
            keeping.turn()
            assert keeping.store([b"again"])
            assert keeping.wal_bytes() < 1_000_000
            keeping.keeper.close()
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_short_read_is_no_reader_that_stays(keeping: Keeping) -> None:
    assert keeping.store([b"first"])
    with reading(keeping.path) as reader:
        assert wal_readers(keeping.path.with_name("messages.db-shm")) == [f"process {reader.pid} (python)"]
        for _ in range(5):
            assert keeping.store([b"x" * 10_000] * 20)
        assert "alarm" not in keeping.keeper.figures()
    assert wal_readers(keeping.path.with_name("messages.db-shm")) == []


def test_a_store_that_is_held_is_not_closed_for_it(home: Home) -> None:
    """Closing and opening it each second would read the whole WAL each time."""
    store = MessageStore(home.layout.messages_db, ObedientClock())
    store.close()
    keeper = StoreManager(home.config, ObedientClock())
    keeper.failed(StoreHeld("process 1 (sqlite3) reads"))
    assert keeper.figures()["store"] == "open"
    keeper.close()
