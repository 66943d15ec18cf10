"""The steps of an update: what may follow what, and what is said of one that came back."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from loguru import logger

from runtime.adapters.update.durable_files import DurableFiles
from runtime.adapters.update.holds import hold, holders, release
from runtime.adapters.update.journal_file import journal_facts, read_journal, write_journal
from runtime.adapters.update.side_by_side import BYTECODE_SHARE
from runtime.core.update.crash_loop import CRASHES, crashing_worker
from runtime.core.update.progress import (
    PACKAGE,
    PHASES,
    EndTrial,
    LastUpdate,
    RemoveVersion,
    Save,
    UpdatePhase,
    UpdateRecord,
    UpdateResult,
    VersionsOnDisk,
    Watch,
    next_slot_step,
    next_step,
    tried,
    trouble_of,
    waits_for_rehearsal,
)
from runtime.core.update.slots import TRIES, SlotChoice, power_on
from runtime.errors import NeedsHuman, Rejected
from runtime.layout import Layout
from runtime.operations.update_rehearsal import FOLDER, rehearse
from runtime.operations.update_steps import ApplyOptions
from runtime.workers.update_news import UpdateNews
from tests.support.store_tools import ObedientClock
from tests.support.update_world import NEW, OLD, SCHEMAS, World, bundle_in

TRIAL = UpdateRecord(UpdatePhase.TRIAL, "2", "1", tries=TRIES, slot="b")
BACK = LastUpdate("2", UpdateResult.CAME_BACK, "it hangs", 1000.0)


class Unflushed(DurableFiles):
    def flush(self, path: Path) -> None:
        pass


def test_only_the_phases_of_the_table_follow_each_other() -> None:
    assert set(PHASES) == set(UpdatePhase)
    with pytest.raises(AssertionError):
        UpdateRecord().to(UpdatePhase.TRIAL)


def test_a_trial_whose_watch_is_started_too_often_comes_back() -> None:
    record = TRIAL
    for _ in range(TRIES):
        record = tried(record)
        assert record.phase is UpdatePhase.TRIAL
    assert tried(record).phase is UpdatePhase.RETURNING
    assert "3 starts" in tried(record).reason


def test_a_version_on_trial_that_is_gone_from_the_disk_comes_back() -> None:
    step = next_step(TRIAL, VersionsOnDisk("1", "2", frozenset({"1"})))
    assert isinstance(step, Save) and step.record.phase is UpdatePhase.RETURNING
    begun = replace(TRIAL, begun=True)
    assert next_step(begun, VersionsOnDisk("1", "2", frozenset({"1", "2"}))) == Watch()


def test_at_rest_a_trial_without_a_journal_ends_and_old_versions_go() -> None:
    versions = frozenset({"0", "1", "2"})
    assert next_step(UpdateRecord(), VersionsOnDisk("2", "1", versions)) == EndTrial()
    kept = UpdateRecord(previous="1")
    assert next_step(kept, VersionsOnDisk("2", "", versions)) == RemoveVersion("0")
    assert next_step(kept, VersionsOnDisk("2", "", versions - {"0"})) is None


def test_the_version_that_was_confirmed_last_stays_where_a_person_named_another_one() -> None:
    disk = VersionsOnDisk("1", "", frozenset({"1", "2"}))
    confirmed = UpdateRecord(previous="1", last=replace(BACK, result=UpdateResult.CONFIRMED))
    assert next_step(confirmed, disk) is None
    assert next_step(UpdateRecord(previous="1", last=BACK), disk) == RemoveVersion("2")


def test_a_slot_that_is_not_confirmed_comes_back_and_says_why() -> None:
    record, choice, booted = TRIAL, SlotChoice("a"), "a"
    step = next_slot_step(record, choice, booted, 5.0)
    assert step is not None and step.choice == SlotChoice("a", "b", TRIES)
    choice = step.choice
    for _ in range(TRIES + 1):
        assert next_slot_step(record, choice, booted, 5.0) is None
        booted, written = power_on(choice)
        choice = written or choice
    step = next_slot_step(replace(record, reason="it hangs"), choice, booted, 5.0)
    assert step is not None and step.record is not None
    assert trouble_of(step.record) == "the update to 2 came back: it hangs"
    cleared = next_slot_step(step.record, choice, booted, 5.0)
    assert cleared is not None and cleared.choice == SlotChoice("a")


def test_a_slot_whose_choice_is_confirmed_is_confirmed_whatever_the_journal_missed() -> None:
    step = next_slot_step(TRIAL, SlotChoice("b"), "b", 5.0)
    assert step is not None and step.record is not None
    assert step.record.last == LastUpdate("2", UpdateResult.CONFIRMED, "", 5.0)
    assert step.record.previous == "1"
    assert waits_for_rehearsal(replace(TRIAL, one_way=True), "b")
    assert not waits_for_rehearsal(replace(TRIAL, one_way=True), "a")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"phase": "trial", "tries": "x"}', '{"phase": "new"}'])
def test_a_damaged_journal_is_that_of_no_update(tmp_path: Path, text: str) -> None:
    (tmp_path / "update.json").write_text(text)
    assert read_journal(tmp_path) == UpdateRecord()


def test_an_update_that_came_back_is_logged_once(tmp_path: Path) -> None:
    lines: list[str] = []
    handler = logger.add(
        lambda line: lines.append(str(line)), format="{message} {extra[event]}", level="ERROR"
    )
    try:
        news = UpdateNews(tmp_path)
        news.look(1000.0)
        record = UpdateRecord(last=BACK)
        write_journal(tmp_path, record, Unflushed())
        news.look(1001.0)
        news.look(1002.0)
        UpdateNews(tmp_path).look(9000.0)  # started again long after: it was said
    finally:
        logger.remove(handler)
    assert [line.strip() for line in lines] == ["the update to 2 came back: it hangs update_came_back"]
    assert journal_facts(tmp_path)["last"]["result"] == "came back"
    assert read_journal(tmp_path) == record


def test_programs_may_put_an_update_off_and_no_longer_than_they_may(tmp_path: Path) -> None:
    hold(tmp_path, "press", 2000.0)
    (tmp_path / "others").mkdir()
    (tmp_path / "others/cutting").touch()
    folders = [tmp_path / "update-hold", tmp_path / "others", tmp_path / "missing"]
    assert holders(folders, 1999.0) == ["press.until", "cutting"]
    assert holders(folders, 2001.0) == ["cutting"]
    assert release(tmp_path, "press") and not release(tmp_path, "press")
    world = World.of(tmp_path)
    update_settings = replace(world.config.settings.update, hold_dir=tmp_path / "others", hold_max_s=60)
    world.config = replace(world.config, settings=replace(world.config.settings, update=update_settings))
    said: list[str] = []
    update = world.update(Unflushed())
    update.report, update.bundle = said.append, bundle_in(tmp_path)
    began_s = update.clock.boot_s()
    update.apply(tmp_path, ApplyOptions())
    assert 60 <= update.clock.boot_s() - began_s < 63
    assert "waiting for cutting, 60 s at most" in said


def test_a_one_way_update_is_rehearsed_then_in_use_at_once_and_there_is_no_way_back(tmp_path: Path) -> None:
    world = World.of(tmp_path)
    update = world.update(Unflushed())
    update.bundle = bundle_in(tmp_path, schemas={"messages.db": replace(SCHEMAS["messages.db"], writes=2)})
    world.good = False
    with pytest.raises(Exception, match="cannot migrate"):
        update.apply(tmp_path, ApplyOptions(one_way=True))
    assert world.restarts == 0 and update.versions.look().versions == {OLD}
    world.good = True
    update.apply(tmp_path, ApplyOptions(one_way=True))
    update.watch()
    assert (world.running, world.restarts) == (NEW, 1)
    with pytest.raises(NeedsHuman, match="no way back"):
        update.roll_back()


def test_beside_a_package_its_own_version_is_the_one_without_a_link(tmp_path: Path) -> None:
    world = World.of(tmp_path)
    own = tmp_path / "usr"
    (world.folder / OLD).rename(own)
    world.folder.with_suffix("").unlink()
    update = world.update(Unflushed())
    update.versions.package, update.bundle = own, bundle_in(tmp_path)
    assert update.versions.look().current == PACKAGE
    update.apply(tmp_path, ApplyOptions())
    update.watch()
    assert update.versions.look().current == NEW
    assert update.versions.record().previous == PACKAGE
    update.roll_back()
    world.package = own
    update.watch()
    assert update.versions.look() == VersionsOnDisk(PACKAGE, "", frozenset({NEW}))
    assert not world.folder.with_suffix("").is_symlink()


def test_a_version_that_crashes_again_and_again_comes_back_without_waiting_for_its_time(
    tmp_path: Path,
) -> None:
    reasons = {}
    for name, counts, crash_loop in (("worker", [0], True), ("service", [9, 0, 2, 4, 5], False)):
        (tmp_path / name).mkdir()
        world = World.of(tmp_path / name)
        world.good, world.counts, world.crash_loop = False, counts, crash_loop
        update = world.update(Unflushed())
        update.bundle = bundle_in(tmp_path)
        update.apply(tmp_path, ApplyOptions())
        began_s = update.clock.boot_s()
        last = update.watch()
        assert last is not None and last.result is UpdateResult.CAME_BACK
        assert world.running == OLD
        assert update.clock.boot_s() - began_s <= 4, "the time to confirm is 5 s"
        reasons[name] = last.reason
    assert reasons["worker"] == "it crashes: ingest does not run yet"
    assert reasons["service"] == "it crashes: the service was restarted 5 times; ingest does not run yet"


def test_a_version_that_ended_a_few_times_still_gets_its_whole_time(tmp_path: Path) -> None:
    world = World.of(tmp_path)
    world.good, world.counts = False, [7, CRASHES - 1, 0, CRASHES - 1]
    update = world.update(Unflushed())
    update.bundle = bundle_in(tmp_path)
    update.apply(tmp_path, ApplyOptions())
    began_s = update.clock.boot_s()
    last = update.watch()
    assert last is not None and last.reason.startswith("not confirmed within 5 s")
    assert update.clock.boot_s() - began_s >= 5


def test_restarts_that_the_sentinel_counted_under_another_supervisord_are_no_evidence() -> None:
    watches = {"ingest": {"restarted_at_s": [1.0] * CRASHES}, "upload": {"restarted_at_s": [1.0]}}
    record = {"supervisor_pid": 7, "memory": {"watches": watches}}
    assert crashing_worker(record, 7) == f"ingest was restarted {CRASHES} times"
    assert not crashing_worker(record, 8)
    del watches["ingest"]["restarted_at_s"][0]
    assert not crashing_worker(record, 7)
    for damaged in ({}, {"memory": 3}, {"memory": {"watches": {"ingest": 3}}}):
        assert not crashing_worker({"supervisor_pid": 7, **damaged}, 7)


def test_an_update_without_room_for_it_and_its_bytecode_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    world = World.of(tmp_path)
    update = world.update(Unflushed())
    free_bytes = shutil.disk_usage(tmp_path).free
    spare_bytes = 1 << 30  # other tests write meanwhile
    for room_bytes in (1 << 60, int((free_bytes + spare_bytes) / (1 + BYTECODE_SHARE))):
        update.bundle = bundle_in(tmp_path, unpacked_bytes=room_bytes)
        with pytest.raises(Rejected, match=r"\d+\.\d MB of room are missing on the disk of .*edge-runtime.d"):
            update.apply(tmp_path, ApplyOptions())
    assert update.versions.look().versions == {OLD}
    assert {path.name for path in world.folder.iterdir()} == {OLD}
    room_bytes = int((free_bytes - spare_bytes) / (1 + BYTECODE_SHARE))
    update.bundle = bundle_in(tmp_path, unpacked_bytes=room_bytes)
    update.apply(tmp_path, ApplyOptions())
    assert update.versions.look().versions == {OLD, NEW}


def test_a_rehearsal_without_room_for_two_copies_of_the_store_is_refused(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.state.mkdir()
    with layout.messages_db.open("wb") as store:  # sparse: it has the size, and takes no room
        store.truncate(shutil.disk_usage(tmp_path).free // 2)
    reason = rehearse(replace(World.of(tmp_path).config, layout=layout), ObedientClock(), NEW, 1)
    assert re.fullmatch(r"\d+\.\d MB of room are missing for a copy of the store", reason)
    assert not (layout.home / FOLDER).exists()


def test_a_rollback_goes_through_a_trial_of_its_own(tmp_path: Path) -> None:
    world = World.of(tmp_path)
    update = world.update(Unflushed())
    with pytest.raises(NeedsHuman, match="no version before"):
        update.roll_back()
    update.bundle = bundle_in(tmp_path)
    update.apply(tmp_path, ApplyOptions())
    update.watch()
    assert world.running == NEW
    update.roll_back()
    with pytest.raises(NeedsHuman, match="under way"):
        update.apply(tmp_path, ApplyOptions())
    update.watch()
    assert world.running == OLD == update.versions.look().current
    assert update.versions.record().previous == NEW
