"""Messages of the hub that management has not taken over yet, and the PUBACKs that are owed for them.

Invariants:

1. A message is acknowledged after management stored it, and never without.
2. PUBACKs leave in the order in which the messages came, as MQTT demands: a stored message waits for those
   before it. One that is not stored within LOCK_S holds back no others: the hub's lock on it has ended, and
   it comes again under another packet id.
3. What is kept is bounded, by count and bytes. What is beyond is not acknowledged: the hub keeps it.

Of messages that need no acknowledgement (QoS 0: answers, changes, calls) only the third holds.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

MOST_OWED = 64
MOST_OWED_BYTES = 4 * 1024 * 1024
LOCK_S = 60.0
"""The hub locks a command that it sent for so long, and sends it again afterwards."""


@dataclass(slots=True)
class _Owed:
    packet_id: int | None
    size_bytes: int
    came_s: float
    stored: bool = False
    passed_on: bool = True
    """False for one beyond the bounds: nothing is known of it but that it is not to be acknowledged."""


class OwedMessages:
    """The messages of one connection after the other. Times are seconds on one clock that never jumps."""

    def __init__(self, first_number: int, most: int = MOST_OWED, most_bytes: int = MOST_OWED_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._owed: OrderedDict[int, _Owed] = OrderedDict()
        """By number, in the order in which they came."""
        self._last_number = first_number - 1
        self._count = 0
        self._bytes = 0
        self.not_taken = 0
        """Messages beyond the bounds, since the process began."""

    def __len__(self) -> int:
        """Messages that are passed on and not stored."""
        return self._count

    def add(self, packet_id: int | None, size_bytes: int, now: float) -> int | None:
        """The number under which the message is passed on; None where it is beyond the bounds."""
        if self._count >= self._most or self._bytes + size_bytes > self._most_bytes:
            self.refuse(packet_id, now)
            return None
        self._last_number += 1
        self._owed[self._last_number] = _Owed(packet_id, size_bytes, now)
        self._count += 1
        self._bytes += size_bytes
        return self._last_number

    def refuse(self, packet_id: int | None, now: float) -> None:
        """Take no such message: it is not acknowledged on this connection."""
        self.not_taken += 1
        if packet_id is not None:
            self._last_number += 1
            self._owed[self._last_number] = _Owed(packet_id, 0, now, passed_on=False)

    def stored(self, number: int) -> list[int]:
        """Management has the message. Returns the packet ids to be acknowledged now, in order."""
        owed = self._owed.get(number)
        if owed is None or owed.stored or not owed.passed_on:
            return []
        self._leave(owed)
        if owed.packet_id is None:
            del self._owed[number]
            return []
        owed.stored = True
        return self._acknowledged()

    def withdraw(self, number: int) -> list[int]:
        """The message was dealt with without management. Returns the packet ids as `stored` does."""
        return self.stored(number)

    def overdue(self, now: float) -> tuple[list[int], list[int]]:
        """Messages that waited longer than the hub's lock: their numbers, and packet ids to be acknowledged.

        They are passed on no more.
        """
        over: list[int] = []
        while self._owed:
            number, owed = next(iter(self._owed.items()))
            if owed.came_s + LOCK_S > now:
                break
            del self._owed[number]
            if owed.passed_on and not owed.stored:
                self._leave(owed)
                over.append(number)
        return over, self._acknowledged()

    def clear(self) -> list[int]:
        """The connection is gone: what is owed comes again. Returns the numbers of what was passed on."""
        numbers = [number for number, owed in self._owed.items() if owed.passed_on and not owed.stored]
        self._owed.clear()
        self._count = self._bytes = 0
        return numbers

    def next_s(self) -> float | None:
        """The time at which a message will be overdue."""
        first = next(iter(self._owed.values()), None)
        return None if first is None else first.came_s + LOCK_S

    def _leave(self, owed: _Owed) -> None:
        self._count -= 1
        self._bytes -= owed.size_bytes

    def _acknowledged(self) -> list[int]:
        """Take stored messages from the front, up to the first that must be acknowledged before others."""
        packet_ids: list[int] = []
        for number, owed in list(self._owed.items()):
            if owed.packet_id is None:
                continue
            if not owed.stored:
                break
            del self._owed[number]
            packet_ids.append(owed.packet_id)
        return packet_ids
