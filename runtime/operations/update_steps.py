"""Carries out an update side by side, from the bundle to its end.

`core/update/progress.py` names each step; here it is done, and the next one asked for. A process that ends in
between leaves a journal from which another goes on: `apply` again, the watch, or the device's next start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from runtime.adapters.process.clock import Clock, SystemClock
from runtime.adapters.process.process import AlreadyRuns, Lock
from runtime.adapters.update.bundle_file import BadBundle, UpdateBundle, open_bundle
from runtime.adapters.update.holds import holders
from runtime.adapters.update.service import Called, UpdatedService, call, compile_tree
from runtime.adapters.update.side_by_side import LOCK, SideBySide
from runtime.config import Config
from runtime.core.update.crash_loop import ServiceRestarts, reason_to_return
from runtime.core.update.manifest import InstalledVersion, Judgement, judge
from runtime.core.update.progress import (
    PACKAGE,
    Finish,
    LastUpdate,
    Restart,
    Save,
    Step,
    UpdatePhase,
    UpdateRecord,
    UpdateResult,
    Watch,
    next_step,
    tried,
)
from runtime.core.update.slots import TRIES
from runtime.errors import NeedsHuman, Rejected
from runtime.operations import updates

LOOK_EVERY_S = 1.0
LEAST_CALL_S = 15.0
"""The last probe gets so long, too: a reason is worth more than a few seconds."""
FIRST_CALL_S = 60.0
"""For the first call of a new version on a slow device, imports and all."""
Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ApplyOptions:
    """What the operator allows."""

    one_way: bool = False
    older: bool = False


@dataclass
class SideBySideUpdate:
    """One update of this device, side by side."""

    config: Config
    versions: SideBySide
    service: UpdatedService
    installed: InstalledVersion
    report: Report = lambda _: None
    clock: Clock = field(default_factory=SystemClock)
    sleep: Callable[[float], None] = time.sleep
    call: Callable[[Path, Sequence[str], float], Called] = call

    @classmethod
    def of_device(cls, config: Config, report: Report = lambda _: None) -> SideBySideUpdate:
        """The update of the device with this configuration. Raises NeedsHuman."""
        updates.check_trust(config)
        settings = config.settings.update
        return cls(
            config,
            updates.side_by_side(settings),
            updates.service(settings),
            updates.installed(settings),
            report,
        )

    def inspect(self, file: Path) -> tuple[UpdateBundle, Judgement]:
        """Check a bundle wholly. Raises BadBundle, NeedsHuman, OSError."""
        bundle = open_bundle(file, updates.signing_keys(self.config.settings.update))
        bundle.check()
        return bundle, judge(bundle.manifest, self.installed)

    def apply(self, file: Path, options: ApplyOptions) -> None:
        """Bring a version to the disk, wait for the update locks, and let its trial begin.

        Until the last line nothing has changed for the service. Raises BadBundle, Rejected, NeedsHuman,
        OSError.
        """
        bundle, judgement = self.inspect(file)
        refuse(bundle, judgement, options)
        if lacking := self.versions.lacking_bytes(bundle):
            raise Rejected(
                f"{lacking / 1e6:.1f} MB of room are missing on the disk of {self.versions.folder}"
            )
        self.versions.files.make_folder(self.versions.folder)
        with alone(self.versions.folder):
            self._tidy()
            version = bundle.manifest.version
            record = self._begin(version, one_way=bool(judgement.one_way))
            try:
                self._unpack(bundle)
                record = self._save(record.to(UpdatePhase.READY))
                self._wait_for_locks()
                if record.one_way:
                    self._rehearse(version)
            except BaseException:
                self._tidy()
                raise
            if record.one_way:
                self._save(record.to(UpdatePhase.CONFIRMED))
            else:
                self._save(record.to(UpdatePhase.TRIAL, tries=TRIES))

    def roll_back(self) -> None:
        """Let the trial of the version before begin. Raises NeedsHuman where there is no way back."""
        if not self.versions.record().previous:
            raise NeedsHuman(
                "there is no version before", hint="apply one: edgectl update apply FILE --older"
            )
        with alone(self.versions.folder):
            record = self.versions.record()
            if record.phase is not UpdatePhase.NONE:
                raise NeedsHuman(
                    f"an update to {record.version} is under way",
                    hint="it ends by itself: edgectl update status",
                )
            self._tidy()
            disk = self.versions.look()
            target = record.previous
            if record.no_way_back:
                raise NeedsHuman(
                    f"there is no way back to {target}: it cannot open what this version writes",
                    hint="apply a newer version",
                )
            if target != PACKAGE and target not in disk.versions:
                raise NeedsHuman(
                    f"version {target} is gone from {self.versions.folder}", hint="apply it again"
                )
            ready = record.to(
                UpdatePhase.READY, version=target, before=disk.current, one_way=False, reason=""
            )
            self._save(ready)
            self._save(ready.to(UpdatePhase.TRIAL, tries=TRIES))

    def watch(self) -> LastUpdate | None:
        """See the update through to its end, whatever phase it is in; returns how it ended."""
        if not self.versions.folder.is_dir():
            return None
        with alone(self.versions.folder):
            record = self.versions.record()
            if record.phase is UpdatePhase.NONE:
                self._run_to_end()
                return None
            if record.phase is UpdatePhase.TRIAL:
                self._save(tried(record))
            self._run_to_end()
            return self.versions.record().last

    def _run_to_end(self) -> None:
        while (step := next_step(self.versions.record(), self.versions.look())) is not None:
            self._perform(step)

    def _perform(self, step: Step) -> None:
        record = self.versions.record()
        match step:
            case Restart(then):
                self._say(f"restarting the service with {_running(record, self.versions)}")
                self.service.restart()
                self._save(then)
            case Watch():
                self._save(self._watched(record))
            case Finish(result):
                self._finish(record, result)
            case _:
                self.versions.perform(step)

    def _watched(self, record: UpdateRecord) -> UpdateRecord:
        """The record after the trial: confirmed, or on its way back with the reason."""
        version, limit_s = self.versions.path_of(record.version), self.config.settings.update.confirm_s
        until_s = self.clock.boot_s() + limit_s
        self._say(f"{record.version} has {limit_s:.0f} s to confirm itself")
        reason, restarts = "it was not tried", ServiceRestarts()
        while (left_s := until_s - self.clock.boot_s()) > 0:
            probed = self.call(
                version, [*self._of_home(), "update", "probe", "--json"], max(left_s, LEAST_CALL_S)
            )
            if probed.ok:
                return record.to(UpdatePhase.CONFIRMED)
            reason, restarts = probed.text, restarts.after(self.service.restarts())
            if crash := reason_to_return(reason, restarts, worker_crashes=probed.crash_loop):
                return record.to(UpdatePhase.RETURNING, reason=crash)
            self.sleep(min(LOOK_EVERY_S, max(0.0, left_s)))
        return record.to(UpdatePhase.RETURNING, reason=f"not confirmed within {limit_s:.0f} s: {reason}")

    def _finish(self, record: UpdateRecord, result: UpdateResult) -> None:
        self._save(record.ended(result, self.clock.wall_s()))
        confirmed = result is UpdateResult.CONFIRMED
        self._say(f"{record.version} {'is confirmed and in use' if confirmed else 'came back'}")

    def _begin(self, version: str, *, one_way: bool) -> UpdateRecord:
        record, disk = self.versions.record(), self.versions.look()
        if version == disk.current:
            raise Rejected(f"version {version} is in use already")
        begun = record.to(
            UpdatePhase.UNPACKING, version=version, before=disk.current, one_way=one_way, reason=""
        )
        return self._save(begun)

    def _unpack(self, bundle: UpdateBundle) -> None:
        version, done = bundle.manifest.version, 0

        def progress(more: int) -> None:
            nonlocal done
            done += more

        if version in self.versions.look().versions:  # of an earlier update, or the version before
            self.versions.files.remove_tree(self.versions.folder / version)
        self._say(f"unpacking {version}")
        self.versions.unpack(bundle, progress)
        compile_tree(self.versions.unfinished, self.versions.path_of(version))
        self.versions.complete(version)
        tried_call = self.call(self.versions.path_of(version), ["update", "imports"], FIRST_CALL_S)
        if not tried_call.ok:
            raise BadBundle(f"version {version} does not start here: {tried_call.text}")

    def _rehearse(self, version: str) -> None:
        """Have the new version migrate and use a copy of the store. Raises Rejected where it does not."""
        limit_s = self.config.settings.update.confirm_s
        self._say(f"rehearsing {version} on a copy of the store")
        words = [*self._of_home(), "update", "rehearse", "--wait", f"{limit_s:.0f}", "--json"]
        done = self.call(self.versions.path_of(version), words, 2 * limit_s)
        if not done.ok:
            raise Rejected(f"the rehearsal of {version} on a copy of the store failed: {done.text}")

    def _wait_for_locks(self) -> None:
        limit_s = self.config.settings.update.hold_max_s
        until_s, before = self.clock.boot_s() + limit_s, None
        while (left_s := until_s - self.clock.boot_s()) > 0:
            found = holders(updates.hold_folders(self.config), self.clock.wall_s())
            if not found:
                return
            if found != before:
                self._say(f"waiting for {', '.join(found)}, {left_s:.0f} s at most")
                before = found
            self.sleep(min(LOOK_EVERY_S, left_s))

    def _tidy(self) -> None:
        """Remove what an update left that was not begun; one that is on trial goes on. Raises NeedsHuman."""
        record = self.versions.record()
        if record.phase in (UpdatePhase.TRIAL, UpdatePhase.CONFIRMED, UpdatePhase.RETURNING):
            raise NeedsHuman(
                f"an update to {record.version} is under way", hint="edgectl update watch sees it through"
            )
        self._run_to_end()

    def _save(self, record: UpdateRecord) -> UpdateRecord:
        self.versions.perform(Save(record))
        return record

    def _of_home(self) -> list[str]:
        """The options with which a version finds this home and this configuration."""
        file = ["--config", str(self.config.file)] if self.config.file else []
        return ["--home", str(self.config.layout.home), *file]

    def _say(self, text: str) -> None:
        self.report(text)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the lock of updates. Raises UsageError where another process works on one."""
    lock = Lock(folder / LOCK, ours=folder)
    try:
        yield
    finally:
        lock.release()


def refuse(bundle: UpdateBundle, judgement: Judgement, options: ApplyOptions) -> None:
    """Raises Rejected where a bundle may not be applied here, or not without an option."""
    version = bundle.manifest.version
    if judgement.refused:
        raise Rejected(f"{version} cannot be applied: {'; '.join(judgement.refused)}")
    if judgement.one_way and not options.one_way:
        raise Rejected(f"{version} is one way: {judgement.one_way}. --one-way applies it after a rehearsal")
    if judgement.older and not options.older:
        raise Rejected(f"{version} is older than what is installed; --older applies it")


def see_through(update: SideBySideUpdate, wait_s: float) -> LastUpdate | None:
    """Start the watch, or be it, and wait for the end; None where it goes on after `wait_s`."""
    started = update.service.start_watch()
    until_s = update.clock.boot_s() + wait_s
    while not started:
        try:
            return update.watch()
        except AlreadyRuns:
            started = True
    while (record := update.versions.record()).phase is not UpdatePhase.NONE:
        if update.clock.boot_s() > until_s:
            return None
        update.sleep(LOOK_EVERY_S)
    return record.last


def _running(record: UpdateRecord, versions: SideBySide) -> str:
    return (
        record.before if record.phase is UpdatePhase.RETURNING else record.version or versions.look().current
    )
