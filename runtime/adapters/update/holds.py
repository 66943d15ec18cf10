"""Update locks: files by which programs say `not now`.

`edgectl update hold` makes one in run/, which is empty after a start of the device. Programs of other users
put theirs into `update.hold_dir`. A file counts until it is removed, or until its time of modification where
that lies ahead; for no longer than `update.hold_max_s` altogether, which the caller sees to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

FOLDER = "update-hold"
"""Below run/."""


def holders(folders: Iterable[Path], wall_s: float) -> list[str]:
    """The names of the files that say so now."""
    found = []
    for folder in folders:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        found += [entry.name for entry in entries if _holds(entry, wall_s)]
    return found


def _holds(entry: os.DirEntry[str], wall_s: float) -> bool:
    """True but for a file made by `hold`, whose time is over."""
    try:
        modified_s = entry.stat(follow_symlinks=False).st_mtime
    except OSError:
        return False
    return modified_s > wall_s if entry.name.endswith(".until") else True


def hold(run: Path, name: str, until_wall_s: float) -> None:
    """Say `not now` until then. Raises OSError."""
    folder = run / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{name}.until"
    path.touch(mode=0o600)
    os.utime(path, (until_wall_s, until_wall_s))


def release(run: Path, name: str) -> bool:
    """Take it back; False where nothing was held under this name."""
    try:
        (run / FOLDER / f"{name}.until").unlink()
    except FileNotFoundError:
        return False
    return True
