"""Wear: what reaches the disk by its own count, with one message of 200 B a second and with none.

Where root and a loop device are there, the home lies on an ext4 of its own (noatime), and the kernel counts
its sectors and flushes: journal and metadata included. Elsewhere /proc/PID/io counts what each process hands
on, and the rows say so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from runtime.bench import FigureRow
from runtime.bench.limits import PAYLOAD
from runtime.bench.upload import Rig
from runtime.bench.whole import flush_file_system, used, whole
from runtime.config import load
from runtime.producer import Producer

SECTOR_BYTES = 512
IMAGE_MB = 512
_SECTORS_WRITTEN, _FLUSHES = 6, 15  # Documentation/admin-guide/iostats.rst, from 0


class WrittenSoFar(NamedTuple):
    """What was written so far. `flushes` is None where only processes are counted."""

    kib: float
    flushes: int | None


class MeasuredPlace:
    """A folder, and a way to count what is written there."""

    def __init__(self, folder: Path, stat: Path | None) -> None:
        self.folder = folder
        self._stat = stat
        self.processes: list[int] = []

    @property
    def suffix(self) -> str:
        return "" if self._stat else " (by /proc/PID/io)"

    def written(self) -> WrittenSoFar:
        """What was written so far; the kernel holds nothing back."""
        flush_file_system(self.folder)
        if self._stat is None:
            return WrittenSoFar(used(self.processes).written_bytes / 1024, None)
        fields = self._stat.read_text().split()
        flushes = int(fields[_FLUSHES]) if len(fields) > _FLUSHES else None
        return WrittenSoFar(int(fields[_SECTORS_WRITTEN]) * SECTOR_BYTES / 1024, flushes)


def measure(quick: bool) -> list[FigureRow]:
    """The table of wear's figures."""
    seconds = 10.0 if quick else 45.0
    with _place() as place:
        place.processes = [os.getpid()]
        with _commits(place.folder) as commit:
            bare = _rates(place, seconds, commit)
        with Rig(home=place.folder / "home") as rig, whole(rig) as place.processes:
            idle = _rates(place, seconds, lambda: None)
            endpoint = load({}, home=rig.layout.home).producer_endpoint()
            with Producer(endpoint, retry_for_s=30) as producer:
                send = lambda: producer.put(PAYLOAD, stream="bench")  # noqa: E731
                delivered = _rates(place, seconds, send)
                rig.hub_up(up=False)
                away = _rates(place, seconds, send)
    suffix = place.suffix
    rows = [
        FigureRow(f"idle{suffix}", idle.kib, "KiB/s", reach="<= 0.2"),
        _against(f"one message a second, delivered{suffix}", delivered, bare, "<= 1.4"),
        _against(f"one message a second, hub away{suffix}", away, bare, "<= 1.3"),
    ]
    if delivered.flushes is not None:
        name = "one message a second, delivered: flushes"
        rows.append(FigureRow(name, delivered.flushes, "1/s", reach="<= 1.5"))
    return rows


class _WearRates(NamedTuple):
    kib: float
    flushes: float | None


def _against(name: str, ours: _WearRates, bare: _WearRates, reach: str) -> FigureRow:
    share = ours.kib / bare.kib if bare.kib else None
    return FigureRow(f"{name}, against a bare commit a second", ours.kib, "KiB/s", bare.kib, share, reach)


def _rates(place: MeasuredPlace, seconds: float, step: Callable[[], object]) -> _WearRates:
    """What is written in a second while `step` is done once a second."""
    step()  # what the first one makes is made
    before, began_s = place.written(), time.monotonic()
    for number in range(int(seconds)):
        time.sleep(max(0.0, began_s + number + 1 - time.monotonic()))
        step()
    after = place.written()
    took_s = time.monotonic() - began_s
    flushes = None
    if after.flushes is not None and before.flushes is not None:
        flushes = (after.flushes - before.flushes) / took_s
    return _WearRates((after.kib - before.kib) / took_s, flushes)


@contextlib.contextmanager
def _commits(folder: Path) -> Iterator[Callable[[], object]]:
    """A bare commit of one row, WAL and FULL, in a log that has its size already."""
    db = sqlite3.connect(folder / "bare.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE messages (id INTEGER PRIMARY KEY, payload BLOB NOT NULL)")
    with (folder / "bare.db-wal").open("r+b") as log:
        log.seek(0, os.SEEK_END)
        for _ in range(1_024):
            log.write(bytes(4_096))
        os.fsync(log.fileno())
    try:
        yield lambda: db.execute("INSERT INTO messages (payload) VALUES (?)", (PAYLOAD,))
    finally:
        db.close()


@contextlib.contextmanager
def _place() -> Iterator[MeasuredPlace]:
    """An ext4 on a loop device, else a folder for temporary files."""
    folder = Path(tempfile.mkdtemp(prefix="wear-"))
    mounted = folder / "disk"
    mounted.mkdir()
    try:
        if _mount(folder / "image", mounted):
            device = mounted.stat().st_dev
            stat = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
            yield MeasuredPlace(mounted, stat if stat.exists() else None)
        else:
            yield MeasuredPlace(mounted, None)
    finally:
        subprocess.run(["umount", str(mounted)], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _mount(image: Path, mounted: Path) -> bool:
    """True if an ext4 of its own is mounted there now."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("mkfs.ext4", "mount"))):
        return False
    with image.open("wb") as file:
        file.truncate(IMAGE_MB * 1024 * 1024)
    make = ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)]
    mount = ["mount", "-o", "loop,noatime", str(image), str(mounted)]
    return all(
        subprocess.run(words, capture_output=True, check=False).returncode == 0 for words in (make, mount)
    )
