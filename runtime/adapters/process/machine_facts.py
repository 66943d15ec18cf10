"""Facts about the machine for a support bundle: kernel, clock, disk, memory, and the files of a home."""

from __future__ import annotations

import os
import platform
import sqlite3
import ssl
import stat
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from runtime import __version__
from runtime.adapters.process.clock import Clock
from runtime.layout import Layout

MOST_FILES = 2_000
"""Files of a home that are listed."""
MOST_READ_BYTES = 4_096
"""Bytes of a file in /proc or /etc that are read."""
_MEMORY = ("MemTotal", "MemAvailable", "SwapTotal", "SwapFree", "Dirty")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


def machine_facts(layout: Layout, clock: Clock, environ: Mapping[str, str]) -> dict[str, Any]:
    """Everything about the machine that needs no right of its own, and changes nothing."""
    return {
        "kernel": " ".join(os.uname()),
        "system": _system(),
        "clock": _clock(clock),
        "memory": _memory(),
        "load": list(os.getloadavg()),
        "cpus": os.cpu_count(),
        "disks": {name: _disk(path) for name, path in _folders(layout).items()},
        "files": _files(layout),
        "user": {"uid": os.geteuid(), "gid": os.getegid()},
        "environment": sorted(
            name for name in environ if name.startswith("EDGE_") or name.lower() in _PROXIES
        ),
    }


def versions() -> dict[str, Any]:
    """Versions of the runtime, of its interpreter and of every package beside it."""
    packages = {found.name: found.version for found in metadata.distributions() if found.name}
    return {
        "runtime": __version__,
        "python": sys.version,
        "machine": platform.machine(),
        "sqlite": sqlite3.sqlite_version,
        "openssl": ssl.OPENSSL_VERSION,
        "packages": dict(sorted(packages.items(), key=lambda pair: str(pair[0]).lower())),
    }


def _clock(clock: Clock) -> dict[str, Any]:
    wall_s = clock.wall_s()
    return {
        "time": datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds"),
        "zone": time.strftime("%Z %z"),
        "boot_s": round(clock.boot_s(), 1),
        "boot_id": clock.boot_id(),
        "synchronised": clock.synchronised(),
    }


def _system() -> str:
    for line in _read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return ""


def _memory() -> dict[str, str]:
    pairs = (line.partition(":")[::2] for line in _read("/proc/meminfo").splitlines())
    return {name: value.strip() for name, value in pairs if name in _MEMORY}


def _folders(layout: Layout) -> dict[str, Path]:
    return {"home": layout.home, "state": layout.state, "run": layout.run, "log": layout.log}


def _disk(path: Path) -> dict[str, Any]:
    try:
        disk = os.statvfs(path)
    except OSError as exc:
        return {"trouble": str(exc.strerror)}
    return {
        "device": path.stat().st_dev,
        "free_bytes": disk.f_bavail * disk.f_frsize,
        "total_bytes": disk.f_blocks * disk.f_frsize,
        "free_inodes": disk.f_favail,
        "inodes": disk.f_files,
        "read_only": bool(disk.f_flag & os.ST_RDONLY),
    }


def _files(layout: Layout) -> list[dict[str, Any]]:
    """Name, size, mode, owner and age of the files in the home's folders; never their content."""
    listed: list[dict[str, Any]] = []
    for folder in (layout.home, layout.state, layout.run, layout.log):
        with suppress(OSError):
            paths = sorted(folder.iterdir())[: MOST_FILES - len(listed)]
            listed += [_file(path, layout.home) for path in paths]
    return listed


def _file(path: Path, home: Path) -> dict[str, Any]:
    name = str(path.relative_to(home))
    try:
        status = path.lstat()
    except OSError as exc:
        return {"name": name, "trouble": str(exc.strerror)}
    return {
        "name": name,
        "bytes": status.st_size,
        "mode": stat.filemode(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "age_s": round(time.time() - status.st_mtime),
    }


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return file.read(MOST_READ_BYTES).decode(errors="replace")
    except OSError:
        return ""
