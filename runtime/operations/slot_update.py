"""An update of an image with two slots: written into the other slot, confirmed by the slot itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtime.adapters.process.clock import Clock, SystemClock
from runtime.adapters.update.bundle_file import UpdateBundle, open_bundle
from runtime.adapters.update.holds import holders
from runtime.adapters.update.service import Called, UpdatedService
from runtime.adapters.update.two_slots import TwoSlots
from runtime.config import Config
from runtime.core.update.crash_loop import ServiceRestarts, reason_to_return
from runtime.core.update.manifest import InstalledVersion, Judgement, judge
from runtime.core.update.progress import (
    SlotStep,
    UpdatePhase,
    UpdateRecord,
    next_slot_step,
    trouble_of,
)
from runtime.core.update.slots import begin_trial, clear_trial, confirm, other
from runtime.errors import NeedsHuman, Rejected
from runtime.operations import updates
from runtime.operations.update_steps import LOOK_EVERY_S, ApplyOptions, Report, alone, refuse


@dataclass
class SlotUpdate:
    """One update of a device with two slots."""

    config: Config
    slots: TwoSlots
    installed: InstalledVersion
    service: UpdatedService
    report: Report = lambda _: None
    clock: Clock = field(default_factory=SystemClock)
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def of_device(cls, config: Config, report: Report = lambda _: None) -> SlotUpdate:
        """The update of the device with this configuration. Raises NeedsHuman."""
        updates.check_trust(config)
        settings = config.settings.update
        return cls(
            config,
            updates.two_slots(settings),
            updates.installed(settings),
            updates.service(settings),
            report,
        )

    def inspect(self, file: Path) -> tuple[UpdateBundle, Judgement]:
        """Check a bundle wholly. Raises BadBundle, NeedsHuman, OSError."""
        bundle = open_bundle(file, updates.signing_keys(self.config.settings.update))
        bundle.check()
        return bundle, judge(bundle.manifest, self.installed)

    def apply(self, file: Path, options: ApplyOptions) -> None:
        """Write the other slot, and let it be started next. Raises Rejected, NeedsHuman, OSError."""
        bundle, judgement = self.inspect(file)
        refuse(bundle, judgement, options)
        with alone(self.slots.folder):
            self._apply(bundle, one_way=bool(judgement.one_way))

    def _apply(self, bundle: UpdateBundle, *, one_way: bool) -> None:
        booted = self._settle()
        slot = other(booted)
        if lacking := self.slots.lacking_bytes(bundle, slot):
            raise Rejected(f"the image is {lacking / 1e6:.1f} MB larger than slot {slot}")
        record = self.slots.record()
        begun = record.to(
            UpdatePhase.UNPACKING, version=bundle.manifest.version, before=self.installed.version, slot=slot,
            one_way=one_way, reason="", previous="",  # what the slot held is overwritten
        )  # fmt: skip
        self.slots.perform(SlotStep(record=begun))
        try:
            self.report(f"writing {begun.version} into slot {slot}")
            self.slots.write_image(bundle, slot)
            self._wait_for_locks()
        except BaseException:
            self.slots.perform(SlotStep(record=begun.dropped()))
            raise
        ready = begun.to(UpdatePhase.READY)
        self._begin_trial(ready)

    def roll_back(self) -> None:
        """Let the other slot be started next. Raises NeedsHuman where there is no way back."""
        booted, record = self._settle(), self.slots.record()
        if record.no_way_back:
            raise NeedsHuman(
                f"there is no way back to {record.previous}: it cannot open the databases that this version "
                "writes", hint="apply a newer version",
            )  # fmt: skip
        if not record.previous:
            raise NeedsHuman("the other slot holds no version before", hint="apply one with --older")
        self._begin_trial(
            record.to(
                UpdatePhase.READY,
                version=record.previous,
                before=self.installed.version,
                slot=other(booted),
                one_way=False,
                reason="",
            )
        )

    def confirm(self, wait_s: float, prove: Callable[[UpdateRecord], Called]) -> bool:
        """Confirm the slot that was started, if it is on trial and proves itself; True if all is well.

        The last reason why it does not is kept for after the return.
        """
        booted = self._look_back()
        record = self.slots.record()
        if record.phase is not UpdatePhase.TRIAL or booted != record.slot:
            return True
        if reason := self._failure(record, wait_s, prove):
            self.report(reason)
            self.slots.perform(SlotStep(record=replace(record, reason=reason)))
            return False
        self.slots.perform(SlotStep(choice=confirm(self.slots.choice(), booted)))
        self._look_back()
        self.report(f"slot {booted} is confirmed")
        return True

    def _failure(self, record: UpdateRecord, wait_s: float, prove: Callable[[UpdateRecord], Called]) -> str:
        """The reason why the slot on trial does not prove itself; empty: it does.

        The service ends again and again until a rehearsal is over: its restarts count for nothing then.
        """
        until_s, restarts = self.clock.boot_s() + wait_s, ServiceRestarts()
        while not (proved := prove(record)).ok:
            restarts = restarts.after(None if record.one_way else self.service.restarts())
            if crash := reason_to_return(proved.text, restarts, worker_crashes=proved.crash_loop):
                return crash
            if self.clock.boot_s() >= until_s:
                return f"not confirmed within {wait_s:.0f} s: {proved.text}"
            self.sleep(LOOK_EVERY_S)
        return ""

    def _begin_trial(self, ready: UpdateRecord) -> None:
        """The journal first: without it the choice of a trial counts for nothing."""
        self.slots.perform(SlotStep(record=ready.to(UpdatePhase.TRIAL)))
        self.slots.perform(SlotStep(choice=begin_trial(clear_trial(self.slots.choice()), ready.slot)))
        self.report("restart the machine to try it")

    def _settle(self) -> str:
        """The slot that was started. Raises NeedsHuman where an update is under way."""
        booted = self._look_back()
        record = self.slots.record()
        if record.phase is UpdatePhase.TRIAL:
            raise NeedsHuman(
                f"an update to {record.version} is under way",
                hint="it is tried at the next start of the machine",
            )
        if self.slots.choice().active != booted:
            raise NeedsHuman(f"slot {booted} runs and is not the confirmed one", hint="restart the machine")
        return booted

    def _look_back(self) -> str:
        """Do what the journal and the choice ask for; returns the slot that was started."""
        booted = self.slots.booted()
        while step := next_slot_step(self.slots.record(), self.slots.choice(), booted, self.clock.wall_s()):
            self.slots.perform(step)
            if step.record and (trouble := trouble_of(step.record)):
                self.report(trouble)
        return booted

    def _wait_for_locks(self) -> None:
        limit_s = self.config.settings.update.hold_max_s
        until_s = self.clock.boot_s() + limit_s
        while (left_s := until_s - self.clock.boot_s()) > 0:
            found = holders(updates.hold_folders(self.config), self.clock.wall_s())
            if not found:
                return
            self.report(f"waiting for {', '.join(found)}, {left_s:.0f} s at most")
            self.sleep(min(LOOK_EVERY_S, left_s))
