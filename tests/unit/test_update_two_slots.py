"""Two slots with files for disks: written, chosen, confirmed or back; the power goes at every change."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.adapters.update.bundle_file import BadBundle, UpdateBundle
from runtime.adapters.update.service import Called
from runtime.adapters.update.two_slots import TwoSlots
from runtime.cli.up import refuse_unrehearsed
from runtime.core.update.manifest import BundleKind, BundlePart, Judgement, SchemaRange, judge
from runtime.core.update.progress import UpdatePhase, UpdateRecord, UpdateResult
from runtime.core.update.slots import SlotChoice, power_on
from runtime.errors import NeedsHuman, Rejected, Retryable
from runtime.operations.slot_update import SlotUpdate
from runtime.operations.update_steps import ApplyOptions
from tests.support.power_of_files import CutFiles, PowerCut
from tests.support.store_tools import ObedientClock
from tests.support.update_world import (
    INSTALLED,
    NEW,
    OLD,
    SCHEMAS,
    CountedService,
    config_of,
    manifest_of,
)

OLD_IMAGE, NEW_IMAGE = b"old" * 1000, b"new" * 1500


class SlotWorld(SlotUpdate):
    """A device with two slots; its bundles are verified already."""

    bundle: UpdateBundle

    @classmethod
    def of(cls, place: Path, cut_at: int = 0) -> SlotWorld:
        boot = place / "boot"
        if not boot.is_dir():
            boot.mkdir(parents=True)
            (boot / "choice").write_text(SlotChoice("a").text())
            (boot / "booted").write_text("a\n")
            (place / "slots").mkdir()
            for slot, image in (("a", OLD_IMAGE), ("b", b"")):
                (place / "slots" / slot).write_bytes(image)
                (boot / f"slot-{slot}").symlink_to(f"../slots/{slot}")
        config = config_of(place, place / "none.d")
        settings = replace(config.settings, update=replace(config.settings.update, boot_dir=boot))
        slots = TwoSlots(boot, CutFiles(boot, cut_at), place / "no-command-line")
        installed = replace(INSTALLED, kind=BundleKind.IMAGE)
        service = CountedService((), ())
        world = cls(replace(config, settings=settings), slots, installed, service, clock=ObedientClock())
        world.sleep = world.pass_time
        part = BundlePart("image.squashfs", hashlib.sha256(NEW_IMAGE).hexdigest(), len(NEW_IMAGE))
        (place / "part").write_bytes(NEW_IMAGE)
        manifest = replace(manifest_of(NEW, NEW_IMAGE), kind=BundleKind.IMAGE, part=part, python="")
        world.bundle = UpdateBundle(place / "part", manifest, "signed", 0)
        return world

    def pass_time(self, seconds: float) -> None:
        assert isinstance(self.clock, ObedientClock)
        self.clock.boot += max(seconds, 0.1)

    def inspect(self, file: Path) -> tuple[UpdateBundle, Judgement]:
        self.bundle.check()
        return self.bundle, judge(self.bundle.manifest, self.installed)

    def start(self) -> str:
        """The chooser, then the slot; what it starts is a whole image."""
        slot, written = power_on(self.slots.choice())
        folder = self.slots.folder
        if written:
            (folder / "choice").write_text(written.text())
        (folder / "booted").write_text(slot)
        assert self.slots.image_of(slot).read_bytes() == (NEW_IMAGE if slot == "b" else OLD_IMAGE)
        return slot


def well(_: UpdateRecord) -> Called:
    return Called(True, "")


def ill(_: UpdateRecord) -> Called:
    return Called(False, "ingest does not run yet")


def test_the_other_slot_is_written_started_and_confirmed(tmp_path: Path) -> None:
    world = SlotWorld.of(tmp_path)
    world.apply(tmp_path, ApplyOptions())
    assert world.slots.choice() == SlotChoice("a", "b", 3)
    with pytest.raises(NeedsHuman, match="under way"):
        world.apply(tmp_path, ApplyOptions())
    assert world.confirm(5, ill), "slot a is not on trial"
    assert world.start() == "b"
    assert world.confirm(5, well)
    assert world.slots.choice() == SlotChoice("b")
    record = world.slots.record()
    assert record.last is not None and record.last.result is UpdateResult.CONFIRMED
    assert record.previous == OLD
    world.installed = replace(world.installed, version=NEW)
    world.roll_back()
    assert world.start() == "a" and world.confirm(5, well)
    assert world.slots.choice() == SlotChoice("a")


def test_a_slot_that_is_not_confirmed_comes_back_and_its_reason_is_kept(tmp_path: Path) -> None:
    world = SlotWorld.of(tmp_path)
    world.apply(tmp_path, ApplyOptions())
    for _ in range(3):
        assert world.start() == "b"
        assert not world.confirm(5, ill)
    assert world.start() == "a"
    assert world.confirm(5, ill)
    last = world.slots.record().last
    assert last is not None and last.result is UpdateResult.CAME_BACK
    assert last.reason == "not confirmed within 5 s: ingest does not run yet"
    assert world.slots.choice() == SlotChoice("a")
    with pytest.raises(NeedsHuman, match="no version before"):
        world.roll_back()


def test_a_slot_whose_runtime_crashes_again_and_again_restarts_the_machine_at_once(tmp_path: Path) -> None:
    world = SlotWorld.of(tmp_path)
    world.apply(tmp_path, ApplyOptions())
    world.start()
    began_s = world.clock.boot_s()
    assert not world.confirm(180, lambda _: Called(False, "ingest was restarted 5 times", crash_loop=True))
    assert world.slots.record().reason == "it crashes: ingest was restarted 5 times"
    world.service = CountedService((), (), counts=[0, 2, 4, 6])
    assert not world.confirm(180, ill)
    assert world.clock.boot_s() - began_s < 10
    assert world.slots.record().reason.startswith("it crashes: the service was restarted 6 times")


def test_an_image_that_does_not_fit_or_is_another_leaves_the_choice_alone(tmp_path: Path) -> None:
    world = SlotWorld.of(tmp_path)
    big = replace(world.bundle.manifest.part, size_bytes=1 << 50)
    right = world.bundle
    world.bundle = replace(right, manifest=replace(right.manifest, part=big))
    assert world.slots.lacking_bytes(world.bundle, "b") > 0
    world.bundle = replace(right, manifest=replace(right.manifest, kind=BundleKind.TREE))
    with pytest.raises(Rejected, match="beside the one in use"):
        world.apply(tmp_path, ApplyOptions())
    world.bundle = right
    (tmp_path / "part").write_bytes(NEW_IMAGE[:-1] + b"x")
    with pytest.raises(BadBundle, match="damaged"):
        world.apply(tmp_path, ApplyOptions())
    assert world.slots.choice() == SlotChoice("a")
    assert world.slots.record().phase is UpdatePhase.NONE


def test_a_one_way_image_is_rehearsed_in_its_slot_before_the_store_opens(tmp_path: Path) -> None:
    world = SlotWorld.of(tmp_path)
    one_way = replace(world.bundle.manifest, schemas={"messages.db": SchemaRange(1, 2)})
    assert set(one_way.schemas) == set(SCHEMAS)
    world.bundle = replace(world.bundle, manifest=one_way)
    with pytest.raises(Rejected, match="one way"):
        world.apply(tmp_path, ApplyOptions())
    world.apply(tmp_path, ApplyOptions(one_way=True))
    refuse_unrehearsed(world.config)
    world.start()
    with pytest.raises(Retryable, match="not rehearsed yet"):
        refuse_unrehearsed(world.config)
    assert world.confirm(5, well)
    refuse_unrehearsed(world.config)
    with pytest.raises(NeedsHuman, match="no way back"):
        world.roll_back()


@pytest.mark.parametrize("keeps_all", [True, False])
@pytest.mark.parametrize("prove", [well, ill])
def test_wherever_the_power_goes_a_whole_slot_starts(tmp_path: Path, keeps_all: bool, prove: object) -> None:
    ended = set()
    for cut_at in range(1, 24):
        place = tmp_path / str(cut_at)
        world = SlotWorld.of(place, cut_at)
        files = world.slots.files
        assert isinstance(files, CutFiles)
        with contextlib.suppress(PowerCut):
            world.apply(place, ApplyOptions())
            world.start()
            world.confirm(1, prove)  # type: ignore[arg-type]
        files.after_the_cut(keeps_all=keeps_all)
        files.close()
        world = SlotWorld.of(place)
        for _ in range(5):
            slot = world.start()
            world.confirm(1, prove)  # type: ignore[arg-type]
        record, choice = world.slots.record(), world.slots.choice()
        assert choice == SlotChoice(slot)
        assert record.phase is UpdatePhase.NONE
        ended.add(slot)
        world.slots.files.close()  # type: ignore[attr-defined]
    assert ended == ({"a", "b"} if prove is well else {"a"})
