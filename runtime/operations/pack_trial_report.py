"""Pack trial report: what is stored, replayed under other rules. Reads only, and takes no lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.adapters.store.reader import StoreReader
from runtime.core.delivery.envelope import Compression, Packing, has_brotli
from runtime.core.delivery.pack_replay import Replay, ReplayedStream, quantile
from runtime.core.delivery.pack_trial import PackTrial
from runtime.core.delivery.packing import PackRule
from runtime.core.message import StoredMessage, StreamName
from runtime.errors import UsageError
from runtime.settings import Settings

MOST_MESSAGES = 100_000
"""The oldest ones are replayed: it takes half a minute on a small machine."""
PAGE, PAGE_BYTES = 500, 4_194_304
CANNOT = 0.5
"""A stream cannot pack where more than this share of its messages must go alone."""


@dataclass(frozen=True, slots=True)
class TrialReport:
    """The stored messages under the rules of now, and under those that are tried."""

    now: dict[str, ReplayedStream]
    tried: dict[str, ReplayedStream]
    stored: int
    """Messages in the store: not all may have been replayed."""
    span_s: float
    """Time over which the replayed ones came."""

    @property
    def messages(self) -> int:
        return sum(stream.messages for stream in self.now.values())

    @property
    def units(self) -> tuple[int, int]:
        """Now, and tried."""
        sums = [sum(stream.counts.units for stream in side.values()) for side in (self.now, self.tried)]
        return sums[0], sums[1]

    def waits_s(self, share: float) -> tuple[float, float]:
        """The wait that this share of the messages does not exceed, now and tried."""
        now, tried = (
            quantile([wait_s for stream in side.values() for wait_s in stream.waits_s], share)
            for side in (self.now, self.tried)
        )
        return now, tried

    def cannot(self) -> dict[str, str]:
        """The streams of which most messages must go alone, with the reason of most of them."""
        return {
            name: stream.alone.most_common(1)[0][0]
            for name, stream in self.tried.items()
            if stream.alone.total() > CANNOT * stream.messages
        }

    def as_record(self) -> dict[str, Any]:
        """The report as JSON shows it."""
        p50, p99 = self.waits_s(0.5), self.waits_s(0.99)
        return {
            "messages": self.messages,
            "stored": self.stored,
            "span_s": round(self.span_s, 1),
            "units": {"now": self.units[0], "tried": self.units[1]},
            "p50_s": {"now": round(p50[0], 3), "tried": round(p50[1], 3)},
            "p99_s": {"now": round(p99[0], 3), "tried": round(p99[1], 3)},
            "cannot": self.cannot(),
            "streams": [self._stream(name) for name in self.by_units()],
        }

    def by_units(self) -> list[str]:
        """The streams, those that cost most first."""
        return sorted(self.now, key=lambda name: (-self.now[name].counts.units, name))

    def _stream(self, name: str) -> dict[str, Any]:
        now, tried = self.now[name], self.tried[name]
        return {
            "stream": name,
            "messages": now.messages,
            "units": {"now": now.counts.units, "tried": tried.counts.units},
            "sends": {"now": now.counts.sends, "tried": tried.counts.sends},
            "bytes": {"now": now.counts.bytes, "tried": tried.counts.bytes},
            "p99_s": {
                "now": round(quantile(now.waits_s, 0.99), 3),
                "tried": round(quantile(tried.waits_s, 0.99), 3),
            },
            "alone": dict(tried.alone),
        }


def try_out(path: Path, settings: Settings, trial: PackTrial) -> TrialReport:
    """Replay what the store at this path holds. Raises Retryable where it cannot be read, UsageError."""
    if trial.compression not in (None, Compression.NONE) and not has_brotli():
        raise UsageError("--try compression: the extra [compress] is not installed here")
    per_day = settings.link.units_per_day
    now = Replay(per_day)
    tried = Replay(per_day if trial.units_per_day is None else trial.units_per_day)
    clock = _StoredTimes()
    with closing(StoreReader(path)) as reader:
        for message in _stored(reader):
            at_s = clock.of(message)
            now.store(message, at_s, *_rules(settings, message.name, PackTrial()))
            tried.store(message, at_s, *_rules(settings, message.name, trial))
        stored = reader.backlog().messages
    now.finish()
    tried.finish()
    return TrialReport(now.streams, tried.streams, stored, clock.span_s)


def _stored(reader: StoreReader) -> Iterator[StoredMessage]:
    after, left = 0, MOST_MESSAGES
    while left and (page := reader.after(after, min(PAGE, left), PAGE_BYTES)):
        yield from (message for message in page if isinstance(message, StoredMessage))
        after, left = page[-1].id, left - len(page)


def _rules(settings: Settings, name: StreamName, trial: PackTrial) -> tuple[Packing, PackRule]:
    """The rules of a stream: what is tried, and else what its settings say."""
    stream, upload = settings.of_stream(name), settings.upload
    compression = stream.compression if trial.compression is None else trial.compression
    compression = compression if has_brotli() else Compression.NONE
    rule = PackRule(
        stream.pack if trial.format is None else trial.format,
        stream.linger_s if trial.linger_s is None else trial.linger_s,
        stream.pack_units if trial.units is None else trial.units,
        stream.pack_message_id,
        compression,
        stream.fold_completion,
    )
    return Packing(compression, stream.chunk_bytes, upload.file_from_units, upload.site_id), rule


class _StoredTimes:
    """The times of storing on one line that never goes back, over reboots and clocks that were set."""

    def __init__(self) -> None:
        self.span_s = 0.0
        self._before: StoredMessage | None = None

    def of(self, message: StoredMessage) -> float:
        before, self._before = self._before, message
        if before is None:
            return 0.0
        if before.stored_boot_id == message.stored_boot_id:
            later_s = message.stored_boot_s - before.stored_boot_s
        elif before.stored_wall_s is not None and message.stored_wall_s is not None:
            later_s = message.stored_wall_s - before.stored_wall_s
        else:
            later_s = 0.0  # no clock knows for how long the device was off
        self.span_s += max(0.0, later_s)
        return self.span_s
