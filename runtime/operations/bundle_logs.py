"""The log lines of a support bundle: the newest of all programs, merged by time, as many as fit."""

from __future__ import annotations

import heapq
import json
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from runtime.adapters.process.clock import LocalZone
from runtime.adapters.process.log_files import files, lines_of, programs
from runtime.adapters.process.logs import redact
from runtime.core.operations.bundle_content import Redaction
from runtime.core.operations.log_lines import events

CHUNK_CHARACTERS = 131_072
_STAMP = '{"time": "'
"""The beginning of a line as a worker writes it under supervisord."""


@dataclass(frozen=True)
class LogExcerpt:
    """Log lines in the order of time, one JSON object each, packed in chunks."""

    chunks: tuple[tuple[float, int, bytes], ...] = ()
    """Time of its first line, number of lines, and compressed content; the oldest first."""
    cut: bool = False
    """True if there are older lines that were asked for."""
    size_bytes: int = 0
    """Size of the content."""
    trouble: str = ""

    @property
    def lines(self) -> int:
        return sum(count for _, count, _ in self.chunks)

    @property
    def first_s(self) -> float | None:
        """Unix time of the oldest line; None where there is none."""
        return self.chunks[0][0] if self.chunks else None

    def content(self) -> bytes:
        return b"".join(zlib.decompress(packed) for _, _, packed in self.chunks)

    def shortened(self) -> LogExcerpt:
        """The same without its oldest chunk."""
        kept = self.chunks[1:]
        size_bytes = sum(len(zlib.decompress(packed)) for _, _, packed in kept)
        return replace(self, chunks=kept, cut=True, size_bytes=size_bytes)


def newest_lines(
    folder: Path, redaction: Redaction, since_s: float, room_bytes: int, most_s: float
) -> LogExcerpt:
    """The newest lines since `since_s` that fit into `room_bytes` when packed, read within `most_s`."""
    try:
        names = programs(folder)
    except OSError as exc:
        return LogExcerpt(trouble=f"{folder} cannot be read: {exc.strerror}")
    chunks: list[tuple[float, int, bytes]] = []
    packed_bytes, size_bytes, cut = 0, 0, False
    until_s = time.monotonic() + most_s
    for lines in _chunks(_newest_first(folder, names, since_s)):
        if cut := time.monotonic() > until_s:
            break
        content = redaction.text("".join(f"{redact(line.text)}\n" for line in reversed(lines))).encode()
        packed = zlib.compress(content)
        if cut := packed_bytes + len(packed) > room_bytes:
            break
        chunks.append((lines[-1].time_s, len(lines), packed))
        packed_bytes += len(packed)
        size_bytes += len(content)
    return LogExcerpt(tuple(reversed(chunks)), cut, size_bytes)


class _Line(NamedTuple):
    time_s: float
    text: str
    """One JSON object."""


def _chunks(newest_first: Iterator[_Line]) -> Iterator[list[_Line]]:
    """Lines in chunks, the newest first."""
    lines: list[_Line] = []
    size = 0
    for line in newest_first:
        lines.append(line)
        size += len(line.text)
        if size >= CHUNK_CHARACTERS:
            yield lines
            lines, size = [], 0
    if lines:
        yield lines


def _newest_first(folder: Path, names: list[str], since_s: float) -> Iterator[_Line]:
    by_program = [_of_program(folder, name, since_s) for name in names]
    return heapq.merge(*by_program, key=itemgetter(0), reverse=True)


def _of_program(folder: Path, name: str, since_s: float) -> Iterator[_Line]:
    """The lines of one program, newest first; of its files no older one is read than is needed."""
    for path in files(folder, name):
        try:
            written_s = path.lstat().st_mtime
            if written_s < since_s:
                return
            read = list(_of_file(name, path, written_s))
        except FileNotFoundError:
            continue
        except OSError:  # no regular file, or not ours to read
            continue
        yield from (line for line in reversed(read) if line.time_s >= since_s)


def _of_file(name: str, path: Path, written_s: float) -> Iterator[_Line]:
    """The lines of one file, as JSON objects. A worker's own line is taken as it is, which is faster."""
    others: list[str] = []
    time_s = written_s
    for line in lines_of(path, clean=False):
        stamped_s = _stamp_s(line)
        if stamped_s is None:
            others.append(line)
            continue
        yield from _in_json(name, others, time_s)
        others, time_s = [], stamped_s
        yield _Line(time_s, line)
    yield from _in_json(name, others, time_s)


def _in_json(name: str, lines: list[str], before_s: float) -> Iterator[_Line]:
    """Lines that are no worker's: those of supervisord, and tracebacks."""
    for event in events(name, lines, before_s, LocalZone()):
        yield _Line(event.time_s, json.dumps(event.as_record()))


def _stamp_s(line: str) -> float | None:
    """Unix time of a worker's own line; None for any other, and for one that was cut."""
    if not (line.startswith(_STAMP) and line.endswith("}")):
        return None
    try:
        return datetime.fromisoformat(line[len(_STAMP) : line.index('"', len(_STAMP))]).timestamp()
    except (ValueError, OverflowError):
        return None
