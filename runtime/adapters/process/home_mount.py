"""The home's mount: is the home still the one in which this runtime was started?

Where the mount of a home goes away, an empty folder is left at its path. Code that creates missing folders
and files would create a second runtime there, complete and without a message; and when the disk comes back it
hides that one. So no process creates anything where the home, or the disk under its state, is another than at
the start. Workers end then, and come back with the disk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from runtime.errors import UsageError

STARTED_IN = "SUPERVISOR_HOME"
"""In the environment of a supervised process: the home in which its supervisord was
started, and that home's mark.
"""
FSTAB = Path("/etc/fstab")


class HomeGone(UsageError):
    """Another folder, or none, stands in the place of the home."""


def remember_home(home: Path) -> None:
    """Remember the home as it is now: this process and those that it starts compare with it."""
    os.environ[STARTED_IN] = f"{home} {_mark(home)}"


def home_changed(home: Path) -> bool:
    """True if the home is another than the one supervisord was started in. False
    where there is no supervisord.
    """
    path, _, mark = os.environ.get(STARTED_IN, "").rpartition(" ")
    return path == str(home) and mark != _mark(home)


def in_changed_home(path: Path) -> bool:
    """True if a file made at `path`, in the home or in a folder of it, would be in another home."""
    return home_changed(path.parent) or home_changed(path.parent.parent)


def check_home(home: Path) -> None:
    """Raise HomeGone where the home is another one."""
    if home_changed(home):
        raise HomeGone(
            f"{home} is not the folder any more in which this runtime was started (did its mount go away?): "
            "nothing is created there. Mount it again; to start in what is there now, end supervisord first"
        )


def check_mounts(home: Path, fstab: Path = FSTAB) -> None:
    """Raise UsageError where the home lies on a declared mount point, and nothing is mounted there."""
    places = {str(place) for place in (home, *home.resolve().parents, home.resolve(), home / "state")}
    for declared in _declared(fstab):
        if declared in places and not os.path.ismount(declared):  # raises nothing
            raise UsageError(
                f"{declared} is a mount point by {fstab}, and nothing is mounted there: a runtime in the "
                f"empty folder would have none of your messages. As root: mount {declared}"
            )


def _declared(fstab: Path) -> Iterator[str]:
    """The mount points of the machine's table, except those that are not mounted at boot."""
    try:
        lines = fstab.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split()
        if len(fields) < 4 or line.lstrip().startswith("#") or "noauto" in fields[3].split(","):
            continue
        yield fields[1].replace("\\040", " ").replace("\\011", "\t").rstrip("/") or "/"


def _mark(home: Path) -> str:
    """Device and inode of the home, and the device of its state where that is a disk of its own."""
    try:
        status = home.stat()
    except OSError:
        return "gone"
    try:
        below = (home / "state").stat().st_dev
    except OSError:  # a person removed it: it is made again
        below = status.st_dev
    return f"{status.st_dev}:{status.st_ino}:{below}"
