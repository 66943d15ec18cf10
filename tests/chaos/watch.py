"""Once a second: who runs, how large, with how many threads and descriptors; does anybody run twice."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.scene import PROGRAMS

EVERY_S = 1.0
WARM_S = 20.0
"""Caches and the first backlog are not a leak. Nor is what is imported late: a process is warm so long after
the last library that it has mapped (the first call to the platform of a worker's life takes 8.5 MiB)."""
JUDGED_FROM_S = 60.0
"""A life shorter than this after its warm-up says nothing about leaks."""
LONG_LIFE_S = 600.0
"""From here on the growth alone tells: 10 KiB a minute are 14 MB a day, and too flat a slope for minutes."""
MOST_BYTES = 120 * 1024 * 1024
MOST_GROWTH_BYTES_PER_MIN = 1024 * 1024
LEAST_GROWTH_BYTES = 6 * 1024 * 1024
"""Steeper, and more in all, is a leak; in a long life more in all is enough."""
MOST_MORE_THREADS, MOST_MORE_DESCRIPTORS = 4, 12


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    memory_bytes: int
    threads: int
    descriptors: int
    libraries: int = 0
    """Shared objects that it has mapped: one more is an import."""


@dataclass
class Watch:
    """A thread that looks at the processes of one home."""

    home: Path
    lives: dict[tuple[str, int], list[Sample]] = field(default_factory=lambda: defaultdict(list))
    doubles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join(10)

    def _look_on(self) -> None:
        while not self._over.wait(EVERY_S):
            there = processes(self.home)
            for name, count in Counter(there.values()).items():
                if count > 1 and name in PROGRAMS:
                    self.doubles.append(f"{name} ran {count} times at once")
            for pid, name in there.items():
                if sample := _sample(pid):
                    self.lives[name, pid].append(sample)

    def wrong(self) -> list[str]:
        """Doubles, leaks, and whoever is too large."""
        found = sorted(set(self.doubles))
        for (name, pid), samples in self.lives.items():
            found += [f"{name} ({pid}) {trouble}" for trouble in _troubles(samples)]
        return found

    def summary(self) -> dict[str, dict[str, float]]:
        """By program: its lives, the largest it was, and the slope of its longest life."""
        names = sorted({name for name, _ in self.lives})
        return {name: self._summary([s for (n, _), s in self.lives.items() if n == name]) for name in names}

    @staticmethod
    def _summary(lives: list[list[Sample]]) -> dict[str, float]:
        longest = max(lives, key=lambda samples: samples[-1].at_s - samples[0].at_s)
        warm = _warm(longest)
        return {
            "lives": len(lives),
            "longest_life_s": round(longest[-1].at_s - longest[0].at_s),
            "most_mib": round(max(s.memory_bytes for samples in lives for s in samples) / 2**20, 1),
            "growth_kib_per_min": round(slope_per_s(warm) * 60 / 1024, 1),
            "most_threads": max(s.threads for samples in lives for s in samples),
            "most_descriptors": max(s.descriptors for samples in lives for s in samples),
        }


def _troubles(samples: list[Sample]) -> list[str]:
    found = []
    most = max(s.memory_bytes for s in samples)
    if most > MOST_BYTES:
        found.append(f"took {most >> 20} MiB")
    warm = _warm(samples)
    if not warm or warm[-1].at_s - warm[0].at_s < JUDGED_FROM_S:
        return found
    lived_s, grew_per_s = warm[-1].at_s - warm[0].at_s, slope_per_s(warm)
    steep = grew_per_s * 60 > MOST_GROWTH_BYTES_PER_MIN or lived_s > LONG_LIFE_S
    if steep and grew_per_s * lived_s > LEAST_GROWTH_BYTES and _goes_on(warm):
        found.append(f"grew by {grew_per_s * lived_s / 2**20:.1f} MiB in {lived_s / 60:.1f} minutes")
    third = len(warm) // 3
    for what, most_more in (("threads", MOST_MORE_THREADS), ("descriptors", MOST_MORE_DESCRIPTORS)):
        first = max(getattr(s, what) for s in warm[:third])
        last = min(getattr(s, what) for s in warm[-third:])
        if last > first + most_more:
            found.append(f"had {first} {what} at first, and {last} in the end")
    return found


def _warm(samples: list[Sample]) -> list[Sample]:
    pairs = itertools.pairwise(samples)
    imported_s = [later.at_s for earlier, later in pairs if later.libraries > earlier.libraries]
    return [s for s in samples if s.at_s >= max([samples[0].at_s, *imported_s]) + WARM_S]


def _goes_on(warm: list[Sample]) -> bool:
    """Whether both halves of a life take part in its growth: what is taken once is no leak."""
    middle = len(warm) // 2
    halves = warm[:middle], warm[middle:]
    return all(slope_per_s(half) * (half[-1].at_s - half[0].at_s) > LEAST_GROWTH_BYTES / 8 for half in halves)


def slope_per_s(samples: list[Sample]) -> float:
    """Least squares through the memory of one life, in bytes a second."""
    if len(samples) < 2:
        return 0.0
    middle_s = sum(s.at_s for s in samples) / len(samples)
    mean = sum(s.memory_bytes for s in samples) / len(samples)
    over = sum((s.at_s - middle_s) * (s.memory_bytes - mean) for s in samples)
    under = sum((s.at_s - middle_s) ** 2 for s in samples)
    return over / under if under else 0.0


def processes(home: Path) -> dict[int, str]:
    """Every live process that belongs to this home, and what it is: a program, or its command."""
    mark = f"EDGE_HOME={home}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().split(b"\0")
            if b"python" not in command[0] or int(folder.name) == os.getpid():
                continue
            ours = mark in (folder / "environ").read_bytes().split(b"\0") or str(home).encode() in command
            if ours:
                found[int(folder.name)] = _name(command)
    return found


def _name(command: list[bytes]) -> str:
    words = [word.decode(errors="replace") for word in command if word]
    if "worker" in words:
        return words[words.index("worker") + 1]
    return "supervisord" if "runtime.adapters.supervisor.main" in words else " ".join(words[1:4])


def _sample(pid: int) -> Sample | None:
    memory = threads = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                memory = int(line.split()[1]) * 1024
            elif line.startswith("Threads:"):
                threads = int(line.split()[1])
        descriptors = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
        mapped = {line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()}
        libraries = sum(".so" in path for path in mapped)
        return Sample(time.monotonic(), memory, threads, descriptors, libraries)
    except (OSError, ValueError):
        return None
