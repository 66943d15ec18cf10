"""run/ is volatile: sockets and status files live on a tmpfs, where they never wear the flash.

Invariants
    `run` in the home is a link to a folder on the first of these that is there: systemd's RuntimeDirectory,
    the user's runtime folder, /dev/shm. Every path stays as it was. Where none is there `run` is a folder.
    The target belongs to this user alone (0700), and so does the folder that it is made in: no other user
    could have put a link or a file there. A link that an operator made to such a folder stays.
    Nothing in it is needed after a reboot. At the start of a runtime it is emptied, but for KEPT.
    A target that is gone is made again, by each process that misses it.

    A folder is of one home: a copy of the home, which brings the link along, gets another one.

Considered and left: a name made of the home's path. Two containers may share /dev/shm, and have the same
path, and the same user.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

KEPT = ("sentinel.status", "link.json", "history.jsonl")
"""Files that outlive a restart of the runtime: the limits of the sentinel's ladder, what was sent, the curve
of the day. After a power cut they are missed by nothing."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 a folder of this user alone is used in it
LEFT_BEHIND_S = 3_600.0
"""A folder that did not change for so long is of no running runtime: its sentinel marks it at each look."""
NO_TMPFS = "no tmpfs that is this user's alone (RuntimeDirectory of systemd, XDG_RUNTIME_DIR, /dev/shm)"
_PREFIX = "run-"
_OF = "home"
"""File that names the home of a folder, by device and inode."""
_VOLATILE = ("tmpfs", "ramfs")


def prepare(run: Path) -> str:
    """Have an empty run/ for a runtime that starts here: the caller holds its lock. Returns the reason why it
    is not volatile, empty where it is. Raises OSError where there can be none at all.
    """
    reason = NO_TMPFS
    with contextlib.suppress(FileNotFoundError):  # left behind by a takeover that was killed
        shutil.rmtree(_set_aside(run))
    try:
        base = _base()
        if base is not None:
            _lead_to(run, base)
            _remove_left_behind(base, run.resolve())
            reason = ""
        elif run.is_symlink() and not run.is_dir():
            run.unlink()
    except OSError as exc:
        reason = f"{exc.filename}: {exc.strerror}"
    restore(run)
    _empty(run)
    return reason


def restore(run: Path) -> None:
    """Make run/ again where it is gone. Raises OSError."""
    if run.is_dir():
        return
    if run.is_symlink() and _is_made_here(run.readlink()):
        base = _base()
        if base is not None:
            _lead_to(run, base)
            return
        run.unlink(missing_ok=True)
    run.mkdir(mode=0o700, exist_ok=True)


def _lead_to(run: Path, base: Path) -> None:
    """Have `run` lead to a folder in `base`, or leave it where an operator had it lead to a private one."""
    target = run.parent / run.readlink() if run.is_symlink() else None
    if target is not None and target.parent == base and target.name.startswith(_PREFIX):
        with contextlib.suppress(FileExistsError):  # after a reboot: its name stays, and the link as it is
            target.mkdir(mode=0o700)
            _mark(run, target)
        if _is_of(run, target):
            return
    elif target is not None and is_private(target) and not _is_made_here(target):
        return
    fresh = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    _mark(run, fresh)
    _keep(run, fresh)
    link = run.with_name(f"{run.name}.{os.getpid()}.new")
    link.unlink(missing_ok=True)
    link.symlink_to(fresh)
    if target is None and run.is_dir():  # of an older version, or made while there was no tmpfs
        run.rename(_set_aside(run))
    link.replace(run)
    if target is not None and _is_of(run, target):
        shutil.rmtree(target, ignore_errors=True)
    shutil.rmtree(_set_aside(run), ignore_errors=True)


def _mark(run: Path, target: Path) -> None:
    """Note whose folder it is: a copy of the home brings the link along."""
    file = target / _OF
    file.touch(mode=0o600)
    file.write_text(_home_mark(run))


def _is_of(run: Path, target: Path) -> bool:
    """True for a folder that was made here for this home."""
    try:
        return is_private(target) and (target / _OF).read_text() == _home_mark(run)
    except OSError:
        return False


def _home_mark(run: Path) -> str:
    status = run.parent.stat()
    return f"{status.st_dev}:{status.st_ino}"


def is_private(folder: Path) -> bool:
    """True for a folder, itself no link, that belongs to this user and that no other user may enter."""
    try:
        status = folder.lstat()
    except OSError:
        return False
    mine = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    return mine and not status.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def _base() -> Path | None:
    """The folder on a tmpfs for this user's run folders; None where there is none."""
    for base in _candidates():
        with contextlib.suppress(OSError):
            base.mkdir(mode=0o700, exist_ok=True)
            if is_private(base) and is_volatile(base):
                return base
    return None


def _candidates() -> Iterator[Path]:
    """In the order of preference. Each lies in a folder in which no other user can replace what is ours."""
    for name, inner in (("RUNTIME_DIRECTORY", "."), ("XDG_RUNTIME_DIR", "edge-runtime")):
        outer = Path(os.environ.get(name, "").partition(":")[0])
        if outer.is_absolute() and is_private(outer):
            yield outer / inner
    yield SHARED_MEMORY / f"edge-runtime-{os.geteuid()}"


def _is_made_here(target: Path) -> bool:
    """True for a target that this module made, for this user."""
    return target.name.startswith(_PREFIX) and target.parent.name.startswith("edge-runtime")


def is_volatile(folder: Path) -> bool:
    """True if it lies on a tmpfs, by the kernel's table of mounts."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == number:
            return after.split()[0] in _VOLATILE
    return False


def _keep(old: Path, fresh: Path) -> None:
    if old.is_symlink() and not _is_of(old, old.readlink()):
        return
    for name in KEPT:
        with contextlib.suppress(OSError):
            if (old / name).is_file():
                (fresh / name).touch(mode=0o600)
                (fresh / name).write_bytes((old / name).read_bytes())


def _empty(run: Path) -> None:
    for path in run.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in (*KEPT, _OF):
            path.unlink(missing_ok=True)


def _remove_left_behind(base: Path, ours: Path) -> None:
    """Remove folders of runtimes that are gone, with their homes perhaps."""
    for folder in base.iterdir():
        if folder == ours or not folder.name.startswith(_PREFIX) or not is_private(folder):
            continue
        with contextlib.suppress(OSError):
            still_s = time.time() - folder.stat().st_mtime
            if still_s > LEFT_BEHIND_S and not _answers(folder / "supervisor.sock"):
                shutil.rmtree(folder, ignore_errors=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asked:
        try:
            asked.connect(str(path))
        except BlockingIOError:  # it listens, and is busy
            return True
        except OSError:
            return False
    return True


def _set_aside(run: Path) -> Path:
    return run.with_name(f"{run.name}.old")
