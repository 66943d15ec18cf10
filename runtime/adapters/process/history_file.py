"""History file: figures of the last day in run/, a JSON object a line. Its loss costs a curve, no more."""

from __future__ import annotations

import contextlib
import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MOST_POINTS = 1_440
"""A day of minutes."""


class HistoryFile:
    """The points, in memory and on disk. One writer; what cannot be written is kept in memory only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._points: deque[dict[str, Any]] = deque(_read(path), maxlen=MOST_POINTS)
        self._lines = len(self._points)

    def add(self, point: Mapping[str, Any]) -> None:
        """Add the newest point. The file is written again once it holds two days."""
        self._points.append(dict(point))
        self._lines += 1
        with contextlib.suppress(OSError):
            if self._lines > 2 * MOST_POINTS:
                self._rewrite()
            else:
                with self._path.open("a") as file:
                    file.write(json.dumps(point) + "\n")

    def points(self) -> list[dict[str, Any]]:
        """The points of a day, oldest first. May be called from another thread than `add`."""
        return list(self._points)

    def _rewrite(self) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text("".join(json.dumps(point) + "\n" for point in self._points))
        fresh.replace(self._path)
        self._lines = len(self._points)


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    points = []
    for line in lines:
        with contextlib.suppress(ValueError, RecursionError):
            point = json.loads(line)
            if isinstance(point, dict):
                points.append(point)
    return points
