"""The power goes at every single change of an update: a whole version starts, and the update ends."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from runtime.core.update.progress import UpdatePhase, UpdateResult
from runtime.operations.update_steps import ApplyOptions
from tests.support.power_of_files import CutFiles, PowerCut
from tests.support.update_world import NEW, OLD, World, bundle_in


def whole_update(world: World, place: Path, files: CutFiles) -> None:
    """Apply and watch, as far as the power lasts."""
    update = world.update(files)
    update.bundle = bundle_in(place)
    with contextlib.suppress(PowerCut):
        update.apply(place, ApplyOptions())
        update.watch()


def changes_of_an_update(place: Path, *, good: bool) -> int:
    place.mkdir()
    world = World.of(place)
    world.good = good
    with contextlib.closing(CutFiles(world.folder.parent)) as files:
        whole_update(world, place, files)
        assert world.running == (NEW if good else OLD)
        return files.changes


@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
@pytest.mark.parametrize("keeps_all", [True, False], ids=["disk keeps all", "disk keeps what was flushed"])
def test_wherever_the_power_goes_a_whole_version_runs_and_the_update_ends(
    tmp_path: Path, good: bool, keeps_all: bool
) -> None:
    changes = changes_of_an_update(tmp_path / "uncut", good=good)
    assert changes > 30
    ended = set()
    for cut_at in range(1, changes + 1):
        place = tmp_path / str(cut_at)
        place.mkdir()
        world = World.of(place)
        world.good = good
        files = CutFiles(world.folder.parent, cut_at)
        whole_update(world, place, files)
        files.after_the_cut(keeps_all=keeps_all)
        files.close()
        ended.add(after_power_on(world))
    assert ended == ({OLD, NEW} if good else {OLD})


def after_power_on(world: World) -> str:
    """The service and the watch start; the version that runs in the end, which is in use, too."""
    world.boot()
    with contextlib.closing(CutFiles(world.folder.parent)) as files:  # no disk is flushed for it
        update = world.update(files)
        update.watch()
    record = update.versions.record()
    assert record.phase is UpdatePhase.NONE
    assert world.running == world.starts() == update.versions.look().current
    assert not update.versions.look().trial
    return world.running


def test_the_power_goes_again_and_again_and_the_update_ends_all_the_same(tmp_path: Path) -> None:
    """At each start it gets a change further, or not even that."""
    for good in (True, False):
        place = tmp_path / str(good)
        place.mkdir()
        world = World.of(place)
        world.good = good
        for cut_at in range(1, 45):
            files = CutFiles(world.folder.parent, cut_at)
            update = world.update(files)
            update.bundle = bundle_in(place)
            with contextlib.suppress(PowerCut):
                world.boot()
                update.watch()
                if world.running == OLD and update.versions.record().last is None:
                    update.apply(place, ApplyOptions())
                    update.watch()
            files.after_the_cut(keeps_all=cut_at % 3 == 0)
            files.close()
        assert after_power_on(world) in ((OLD, NEW) if good else (OLD,))
        last = world.update().versions.record().last
        assert last is not None and last.result in (UpdateResult.CONFIRMED, UpdateResult.CAME_BACK)


def test_a_version_that_is_named_before_it_is_flushed_would_be_noticed(tmp_path: Path) -> None:
    class Forgetful(CutFiles):
        def flush_tree(self, folder: Path) -> None:
            pass

    world = World.of(tmp_path)
    files = Forgetful(world.folder.parent, 0)
    update = world.update(files)
    update.bundle = bundle_in(tmp_path)
    update.apply(tmp_path, ApplyOptions())
    update.watch()
    files.after_the_cut(keeps_all=False)
    files.close()
    with pytest.raises((AssertionError, FileNotFoundError)):
        world.boot()
