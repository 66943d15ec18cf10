"""What is in flight on the client that is open, and whether it makes progress."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.core.steps import Tag


@dataclass(slots=True)
class Flight:
    """Sends without an acknowledgement, in order of sending."""

    bytes: int = 0
    _sent: dict[Tag, tuple[float, int]] = field(default_factory=dict)  # -> (sent at, bytes)
    _progress_s: float = 0.0
    _overtaken_s: float | None = None  # since when others, sent later, are acknowledged before the oldest

    def __len__(self) -> int:
        return len(self._sent)

    def begin(self, now: float) -> None:
        """A client is up, with nothing in flight."""
        self._progress_s = now

    def put(self, tag: Tag, size_bytes: int, now: float) -> None:
        """It is sent."""
        if not self._sent:
            self._progress_s = now
        self._sent[tag] = (now, size_bytes)
        self.bytes += size_bytes

    def acked(self, tag: Tag, now: float) -> float | None:
        """It was acknowledged. When it was sent; None where it was not."""
        oldest = self.oldest()
        sent = self._sent.pop(tag, None)
        if sent is None:
            return None
        self.bytes -= sent[1]
        self._progress_s = now
        if tag == oldest:
            self._overtaken_s = None
        elif self._overtaken_s is None:
            self._overtaken_s = now
        return sent[0]

    def oldest(self) -> Tag | None:
        """What was sent first."""
        return next(iter(self._sent), None)

    def tags(self) -> list[Tag]:
        """All of it."""
        return list(self._sent)

    def stands(self, now: float, ack_s: float) -> bool:
        """Whether nothing was acknowledged for so long."""
        return bool(self._sent) and now - self._progress_s >= ack_s

    def overtaken(self, now: float, ack_s: float) -> bool:
        """Whether for so long others were, and the oldest was not: it is about that one, not the hub."""
        return self._overtaken_s is not None and now - self._overtaken_s >= ack_s

    def patience_s(self, ack_s: float) -> float:
        """When it will be one or the other, unless something is acknowledged."""
        if not self._sent:
            return float("inf")
        return ack_s + (self._progress_s if self._overtaken_s is None else self._overtaken_s)

    def clear(self) -> list[Tag]:
        """The client is discarded: what was in flight."""
        tags = self.tags()
        self._sent.clear()
        self.bytes, self._overtaken_s = 0, None
        return tags
