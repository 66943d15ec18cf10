"""A damaged store that was salvaged is history: it never comes back."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.adapters.salvage.salvage import FOLDER, salvage, set_aside
from runtime.adapters.store.errors import StoreDamaged
from runtime.adapters.store.writer import MessageStore
from runtime.core.settlement import Settled
from runtime.workers.store_manager import StoreManager
from tests.support.harness import Home
from tests.support.store_tools import ObedientClock, keep, put


def test_a_store_taken_away_after_a_salvage_does_not_bring_back_what_was_delivered(home: Home) -> None:
    path, clock = home.layout.messages_db, ObedientClock()
    store = MessageStore(path, clock)
    keep(store, put([b"x"] * 3))
    store._db.close()
    for _ in salvage(path, "for the test"):
        pass
    store = MessageStore(path, clock)
    store.commit(None, Settled(delivered=[1, 2, 3]))
    store._db.close()
    for file in path.parent.glob("messages.db*"):
        file.unlink()  # a person begins anew
    keeper = StoreManager(home.config, clock)
    for _ in range(20):
        clock.boot += 1.0
        keeper.tick()
    assert keeper.figures()["messages"] == 0
    keeper.close()


def test_a_damaged_store_can_still_be_looked_at_with_all_it_held(home: Home) -> None:
    """Also the last messages, which were only in its WAL."""
    path = home.layout.messages_db
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"x"] * 3))
    wal = path.with_name(f"{path.name}-wal")
    as_killed = wal.read_bytes()
    store._db.close()
    wal.write_bytes(as_killed)
    for _ in salvage(path, "for the test"):
        pass
    aside = path.parent / FOLDER / f"{path.name}.salvaged"
    with sqlite3.connect(aside) as db:
        assert db.execute("SELECT count(*) FROM messages").fetchone() == (3,)


def test_a_salvage_that_cannot_go_on_waits_and_tries_again(home: Home) -> None:
    """Trouble with the files themselves is weather: no crash, no busy loop."""
    path, clock = home.layout.messages_db, ObedientClock()
    store = MessageStore(path, clock)
    keep(store, put([b"x"] * 3))
    store._db.close()
    keeper = StoreManager(home.config, clock)
    in_the_way = path.with_name(f"{path.name}.salvage")
    (in_the_way / "folder").mkdir(parents=True)  # as unwilling as a read-only disk, also to root
    keeper.failed(StoreDamaged("for the test"))
    for _ in range(20):
        keeper.tick()
    assert "cannot be salvaged now" in str(keeper.figures()["store"])
    assert keeper.patience_s(1.0) == 1.0
    shutil.rmtree(in_the_way)
    for _ in range(20):
        clock.boot += 1.0
        keeper.tick()
    assert keeper.figures()["messages"] == 3
    keeper.close()


def test_an_error_of_the_disk_during_a_salvage_is_waited_out_and_not_counted_as_loss(home: Home) -> None:
    """Every message counted as lost, and an empty store took its place: the disk was full for a moment."""
    path, clock = home.layout.messages_db, ObedientClock()
    store = MessageStore(path, clock)
    keep(store, put([b"x"] * 3))
    store._db.close()
    set_aside(path)
    in_the_way = path.parent / FOLDER / f"{path.name}-wal"
    in_the_way.mkdir()  # reading it is an I/O error
    keeper = StoreManager(home.config, clock)
    for _ in range(10):
        clock.boot += 1.0
        keeper.tick()
    assert not path.exists()
    in_the_way.rmdir()
    for _ in range(20):
        clock.boot += 1.0
        keeper.tick()
    assert keeper.figures()["messages"] == 3
    keeper.close()


def _a_folder(aside: Path) -> None:
    (aside / "notes").mkdir(parents=True)
    (aside / "notes" / "why").write_text("a person's")


def _a_folder_with_our_name(aside: Path) -> None:
    (aside / "messages.db" / "x").mkdir(parents=True)


def _a_file(aside: Path) -> None:
    aside.write_text("a person's")


def _a_link(aside: Path) -> None:
    (aside.parent / "elsewhere").mkdir()
    aside.symlink_to("elsewhere")


def _a_report_that_is_a_folder(aside: Path) -> None:
    (aside / "report.json" / "x").mkdir(parents=True)


def _a_mount(aside: Path) -> None:
    (aside / "mnt").mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "edge-test", str(aside / "mnt")]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a tmpfs")


@pytest.mark.parametrize(
    "stranger",
    [_a_folder, _a_folder_with_our_name, _a_file, _a_link, _a_report_that_is_a_folder, _a_mount],
)
def test_what_others_put_into_damaged_forbids_no_salvage(
    home: Home, stranger: Callable[[Path], None]
) -> None:
    """A folder of root's in there, and nothing was stored or delivered any more, without an end."""
    path, clock = home.layout.messages_db, ObedientClock()
    aside = path.parent / FOLDER
    try:
        stranger(aside)
        keeper = StoreManager(home.config, clock)
        assert keeper.figures()["store"] == "open", "nor a first start"
        keeper.close()
        store = MessageStore(path, clock)
        keep(store, put([b"x"] * 3))
        store.close()
        for _ in range(2):
            for _ in salvage(path, "for the test"):
                pass
            assert (aside / f"{path.name}.salvaged").exists() and not aside.is_symlink()
            store = MessageStore(path, clock)
            assert store.backlog().messages == 3
            store.close()
        if stranger is _a_folder:
            assert (aside / "notes" / "why").read_text() == "a person's"
    finally:
        subprocess.run(["umount", "-l", *map(str, aside.parent.glob("damaged*/mnt"))], capture_output=True)
