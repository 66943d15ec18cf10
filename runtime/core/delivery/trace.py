"""Trace: the states of single messages, small enough for the status file, for `edgectl trace`.

`upload` writes them once a second, so they are bounded: ids as ranges by state, what is known of the few
messages that are not simply waiting, and the deliveries of the last while. A message that is not named waits
for its turn, in the send queue or still in the store.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import chain
from typing import Any

from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.outgoing import MessageState, Outgoing
from runtime.core.settlement import to_ranges

MOST_RANGES = 32
"""Most ranges of ids for each state, and of deliveries: a range is some 20 bytes in the status file."""
MOST_RECORDS = 32
"""Most messages that are named with all that is known of them."""
_NAMED = (MessageState.SUSPECT, MessageState.ON_TRIAL, MessageState.UPLOADING)


class RecentDeliveries:
    """The ids that the hub acknowledged last, and when. Times are on one clock that never jumps."""

    def __init__(self, ranges: Iterable[tuple[int, int, float]] = ()) -> None:
        self._ranges: deque[tuple[int, int, float]] = deque(ranges, maxlen=MOST_RANGES)

    def add(self, ids: Iterable[int], now: float) -> None:
        """Record deliveries: ids that follow those of the same second make one range with them."""
        for first, last in to_ranges(ids):
            if self._ranges:
                begin, end, at_s = self._ranges[-1]
                if end + 1 == first and now - at_s < 1.0:
                    self._ranges[-1] = begin, last, at_s
                    continue
            self._ranges.append((first, last, now))

    def figures(self) -> list[tuple[int, int, float]]:
        """The ranges, first and last id, with the time."""
        return [(first, last, round(at_s, 1)) for first, last, at_s in self._ranges]


def figures(delivery: Delivery) -> dict[str, Any]:
    """The states of the messages that have a record, as far as they are not simply waiting."""
    by_state: dict[MessageState, list[int]] = {}
    named: list[Outgoing] = []
    for message in chain(delivery.queue.messages.values(), delivery.settled):
        state = message.state
        if state is not MessageState.QUEUED:
            by_state.setdefault(state, []).append(message.candidate.id)
        if state in _NAMED or message.attempts > 1 or message.upload_failures:
            named.append(message)
    return {
        "states": {state.value: to_ranges(ids)[:MOST_RANGES] for state, ids in by_state.items()},
        "records": [_known(message) for message in sorted(named, key=_rank)[:MOST_RECORDS]],
    }


def _rank(message: Outgoing) -> tuple[bool, int]:
    return message.state not in _NAMED, message.candidate.id


def _known(message: Outgoing) -> dict[str, Any]:
    suspicion = message.suspicion
    return {
        "id": message.candidate.id,
        "state": message.state.value,
        "since_boot_s": round(message.since_s, 1),
        "attempts": message.attempts,
        "upload_failures": message.upload_failures,
        "failures": suspicion.failures if suspicion is not None else 0,
        "pieces": message.candidate.pieces,
        "reached": message.reached,
    }
