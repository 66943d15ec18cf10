"""Large payloads that a producer names instead of sending: taken from the drop folder into our own.

A producer writes a file into the drop folder, syncs it, and sends its name (`"file": "clip.mp4"`) under a
key. Before the acknowledgement the file is renamed into the spool, which nobody else may enter, and looked at
there: what it is can then no longer change. Links, devices, files with a second name and files of strangers
go back, and so does every file of a request that is refused, or whose commit found no room: its key may come
again with another one. The name in the spool comes from the message's key, so a request that is sent again
finds its file. It counts in the limits with its size, and leaves after the commit that drops its message.

A file that no message names is a *stray*: we died between taking it and the commit, or upload between the
delivery and the removal. Strays that were there at the start go, but late: the producer of the first kind has
no acknowledgement, sends its request again, and must find its file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from loguru import logger

from runtime.core.spooling import spool_name

STRAY_S = 3_600.0
"""A producer without an acknowledgement sends again long before, however late it is started itself."""


class Spool:
    """The folder and its door."""

    def __init__(self, folder: Path, drop_folder: Path | None) -> None:
        self._folder = folder
        self._drop_folder = drop_folder
        self._taken: list[tuple[str, Path]] = []
        """Since the last commit: under which names, and where to."""
        self._tidy_s: float | None = None
        if drop_folder is not None:
            folder.mkdir(mode=0o700, exist_ok=True)
        self._old = {path.name for path in folder.iterdir()} if folder.exists() else set()

    def take(self, wanted: Sequence[tuple[str, str]]) -> str | None:
        """Take the files `wanted`, each (name, key of its message): all of them, on disk when this returns.

        Or none, and it returns why. `settle` says what came of the commit.
        """
        if self._drop_folder is None:
            return "no drop folder is configured (ingest.drop_folder)"
        before = len(self._taken)
        for name, key in wanted:
            wrong = self._take(self._drop_folder, name, self._folder / spool_name(key))
            if wrong is not None:
                self._give_back(before)
                return f"file {name}: {wrong}"
        return None

    def weigh(self, name: str, key: str) -> int:
        """Bytes of the file `name` of the message with this key; 0 where there is none that will be taken."""
        for place in (self._folder / spool_name(key), self._drop_folder and self._drop_folder / name):
            with contextlib.suppress(OSError):
                if place and stat.S_ISREG((found := place.lstat()).st_mode):
                    return found.st_size
        return 0

    def settle(self, *, stored: bool) -> None:
        """Whether what was taken since the last commit is stored, or may be."""
        if not stored:
            self._give_back(0)
        self._taken.clear()

    def _take(self, drop_folder: Path, name: str, place: Path) -> str | None:
        try:
            source = os.open(drop_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            return f"the drop folder cannot be opened: {exc.strerror}"
        try:
            if not os.path.lexists(place):  # else taken before, and the acknowledgement was lost
                os.rename(name, place, src_dir_fd=source)
                self._taken.append((name, place))
            return self._wrong(place, os.fstat(source).st_uid)
        except OSError as exc:
            if exc.errno == errno.EXDEV:
                return "the drop folder must be on the same file system as the runtime's state"
            return exc.strerror
        finally:
            os.close(source)

    def _give_back(self, start: int) -> None:
        """All but the first `start`. What cannot go back is a stray."""
        for name, place in self._taken[start:]:
            assert self._drop_folder is not None  # or nothing would have been taken
            with contextlib.suppress(OSError):
                if os.path.lexists(self._drop_folder / name):
                    place.unlink()  # the producer has written it anew, which would have been its end
                else:
                    place.rename(self._drop_folder / name)
        del self._taken[start:]

    def remove(self, names: Iterable[str]) -> None:
        """Files of messages that gave way: the commit that removed those is on disk."""
        for name in names:
            with contextlib.suppress(OSError):  # upload may have done it; else it is a stray
                (self._folder / name).unlink()

    def tidy(self, now_s: float, named: Callable[[set[str]], set[str]]) -> None:
        """Once, `STRAY_S` after the first call: remove what was here at the start and no message names."""
        if self._tidy_s is None:
            self._tidy_s = now_s + STRAY_S
        if not self._old or now_s < self._tidy_s:
            return
        strays = self._old - named(self._old)
        self._old = set()
        for name in strays:
            with contextlib.suppress(FileNotFoundError):
                (self._folder / name).unlink()
                logger.warning("removed a file that no message names: {}", name)

    def _wrong(self, place: Path, drop_owner: int) -> str | None:
        """Why a file that lies in the spool may not stay; else it is synced."""
        found = place.lstat()
        if not stat.S_ISREG(found.st_mode):
            return "not a regular file"
        if found.st_nlink != 1:
            return "the file has another name somewhere"
        if found.st_uid not in (drop_owner, os.geteuid()):
            return "the file belongs neither to the owner of the drop folder nor to us"
        try:
            for path in (place, self._folder):
                _sync(path)
        except OSError as exc:
            return f"the file cannot be read and synced: {exc.strerror}"
        return None


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
