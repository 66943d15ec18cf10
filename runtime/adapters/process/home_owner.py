"""The home's owner, checked before any file in the home is opened.

A home names files that are written, locked, chowned and executed. Its owner can put a link in the place of
each of them, so no process may do there what the owner could not do without it.

Invariants
    An ordinary user works in a home of his own or of root's, and in no other (as git's `safe.directory`).
    Root works as root only where root alone could have written: in the home and in the folders above it.
    In a home of one other user root becomes that user first, irrevocably: files made there are the owner's.

Considered and left: opening every file from a descriptor of the folder with O_NOFOLLOW. SQLite, supervisord
and libzmq take paths, and files of root's would still be left behind.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from runtime.errors import UsageError
from runtime.layout import Layout

OTHERS_WRITE = stat.S_IWOTH | stat.S_IWGRP
OVERFLOW_UID = 65_534
"""The owner that the kernel shows where the real one does not
exist in this user namespace (a container's).
"""
MOST_LINKS = 40
"""Links that are followed, as many as the kernel follows."""
IDENTITY_MAP = ["0", "0", "4294967295"]


def enter(home: Path, *, sends_only: bool = False) -> None:
    """Become a user who may work in this home, or raise UsageError. Call it before opening a file in it.

    `sends_only`: the command writes nothing there. A producer's user sends into the service's home.
    """
    if os.geteuid() != 0:
        if not sends_only:
            _refuse_foreign(home)
        return
    folders = [path for path in _folders(Layout(home)) if path.exists()]
    place = next(path for path in (home, *home.parents) if path.exists())
    owners = {path.stat().st_uid for path in folders or [place]} - {0}
    if len(owners) > 1:
        names = " and ".join(sorted(map(user_name, owners)))
        raise UsageError(f"folders of home {home} belong to {names}; give all of them to one user")
    owner = owners.pop() if owners else 0
    for path in folders or [home]:
        _refuse_way(path, owner)
    if owner:
        become(owner, place.stat().st_gid)
    else:
        _refuse_writable(folders)


def user_name(uid: int) -> str:
    """The user's name for a sentence, or the number of a user without a name."""
    try:
        return f"user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"user {uid}"


def become(uid: int, gid: int) -> None:
    """Give up root for this user, irrevocably; `gid` counts where the machine does not know the user."""
    try:
        known: pwd.struct_passwd | None = pwd.getpwuid(uid)
    except KeyError:
        known = None
    gid = known.pw_gid if known else gid or uid
    try:
        if known:
            os.initgroups(known.pw_name, gid)
        else:
            os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as exc:
        raise UsageError(
            f"the home belongs to {user_name(uid)}, and root may not become that user here: {exc.strerror}; "
            "run the command as that user"
        ) from exc
    if known:
        os.environ["HOME"] = known.pw_dir


def _folders(layout: Layout) -> tuple[Path, ...]:
    return layout.home, layout.state, layout.run, layout.log


def _refuse_foreign(home: Path) -> None:
    try:
        owner = home.stat().st_uid
    except OSError:  # it is not there yet, or cannot be looked at: the command itself says so
        return
    if owner not in (0, os.geteuid()):
        raise UsageError(
            f"home {home} belongs to {user_name(owner)}, not to you; run the command as that user "
            "or with sudo, or name a home of your own with --home"
        )


def _refuse_way(folder: Path, owner: int) -> None:
    """Refuse a folder that a third user could replace: by renaming a folder on the way to it, for one."""
    for path in _way(folder):
        status = path.lstat()
        if status.st_uid not in (0, owner) and not _is_unmapped(status.st_uid):
            raise UsageError(
                f"{path}, on the way to {folder}, belongs to {user_name(status.st_uid)}, "
                "who could replace it; run the command as that user, or choose another home"
            )
        writable = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_IWOTH
        if writable and not status.st_mode & stat.S_ISVTX and path != folder:
            raise UsageError(f"{path}, on the way to {folder}, may be written by all; chmod o-w {path}")


def _way(path: Path, links: int = 0) -> Iterator[Path]:
    """Every folder and link on the way to it that exists, also on the way to the targets of links."""
    for part in reversed((path, *path.parents)):
        if os.path.lexists(part):
            yield part
        if part.is_symlink() and links < MOST_LINKS:
            yield from _way(part.parent / part.readlink(), links + 1)


def _is_unmapped(uid: int) -> bool:
    """True if the kernel only says that it cannot name the owner here."""
    if uid != OVERFLOW_UID:
        return False
    try:
        return Path("/proc/self/uid_map").read_text().split() != IDENTITY_MAP
    except OSError:
        return False


def _refuse_writable(folders: Iterable[Path]) -> None:
    for path in folders:
        status = path.stat()
        group_is_root = status.st_gid == 0
        if status.st_mode & (stat.S_IWOTH if group_is_root else OTHERS_WRITE):
            raise UsageError(
                f"{path} may be written by others than root, who could put links there; chmod go-w {path}, "
                "or choose a folder below it as the home"
            )
