"""Files that are on disk when a call returns: every change of an update goes through here.

A change is flushed together with the folder that names it, in the order of the calls. So a power cut leaves a
state between two calls, or in the midst of one that may be done again.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

NEW_SUFFIX = ".new"
REMOVED = ".removed."
"""Begins the name of a folder that is being removed."""


class DurableFiles:
    """Changes of files, flushed. The last six methods are the single changes of which the others consist."""

    def write(self, path: Path, content: bytes, mode: int = 0o644) -> None:
        """Replace a file as a whole. Raises OSError."""
        fresh = self._cleared(path.with_name(path.name + NEW_SUFFIX))
        self.create_file(fresh, content, mode)
        self.flush(fresh)
        self.rename(fresh, path)

    def link(self, path: Path, target: str) -> None:
        """Let a link name another target: there is no moment without it."""
        fresh = self._cleared(path.with_name(path.name + NEW_SUFFIX))
        self.make_link(fresh, target)
        self.rename(fresh, path)

    def rename(self, path: Path, target: Path) -> None:
        self.replace(path, target)
        self.flush(target.parent)

    def unlink(self, path: Path) -> None:
        self.remove_name(path)
        self.flush(path.parent)

    def make_folder(self, path: Path) -> None:
        """Make a folder, with those above it; nothing where it is there."""
        if not path.is_dir():
            self.make_folder(path.parent)
            self.make_one_folder(path)
            self.flush(path.parent)

    def remove_tree(self, path: Path) -> None:
        """Remove a folder and what is in it; its name goes first, so that no half of it counts as whole."""
        gone = path
        if not path.name.startswith(REMOVED):
            gone = path.with_name(f"{REMOVED}{path.name.lstrip('.')}")
            if gone.exists():
                self.remove_all(gone)
            self.rename(path, gone)
        self.remove_all(gone)
        self.flush(gone.parent)

    def flush_tree(self, folder: Path) -> None:
        """Flush a folder with all that is in it, the names last."""
        for place, _, names in os.walk(folder, topdown=False):
            for path in (Path(place, name) for name in sorted(names)):
                if not path.is_symlink():
                    self.flush(path)
            self.flush(Path(place))
        self.flush(folder.parent)

    def flush(self, path: Path) -> None:
        """Flush a file, or the names in a folder."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _cleared(self, path: Path) -> Path:
        """The path, without what an earlier attempt left there."""
        if os.path.lexists(path):
            self.remove_name(path)
        return path

    def create_file(self, path: Path, content: bytes, mode: int) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            os.fchmod(fd, mode)  # whatever the umask
            view = memoryview(content)
            while view:
                view = view[os.write(fd, view) :]
        finally:
            os.close(fd)

    def make_link(self, path: Path, target: str) -> None:
        path.symlink_to(target)

    def replace(self, path: Path, target: Path) -> None:
        path.replace(target)

    def remove_name(self, path: Path) -> None:
        path.unlink()

    def make_one_folder(self, path: Path) -> None:
        path.mkdir()
        path.chmod(0o755)

    def remove_all(self, path: Path) -> None:
        shutil.rmtree(path)
