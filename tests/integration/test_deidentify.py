"""A home before an image is made of it: what is one device's goes, what is not ours stays."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runtime.adapters.identity.database import IdentityStore
from runtime.adapters.management.database import ManagementDatabase
from runtime.adapters.process.machine_names import notice_move
from runtime.adapters.process.process import Lock
from runtime.adapters.store.writer import MessageStore
from runtime.core.operations.machine_identity import MachineIdentity
from runtime.core.settlement import Settled
from runtime.errors import UsageError
from runtime.operations.deidentify import clear
from tests.support.harness import Home
from tests.support.store_tools import ObedientClock, keep, put


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home as a device leaves it that was switched off: with everything in it that runs make."""
    home = Home(tmp_path / "home", '[device]\nid = "press-7"\n')
    layout = home.layout
    layout.create()
    notice_move(layout, MachineIdentity("system"), 1.0)
    IdentityStore(layout)
    MessageStore(layout.messages_db, ObedientClock()).close()
    ManagementDatabase(layout).close()
    for folder in (layout.spool, layout.state / "taking", layout.state / "uploads"):
        folder.mkdir()
        (folder / "content").touch()
    for path in (
        *(
            layout.state / name
            for name in ("accepted.toml", "ids-given", "link.json", "ballast", "under-way")
        ),
        *(layout.log / name for name in ("ingest.log", "ingest.log.1", "crashes.jsonl")),
        *(layout.run / name for name in ("ingest.status", "supervisord.pid")),
    ):
        path.touch()
    return home


def refused_by(home: Home, *options: str) -> subprocess.CompletedProcess[str]:
    done = home.edgectl("deidentify", *options)
    assert done.returncode == 2, done
    return done


def files(home: Home) -> set[str]:
    folder = home.layout.home
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_only_the_configuration_is_left_and_it_says_what_would_be_the_same_in_each_device(home: Home) -> None:
    done = home.edgectl("deidentify", "--yes")
    assert files(home) == {"edge.toml"}
    assert "new device" in done.stdout and "device.id is set" in done.stderr


def test_a_second_time_there_is_nothing_to_do(home: Home) -> None:
    assert clear(home.layout).removed > 10
    assert clear(home.layout).removed == 1, "the lock under which it works"


@pytest.mark.parametrize("owed", ["waits", "quarantine", "unreadable", "salvage"])
def test_what_is_not_delivered_is_refused_until_told_otherwise(home: Home, owed: str) -> None:
    layout = home.layout
    if owed == "waits":
        store = MessageStore(layout.messages_db, ObedientClock())
        keep(store, put([b"1"]))
        store.close()
    elif owed == "quarantine":
        store = MessageStore(layout.messages_db, ObedientClock())
        keep(store, put([b"1"]))
        keep(store, settled=Settled(quarantined=[(1, "no hub takes it")]))
        store.close()
    elif owed == "unreadable":
        layout.messages_db.write_bytes(b"no database")
    else:
        (layout.state / "damaged").mkdir()
    before = files(home)
    refused = refused_by(home, "--yes")
    assert "Nothing was removed" in refused.stderr and files(home) >= before
    home.edgectl("deidentify", "--yes", "--discard-messages")
    assert files(home) == {"edge.toml"}


def test_it_asks_and_without_a_terminal_it_removes_nothing(home: Home) -> None:
    before = files(home)
    assert "--yes" in refused_by(home).stderr
    assert files(home) >= before


def test_nothing_is_removed_where_a_runtime_works(home: Home) -> None:
    for name in ("supervisor", "ingest"):
        lock = Lock(home.layout.lock(name))
        with pytest.raises(UsageError, match="run"):
            clear(home.layout)
        lock.release()
        assert home.layout.messages_db.exists()


def test_a_file_of_another_stays_and_is_named(home: Home) -> None:
    theirs = [home.layout.state / "notes.txt", home.layout.log / "their.txt", home.layout.home / "their.pem"]
    for path in theirs:
        path.touch()
    assert clear(home.layout).left == theirs[:2]
    assert all(path.exists() for path in theirs)


def test_no_link_is_followed(home: Home, tmp_path: Path) -> None:
    """Root cleans a home whose owner may have put links there."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "messages.db").touch()
    spool = home.layout.spool
    (spool / "content").unlink()
    spool.rmdir()
    spool.symlink_to(elsewhere)
    (home.layout.log / "upload.log").symlink_to(elsewhere / "messages.db")
    clear(home.layout)
    assert (elsewhere / "messages.db").exists() and not os.path.lexists(spool)
    home.layout.log.rmdir()
    home.layout.log.symlink_to(elsewhere)
    with pytest.raises(UsageError, match="is a link"):
        clear(home.layout)
    assert (elsewhere / "messages.db").exists()
