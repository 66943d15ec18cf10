"""management.db by itself: what it gives back, what it forgets, and which numbers it never gives twice."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.adapters.management.database import ManagementDatabase
from runtime.adapters.management.reader import ManagementReader
from runtime.adapters.store.errors import StoreNewer
from runtime.core.management.call_record import KeptAnswer
from runtime.core.management.command_record import CommandRow, CommandState, Instant, Lease, Retry
from runtime.core.management.twin_record import AlteredSection, AppliedChange, RefusedSection, TwinRecord
from runtime.core.moment import Moment
from runtime.layout import Layout

DAY_S = 86_400.0
THEN = Moment(1e9, 100.0, "boot")
QUEUED = CommandRow(1, "id", "name", b"\0payload", THEN)
DONE = replace(QUEUED, state=CommandState.DONE, ended=THEN, result=b"7", result_stored=True)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    made = Layout(tmp_path)
    made.create()
    return made


@pytest.fixture
def database(layout: Layout) -> Iterator[ManagementDatabase]:
    with contextlib.closing(ManagementDatabase(layout)) as made:
        yield made


def later(days: float) -> Instant:
    return Instant(Moment(1e9, 100.0 + days * DAY_S, "boot"), True)


def test_a_command_comes_back_as_it_was(database: ManagementDatabase) -> None:
    whole = replace(
        QUEUED, leaf="leaf", properties={"a": "é\ud800"}, digest="d", life_s=3.5, once=True, reboot=True,
        state=CommandState.LEASED, attempts=2, lease=Lease("h", "p", THEN, 60.0), retry=Retry(1, THEN, 5.0),
        status=200, reason="r", ended_token=2, ended=THEN, dropped=True,
    )  # fmt: skip
    database.save_command(whole)
    database.commit()
    assert database.open_commands() == [whole] == [database.command_of("id")]
    assert database.command_of_digest("d") == whole and database.command_of_digest("") is None


def test_the_twin_comes_back_as_it_was(database: ManagementDatabase, layout: Layout) -> None:
    whole = TwinRecord(
        "dev", {"a": {"b": [1, "\ud800"]}}, 3, {"c": 1}, 4, {"c": 2.5}, frozenset({"", "x"}), 9, {"a": 8},
        {"c": 9}, 7, {"c": RefusedSection(None, "no")}, {"d": AlteredSection(1, {"e": 2})},
        {("a", "b"): AppliedChange(8, 200, "ok")}, 2,
    )  # fmt: skip
    assert database.twin() == TwinRecord()
    database.save_twin(whole)
    database.commit()
    database.close()
    with contextlib.closing(ManagementDatabase(layout)) as again:
        assert again.twin() == whole


def test_what_was_rolled_back_is_not_there_and_its_numbers_are_free(database: ManagementDatabase) -> None:
    database.save_command(DONE)
    database.rollback()
    assert database.command(1) is None and database.next_seq == 1
    database.save_command(replace(DONE, result_stored=False))
    database.commit()
    assert [ended.number for ended in database.unsent(9)] == [1]


def test_it_forgets_the_old_and_keeps_what_waits_for_a_person(database: ManagementDatabase) -> None:
    for seq in range(1, 131):
        state = CommandState.DEAD if seq <= 60 else CommandState.DONE
        database.save_command(replace(DONE, seq=seq, id=f"c-{seq}", state=state, dropped=seq == 7))
    database.save_command(replace(DONE, seq=131, id="young", ended=later(30.5).moment))
    for number in range(3):
        kept = THEN if number else later(31.5).moment
        database.save_answer(KeptAnswer("m", f"x{number}", 200, b"", kept))
    database.commit()
    after: int | None = 0
    while after is not None:
        after = database.forget(later(32), after)
        database.commit()
    left = [command.seq for command in database.newest_commands(500)]
    assert left == [131, *(seq for seq in range(60, 0, -1) if seq != 7)]
    assert database.answer("m", "x0") and database.answer("m", "x1") is None


def test_an_older_copy_gives_no_number_again(layout: Layout) -> None:
    first = ManagementDatabase(layout)
    first.save_command(QUEUED)
    first.commit()
    first.close()
    copy = layout.home / "copy"
    shutil.copy(layout.management_db, copy)
    second = ManagementDatabase(layout)
    assert not second.restored
    second.save_command(replace(DONE, seq=second.next_seq))
    second.commit()
    given, uuid = second.next_seq, second.uuid
    second.close()
    copy.replace(layout.management_db)
    for suffix in ("-wal", "-shm"):
        layout.management_db.with_name(f"management.db{suffix}").unlink(missing_ok=True)
    with contextlib.closing(ManagementDatabase(layout)) as restored:
        assert restored.restored and restored.uuid != uuid and restored.next_seq > given


def test_a_database_of_a_newer_runtime_is_left_alone(layout: Layout) -> None:
    with contextlib.closing(sqlite3.connect(layout.management_db)) as db:
        db.execute("PRAGMA user_version = 99")
        db.commit()
    with pytest.raises(StoreNewer, match="schema 99"):
        ManagementDatabase(layout)


def test_a_twin_that_the_hub_has_answered_for_and_that_is_not_saved_yet_is_no_damage(layout: Layout) -> None:
    """`edgectl twin get` with the worker down called the database damaged."""
    database = ManagementDatabase(layout)
    database.save_twin_received([1.0, 2.0, "boot"])
    database.commit()
    assert ManagementReader(layout.management_db).twin() == TwinRecord()
    database.close()
