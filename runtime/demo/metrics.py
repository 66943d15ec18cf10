"""This Linux machine's metrics, read from /proc and /sys. Missing ones are left out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

Reading = dict[str, float]


def read(root: Path = Path("/")) -> dict[str, Reading]:
    """One reading of all metrics, by stream: cpu, memory, disk, network, temperature."""
    sources: dict[str, Callable[[Path], Reading]] = {
        "cpu": _cpu,
        "memory": _memory,
        "disk": _disk,
        "network": _network,
        "temperature": _temperatures,
    }
    readings = {}
    for stream, source in sources.items():
        try:
            reading = source(root)
        except (OSError, ValueError, IndexError):
            continue  # a container may hide any of these
        if reading:
            readings[stream] = reading
    return readings


def _cpu(root: Path) -> Reading:
    ticks = os.sysconf("SC_CLK_TCK")
    fields = (root / "proc/stat").read_text().splitlines()[0].split()[1:]
    names = ("user_s", "nice_s", "system_s", "idle_s", "iowait_s")
    load_1min = float((root / "proc/loadavg").read_text().split()[0])
    seconds = {name: int(value) / ticks for name, value in zip(names, fields, strict=False)}
    return {"load_1min": load_1min, **seconds}


def _memory(root: Path) -> Reading:
    lines = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
    bytes_by_name = {fields[0].rstrip(":"): int(fields[1]) * 1024 for fields in lines}
    return {
        "total_bytes": bytes_by_name["MemTotal"],
        "available_bytes": bytes_by_name.get("MemAvailable", bytes_by_name["MemFree"]),
    }


def _disk(root: Path) -> Reading:
    facts = os.statvfs(root)
    return {"total_bytes": facts.f_blocks * facts.f_frsize, "free_bytes": facts.f_bavail * facts.f_frsize}


def _network(root: Path) -> Reading:
    readings = {}
    for line in (root / "proc/net/dev").read_text().splitlines()[2:]:
        name, _, counters = line.partition(":")
        fields = counters.split()
        readings[f"{name.strip()}_received_bytes"] = float(fields[0])
        readings[f"{name.strip()}_sent_bytes"] = float(fields[8])
    return readings


def _temperatures(root: Path) -> Reading:
    zones = sorted((root / "sys/class/thermal").glob("thermal_zone*/temp"))
    return {f"{zone.parent.name}_celsius": int(zone.read_text()) / 1000 for zone in zones}
