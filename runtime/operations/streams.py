"""The data of `edgectl top` and `edgectl tap`, from the store's file alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.adapters.process.clock import Clock, read_moment
from runtime.adapters.store.errors import StoreUnavailable
from runtime.adapters.store.stream_reader import PassingMessage, StreamReader
from runtime.core.message import CorruptRow, StoredMessage, StreamName
from runtime.core.operations.stream_figures import StreamLook
from runtime.errors import UsageError


def is_there(path: Path) -> bool:
    """True if there is a store. Raises UsageError where this user may not look."""
    try:
        return path.exists()
    except PermissionError as exc:
        raise UsageError(f"{path} may be read by root and the runtime's user only") from exc


class StreamWatch:
    """Looks at all streams, again and again; ingest may replace the store in between."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._reader = StreamReader(path)
        self._clock = clock

    def look(self) -> StreamLook:
        """The streams now; none where there is no store yet. Raises Retryable where it cannot be read."""
        if not is_there(self._path):
            return StreamLook(read_moment(self._clock))
        return StreamLook(read_moment(self._clock), self._reader.levels(), self._reader.oldest())

    def close(self) -> None:
        self._reader.close()


@dataclass(frozen=True, slots=True)
class Missed:
    """Messages of the tapped streams that were stored, delivered and removed between two looks."""

    messages: int


class Tap:
    """The messages of some streams as they are stored, from now on; of this device and of every leaf."""

    def __init__(self, path: Path, streams: list[StreamName], shown_bytes: int) -> None:
        """`shown_bytes`: how much of a payload is read."""
        self._path = path
        self._reader = StreamReader(path)
        self._streams = streams
        self._shown_bytes = shown_bytes
        self._version: int | None = None
        self._next_id, self._stored = 1, 0
        self._begin()

    def new(self) -> Iterator[PassingMessage | Missed]:
        """What was stored since the last call; nothing of it is given again. Raises Retryable, StoreError."""
        if not is_there(self._path):
            return
        changed, version = self._reader.changed_since(self._version)
        if not changed:
            return
        counters, seen = self._reader.stored_so_far(), 0
        while batch := self._reader.passing(self._next_id - 1, counters.next_id, self._shown_bytes):
            self._next_id = batch[-1].message.id + 1
            wanted = [each for each in batch if self._wants(each)]
            seen += len(wanted)
            yield from wanted
        self._next_id, self._version = counters.next_id, version
        stored = self._sum(counters.stored)
        missed, self._stored = stored - self._stored - seen, stored
        if missed > 0:
            yield Missed(missed)

    def close(self) -> None:
        self._reader.close()

    def _begin(self) -> None:
        """Begin behind what is stored now; with the first message where there is no store yet."""
        with suppress(StoreUnavailable):
            counters = self._reader.stored_so_far()
            self._next_id, self._stored = counters.next_id, self._sum(counters.stored)

    def _sum(self, stored: Mapping[StreamName, int]) -> int:
        return sum(count for name, count in stored.items() if name.without_leaf in self._streams)

    def _wants(self, each: PassingMessage) -> bool:
        """True for a message of the streams, and for one whose row is damaged: it may be one."""
        return isinstance(each.message, CorruptRow) or each.message.name.without_leaf in self._streams


def head(message: StoredMessage) -> dict[str, Any]:
    """The fields of a message beside its payload, without those that it has not."""
    optional = {
        "batch": message.batch_id,
        "batch_slice": message.batch_slice_id,
        "message": message.message_id,
        "chunk": message.chunk_id,
        "content_type": message.content_type,
        "ttl_s": message.ttl_s,
        "file": message.file,
        "properties": dict(message.properties) or None,
    }
    return {
        "id": message.id,
        "stored_s": message.stored_wall_s,
        "stream": str(message.name),
        "key": message.key,
        "kind": message.kind.name.lower().replace("_", " "),
        "priority": message.priority,
        **{name: value for name, value in optional.items() if value is not None},
    }
