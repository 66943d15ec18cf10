"""Rates that the sentinel observes at its looks: of the store, of the disk, of what is written and sent."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runtime.adapters.process.process import written_bytes
from runtime.adapters.process.status_file import read_status
from runtime.core.operations.runway import SETTLE_S, RateMeter, Rates, growth
from runtime.layout import Layout


class ObservedRates:
    """The meters. What cannot be read at a look is passed over."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._meters = {
            "store_messages": RateMeter(counts=False),
            "store_bytes": RateMeter(counts=False),
            "disk_used_bytes": RateMeter(counts=False, settle_s=SETTLE_S),
            "written_bytes": RateMeter(counts=True, settle_s=SETTLE_S),
            "sent_messages": RateMeter(counts=True),
            "sent_bytes": RateMeter(counts=True),
            "units": RateMeter(counts=True),
        }
        self._written: dict[int, int] = {}
        """Bytes that each process has handed to the disk, at the last look."""
        self._written_bytes = 0

    def look(self, now_s: float, pids: Iterable[int]) -> dict[str, Any]:
        """Take in one look. Returns the figures of the status: `rates`, and each growth by its own key."""
        for name, value in self._values(pids).items():
            if value is not None:
                self._meters[name].observe(now_s, value)
        rates = {name: meter.rates() for name, meter in self._meters.items()}
        return {
            "disk_growth_bytes_per_s": growth(rates["disk_used_bytes"]),
            "store_growth_messages_per_s": growth(rates["store_messages"]),
            "store_growth_bytes_per_s": growth(rates["store_bytes"]),
            "rates": {name: _rounded(found) for name, found in rates.items()},
        }

    def _values(self, pids: Iterable[int]) -> dict[str, float | None]:
        ingest = read_status(self._layout.status_file("ingest")) or {}
        upload = read_status(self._layout.status_file("upload")) or {}
        return {
            "store_messages": _whole(ingest.get("messages")),
            "store_bytes": _whole(ingest.get("bytes")),
            "disk_used_bytes": _used_bytes(self._layout.state),
            "written_bytes": self._written_in_all(pids),
            "sent_messages": _whole(upload.get("sent_today")),
            "sent_bytes": _whole(upload.get("bytes_today")),
            "units": _whole(upload.get("units_today")),
        }

    def _written_in_all(self, pids: Iterable[int]) -> float:
        """The bytes handed to the disk since the sentinel started, by processes that come and go."""
        now = {pid: written for pid in pids if (written := written_bytes(pid)) is not None}
        self._written_bytes += sum(written - self._written.get(pid, written) for pid, written in now.items())
        self._written = now
        return self._written_bytes


def _whole(value: object) -> float | None:
    return value if type(value) is int else None


def _used_bytes(folder: Path) -> float | None:
    try:
        return -shutil.disk_usage(folder).free
    except OSError:  # another program removed it; ingest makes it again
        return None


def _rounded(rates: Rates) -> list[float | None]:
    """Over minutes, and over an hour."""
    return [None if rate is None else round(rate, 3) for rate in (rates.short_per_s, rates.long_per_s)]
