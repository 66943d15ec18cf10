"""The messages that the engine takes on, and the actions that it asks of the worker: plain values."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

Tag = tuple[int, int]
"""(message id, number of the piece): the name of a PUBLISH."""

PROBE = -1
"""In place of a message id: a message of the worker's choice, either one that was delivered before, once
more, or one without content."""


class Candidate(NamedTuple):
    """A message that may be sent, as far as deciding needs to know it.

    A tuple, as `Send`: to build a frozen dataclass takes three times as long, and there is one a message.
    """

    id: int
    stream: Hashable
    pieces: int = 1
    wire_bytes: int = 0
    """The size of all pieces together."""
    priority: int = 4
    expires_s: float | None = None
    """On the clock of `now`; a message of which nothing was sent by then is dropped."""
    file: bool = False
    """A file upload comes first; then its one piece, the link."""
    batch: str | None = None
    """The batch it belongs to, within its stream."""
    completes_batch: bool = False
    """No message of that batch follows it."""
    is_part: bool = False
    """It completes a message, or is a chunk of one that its producer has cut: it makes no sense alone."""
    reached: int = 0
    """The first piece that the hub does not have: those before it were acknowledged in an earlier run."""
    sent_before: bool = False
    """An earlier run sent a piece of it: the hub may have it, so it is too late to drop it."""

    @property
    def piece_bytes(self) -> int:
        return self.wire_bytes // self.pieces


@dataclass(frozen=True, slots=True)
class Open:
    """Connect a new client."""

    segment_bytes: int | None = None
    """Largest TCP segment, where larger ones do not get through."""
    stretch: int = 1
    """Factor on the keep-alive of the settings, where one message takes longer on a slow connection."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Discard the client."""

    reason: str


class Send(NamedTuple):
    """Send this piece, or a `PROBE`, now."""

    tag: Tag
    counted_bytes: int = 0
    """The bytes that the link budget was charged for it: about its size."""
    repeat: bool = False
    """True if it was sent before, on a connection that ended."""


@dataclass(frozen=True, slots=True)
class StartUpload:
    """Begin the file upload of this message's payload."""

    id: int


@dataclass(frozen=True, slots=True)
class ReportSasRefused:
    """The hub refused the credentials: report it to `refresh`, which can renew them."""


@dataclass(frozen=True, slots=True)
class InquireQuota:
    """The hub accepts connections and no messages: ask it over HTTPS whether its quota is used up."""


Action = Open | Discard | Send | StartUpload | ReportSasRefused | InquireQuota
