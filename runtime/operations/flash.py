"""The flash below the state folder: how much is written in a year, and what the device says of its life."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.status_file import last_record
from runtime.core.operations.diagnosis import Check
from runtime.core.operations.flash_wear import emmc_used_percent, judge_life, judge_writes, smart_used_percent
from runtime.core.operations.runway import a_day
from runtime.layout import Layout
from runtime.operations.runway_report import rates_of

SMARTCTL_S = 5.0
"""Longest time for smartctl: a disk that fails may not answer."""
MOST_LAYERS = 8
"""Devices that are followed from a partition or a mapping down to the disk."""
BLOCK_DEVICES = Path("/sys/dev/block")


def check_flash(layout: Layout, devices: Path = BLOCK_DEVICES) -> Iterator[Check]:
    """The yearly writes, and the life used where the kernel or the disk tells it."""
    place = next(p for p in (layout.state, *layout.state.parents) if p.exists())
    sentinel = last_record(layout.status_file("sentinel"), SystemClock().boot_id())
    bytes_a_day = a_day(rates_of(sentinel, "written_bytes"))
    yield judge_writes(bytes_a_day, shutil.disk_usage(place).total)
    number = place.stat().st_dev
    folder = devices / f"{os.major(number)}:{os.minor(number)}"
    for disk in sorted(set(_disks(folder.resolve()))):
        used_percent = _used_percent(disk)
        if used_percent is not None:
            yield judge_life(disk.name, used_percent)


def _disks(device: Path, layers: int = 0) -> Iterator[Path]:
    """The disks that a device lies on, by their folders in /sys: a mapping's parts, a partition's disk."""
    if not device.is_dir() or layers > MOST_LAYERS:
        return
    below = list((device / "slaves").iterdir()) if (device / "slaves").is_dir() else []
    if (device / "partition").exists():
        yield from _disks(device.parent, layers + 1)
    elif below:
        for part in below:
            yield from _disks(part.resolve(), layers + 1)
    else:
        yield device


def _used_percent(disk: Path) -> int | None:
    card = disk / "device"
    if (card / "life_time").exists():
        return emmc_used_percent(_text(card / "life_time"), _text(card / "pre_eol_info"))
    return smart_used_percent(_smart(Path("/dev") / disk.name))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _smart(device: Path) -> dict[str, Any]:
    """The report of smartctl; empty where it is not installed, may not ask, or the disk has none."""
    command = shutil.which("smartctl")
    if command is None or not device.exists():
        return {}
    try:
        done = subprocess.run(
            [command, "-j", "-A", str(device)], capture_output=True, timeout=SMARTCTL_S, check=False
        )
        report = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError, RecursionError):
        return {}
    return report if isinstance(report, dict) else {}
