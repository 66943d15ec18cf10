"""The sends in flight on the client that is open, and their progress.

Progress is an acknowledgement by the hub, or, while the oldest send is not wholly with the hub, bytes that
its TCP acknowledged (`carried`): on a slow line a large message takes longer than any fixed deadline, and a
new connection would only begin the same bytes again. A message that the hub has whole must be acknowledged
within the deadline. Through a proxy only the proxy's TCP is seen: that deadline allows for a slow line
behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.core.delivery.actions import Tag
from runtime.core.delivery.events import Carried

RECORD_BYTES = 16_384
"""The largest TLS record. What is sent at a time leaves in as few records as possible."""
LAST_SEGMENTS = 4
"""A peer that reads everything and resets the connection may leave so many segments unacknowledged."""
SLOW_BYTES_PER_S = 2_000.0
"""A line behind a proxy may be this slow before silence counts; slower where a slower one was observed."""
MOST_UNSEEN_S = 600.0
"""Most seconds that any message is allowed unseen."""
_TELLING_BYTES = 8_192
"""A smaller message says nothing about the line: its time is the hub's."""
BEGUN_S = 2.0
"""A peer that refuses a message on reading its beginning does so within so long of its sending."""
_SOMETHING_BYTES = 512
"""The sizes of sends are known nearly: so much beyond the beginning of one is certainly a part of it."""


@dataclass(slots=True)
class _Record:
    """Sends of one time in one TLS record, about: the hub reads none of them before it has all of it."""

    at_s: float
    begin: int
    end: int

    def takes(self, size_bytes: int, now: float) -> bool:
        """True if one more send may be in it. One whose size is known nearly counts for it, too."""
        return now == self.at_s and size_bytes <= RECORD_BYTES and self.end - self.begin < RECORD_BYTES


@dataclass(slots=True)
class _Sent:
    """One send: its time, and its position among all bytes of this client."""

    at_s: float
    begin: int
    end: int
    record: _Record


@dataclass(frozen=True, slots=True)
class ConnectionEnding:
    """The evidence that the end of a connection gives about the sends in flight."""

    proves: bool
    """The hub ended it, and may have done so for the oldest send."""
    stuck_bytes: int
    """Bytes that the hub's TCP never acknowledged, where that is all sent from the oldest on; else 0."""
    in_the_midst: bool
    """The hub ended it late, when a part of the oldest send had come through, or all of it to a proxy."""


@dataclass(slots=True)
class InFlight:
    """Sends without an acknowledgement, in order of sending."""

    _sent: dict[Tag, _Sent] = field(default_factory=dict)
    _progress_s: float = 0.0
    _overtaken_s: float | None = None  # since when others, sent later, are acknowledged before the oldest
    _end: int = 0  # bytes sent on this client
    _record: _Record | None = None  # of the last send
    _arrived: int | None = None  # of them, with the hub's TCP; None: not known
    _carried: Carried | None = None
    _bytes_per_s: float = SLOW_BYTES_PER_S
    bytes: int = 0

    def __len__(self) -> int:
        return len(self._sent)

    def begin(self, now: float) -> None:
        """Begin with a client that is up and has nothing in flight."""
        self._progress_s = now
        self._end, self._arrived, self._carried, self._record = 0, None, None, None

    def put(self, tag: Tag, size_bytes: int, now: float) -> None:
        """Record a send. A probe, whose size is not known here, counts as a byte: else it had arrived."""
        size_bytes = max(1, size_bytes)
        if not self._sent:
            self._progress_s = now
        record = self._record
        if record is None or not record.takes(size_bytes, now):
            record = self._record = _Record(now, self._end, self._end)
        self._sent[tag] = _Sent(now, self._end, self._end + size_bytes, record)
        self._end += size_bytes
        record.end = self._end
        self.bytes += size_bytes

    def carried(self, carried: Carried, now: float) -> None:
        """Take in how much TCP has had acknowledged by now."""
        before, waiting = self._carried, self.still_arriving()
        self._carried = carried
        self._arrived = max(self._arrived or 0, self._end - carried.under_way_bytes)
        grown = before is not None and carried.arrived_bytes > before.arrived_bytes
        if waiting and (grown or not self.still_arriving()):
            self._progress_s = now

    def still_arriving(self) -> bool:
        """True if bytes of the oldest send may still be on their way; False where nothing is known."""
        oldest = next(iter(self._sent.values()), None)
        return oldest is not None and self._arrived is not None and self._arrived < oldest.record.end

    def why_overdue(self, patience_s: float) -> str:
        """The reason why the wait for an acknowledgement ends, in words."""
        if self.still_arriving():
            return f"nothing of what was sent came through for {patience_s:g} s"
        return f"no acknowledgement for {patience_s:g} s"

    def acked(self, tag: Tag, now: float) -> float | None:
        """Record an acknowledgement. Returns the time of the send; None where there was none."""
        oldest = self.oldest()
        sent = self._sent.pop(tag, None)
        if sent is None:
            return None
        size_bytes = sent.end - sent.begin
        self.bytes -= size_bytes
        if size_bytes >= _TELLING_BYTES and now > sent.at_s:
            self._bytes_per_s = min(self._bytes_per_s, size_bytes / (now - sent.at_s) / 2)
        self._progress_s = now
        if self._arrived is not None:
            self._arrived = max(self._arrived, sent.end)
        if tag == oldest:
            self._overtaken_s = None
        elif self._overtaken_s is None:
            self._overtaken_s = now
        return sent.at_s

    def oldest(self) -> Tag | None:
        """The tag of the oldest send."""
        return next(iter(self._sent), None)

    def tags(self) -> list[Tag]:
        """The tags of all sends in flight."""
        return list(self._sent)

    def stalled(self, now: float, ack_s: float) -> bool:
        """True if there was no progress for so long, and for as long as the oldest send may take unseen."""
        return bool(self._sent) and now - self._progress_s >= ack_s + self._unseen_s()

    def _unseen_s(self) -> float:
        """Seconds that the oldest send may take to the hub from where its TCP seems to be."""
        oldest = next(iter(self._sent.values()), None)
        if oldest is None or self.still_arriving():
            return 0.0
        return min(MOST_UNSEEN_S, (oldest.end - oldest.begin) / self._bytes_per_s)

    def waited_s(self, now: float) -> float:
        """Seconds since the oldest send went out."""
        oldest = next(iter(self._sent.values()), None)
        return 0.0 if oldest is None else now - oldest.at_s

    def overtaken(self, now: float, ack_s: float) -> bool:
        """True if for so long others were acknowledged, not the oldest: it is the cause, not the hub."""
        return self._overtaken_s is not None and now - self._overtaken_s >= ack_s

    def overdue_at_s(self, ack_s: float) -> float:
        """The time at which `stalled` or `overtaken` will hold, unless an acknowledgement comes."""
        if not self._sent:
            return float("inf")
        if self._overtaken_s is not None:
            return ack_s + self._overtaken_s
        return ack_s + self._unseen_s() + self._progress_s

    def could_be_cause(self, now: float, prompt_s: float) -> bool:
        """True if the other side, ending the connection now, may have done so because of the oldest send.

        It must have read it, all of it or the beginning, and a short while ago: a peer that ends a connection
        later than that has a reason of its own, a keep-alive, or the line brought nothing more.
        """
        oldest = next(iter(self._sent.values()), None)
        if oldest is None or self._arrived is None or self._carried is None:
            return oldest is not None
        if now - max(oldest.at_s, self._progress_s) > prompt_s:
            return False
        missing = oldest.record.end - self._arrived
        begun = self._arrived - oldest.begin >= _SOMETHING_BYTES and now - oldest.at_s <= min(
            BEGUN_S, prompt_s
        )
        return begun or missing <= LAST_SEGMENTS * self._carried.segment_bytes

    def ending(self, now: float, prompt_s: float, *, by_hub: bool) -> ConnectionEnding:
        """The evidence where the connection ends now."""
        if by_hub and self.could_be_cause(now, prompt_s):
            return ConnectionEnding(proves=True, stuck_bytes=0, in_the_midst=False)
        late = by_hub and self.waited_s(now) > prompt_s
        return ConnectionEnding(proves=False, stuck_bytes=self.stuck_bytes(), in_the_midst=late)

    def stuck_bytes(self) -> int:
        """Bytes that the hub's TCP did not acknowledge, where it acknowledged none of the oldest; else 0."""
        oldest = next(iter(self._sent.values()), None)
        if oldest is None or self._arrived is None or self._carried is None:
            return 0
        return 0 if self._arrived - oldest.begin >= _SOMETHING_BYTES else self._carried.under_way_bytes

    def clear(self) -> list[Tag]:
        """Discard the client. Returns the tags that were in flight."""
        tags = self.tags()
        self._sent.clear()
        self.bytes, self._overtaken_s = 0, None
        return tags
