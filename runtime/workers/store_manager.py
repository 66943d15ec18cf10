"""Keeps the store usable through every failure: opens it, watches the disk, makes room, gives room back.

Its reaction when the store fails, by the error:

- StoreFull: give up the ballast, so that deletes can be written; refuse new messages until there is room.
- StoreUnavailable (EIO, read-only, locked): close, open again every second.
- StoreUnreadable (a page is damaged, or the disk does not give it back): the same, and find out which
  (`core/ingest/read_errors.py`).
- StoreDamaged: set the file aside and salvage its readable rows into a fresh one
  (`adapters/salvage/salvage.py`). A salvage that fails begins again, each time later
  (`core/ingest/salvage_retry.py`).
- StoreNewer: an operator must decide; look again every ten seconds.

Meanwhile `admission` gives the refusal for producers: every request gets an answer, at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from loguru import logger

from runtime.adapters.process.clock import Clock
from runtime.adapters.process.home_mount import in_changed_home
from runtime.adapters.process.status_file import BUSY
from runtime.adapters.salvage.disk_probe import DiskProbe, named
from runtime.adapters.salvage.salvage import SalvageReport, files, finish, last_report, pending, salvage
from runtime.adapters.store.disk import BALLAST_BYTES, Disk, WalLimit, size
from runtime.adapters.store.errors import (
    StoreClosed,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreNewer,
    StoreUnavailable,
    StoreUnreadable,
    in_words,
)
from runtime.adapters.store.id_watermark import SAVE_EVERY_S, IdWatermark
from runtime.adapters.store.writer import Loss, MessageStore
from runtime.config import Config
from runtime.core.ingest.admission import RETRY_FULL_MS, Admission
from runtime.core.ingest.protocol import Code, ProducerKey, Refusal
from runtime.core.ingest.quota import FEW, Amount, Limit, OverflowPolicy, Quota
from runtime.core.ingest.salvage_retry import SalvageRetry
from runtime.core.log_throttle import LogThrottle
from runtime.core.message import StreamName
from runtime.core.settlement import Settled

LOOK_AT_DISK_S = 1.0
TIDY_S = 1.0
TRY_OPEN_S = 1.0
TRY_NEWER_S = 10.0
SALVAGE_PAUSE_S = 60.0
"""The reader may still look at the old file: its complaints count again only after so long."""
SAY_EVERY_S = 60.0
VACUUM_PAGES = 64
"""256 KiB a step: a few milliseconds, the most that a message adds to its wait if it comes just then."""
VACUUM_PAUSE_S = 0.05
"""Pause between two steps where no request comes: 5 MB/s, 10 GB in half an hour."""
KEEP_FREE_PAGES = 1_024
MAX_INT = 2**62
PRODUCER_MEMORY_S = 600.0
"""A producer silent for so long may be forgotten, if the store was open all the while: no repeat of its can
still come. A client that waits for an answer asks again at least every 10 s (the exchange's LONGEST_WAIT_S),
and would have been answered. What remains is a producer that stood still itself (SIGSTOP, a laptop asleep)
between request and reply: where there are too many producers, its repeat may be stored a second time."""


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
        self._given = IdWatermark(config.layout.ids_given)
        self._disk = Disk(self._path.parent, config.settings.store)
        self._wal = WalLimit(self._path, self._disk)
        self._max_pages = max_pages
        self._store: MessageStore | None = None
        self._alarm: str | None = None
        self._trouble: StoreError | None = StoreUnavailable("the store is not open yet")
        self._sparing = LogThrottle(SAY_EVERY_S)
        self._salvage: Iterator[SalvageReport] | None = None
        self._examiner = DiskProbe(files(self._path), clock)
        self._doubt = ""
        self._gone: Sequence[str] = ()
        """Parts of the files that can no longer be read."""
        self._salvaged_s = -SALVAGE_PAUSE_S
        self._attempts = SalvageRetry()
        self._room_bytes = self._unlooked_bytes = 0
        self._open_s = self._look_s = self._tidy_s = self._forget_s = self._names_s = self._save_s = 0.0
        self._roomy = False
        self.tick()

    def tick(self) -> None:
        """Do the work due between commits. Never raises StoreError: trouble is kept for the next request."""
        now_s = self._clock.boot_s()
        if self._salvage is not None:
            self._guarded(self._salvage_on)
        elif self._examiner.under_way:
            self._guarded(self._examine_on)
        elif self._store is None and (now_s >= self._open_s or self._has_room(now_s)):
            self._guarded(self._open)
        if self._store is not None and self._store.counting:
            self._guarded(self._count_on)
        if self._store is not None and now_s >= self._look_s:
            self._look_s = now_s + LOOK_AT_DISK_S
            self._guarded(self._look_at_disk)
        if now_s >= self._tidy_s:  # by the clock: where requests always come, no turn is idle
            self._tidy_s = now_s + TIDY_S
            self._guarded(self._tidy)

    def idle(self) -> None:
        """No request waits: give a little more room back to the disk."""
        self._guarded(self._tidy)

    def admission(self, keys: Collection[ProducerKey], settled: Settled) -> Admission:
        """The Admission for the next commit, which also carries out `settled`. Raises StoreError."""
        store = self._usable()
        self._wal.check(self._room_bytes)
        known = store.known(keys)
        self._forget_producers(store, room=len(keys) - len(known), but=known)
        self._give_back_streams(store)
        return Admission(
            self._quota, store.view(self._room_bytes, settled), store.stamp(), known, known.apart
        )

    def count(self) -> bool:
        """Count the stored messages, before counters decide over them. True if done. Raises StoreError."""
        return self._usable().count()

    def commit(self, admission: Admission | None, settled: Settled) -> list[Loss]:
        """Commit: all is on disk when this returns. Raises StoreError; then nothing is."""
        self._wal.check(self._room_bytes, removals=True)
        losses = self._usable().commit(admission, settled)
        if admission is not None:
            self._room_bytes -= admission.disk_bytes
            self._unlooked_bytes += admission.disk_bytes
        if self._wal.stuck or self._unlooked_bytes > BALLAST_BYTES:
            self._look_s = 0.0
        return losses

    def failed(self, error: StoreError, *, say: bool = True) -> None:
        """React to an error that the store raised."""
        if isinstance(error, StoreClosed):
            return  # a salvage runs: beginning again for every request would never come to an end
        name = type(error).__name__
        times = say and self._sparing.times(name, self._clock.boot_s())
        if times:
            log = logger.bind(error=name, times=times)
            (log.error if isinstance(error, StoreNewer) else log.warning)("the store: {}", in_words(error))
        self._look_s = 0.0
        if isinstance(error, StoreFull):
            self._disk.give_up_ballast()
            if self._store is not None:
                return
        self._trouble = error
        self._leave()
        self._salvage = None
        if isinstance(error, StoreUnreadable):
            self._doubt = str(error)
            self._examiner.begin()
        elif isinstance(error, StoreDamaged) and not pending(self._path):  # a failed one: when it is time
            self._salvage = salvage(self._path, str(error), self._gone)
        self._open_s = self._clock.boot_s() + (TRY_NEWER_S if isinstance(error, StoreNewer) else TRY_OPEN_S)

    def damage_reported(self, reason: str, *, unreadable: bool) -> None:
        """The reader met damage, or could not read at all, where ingest did not look."""
        if unreadable:
            if self._store is not None and self._examiner.due():
                self.failed(StoreUnreadable(reason))
        elif self._clock.boot_s() - self._salvaged_s > SALVAGE_PAUSE_S and self._store is not None:
            self.failed(StoreDamaged(reason))

    @property
    def flush_s(self) -> float:
        """Seconds that the disk took for the last commit."""
        return self._store.flush_s if self._store is not None else 0.0

    def files_named(self, names: set[str]) -> set[str] | None:
        """Those of these spool files that messages name; None where that cannot be said for sure."""
        if self._store is None or self._alarm is not None:  # a salvage may have lost the row, not the file
            return None
        try:
            return self._store.files_named(names)
        except StoreError:
            return None

    def patience_s(self, idle_s: float) -> float:
        """Seconds that the loop may wait for requests before it comes back here."""
        counting = self._store is not None and self._store.counting
        if self._salvage is not None or self._examiner.under_way or counting:
            return 0.0
        return min(idle_s, VACUUM_PAUSE_S) if self._roomy else idle_s

    def figures(self) -> dict[str, object]:
        """The figures for `edgectl status`."""
        alarms = [alarm for alarm in (self._wal.alarm, self._alarm) if alarm]
        alarm = {"alarm": "; ".join(alarms)} if alarms else {}
        if self._store is None:
            return {"store": in_words(self._trouble) if self._trouble else "closed", **alarm}
        room_bytes = max(0, self._room_bytes)
        return {"store": "open", "room_bytes": room_bytes, **self._store.figures(), **alarm}

    def close(self) -> None:
        self._leave()
        self._given.save()

    def _leave(self) -> None:
        if self._store is not None:
            self._given.remember(self._store.uuid, self._store.next_id)
            self._store.close()
            self._store = None

    def is_this(self, uuid: str | None) -> bool:
        """True if ids of the store `uuid` mean the present messages: those of an earlier store do not."""
        return self._store is None or uuid in (None, self._store.uuid)

    def _usable(self) -> MessageStore:
        if self._store is None:
            raise StoreClosed(in_words(self._trouble) if self._trouble else None)
        return self._store

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        except StoreError as error:
            self.failed(error)

    def _alive(self) -> None:
        if self._beat is not None:
            self._beat(lambda: {**self.figures(), BUSY: True})

    def _salvage_on(self) -> None:
        """Salvage one slice. A salvage that fails for lack of room begins again later."""
        assert self._salvage is not None
        going_on, self._salvage = self._salvage, None
        try:
            report = next(going_on, None)
        except StoreError as error:
            self._salvage_failed(error)
            return
        if report is not None:
            self._salvage, self._report = going_on, report
            return
        self._salvaged_s, self._gone, self._attempts = self._clock.boot_s(), (), SalvageRetry()
        logger.bind(**asdict(self._report)).critical("messages.db was damaged; what could be read goes on")
        self._open()

    def _salvage_failed(self, error: StoreError) -> None:
        """Plan the next attempt, not every second: each one reads and writes the whole store, and an operator
        may have to help first."""
        cramped = self._attempts.cramped
        pause_s = self._attempts.failed()
        if isinstance(error, StoreFull):
            self._disk.give_up_ballast()
            store_bytes = sum(map(size, files(self._path)))
            self._attempts.found_no_room(self._disk.left_bytes(), store_bytes)
            error = StoreFull(
                f"messages.db is damaged, and the disk has no room to salvage it ({store_bytes} bytes)"
            )
            self._alarm = str(error)
            if not cramped:
                logger.critical("{}", error)
        self.failed(error, say=not isinstance(error, StoreFull))
        self._open_s = max(self._open_s, self._clock.boot_s() + pause_s)

    def _has_room(self, now_s: float) -> bool:
        """True if a salvage that found no room may find it now. It is looked at once a second."""
        if not self._attempts.cramped or now_s < self._look_s:
            return False
        self._look_s = now_s + LOOK_AT_DISK_S
        return self._attempts.has_room(self._disk.left_bytes())

    def _count_on(self) -> None:
        self.count()

    def _examine_on(self) -> None:
        """Read a slice of the files that could not be read; the store stays closed for so long."""
        verdict = self._examiner.go_on()
        if verdict.damaged:
            self._gone = named(verdict.gone)
            raise StoreDamaged(self._doubt)

    def _open(self) -> None:
        if in_changed_home(self._path):
            raise StoreUnavailable("the disk of messages.db has gone; no new one is made in its place")
        if pending(self._path):
            self._salvage = salvage(self._path, "a salvage was interrupted", self._gone)
            return
        finish(self._path)
        self._alarm = _alarm(self._path)
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
        self._store, self._trouble = store, None
        self._forget_s = self._clock.boot_s() + PRODUCER_MEMORY_S
        logger.bind(**self._store.figures()).info("the store is open")

    def _name_apart(self, store: MessageStore) -> None:
        """Rename a store that has forgotten ids, before any write. Where that fails the store is not used,
        and the opening is tried again."""
        missing = self._given.missing(store.uuid, store.next_id)
        if not missing:
            return
        try:
            store.rename()
        except BaseException:
            store.close()
            raise
        logger.bind(ids=(missing[0], missing[-1])).critical(
            "messages.db has forgotten ids that it gave (an older copy?): it goes on as another store"
        )

    def _look_at_disk(self) -> None:
        """Measure the room. Free pages inside the file count; room that others need on this disk does not."""
        self._usable().still_there()
        store, said = self._usable(), self._wal.alarm
        self._room_bytes = self._wal.look(store, store.spare_bytes(), self._clock.boot_s())
        self._unlooked_bytes = 0
        if (alarm := self._wal.alarm) and not said:
            logger.error("{}", alarm)
        self._disk.keep_ballast()

    def _tidy(self) -> None:
        """Give a little room back to the disk; forget producers long gone where there are too many."""
        self._roomy = False  # where the disk refuses it, it is tried at the ordinary pace
        if self._store is not None:
            self._roomy = self._store.vacuum(VACUUM_PAGES, KEEP_FREE_PAGES)
            self._forget_producers(self._store)
            self._note_ids(self._store)

    def _note_ids(self, store: MessageStore) -> None:
        if (now_s := self._clock.boot_s()) >= self._save_s:
            self._save_s = now_s + SAVE_EVERY_S
            self._given.remember(store.uuid, store.next_id)
            self._given.save()

    def _give_back_streams(self, store: MessageStore) -> None:
        """Give back names of streams where less than a tenth of the names is left."""
        now_s, most = self._clock.boot_s(), self._quota.max_streams
        if store.figures()["streams"] <= most - max(1, most // FEW) or now_s < self._names_s:
            return
        try:
            if store.give_back_streams(max(1, most // 5)):
                return
        except StoreFull:
            pass  # deletions need room, too; without them requests are refused by name
        self._names_s = now_s + TIDY_S  # all hold something, and looking takes milliseconds

    def _forget_producers(
        self, store: MessageStore, room: int | None = None, but: Iterable[ProducerKey] = ()
    ) -> None:
        """Forget producers to make room for so many more, where needed and no repeat of theirs can come."""
        now_s = self._clock.boot_s()
        if not store.crowded(room) or now_s < self._forget_s:
            return
        if not store.forget_producers(PRODUCER_MEMORY_S, but):
            self._forget_s = now_s + TIDY_S  # all were active lately, and looking takes milliseconds


def _alarm(path: Path) -> str | None:
    """The alarm for the operator about an earlier salvage, until `damaged/` is cleared away."""
    report = last_report(path)
    if report is None:
        return None
    return (
        f"messages.db was damaged ({report['reason']}): {report['salvaged']} of {report['expected']} salvaged"
    )


def quota(config: Config) -> Quota:
    """The limits that the configuration sets. Raises ConfigError."""
    said = config.settings.store
    total = Limit(Amount(said.max_messages, said.max_bytes), OverflowPolicy(said.policy))
    every = _limit(said.stream_max_messages, said.stream_max_bytes, said.stream_policy)
    own = {
        StreamName.parse(name): limit
        for name, stream in config.settings.stream.items()
        if (limit := _limit(stream.max_messages, stream.max_bytes, stream.policy))
    }
    return Quota(total, every, own, said.max_streams)


def _limit(messages: int, bytes: int, policy: str) -> Limit | None:
    """A stream's limit; None where neither is set."""
    if not messages and not bytes:
        return None
    return Limit(Amount(messages or MAX_INT, bytes or MAX_INT), OverflowPolicy(policy))


def refusal(error: StoreError) -> Refusal:
    """The refusal that producers get while the store fails."""
    if isinstance(error, StoreFull):
        return Refusal(Code.DISK_FULL, "the disk is full", RETRY_FULL_MS)
    return Refusal(Code.STORE_UNAVAILABLE, f"nothing can be stored now: {in_words(error)}", RETRY_FULL_MS)
