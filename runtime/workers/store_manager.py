"""Store manager: keeps messages.db usable through every failure.

`core/ingest/store_state.py` decides what follows from a failure; what is here performs it. By the error:

- StoreFull: gives up the ballast, so that deletes can be written; messages are refused until there is room.
- StoreUnavailable (EIO, read-only, locked): closes the store, and opens it again every second.
- StoreUnreadable (a page is damaged, or the disk does not give it back): the same, and finds out which
  (`core/ingest/read_errors.py`).
- StoreDamaged: sets the file aside and salvages its readable rows into a fresh one
  (`adapters/salvage/salvage.py`). A salvage that fails begins again, each time later.
- StoreNewer: an operator must decide; looks again every ten seconds.

Meanwhile `admission` raises StoreClosed, the refusal for producers: every request gets an answer, at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict
from pathlib import Path

from loguru import logger

from runtime.adapters.process.clock import Clock, wall_s_if_set
from runtime.adapters.process.home_mount import in_changed_home
from runtime.adapters.process.machine_names import named_apart, was_copied
from runtime.adapters.process.status_file import BUSY
from runtime.adapters.salvage.disk_probe import DiskProbe, block_ranges
from runtime.adapters.salvage.salvage import SalvageReport, files, finish, last_report, pending, salvage
from runtime.adapters.store.counters import Loss
from runtime.adapters.store.disk import Disk, WalLimit, size
from runtime.adapters.store.errors import (
    StoreClosed,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreNewer,
    StoreUnavailable,
    StoreUnreadable,
    error_text,
)
from runtime.adapters.store.id_watermark import IdWatermark
from runtime.adapters.store.recount import SLICE_S, UNASKED_PAUSE_S, UNASKED_SLICE_S
from runtime.adapters.store.writer import MessageStore
from runtime.config import Config
from runtime.core.ingest.admission import Admission
from runtime.core.ingest.new_names import NO_LEAVES, LeafTerms
from runtime.core.ingest.protocol import Code, ProducerKey, Refusal
from runtime.core.ingest.quota import Amount, Limit, OverflowPolicy, Quota
from runtime.core.ingest.refused_request import RETRY_FULL_MS
from runtime.core.ingest.store_state import (
    Event,
    Examined,
    Examining,
    Failed,
    FailureKind,
    Newer,
    Opening,
    ReaderFailed,
    Salvaged,
    SalvageFound,
    Salvaging,
    Serving,
    State,
    StoreOpened,
    Ticked,
    Waiting,
    next_state,
)
from runtime.core.log_events import LogEvent
from runtime.core.log_throttle import LogThrottle
from runtime.core.operations.machine_identity import COPIED_WORDS
from runtime.core.settlement import Settled
from runtime.wiring import disk_reserve
from runtime.workers.store_housekeeping import Housekeeping

LOG_EVERY_S = 60.0
MAX_INT = 2**62


class StoreManager:
    """The store while it can be used, and the reason while it cannot."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        *,
        max_pages: int | None = None,
        beat: Callable[[Callable[[], dict[str, object]]], None] | None = None,
    ) -> None:
        """`beat` gets the figures from long operations, a migration or a new index, while they run."""
        self._clock = clock
        self._beat = beat
        self._path = config.layout.messages_db
        self._quota = quota(config)
        self._quarantine_bytes = config.settings.store.quarantine_max_bytes
        self._max_producers = config.settings.ingest.max_producers
        self._max_pages = max_pages
        self._ids = IdWatermark(config.layout.ids_given)
        self._disk = Disk(self._path.parent, disk_reserve(config))
        self._wal = WalLimit(self._path, self._disk)
        self._probe = DiskProbe(files(self._path), clock)
        self._housekeeping = Housekeeping(
            clock, self._quota, self._disk, self._wal, self._ids, config.settings.gateway.max_leaves
        )
        self._throttle = LogThrottle(LOG_EVERY_S)
        self._state: State = Opening()
        self._count_wanted = False
        """A decision waits until all stored messages are counted."""
        self._busy = False
        """Requests came in the last turn: a count that no decision waits for gives way to them."""
        self._count_from_s = 0.0
        """The time of the next slice of that count while requests come."""
        self._store: MessageStore | None = None
        """The store while the state is Serving, and only then."""
        self._salvage: Iterator[SalvageReport] = iter(())
        """The rest of the salvage while the state is Salvaging."""
        self._report: SalvageReport | None = None
        self.tick()

    def reconfigure(self, config: Config) -> None:
        """Take the limits that count while ingest runs. The policies stay: they decide the indexes."""
        self._quota = self._housekeeping.quota = quota(config)
        self._housekeeping.max_leaves = config.settings.gateway.max_leaves
        self._quarantine_bytes = config.settings.store.quarantine_max_bytes
        self._max_producers = config.settings.ingest.max_producers

    # --- between commits ---

    def tick(self) -> None:
        """Do the work due between commits. Raises no StoreError: the next request is told of a failure."""
        match self._state:
            case Waiting() | Newer():
                self._apply(Ticked(self._disk.left_bytes() if self._state.history.retry.lacks_room else 0))
            case Salvaging():
                self._guarded(self._salvage_slice)
            case Examining():
                self._examine_slice()
        if isinstance(self._state, Opening):
            self._guarded(self._open)
        self._keep(self._count_slice)
        self._keep(self._housekeeping.measure_if_due)
        self._keep(self._housekeeping.tidy_if_due)

    def idle(self) -> None:
        """No request waits: go on counting, and give a little more room back to the disk."""
        self._busy = False
        self._keep(self._housekeeping.tidy)

    def patience_s(self, idle_s: float) -> float:
        """Seconds that the loop may wait for requests before it comes back here."""
        if isinstance(self._state, Salvaging | Examining):
            return 0.0
        if self._store and self._store.counting:
            return 0.0 if self._may_count() else min(idle_s, UNASKED_PAUSE_S)
        pause_s = self._housekeeping.pause_s
        return idle_s if pause_s is None or self._store is None else min(idle_s, pause_s)

    def _keep(self, work: Callable[[MessageStore], object]) -> None:
        """Do a piece of work on the store, if it is open."""
        if self._store is not None:
            try:
                work(self._store)
            except StoreError as error:
                self.failed(error)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except StoreError as error:
            self.failed(error)

    # --- a commit ---

    def admission(
        self, keys: Collection[ProducerKey], settled: Settled, leaves: LeafTerms = NO_LEAVES
    ) -> Admission:
        """The Admission for the next commit, which also carries out `settled`. Raises StoreError."""
        store, room_bytes = self._usable(), self._housekeeping.room_bytes
        self._busy = True
        self._wal.check(room_bytes)
        known = store.known(keys)
        self._housekeeping.forget_producers(store, room=len(keys) - len(known), but=known)
        self._housekeeping.give_back_streams(store)
        view = store.view(room_bytes, settled)
        return Admission(self._quota, view, store.stamp(), known, known.apart, leaves)

    def count(self) -> bool:
        """Count the stored messages, before counters decide over them. True if done. Raises StoreError."""
        self._count_wanted = not self._usable().count()
        return not self._count_wanted

    def commit(self, admission: Admission | None, settled: Settled) -> list[Loss]:
        """Commit: all is on disk when this returns. Raises StoreError; then nothing is."""
        self._wal.check(self._housekeeping.room_bytes, removals=True)
        losses = self._usable().commit(admission, settled)
        self._housekeeping.stored(0 if admission is None else admission.disk_bytes)
        return losses

    def _usable(self) -> MessageStore:
        if isinstance(self._state, Serving):
            assert self._store is not None, "the store is open"
            return self._store
        raise StoreClosed(self._state.why)

    # --- what others ask ---

    @property
    def flush_s(self) -> float:
        """Seconds that the disk took for the last commit."""
        return self._store.flush_s if self._store is not None else 0.0

    def files_named(self, names: set[str]) -> set[str] | None:
        """Those of these spool files that messages name; None where that cannot be said for sure."""
        if self._store is None or self._state.history.alarm is not None:
            return None  # a salvage may have lost the row, not the file
        try:
            return self._store.files_named(names)
        except StoreError:
            return None

    def is_this(self, uuid: str | None) -> bool:
        """True if ids of the store `uuid` mean the present messages: those of an earlier store do not."""
        return self._store is None or uuid in (None, self._store.uuid)

    def figures(self) -> dict[str, object]:
        """The figures for `edgectl status`."""
        alarms = [alarm for alarm in (self._wal.alarm, self._state.history.alarm) if alarm]
        alarm = {"alarm": "; ".join(alarms)} if alarms else {}
        if not isinstance(self._state, Serving):
            return {"store": self._state.why, **alarm}
        room_bytes = max(0, self._housekeeping.room_bytes)
        figures = self._usable().figures()
        return {"store": "open", "room_bytes": room_bytes, **figures, **self._housekeeping.ledger, **alarm}

    def close(self) -> None:
        store = self._store
        self._leave()
        if store is not None:
            store.close()
        self._ids.save()

    # --- failures ---

    def failed(self, error: StoreError) -> None:
        """React to an error that the store raised."""
        if isinstance(error, StoreClosed):
            return  # a salvage runs: beginning again for every request would never come to an end
        self._housekeeping.measure_soon()
        if isinstance(error, StoreFull):
            self._disk.give_up_ballast()
        if not (isinstance(error, StoreFull) and isinstance(self._state, Salvaging)):
            self._log(error)
        lacked_room = self._state.history.retry.lacks_room
        self._apply(
            Failed(
                _failure(error),
                error_text(error),
                pending(self._path),
                self._probe.due(),
                self._disk.left_bytes(),
                sum(map(size, files(self._path))),
            )
        )
        if self._state.history.retry.lacks_room and not lacked_room:
            logger.bind(event=LogEvent.STORE_ALARM).critical("{}", self._state.history.alarm)

    def damage_reported(self, reason: str, *, unreadable: bool) -> None:
        """The reader met damage, or could not read at all, where ingest did not look."""
        if self._store is not None and self._apply(ReaderFailed(reason, unreadable, self._probe.due())):
            self._log(StoreUnreadable(reason) if unreadable else StoreDamaged(reason))

    def _log(self, error: StoreError) -> None:
        name = type(error).__name__
        if times := self._throttle.times(name, self._clock.boot_s()):
            log = logger.bind(event=LogEvent.STORE_FAILED, error=name, times=times)
            (log.error if isinstance(error, StoreNewer) else log.warning)("the store: {}", error_text(error))

    def _apply(self, event: Event) -> bool:
        """Go on to the state that follows, and begin the work that it asks for. False if it is the same."""
        before, self._state = self._state, next_state(self._state, event, self._clock.boot_s())
        if self._state is before:
            return False
        if not isinstance(self._state, Serving) and (store := self._store) is not None:
            self._leave()
            store.leave()
        if isinstance(self._state, Salvaging):
            parts = self._state.history.lost_parts
            self._salvage = salvage(self._path, self._state.why, parts, wall_s_if_set(self._clock))
        if isinstance(self._state, Examining):
            self._probe.begin()
        return True

    def _leave(self) -> None:
        if self._store is not None:
            self._ids.remember(self._store.uuid, self._store.next_id)
            self._store = None

    # --- opening, examining, salvaging ---

    def _open(self) -> None:
        if in_changed_home(self._path):
            raise StoreUnavailable("the disk of messages.db has gone; no new one is made in its place")
        if pending(self._path):
            self._apply(SalvageFound())
            return
        finish(self._path)
        alarm = _alarm(self._path)
        store = MessageStore(
            self._path,
            self._clock,
            policies=self._quota.policies(),
            max_pages=self._max_pages,
            max_producers=self._max_producers,
            quarantine_bytes=self._quarantine_bytes,
            alive=self._alive,
        )
        self._name_apart(store)
        self._store = store
        self._apply(StoreOpened(alarm))
        self._housekeeping.on_open()
        logger.bind(**store.figures()).info("the store is open")

    def _name_apart(self, store: MessageStore) -> None:
        """Rename a store that has forgotten ids or that was copied to this machine, before any write. Where
        that fails the store is not used, and the opening is tried again."""
        missing = self._ids.missing(store.uuid, store.next_id)
        copied = was_copied(self._path)
        if not missing and not copied:
            return
        try:
            store.rename()
        except BaseException:
            store.leave()
            raise
        if copied:
            named_apart(self._path)
            logger.bind(event=LogEvent.HOME_COPIED).critical(COPIED_WORDS)
            return
        logger.bind(event=LogEvent.STORE_REPLACED, ids=(missing[0], missing[-1])).critical(
            "messages.db has forgotten ids that it gave (an older copy?): it goes on as another store"
        )

    def _alive(self) -> None:
        if self._beat is not None:
            self._beat(lambda: {**self.figures(), BUSY: True})

    def _count_slice(self, store: MessageStore) -> None:
        if not store.counting or not self._may_count():
            return
        if store.count(SLICE_S if self._count_wanted else UNASKED_SLICE_S):
            self._count_wanted = False
        self._count_from_s = self._clock.boot_s() + UNASKED_PAUSE_S

    def _may_count(self) -> bool:
        """True if a slice of the count is due: always, but where requests come that do not wait for it."""
        return self._count_wanted or not self._busy or self._clock.boot_s() >= self._count_from_s

    def _examine_slice(self) -> None:
        """Read a slice of the files that could not be read; the store stays closed for so long."""
        assert isinstance(self._state, Examining)
        why, verdict = self._state.why, self._probe.advance()
        if self._probe.under_way:
            return
        self._apply(Examined(verdict.damaged, tuple(block_ranges(verdict.gone)), pending(self._path)))
        if verdict.damaged:
            self._log(StoreDamaged(why))

    def _salvage_slice(self) -> None:
        """Copy one slice. Raises StoreError; the salvage begins again later."""
        report = next(self._salvage, None)
        if report is not None:
            self._report = report
            return
        assert self._report is not None, "a salvage ends with a report"
        logger.bind(event=LogEvent.STORE_SALVAGED, **asdict(self._report)).critical(
            "messages.db was damaged; what could be read goes on"
        )
        self._apply(Salvaged())


def _failure(error: StoreError) -> FailureKind:
    match error:
        case StoreFull():
            return FailureKind.FULL
        case StoreUnreadable():
            return FailureKind.UNREADABLE
        case StoreDamaged():
            return FailureKind.DAMAGED
        case StoreNewer():
            return FailureKind.NEWER
    return FailureKind.UNAVAILABLE


def _alarm(path: Path) -> str | None:
    """The alarm for the operator about an earlier salvage, until `damaged/` is cleared away."""
    report = last_report(path)
    if report is None:
        return None
    return (
        f"messages.db was damaged ({report['reason']}): {report['salvaged']} of {report['expected']} salvaged"
    )


def quota(config: Config) -> Quota:
    """The limits that the configuration sets."""
    store = config.settings.store
    total = Limit(Amount(store.max_messages, store.max_bytes), store.policy)
    every = _limit(store.stream_max_messages, store.stream_max_bytes, store.stream_policy)
    own = {
        name: limit
        for name, stream in config.settings.stream.items()
        if (limit := _limit(stream.max_messages, stream.max_bytes, stream.policy))
    }
    return Quota(total, every, own, store.max_streams, store.leaf_max_messages)


def _limit(messages: int, bytes: int, policy: OverflowPolicy) -> Limit | None:
    """A stream's limit; None where neither is set."""
    if not messages and not bytes:
        return None
    return Limit(Amount(messages or MAX_INT, bytes or MAX_INT), policy)


def refusal(error: StoreError) -> Refusal:
    """The refusal that producers get while the store fails."""
    if isinstance(error, StoreFull):
        return Refusal(Code.DISK_FULL, "the disk is full", RETRY_FULL_MS)
    return Refusal(Code.STORE_UNAVAILABLE, f"nothing can be stored now: {error_text(error)}", RETRY_FULL_MS)
