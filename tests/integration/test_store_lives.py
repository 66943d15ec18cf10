"""Which message id a message without a key has: the same in every repeat, and no other message's anywhere."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from runtime.adapters.salvage.salvage import salvage
from runtime.adapters.store.keyless_names import LifeNames
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.writer import MessageStore
from runtime.core.message import StoredMessage
from runtime.core.settlement import Settled
from tests.integration.test_migrations import FROZEN, UUID
from tests.support.store_tools import ObedientClock, copy_as_killed, keep, put


def names(path: Path, after: int = 0) -> dict[int, str]:
    reader = StoreReader(path)
    found = {m.id: m.key for m in reader.after(after, 1_000, 10**6) if isinstance(m, StoredMessage)}
    found |= {
        a.message.id: a.message.key for a in reader.quarantine() if isinstance(a.message, StoredMessage)
    }
    reader.close()
    return found


def lived(path: Path, *payloads: bytes, settled: Settled | None = None) -> None:
    store = MessageStore(path, ObedientClock())
    keep(store, *([put(payloads)] if payloads else []), settled=settled or Settled())
    store.close()


def test_two_devices_with_one_copied_card_give_no_message_id_twice(tmp_path: Path) -> None:
    """20 of 20 ids of keyless producers named two messages: whoever removes repeats by them lost half."""
    path = tmp_path / "messages.db"
    lived(path, b"1", b"2")
    copy = copy_as_killed(path, tmp_path / "copy")
    for one in (path, copy):
        lived(one, *[b"new"] * 20)
    here, there = names(path), names(copy)
    assert here.keys() == there.keys() and len(here) == 22
    assert [number for number in here if here[number] == there[number]] == [1, 2], (
        "these are the same messages"
    )


def test_a_card_copied_from_a_running_device_gives_no_message_id_twice(tmp_path: Path) -> None:
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"1"]))
    copy = copy_as_killed(path, tmp_path / "copy")
    keep(store, put([b"2"]))
    lived(copy, b"another")
    assert names(path)[1] == names(copy)[1]
    assert names(path)[2] != names(copy)[2]
    store.close()


def test_a_message_keeps_its_id_over_restarts_quarantine_salvage_and_a_new_name(tmp_path: Path) -> None:
    path = tmp_path / "messages.db"
    for number in range(4):
        lived(path, b"%d" % number)
    before = names(path)
    assert len({name.rpartition("/")[0] for name in before.values()}) == 4
    lived(path, settled=Settled(quarantined=[(2, "why")]))
    for _ in salvage(path, "for the test"):
        pass
    assert names(path) == before
    store = MessageStore(path, ObedientClock())
    store.rename()
    assert names(path) == before
    store.commit(None, Settled(requeued=[2]))
    assert names(path)[5] == before[2]
    store.close()


def test_a_store_of_the_first_release_keeps_the_names_of_its_messages(tmp_path: Path) -> None:
    path = tmp_path / "messages.db"
    with sqlite3.connect(path) as db:
        db.executescript(FROZEN.read_text())
    db.close()
    MessageStore(path, ObedientClock()).close()
    before = names(path)
    assert before[4] == f"{UUID}/4"
    lived(path, b"new")
    assert before.items() < names(path).items()
    assert not names(path)[8].startswith(UUID)
    store = MessageStore(path, ObedientClock())
    store.rename()
    store.close()
    assert before.items() < names(path).items()


def test_a_reader_that_stays_open_hears_of_the_next_life(tmp_path: Path) -> None:
    path = tmp_path / "messages.db"
    lived(path, b"1")
    reader = StoreReader(path)
    assert len(reader.after(0, 10, 10**6)) == 1
    lived(path, b"2")
    lived(path, b"3")
    found = {m.id: m.key for m in reader.after(0, 10, 10**6) if isinstance(m, StoredMessage)}
    assert found == names(path) and len({name[:32] for name in found.values()}) == 3
    reader.close()


def test_lives_of_which_no_message_is_left_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "messages.db"
    for number in range(1, 11):
        lived(path, b"x", settled=Settled(delivered=[number - 1]))
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM lives").fetchone()[0] <= 2
    db.close()


def test_messages_with_a_key_write_down_no_life(tmp_path: Path) -> None:
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"1"], producer="p", first=1))
    store.close()
    with sqlite3.connect(path) as db:
        assert not db.execute("SELECT name FROM sqlite_master WHERE name = 'lives'").fetchall()
    db.close()


@pytest.mark.parametrize("damage", ["UPDATE lives SET name = x'00'", "DELETE FROM lives", "DROP TABLE lives"])
def test_damaged_lives_stop_nobody(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "messages.db"
    lived(path, b"1", b"2")
    with sqlite3.connect(path) as db:
        db.execute(damage)
    db.close()
    lived(path, b"3")
    assert names(path).keys() == {1, 2, 3}


def test_an_id_belongs_to_the_life_that_gave_it() -> None:
    found = LifeNames("store", (5, 9), ("a", "b"))
    assert [found.of(number) for number in (4, 5, 8, 9, 100)] == ["store", "a", "a", "b", "b"]
