"""What tests of the store share: a clock that obeys, requests, and the store as SIGKILL leaves it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.writer import MessageStore
from runtime.core.ingest.admission import Admission, MeasureFiles, TakeFiles
from runtime.core.ingest.message_fields import PLAIN, describe
from runtime.core.ingest.new_names import LeafTerms
from runtime.core.ingest.protocol import ProducerKey, Put, Reply
from runtime.core.ingest.quota import Amount, Limit, Quota
from runtime.core.ingest.taken_files import TakenFile
from runtime.core.message import Kind, StreamName
from runtime.core.settlement import Settled

WIDE = Quota(Limit(Amount(1_000_000, 10**9)))
NONE = Settled()
ANY_LEAF = LeafTerms(auto=True, new_leaves=1_000)


class ObedientClock:
    """Says what it was told to say."""

    def __init__(self) -> None:
        self.wall, self.boot, self.boots = 1_800_000_000.0, 100.0, 0
        self.in_sync = True

    def wall_s(self) -> float:
        return self.wall

    def boot_s(self) -> float:
        return self.boot

    def boot_id(self) -> str:
        return f"boot-{self.boots}"

    def synchronised(self) -> bool:
        return self.in_sync

    def reboot(self) -> None:
        self.boots += 1
        self.boot = 1.0


def put(
    payloads: Sequence[bytes], *, producer: str | None = None, first: int = 0, owner: str = "", **fields: Any
) -> Put:
    key = None if producer is None else ProducerKey(producer, "b", owner)
    return Put(Kind.MESSAGE, [describe(fields, PLAIN)] * len(payloads), payloads, key, first, owner)


def decide(
    store: MessageStore,
    requests: Sequence[Put],
    quota: Quota = WIDE,
    settled: Settled = NONE,
    leaves: LeafTerms = ANY_LEAF,
) -> tuple[Admission, list[Reply]]:
    known = store.known(request.producer for request in requests if request.producer)
    view = store.view(10**12, settled)
    admission = Admission(quota, view, store.stamp(), known, known.apart, leaves)
    replies = [admission.decide(request) for request in requests]
    return admission, [reply for reply in replies if not isinstance(reply, MeasureFiles)]


def decide_file(admission: Admission, request: Put, size: int = 4) -> Reply:
    """Decide a request whose one payload is a file, which is taken."""
    measure = admission.decide(request)
    assert isinstance(measure, MeasureFiles)
    take = admission.measured(measure, [size], copied=False)
    return admission.taken(take, [TakenFile(size, 0)]) if isinstance(take, TakeFiles) else take


def keep(store: MessageStore, *requests: Put, quota: Quota = WIDE, settled: Settled = NONE) -> list[Reply]:
    """Decide and commit."""
    admission, replies = decide(store, requests, quota, settled)
    store.commit(admission, settled)
    return replies


def copy_as_killed(path: Path, to: Path) -> Path:
    """The files as they are now, without a goodbye: what SIGKILL leaves behind."""
    to.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        if not file.name.endswith("-shm"):  # shared memory: rebuilt from the WAL by whoever opens next
            shutil.copy(file, to / file.name)
    return to / path.name


def waiting_ids(path: Path) -> list[int]:
    """The ids of the messages that wait: of those that are gone, rows may still be there."""
    reader = StoreReader(path)
    rows = reader.after(0, 10**6, 10**12)
    reader.close()
    return [row.id for row in rows]


def ever_lost(store: MessageStore) -> dict[tuple[StreamName, str], Amount]:
    """Everything ever lost, by stream and reason."""
    rows = store._db.execute("SELECT stream, reason, messages, bytes FROM losses").fetchall()
    return {(store._names[stream], reason): Amount(count, size) for stream, reason, count, size in rows}
