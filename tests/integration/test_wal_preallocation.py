"""The WAL has its size from the beginning: a commit that lengthens no file writes half as much."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from runtime.adapters.store.disk import PREALLOCATE_FROM, Disk, DiskReserve, WalLimit
from runtime.adapters.store.errors import StoreDamaged
from runtime.adapters.store.vacuum import JOURNAL_LIMIT_BYTES
from runtime.adapters.store.writer import MessageStore
from runtime.core.settlement import Settled
from runtime.workers.store_manager import StoreManager
from tests.support.harness import Home
from tests.support.store_tools import ObedientClock, copy_as_killed, keep, put

MANY = 1_500
"""More commits than SQLite lets into a WAL before it copies it and begins it again."""


def test_no_commit_changes_the_size_of_the_wal_and_what_it_holds_survives(home: Home, tmp_path: Path) -> None:
    manager = StoreManager(home.config, ObedientClock())
    path, wal = home.layout.messages_db, _wal(home.layout.messages_db)
    assert wal.stat().st_size == JOURNAL_LIMIT_BYTES
    blocks = wal.stat().st_blocks
    for _ in range(3):
        admission = manager.admission((), Settled())
        admission.decide(put([b"kept"] * 5))
        manager.commit(admission, Settled())
    assert (wal.stat().st_size, wal.stat().st_blocks) == (JOURNAL_LIMIT_BYTES, blocks)
    copy = copy_as_killed(path, tmp_path / "killed")
    manager.close()
    store = MessageStore(copy, ObedientClock())
    assert store.backlog().messages == 15
    store.close()


def test_a_wal_that_is_begun_again_keeps_its_size(limited: tuple[MessageStore, WalLimit, Path]) -> None:
    store, limit, path = limited
    limit.preallocate(store)
    for _ in range(MANY // 4):
        keep(store, put([b"x" * 12_000]))
    assert _wal(path).stat().st_size == JOURNAL_LIMIT_BYTES


def test_a_flipped_bit_before_the_zeros_is_found(
    limited: tuple[MessageStore, WalLimit, Path], tmp_path: Path
) -> None:
    store, limit, path = limited
    limit.preallocate(store)
    for _ in range(5):
        keep(store, put([b"x"]))
    copy = copy_as_killed(path, tmp_path / "killed")
    with _wal(copy).open("r+b") as wal:
        wal.seek(32 + 24 + 4_000)
        (byte,) = wal.read(1)
        wal.seek(-1, os.SEEK_CUR)
        wal.write(bytes([byte ^ 4]))
    with pytest.raises(StoreDamaged):
        MessageStore(copy, ObedientClock())


def test_a_small_disk_keeps_its_room(store: MessageStore, tmp_path: Path) -> None:
    free_bytes = Disk(tmp_path, DiskReserve()).left_bytes()
    limit = WalLimit(_path(tmp_path), Disk(tmp_path, DiskReserve(free_bytes)))
    before = _wal(_path(tmp_path)).stat().st_size
    limit.preallocate(store)
    assert _wal(_path(tmp_path)).stat().st_size == before < JOURNAL_LIMIT_BYTES
    assert PREALLOCATE_FROM > 1


def test_a_disk_that_takes_half_of_it_gets_it_back(
    limited: tuple[MessageStore, WalLimit, Path], file_size_limit: None
) -> None:
    store, limit, path = limited
    before = _wal(path).stat().st_size
    limit.preallocate(store)
    assert _wal(path).stat().st_size == before
    keep(store, put([b"x"]))
    assert store.backlog().messages == 1


def test_no_zeros_go_over_what_another_process_is_writing(
    limited: tuple[MessageStore, WalLimit, Path],
) -> None:
    store, limit, path = limited
    before_bytes = _wal(path).stat().st_size
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        limit.preallocate(store)
        assert _wal(path).stat().st_size == before_bytes
        other.execute("COMMIT")
    limit.preallocate(store)
    assert _wal(path).stat().st_size == JOURNAL_LIMIT_BYTES
    keep(store, put([b"x"]))
    assert store.backlog().messages == 1


def test_a_commit_of_another_process_is_never_filled_over(
    limited: tuple[MessageStore, WalLimit, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes just when the WAL was measured, and has to wait until it is filled."""
    store, limit, path = limited
    pwrite, kept = os.pwrite, [0]
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        other.execute("CREATE TABLE theirs (x)")

        def write_and_fill(descriptor: int, zeros: bytes, at: int) -> int:
            monkeypatch.undo()
            with suppress(sqlite3.OperationalError):
                other.execute("INSERT INTO theirs VALUES (randomblob(20000))")
                kept[0] += 1
            return pwrite(descriptor, zeros, at)

        monkeypatch.setattr(os, "pwrite", write_and_fill)
        limit.preallocate(store)
        other.execute("INSERT INTO theirs VALUES (1)")
        kept[0] += 1
        copy = copy_as_killed(path, tmp_path / "killed")
    with closing(sqlite3.connect(copy)) as db:
        assert db.execute("SELECT count(*) FROM theirs").fetchall() == [(kept[0],)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MessageStore]:
    opened = MessageStore(_path(tmp_path), ObedientClock())
    yield opened
    opened.close()


@pytest.fixture
def limited(store: MessageStore, tmp_path: Path) -> tuple[MessageStore, WalLimit, Path]:
    """A store, and the limit of its WAL on a disk with room."""
    return store, WalLimit(_path(tmp_path), Disk(tmp_path, DiskReserve())), _path(tmp_path)


@pytest.fixture
def file_size_limit() -> Iterator[None]:
    """The disk takes no file beyond half of the WAL's size."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (JOURNAL_LIMIT_BYTES // 2, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def _path(folder: Path) -> Path:
    return folder / "messages.db"


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")
