"""A message once it is stored, and the figures by which the store is counted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """The kind of a stored row. The numbers are on disk: never change one."""

    MESSAGE = 0
    COMPLETE_BATCH = 1
    COMPLETE_MESSAGE = 2


class StreamName(NamedTuple):
    """A stream: of this device, or of a leaf behind it. Both names may be left out: the platform fills in its
    defaults.

    It is the unit of order: two leaves may use the same names, and neither waits for the other.
    """

    group: str | None
    stream: str | None
    leaf: str | None = None
    """The id of the device behind this one whose messages these are; None: this device's own."""

    @classmethod
    def parse(cls, text: str) -> StreamName:
        """`STREAM`, or `GROUP/STREAM`, as tables of the configuration are named."""
        group, slash, stream = text.partition("/")
        return cls(group or None, stream or None) if slash else cls(None, text or None)

    @property
    def text(self) -> str:
        """The text that `parse` reads."""
        return f"{self.group}/{self.stream or ''}" if self.group else self.stream or ""

    @property
    def without_leaf(self) -> StreamName:
        """The stream by which the configuration names it: settings hold for the streams of all leaves."""
        return self if self.leaf is None else StreamName(self.group, self.stream)

    def __str__(self) -> str:
        text = f"{self.group or '-'}/{self.stream or '-'}"
        return text if self.leaf is None else f"{text} of {self.leaf}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionalFields:
    """The fields that few messages have, declared here and nowhere else.

    What a producer may state, the columns of `messages.db`, their reading and their checks follow from this
    class. A text needs a line here and a migration (CONTRIBUTING.md, "A field of a message").
    """

    ttl_s: float | None = None
    """The message is worth sending for so long after it was stored; None: for ever."""
    batch_id: str | None = None
    batch_slice_id: str | None = None
    message_id: str | None = None
    chunk_id: str | None = None
    content_type: str | None = None
    file: str | None = None
    """Name of a file that holds the payload; then `payload` is empty."""


OPTIONAL_FIELDS = tuple(column.name for column in fields(OptionalFields))


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage(OptionalFields):
    """One row of the store as `upload` sees it."""

    id: int
    """Ids grow in the order of storing, and none is used a second time."""
    stream_group: str | None
    stream: str | None
    leaf: str | None = None
    """The id of the device behind this one whose message it is; None: this device's own."""
    properties: Mapping[str, str]
    kind: Kind
    priority: int
    """0 (least) to 9 (most important)."""
    stored_wall_s: float | None
    """Unix time of storing; None where the clock was not synchronised then."""
    stored_boot_s: float
    """Seconds since boot at storing: comparable under the same `stored_boot_id` only."""
    stored_boot_id: str
    payload: bytes
    key: str
    """The stable name of the message, the same in every repeat: `producer/boot/sequence`, or `store/id`."""

    @property
    def name(self) -> StreamName:
        return StreamName(self.stream_group, self.stream, self.leaf)


@dataclass(frozen=True, slots=True)
class CorruptRow:
    """A row that exists and cannot be decoded."""

    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class Backlog:
    """The messages that wait for the hub. `bytes` counts payloads and what describes them."""

    messages: int
    bytes: int
    oldest_id: int | None
