"""Large payloads that a producer names instead of sending: moved from the drop folder into the spool.

A producer writes a file into the drop folder, closes and syncs it, and sends its name (`"file": "clip.mp4"`)
under a key. Before the acknowledgement the file is renamed into the spool, which only we may enter, and
examined there. Links, devices, files with a second name and files of other users go back, and so does every
file of a request that is refused, or whose commit found no room. The name in the spool comes from the
message's key and the file's name, so a request that is sent again finds its file, and another file under that
key is not taken for it. The file counts in the limits with its size, and leaves after the commit that drops
its message.

A producer that kept the file open can still write to it. The state of the file when it was taken is stored
with the message (`TakenFile`): `contradiction` says whether the file is still in that state.

Where the drop folder is a file system of its own, a file is copied, flushed, and removed there after the
commit; producers wait meanwhile.

Crash between taking and the commit: before a file is taken, a link `taking/SPOOL-NAME -> file's name` is on
disk, and it goes after the commit. At the next start, and where a commit is in doubt, the store is asked: a
file that no message names goes back to the drop folder, as the file of a request that was never acknowledged.

A file that no message names and no link knows is a *stray*: upload died between the delivery and the removal.
Strays that were there at the start are removed, but late.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from loguru import logger

from runtime.core.ingest.taken_files import HASHED_BYTES, NotTaken, TakenFile, WantedFile, spool_name
from runtime.core.log_events import LogEvent

STRAY_S = 3_600.0
REVIEW_AGAIN_S = 60.0
"""Time to the next attempt where the drop folder does not take its files back."""
PART = ".part"
COPY_BYTES = 4_194_304
FINAL = {
    *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EINVAL, errno.ENOTEMPTY, errno.EEXIST),
}
"""Errors of the file itself. All others may pass: no room, a failing disk, missing rights."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_OURS = re.compile(r"[0-9a-f]{40}")
_MOUNT = "mount"
"""A link in `taking`, to the drop folder: files were taken from it while it was a file system of its own."""

FilesNamed = Callable[[set[str]], set[str] | None]
"""Returns those of these files that messages name; None where the store cannot say it now."""


class _Untaken(Exception):
    """Ends the taking of one file; carries the reason."""

    def __init__(self, why: NotTaken) -> None:
        self.why = why


class Spool:
    """The spool folder, and the taking of files into it."""

    def __init__(
        self, folder: Path, drop_folder: Path | None, alive: Callable[[], None] = lambda: None
    ) -> None:
        """`alive` is called every now and then during long work."""
        self._folder = folder
        self._taking = folder.with_name("taking")
        self._drop_folder = drop_folder
        self._alive = alive
        self.copies = False
        """True if the drop folder is a file system of its own."""
        self._taken: list[tuple[str, Path]] = []
        """Files taken since the last commit: their names, and their paths in the spool."""
        self._review_s: float | None = -1.0
        """Time from which on the links in `taking` are to be reviewed; None: there is no reason to."""
        self._tidy_s: float | None = None
        with contextlib.suppress(OSError):  # the disk fails: tried again when a file comes
            self._make_folders()
        for name in _names(folder):
            if name.endswith(PART):  # left by a process that ended while it copied
                self.remove([name])
        self._old = {name for name in _names(folder) if _OURS.fullmatch(name)}

    def take(self, wanted: Sequence[WantedFile]) -> Sequence[TakenFile] | NotTaken:
        """Take the files `wanted`: all of them, on disk when this returns.

        Or none, and it returns why. `settle` says what came of the commit.
        """
        if self._drop_folder is None:
            return NotTaken("no drop folder is configured (ingest.drop_folder)")
        before = len(self._taken)
        try:
            self._make_folders()
            with _opened(self._drop_folder) as source:
                places = [(name, self._folder / spool_name(key, name)) for name, key in wanted]
                self._note(source, places)
                taken = [self._take(source, name, place) for name, place in places]
            _sync(self._folder)
        except _Untaken as untaken:
            self._give_back(before)
            return untaken.why
        except OSError as exc:
            self._give_back(before)
            return _not_taken(wanted[0][0], exc)
        return taken

    def size(self, name: str, key: str) -> int:
        """Size in bytes of the file `name` of the message with this key; 0 where no file would be taken."""
        places = [bytes(self._folder / spool_name(key, name))]
        if self._drop_folder is not None:
            places.insert(0, _in(self._drop_folder, name))  # the newest, if written again
        for place in places:
            with contextlib.suppress(OSError):
                if stat.S_ISREG((stats := os.lstat(place)).st_mode):
                    return stats.st_size
        return 0

    def settle(self, *, stored: bool | None) -> None:
        """Finish the files taken since the last commit: stored or not; None: in doubt, the store is asked."""
        if stored is None:
            self._review_s = -1.0 if self._taken else self._review_s
        elif stored:
            for name, place in self._taken:
                self._stored(name, place)
        else:
            self._give_back(0)
        self._taken.clear()

    def remove(self, names: Iterable[str]) -> None:
        """Remove files of messages that were dropped: the commit that removed those messages is on disk."""
        for name in names:
            with contextlib.suppress(OSError):  # upload may have removed it; else it is a stray
                (self._folder / name).unlink()

    def tidy(self, now_s: float, named: FilesNamed) -> None:
        """Called before every decision. Files taken but not stored go back; strays go, once and late."""
        if self._review_s is not None and now_s >= self._review_s:
            self._review(now_s, named)
        if self._tidy_s is None:
            self._tidy_s = now_s + STRAY_S
        if self._old and now_s >= self._tidy_s:
            self._tidy_s = now_s + STRAY_S
            self._remove_strays(named)

    # --- taking ---

    def _make_folders(self) -> None:
        if self._drop_folder is not None:
            for ours in (self._folder, self._taking):
                ours.mkdir(mode=0o700, exist_ok=True)

    def _note(self, source: int, places: Sequence[tuple[str, Path]]) -> None:
        """Record on disk, before anything is taken, the names under which the files would be given back."""
        for name, place in places:
            with contextlib.suppress(FileExistsError):
                os.symlink(name.encode(), bytes(self._taking / place.name))  # noqa: PTH211  # as bytes
        if os.stat("..", dir_fd=source).st_dev != os.fstat(source).st_dev:
            with contextlib.suppress(FileExistsError):
                (self._taking / _MOUNT).symlink_to(str(self._drop_folder))
        _sync(self._taking)

    def _take(self, source: int, name: str, place: Path) -> TakenFile:
        self._taken.append((name, place))
        try:
            self._move(source, name, place)
            return _examined(name, place, os.fstat(source).st_uid)
        except OSError as exc:
            if exc.errno == errno.ENOENT and self._is_unmounted(source):
                why = "its disk is not mounted"
                raise _Untaken(NotTaken(f"file {name}: the drop folder is empty: {why}", True)) from exc
            raise _Untaken(_not_taken(name, exc)) from exc

    def _move(self, source: int, name: str, place: Path) -> None:
        """Rename a file into the spool; none left to take: it was taken, and the acknowledgement lost."""
        try:
            # as bytes: whatever the locale can say
            os.rename(name.encode(), bytes(place), src_dir_fd=source)
            self.copies = False
        except FileNotFoundError:
            if not os.path.lexists(place):
                raise
        except OSError as exc:
            if exc.errno != errno.EXDEV:
                raise
            self.copies = True
            self._copy(source, name, place)

    def _copy(self, source: int, name: str, place: Path) -> None:
        """Copy the file from another file system; the original is removed after the commit."""
        fd = os.open(name.encode(), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=source)
        with os.fdopen(fd, "rb", buffering=0) as file:
            before = os.fstat(fd)
            _check(name, before, os.fstat(source).st_uid)
            part = place.with_name(place.name + PART)
            try:
                with part.open("wb", buffering=0) as copy:
                    while chunk := file.read(COPY_BYTES):
                        copy.write(chunk)
                        os.fsync(
                            copy.fileno()
                        )  # one flush at the end might take longer than we may be silent
                        self._alive()
                if _changed(before, os.fstat(fd)) or part.stat().st_size != before.st_size:
                    raise _Untaken(_still_written(name))
                os.utime(part, ns=(before.st_mtime_ns, before.st_mtime_ns))
                part.replace(place)
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def _is_unmounted(self, source: int) -> bool:
        """True if the drop folder was a file system of its own when files were taken, and is none now."""
        try:
            mounted = os.readlink(self._taking / _MOUNT) == str(self._drop_folder)  # noqa: PTH115
            return mounted and os.stat("..", dir_fd=source).st_dev == os.fstat(source).st_dev
        except OSError:
            return False

    # --- after the commit ---

    def _stored(self, name: str, place: Path) -> None:
        """A message names the file: remove its link, and the original that a copy was made of."""
        assert self._drop_folder is not None
        source = _in(self._drop_folder, name)
        with contextlib.suppress(OSError):
            if _is_copy(place, source):
                os.unlink(source)  # noqa: PTH108
        with contextlib.suppress(OSError):
            (self._taking / place.name).unlink()

    def _give_back(self, start: int) -> None:
        """Give back all files taken but the first `start`."""
        for name, place in self._taken[start:]:
            try:
                self._return(name, place)
            except OSError:
                self._review_s = -1.0
        del self._taken[start:]

    def _return(self, name: str, place: Path) -> None:
        """Move one file back. Raises OSError where the drop folder does not take it."""
        assert self._drop_folder is not None
        if os.path.lexists(place):
            target = _in(self._drop_folder, name)
            if os.path.lexists(target):
                place.unlink()  # a copy of it; or the producer wrote it again: a move would overwrite that
            else:
                _move_back(bytes(place), target)
                _sync(self._drop_folder)
            _sync(self._folder)
        (self._taking / place.name).unlink(missing_ok=True)

    def _review(self, now_s: float, named: FilesNamed) -> None:
        """After a crash, or where a commit is in doubt: files that no message names go back."""
        under_way = {place.name for _, place in self._taken}
        left = {name for name in _names(self._taking) - under_way if _OURS.fullmatch(name)}
        in_use = named(left) if left and self._drop_folder is not None else set()
        if in_use is None:
            return  # the store is not open; asked again before anything is decided
        self._review_s = None
        for spooled in left:
            place = self._folder / spooled
            try:
                name = os.readlink(bytes(self._taking / spooled)).decode()  # noqa: PTH115
                if spooled in in_use:
                    self._stored(name, place)
                elif self._drop_folder is not None:
                    self._return(name, place)
                    logger.info("a file of a request that was never acknowledged is back in the drop folder")
            except (OSError, ValueError) as exc:
                self._review_s = now_s + REVIEW_AGAIN_S
                logger.bind(event=LogEvent.FILE_NOT_GIVEN_BACK).warning(
                    "a file cannot go back to the drop folder: {}", ascii(str(exc))
                )

    def _remove_strays(self, named: FilesNamed) -> None:
        in_use = named(self._old)
        if in_use is None:
            return
        strays = self._old - in_use - _names(self._taking)
        self._old = set()
        for name in strays:
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()
                logger.bind(event=LogEvent.STRAY_FILE_REMOVED).warning(
                    "removed a file that no message names: {}", name
                )


def file_state(file: int) -> TakenFile:
    """The state of the open file `file` now. Raises OSError."""
    stats = os.fstat(file)
    digest = None
    if stats.st_size <= HASHED_BYTES:
        digest = hashlib.sha256(os.pread(file, HASHED_BYTES + 1, 0)).hexdigest()
    return TakenFile(stats.st_size, stats.st_mtime_ns, digest)


def _examined(name: str, place: Path, drop_owner: int) -> TakenFile:
    """State of a file in the spool, once it is on disk. Raises _Untaken where it may not stay, or OSError."""
    _check(name, place.lstat(), drop_owner)
    file = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        before = os.fstat(file)
        state = file_state(file)
        os.fsync(file)
        if _changed(before, os.fstat(file)):
            raise _Untaken(_still_written(name))
        return state
    finally:
        os.close(file)


def _check(name: str, stats: os.stat_result, drop_owner: int) -> None:
    wrong = None
    if not stat.S_ISREG(stats.st_mode):
        wrong = "not a regular file"
    elif stats.st_nlink != 1:
        wrong = "the file has another name somewhere"
    elif stats.st_uid not in (drop_owner, os.geteuid()):
        wrong = "the file belongs neither to the owner of the drop folder nor to us"
    if wrong:
        raise _Untaken(NotTaken(f"file {name}: {wrong}"))


def _changed(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_size, one.st_mtime_ns) != (other.st_size, other.st_mtime_ns)


def _is_copy(place: Path, source: bytes) -> bool:
    """True if both are equal, by hash too: some file systems keep times to two seconds. Raises OSError."""
    if _changed(os.lstat(source), place.lstat()):
        return False
    known = []
    for path in (bytes(place), source):
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            known.append(file_state(file))
        finally:
            os.close(file)
    return known[0] == known[1]


def _still_written(name: str) -> NotTaken:
    return NotTaken(f"file {name} is still being written to: close it, then send its name", passing=True)


def _not_taken(name: str, exc: OSError) -> NotTaken:
    full = exc.errno in NO_ROOM
    return NotTaken(f"file {name}: {exc.strerror}", passing=exc.errno not in FINAL, full=full)


@contextlib.contextmanager
def _opened(drop_folder: Path) -> Iterator[int]:
    try:
        source = os.open(drop_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise _Untaken(NotTaken(f"the drop folder cannot be opened: {exc.strerror}", passing=True)) from exc
    try:
        yield source
    finally:
        os.close(source)


def _move_back(place: bytes, target: bytes) -> None:
    try:
        os.rename(place, target)  # noqa: PTH104
    except OSError as exc:
        if exc.errno != errno.EXDEV:
            raise
        shutil.copy2(place, target, follow_symlinks=False)
        os.unlink(place)  # noqa: PTH108


def _in(folder: Path, name: str) -> bytes:
    return os.path.join(bytes(folder), name.encode())  # noqa: PTH118


def _names(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return set()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
