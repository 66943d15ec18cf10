"""Two slots of an image, and the file by which a boot chooser starts one of them.

The folder and its files are described in `runtime/core/update/slots.py`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from runtime.adapters.update.bundle_file import BLOCK_BYTES, BadBundle, Progress, UpdateBundle
from runtime.adapters.update.durable_files import DurableFiles
from runtime.adapters.update.journal_file import read_journal, write_journal
from runtime.core.update.progress import SlotStep, UpdateRecord
from runtime.core.update.slots import SlotChoice, booted_slot, parse_choice
from runtime.errors import NeedsHuman

CHOICE, BOOTED = "choice", "booted"
_COMMAND_LINE = Path("/proc/cmdline")


class TwoSlots:
    """The folder that is shared with the boot chooser."""

    def __init__(
        self, folder: Path, files: DurableFiles | None = None, command_line: Path = _COMMAND_LINE
    ) -> None:
        self.folder = folder
        self.files = files or DurableFiles()
        self._command_line = command_line

    def record(self) -> UpdateRecord:
        return read_journal(self.folder)

    def choice(self) -> SlotChoice:
        """The choice as it is on disk. Raises NeedsHuman where there is none."""
        try:
            return parse_choice((self.folder / CHOICE).read_text())
        except (OSError, ValueError) as exc:
            raise NeedsHuman(
                f"{self.folder / CHOICE} cannot be read: {exc}",
                hint="write its three lines (docs/deploy.md, Two slots); the slot that runs is active",
            ) from exc

    def booted(self) -> str:
        """The slot that was started. Raises NeedsHuman where nothing says it."""
        slot = booted_slot(_text(self._command_line), _text(self.folder / BOOTED))
        if not slot:
            raise NeedsHuman(
                "nothing says which slot was started",
                hint=f"the boot chooser puts edge.slot= on the kernel's command line, or writes {BOOTED}",
            )
        return slot

    def image_of(self, slot: str) -> Path:
        return self.folder / f"slot-{slot}"

    def perform(self, step: SlotStep) -> None:
        """Write the choice, then the journal: what starts is decided by the choice."""
        if step.choice is not None:
            self.files.write(self.folder / CHOICE, step.choice.text().encode())
        if step.record is not None:
            write_journal(self.folder, step.record, self.files)

    def lacking_bytes(self, bundle: UpdateBundle, slot: str) -> int:
        """The bytes by which the image is larger than the slot; 0: it fits."""
        path = self.image_of(slot)
        size = bundle.manifest.part.size_bytes
        if stat.S_ISBLK(path.stat().st_mode):
            return max(0, size - _size_of_device(path))
        room = os.statvfs(path.resolve().parent)
        free = room.f_bavail * room.f_frsize + path.stat().st_size
        return max(0, size - free)

    def write_image(self, bundle: UpdateBundle, slot: str, progress: Progress = lambda _: None) -> None:
        """Write the image into a slot, flush it, and read it back. Raises BadBundle, OSError."""
        path = self.image_of(slot)
        with bundle.part() as source, path.open("r+b", buffering=0) as target:
            while block := source.read(BLOCK_BYTES):
                target.write(block)
                progress(len(block))
            if stat.S_ISREG(os.fstat(target.fileno()).st_mode):
                target.truncate(bundle.manifest.part.size_bytes)
            os.fsync(target.fileno())
            os.posix_fadvise(target.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # read it from the disk
        self._compare(path, bundle)

    def _compare(self, path: Path, bundle: UpdateBundle) -> None:
        left, digest = bundle.manifest.part.size_bytes, hashlib.sha256()
        with path.open("rb") as file:
            while left and (block := file.read(min(left, BLOCK_BYTES))):
                digest.update(block)
                left -= len(block)
        if digest.hexdigest() != bundle.manifest.part.sha256:
            raise BadBundle(f"{path} does not give back what was written to it: is the disk failing?")


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _size_of_device(path: Path) -> int:
    with path.open("rb") as device:
        return device.seek(0, os.SEEK_END)
