"""Housekeeping of the open store: measures the room, gives space back to the disk, and names back to their
limits.

`store_manager.py` decides when the store is open; what is here takes an open store as an argument, and every
StoreError escapes to the manager.
"""

from __future__ import annotations

from collections.abc import Iterable

from loguru import logger

from runtime.adapters.process.clock import Clock
from runtime.adapters.store.disk import BALLAST_BYTES, Disk, WalLimit
from runtime.adapters.store.errors import StoreFull
from runtime.adapters.store.fold import FOLD_BYTES
from runtime.adapters.store.id_watermark import SAVE_EVERY_S, IdWatermark
from runtime.adapters.store.writer import MessageStore
from runtime.core.ingest.protocol import ProducerKey
from runtime.core.ingest.quota import OWNER_SHARES, Quota
from runtime.core.log_events import LogEvent
from runtime.core.operations.metrics import TOP_SERIES
from runtime.core.timer import Timer

LOOK_AT_DISK_S = 1.0
TIDY_S = 1.0
VACUUM_PAGES = 64
"""256 KiB a step: a few milliseconds, the most that a message adds to its wait if it comes just then."""
VACUUM_PAUSE_S = 0.05
"""Pause between two steps where no request comes: 5 MB/s, 10 GB in half an hour."""
KEEP_FREE_PAGES = 1_024
LEDGER_EVERY_S = 5.0
LEDGER_PER_STREAM_S = 0.02
"""Reading the ledger takes about 20 us a stream: a thousandth of the time."""
PRODUCER_MEMORY_S = 600.0
"""A producer silent for so long may be forgotten, if the store was open all the while: no repeat of its can
still come. A client that waits for an answer asks again at least every 10 s (the exchange's LONGEST_WAIT_S),
and would have been answered. What remains is a producer that stood still itself (SIGSTOP, a laptop asleep)
between request and reply: where there are too many producers, its repeat may be stored a second time."""


class Housekeeping:
    """The work on the open store that is due between commits, each piece by a timer of its own."""

    def __init__(
        self, clock: Clock, quota: Quota, disk: Disk, wal: WalLimit, ids: IdWatermark, max_leaves: int
    ) -> None:
        self._clock = clock
        self.quota = quota
        self.max_leaves = max_leaves
        self._disk = disk
        self._wal = wal
        self._ids = ids
        self._room_bytes = 0
        self._unmeasured_bytes = 0
        """Bytes stored since the room was measured."""
        self._has_pages_to_give = False
        self._measuring = Timer(LOOK_AT_DISK_S)
        self._tidying = Timer(TIDY_S)
        self._saving_ids = Timer(SAVE_EVERY_S)
        self._giving_back_names = Timer(TIDY_S)
        self._next_ledger_s = 0.0
        self.ledger: dict[str, object] = {}
        """Where every message is, for the status record: at most so old as the timer allows."""
        self._forgetting_s = 0.0
        """Producers may be forgotten from this time on."""

    @property
    def room_bytes(self) -> int:
        """Bytes that messages may still fill; below 0 where others took room since it was measured."""
        return self._room_bytes

    @property
    def pause_s(self) -> float | None:
        """The pause until more space can be given back to the disk; None where there is none to give."""
        return VACUUM_PAUSE_S if self._has_pages_to_give else None

    def on_open(self) -> None:
        """The store was opened: nothing that came before is known of its producers, and of the room."""
        self.measure_soon()
        self._forgetting_s = self._clock.boot_s() + PRODUCER_MEMORY_S

    def stored(self, disk_bytes: int) -> None:
        """A commit took so many bytes."""
        self._room_bytes -= disk_bytes
        self._unmeasured_bytes += disk_bytes
        if self._wal.stuck or self._unmeasured_bytes > BALLAST_BYTES:
            self.measure_soon()

    def measure_soon(self) -> None:
        self._measuring.expire()

    def measure_if_due(self, store: MessageStore) -> None:
        """Measure the room. Free pages inside the file count; room that others need on this disk does not."""
        if not self._measuring.restart_if_due(self._clock.boot_s()):
            return
        store.check_in_place()
        alarm = self._wal.alarm
        self._room_bytes = self._wal.measure(store, store.spare_bytes(), self._clock.boot_s())
        self._unmeasured_bytes = 0
        if self._wal.alarm and not alarm:
            logger.bind(event=LogEvent.WAL_GROWS).error("{}", self._wal.alarm)
        self._disk.keep_ballast()
        self._wal.preallocate(store)
        if self._room_bytes < FOLD_BYTES and not self._wal.stuck:
            store.fold()  # messages that are gone hold so much of it

    def tidy_if_due(self, store: MessageStore) -> None:
        """Tidy by the clock: where requests always come, no turn is idle."""
        if self._tidying.restart_if_due(self._clock.boot_s()):
            store.fold_if_due()
            self.tidy(store)
            self._look_at_ledger(store)

    def tidy(self, store: MessageStore) -> None:
        """Give a little room back to the disk; forget producers long gone where there are too many."""
        self._has_pages_to_give = False  # where the disk refuses it, it is tried at the ordinary pace
        self._has_pages_to_give = store.vacuum(VACUUM_PAGES, KEEP_FREE_PAGES)
        self.forget_producers(store)
        if self._saving_ids.restart_if_due(self._clock.boot_s()):
            self._ids.remember(store.uuid, store.next_id)
            self._ids.save()

    def _look_at_ledger(self, store: MessageStore) -> None:
        """Read the ledger now and then, for metrics: with many streams more rarely, as it takes longer."""
        now_s = self._clock.boot_s()
        if now_s < self._next_ledger_s:
            return
        self._next_ledger_s = now_s + max(LEDGER_EVERY_S, LEDGER_PER_STREAM_S * sum(store.name_counts))
        ledger = store.ledger()
        if ledger is not None:
            self.ledger = {
                "ledger": ledger.as_record(TOP_SERIES),
                "waiting_by_stream": ledger.waiting_record(TOP_SERIES),
            }

    def give_back_streams(self, store: MessageStore) -> None:
        """Give back names of streams where less than a tenth of the names, or of the leaves, is left."""
        now_s, most = self._clock.boot_s(), self.quota.max_streams
        streams, leaves = store.name_counts
        few_left = _few_left(streams, most) or _few_left(leaves, self.max_leaves)
        if not few_left or not self._giving_back_names.due(now_s):
            return
        try:
            if store.give_back_streams(max(1, most // 5)):
                return
        except StoreFull:
            pass  # deletions need room, too; without them requests are refused by name
        self._giving_back_names.restart(now_s)  # all hold something, and looking takes milliseconds

    def forget_producers(
        self, store: MessageStore, room: int | None = None, but: Iterable[ProducerKey] = ()
    ) -> None:
        """Forget producers to make room for so many more, where needed and no repeat of theirs can come."""
        now_s = self._clock.boot_s()
        if not store.crowded(room) or now_s < self._forgetting_s:
            return
        if not store.forget_producers(PRODUCER_MEMORY_S, but):
            self._forgetting_s = now_s + TIDY_S  # all were active lately, and looking takes milliseconds


def _few_left(names: int, most: int) -> bool:
    """True if less than a tenth of the names is left."""
    return names > most - max(1, most // OWNER_SHARES)
