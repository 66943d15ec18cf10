"""What `delivery` takes on, and what it tells the worker to do: plain values."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

Tag = tuple[int, int]
"""(message id, number of the piece): the name of a PUBLISH."""

PROBE = -1
"""Stands for a message of the worker's choice where a message id is expected: one that was delivered before,
once more, or one that says nothing."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A message that may be sent, as far as deciding needs to know it."""

    id: int
    stream: Hashable
    pieces: int = 1
    wire_bytes: int = 0
    """Of all pieces together."""
    priority: int = 4
    expires_s: float | None = None
    """On the clock of `now`; what has not been touched by then is dropped."""
    file: bool = False
    """A file upload comes first; then its one piece, the link."""
    batch: str | None = None
    """The batch it belongs to, within its stream."""
    completes_batch: bool = False
    """Nothing of that batch comes behind it."""
    reached: int = 0
    """The first piece that the hub does not have: those before it were acknowledged in an earlier life."""

    @property
    def piece_bytes(self) -> int:
        return self.wire_bytes // self.pieces


@dataclass(frozen=True, slots=True)
class Open:
    """Connect a new client."""

    segment_bytes: int | None = None
    """Most bytes of its TCP segments, where larger ones do not get through."""
    stretch: int = 1
    """So many times the keep-alive of the settings, where one message takes the line longer."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Let go of the client."""

    reason: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send this piece, or a `PROBE`, now."""

    tag: Tag
    counted_bytes: int = 0
    """What the link was charged for it: about its size."""


@dataclass(frozen=True, slots=True)
class StartUpload:
    """The payload of this message goes as a file: begin."""

    id: int


@dataclass(frozen=True, slots=True)
class ReportSasRefused:
    """The hub refused the credentials: say so to who can renew them."""


@dataclass(frozen=True, slots=True)
class InquireQuota:
    """The hub takes connections and no messages: ask it over HTTPS whether its quota is used up."""


Action = Open | Discard | Send | StartUpload | ReportSasRefused | InquireQuota
