"""Log shipping: which lines of the runtime's own logs go to the cloud as messages, within a budget. Pure.

1. Lines a minute and bytes a day are bounded, whatever happens: an outage makes many lines, and the backlog
   that it leaves must not be logs.
2. What was left out is said in one line, with its count, as soon as a line may go again.
3. No line about a line: what the shipping itself causes is never shipped, so that nothing feeds on itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from runtime.core.operations.log_lines import LEVELS, LogLine

STREAM = "_logs"
SHIPPER = "observer"
"""The program that ships: its own lines stay where they are."""
LONGEST_LINE_BYTES = 2_048
BATCH_BYTES = 3_500
"""Lines that go as one message: with its properties it is one of the 4 KiB units that a hub meters."""
MINUTE_S, DAY_S = 60.0, 86_400.0


@dataclass(frozen=True, slots=True)
class ShippingLimits:
    """What may be shipped."""

    level: str = "WARNING"
    lines_per_minute: int = 60
    bytes_per_day: int = 262_144


class LogShipping:
    """The choice of lines. Times are seconds on a clock that never jumps."""

    def __init__(self, limits: ShippingLimits) -> None:
        self._limits = limits
        self._minute_s = self._day_s = float("-inf")
        self._lines = self._bytes = 0
        self._left_out = 0

    def select(self, events: Iterable[LogLine], now_s: float) -> list[bytes]:
        """The lines to ship of `events`, each as one JSON object."""
        return list(self._select(events, now_s))

    def _select(self, events: Iterable[LogLine], now_s: float) -> Iterator[bytes]:
        self._begin(now_s)
        for event in events:
            if not self._wanted(event):
                continue
            yield from self._summary(event.time_s)
            line = _line(event.as_record())
            if self._admits(len(line)):
                yield line
            else:
                self._left_out += 1

    def _begin(self, now_s: float) -> None:
        if now_s - self._minute_s >= MINUTE_S:
            self._minute_s, self._lines = now_s, 0
        if now_s - self._day_s >= DAY_S:
            self._day_s, self._bytes = now_s, 0

    def _wanted(self, event: LogLine) -> bool:
        grave = LEVELS.get(event.level, 0) >= LEVELS[self._limits.level]
        return grave and event.program != SHIPPER and STREAM not in map(str, event.fields.values())

    def _summary(self, time_s: float) -> Iterator[bytes]:
        """The line about those that were left out, once there is room for it."""
        if not self._left_out:
            return
        text = f"{self._left_out} lines were left out"
        line = _line(LogLine(SHIPPER, time_s, "WARNING", text, {"left_out": self._left_out}).as_record())
        if self._admits(len(line)):
            self._left_out = 0
            yield line

    def _admits(self, size: int) -> bool:
        if self._lines >= self._limits.lines_per_minute or self._bytes + size > self._limits.bytes_per_day:
            return False
        self._lines += 1
        self._bytes += size
        return True


def batches(lines: Iterable[bytes]) -> list[bytes]:
    """The lines in messages of at most BATCH_BYTES, a line each."""
    found: list[bytes] = []
    for line in lines:
        if found and len(found[-1]) + 1 + len(line) <= BATCH_BYTES:
            found[-1] += b"\n" + line
        else:
            found.append(line)
    return found


def _line(record: dict[str, Any]) -> bytes:
    """One line, with a message that is cut where it is long: a traceback stays on the device."""
    line = json.dumps(record, default=str).encode()
    if len(line) <= LONGEST_LINE_BYTES:
        return line
    kept = {name: record[name] for name in ("time", "level", "worker", "event") if name in record}
    message = str(record["message"]).encode("ascii", "backslashreplace").decode()
    return json.dumps({**kept, "message": message[: LONGEST_LINE_BYTES // 4], "cut": True}).encode()
