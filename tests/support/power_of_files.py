"""Power cuts at every change of a folder: `DurableFiles` up to one change, and what a disk may keep.

Nodes are followed by their inodes. What was flushed is there after the cut: a file's content once the file
was flushed, a name once its folder was. Of everything else the disk kept nothing, or all.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from runtime.adapters.update.durable_files import DurableFiles


class PowerCut(BaseException):
    """The machine is off: no handler of an error runs."""


class CutFiles(DurableFiles):
    """Files whose power is cut before the change with this number; 0: never."""

    def __init__(self, root: Path, cut_at: int = 0) -> None:
        self.root = root
        self.cut_at = cut_at
        self.changes = 0
        self._names: dict[int, dict[str, tuple[str, int, str]]] = {}
        self._content: dict[int, bytes] = {}
        self._kept_open: dict[int, int] = {}
        self.remember_all()

    def remember_all(self) -> None:
        """What is there now is on disk."""
        for place, _, names in os.walk(self.root, topdown=False):
            for name in names:
                if not (path := Path(place, name)).is_symlink():
                    self._remember(path)
            self._remember(Path(place))

    def step(self) -> bool:
        """Count a change; true: the power goes in the midst of it."""
        self.changes += 1
        if self.cut_at and self.changes > self.cut_at:
            raise PowerCut  # a handler of errors that goes on after the cut changes nothing more
        return self.changes == self.cut_at

    def flush(self, path: Path) -> None:
        if self.step():
            raise PowerCut
        self._remember(path)

    def create_file(self, path: Path, content: bytes, mode: int) -> None:
        if self.step():
            path.write_bytes(content[: len(content) // 2])
            raise PowerCut
        super().create_file(path, content, mode)

    def make_link(self, path: Path, target: str) -> None:
        self.cut_here()
        super().make_link(path, target)

    def replace(self, path: Path, target: Path) -> None:
        self.cut_here()
        super().replace(path, target)

    def remove_name(self, path: Path) -> None:
        self.cut_here()
        super().remove_name(path)

    def make_one_folder(self, path: Path) -> None:
        self.cut_here()
        super().make_one_folder(path)

    def remove_all(self, path: Path) -> None:
        if self.step():
            for file in sorted(path.rglob("*"))[::2]:
                if file.is_file():
                    file.unlink()
            raise PowerCut
        super().remove_all(path)

    def cut_here(self) -> None:
        if self.step():
            raise PowerCut

    def _remember(self, path: Path) -> None:
        status = path.lstat()
        self._keep(path, status.st_ino)
        if not stat.S_ISDIR(status.st_mode):
            self._content[status.st_ino] = path.read_bytes()
            return
        names = {}
        for entry in os.scandir(path):
            kind = "link" if entry.is_symlink() else "folder" if entry.is_dir() else "file"
            target = str(Path(entry.path).readlink()) if kind == "link" else ""
            if kind != "link":
                self._keep(Path(entry.path), entry.inode())
            names[entry.name] = (kind, entry.inode(), target)
        self._names[status.st_ino] = names

    def _keep(self, path: Path, inode: int) -> None:
        """Hold the node, so that its number does not come to mean another one."""
        if inode not in self._kept_open:
            self._kept_open[inode] = os.open(path, os.O_PATH | os.O_NOFOLLOW)

    def close(self) -> None:
        for fd in self._kept_open.values():
            os.close(fd)
        self._kept_open.clear()

    def after_the_cut(self, *, keeps_all: bool) -> None:
        """Make the folder what the next start finds."""
        if keeps_all:
            return
        image = self.root.with_name(self.root.name + "-image")
        image.mkdir()
        self._restore(self.root.stat().st_ino, image)
        shutil.rmtree(self.root)
        image.rename(self.root)

    def _restore(self, inode: int, place: Path) -> None:
        for name, (kind, number, target) in self._names.get(inode, {}).items():
            path = place / name
            if kind == "link":
                path.symlink_to(target)
            elif kind == "folder":
                path.mkdir()
                self._restore(number, path)
            else:
                path.write_bytes(self._content.get(number, b""))
                path.chmod(0o755)
