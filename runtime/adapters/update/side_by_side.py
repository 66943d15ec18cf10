"""Versions side by side: a folder for each, a link to the one in use, and one to the one on trial.

    /opt/edge-runtime            link to edge-runtime.d/VERSION; without it the package's own is in use
    /opt/edge-runtime.d/         `update.folder`
        VERSION/                 a version, whole
        .trial                   link to a version on trial: the service looks here first
        .unfinished/             a version that is being unpacked
        update.json              the journal
        .lock                    held by the process that works on an update

The unit finds `edgectl` by ExecSearchPath: .trial/bin, then the link in use, then the package's. So while a
version is on trial every command, and the watch that ends the trial, is of the version before.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

from runtime.adapters.update.bundle_file import BadBundle, Progress, UpdateBundle
from runtime.adapters.update.durable_files import REMOVED, DurableFiles
from runtime.adapters.update.journal_file import read_journal, write_journal
from runtime.core.update.progress import (
    PACKAGE,
    EndTrial,
    RemoveUnfinished,
    RemoveVersion,
    Save,
    StartTrial,
    Step,
    UpdateRecord,
    Use,
    VersionsOnDisk,
)

TRIAL, UNFINISHED, LOCK = ".trial", ".unfinished", ".lock"
SPARE_BYTES = 4_000_000
"""Left free beside what is unpacked: the journal and the service need room, too."""
_INTERPRETER = re.compile(r"/usr/bin/python3(\.\d+)?")
BYTECODE_SHARE = 1.2
"""Bytecode takes about as much as the program."""


class SideBySide:
    """The folder of versions."""

    def __init__(self, folder: Path, package: Path | None = None, files: DurableFiles | None = None) -> None:
        self.folder = folder
        self.in_use = folder.with_suffix("")
        self.package = package
        self.files = files or DurableFiles()

    def record(self) -> UpdateRecord:
        return read_journal(self.folder)

    def look(self) -> VersionsOnDisk:
        """What the folder holds."""
        names = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        versions = {name for name in names if name[:1] != "." and (self.folder / name).is_dir()}
        half = {name for name in names if name.startswith((UNFINISHED, REMOVED))}
        return VersionsOnDisk(
            self._named_by(self.in_use),
            self._named_by(self.folder / TRIAL, ""),
            frozenset(versions),
            bool(half),
        )

    def path_of(self, version: str) -> Path:
        """The folder of a version."""
        if version == PACKAGE and self.package is not None:
            return self.package
        return self.folder / version

    def perform(self, step: Step) -> None:
        """Carry out one step that changes files. Raises OSError."""
        match step:
            case Save(record):
                write_journal(self.folder, record, self.files)
            case RemoveUnfinished():
                self._remove_unfinished()
            case RemoveVersion(version):
                self.files.remove_tree(self.folder / version)
            case StartTrial(version):
                target = str(self.path_of(version)) if version == PACKAGE else version
                self.files.link(self.folder / TRIAL, target)
            case EndTrial():
                self.files.unlink(self.folder / TRIAL)
            case Use(version):
                self._use(version)
            case _:
                raise AssertionError(step)

    @property
    def unfinished(self) -> Path:
        """The folder of a version that is being unpacked."""
        return self.folder / UNFINISHED

    def unpack(self, bundle: UpdateBundle, progress: Progress = lambda _: None) -> None:
        """Unpack a bundle into the folder for it. Raises BadBundle, OSError."""
        self.files.make_folder(self.unfinished)
        with bundle.part() as source, tarfile.open(fileobj=source, mode="r|xz") as archive:  # type: ignore[call-overload]
            for member in archive:
                _extract(archive, member, self.unfinished)
                progress(member.size)

    def complete(self, version: str) -> None:
        """Flush what was unpacked, and give it its name: from here on it is whole."""
        self.files.flush_tree(self.unfinished)
        self.files.rename(self.unfinished, self.folder / version)

    def lacking_bytes(self, bundle: UpdateBundle) -> int:
        """The bytes of room that are missing; 0: there is enough."""
        place = next(path for path in (self.folder, *self.folder.parents) if path.exists())
        wanted = int(bundle.manifest.unpacked_bytes * (1 + BYTECODE_SHARE)) + SPARE_BYTES
        return max(0, wanted - shutil.disk_usage(place).free)

    def _use(self, version: str) -> None:
        if version == PACKAGE:
            self.files.unlink(self.in_use)
        else:
            self.files.link(self.in_use, f"{self.folder.name}/{version}")

    def _remove_unfinished(self) -> None:
        for path in sorted(self.folder.iterdir()):
            if path.name.startswith((UNFINISHED, REMOVED)):
                self.files.remove_tree(path)

    def _named_by(self, link: Path, otherwise: str = PACKAGE) -> str:
        try:
            target = link.readlink()
        except OSError:
            return otherwise
        if self.package is not None and target == self.package:
            return PACKAGE
        return target.name


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Make a file, folder or link of a version; its owner is ours. Raises BadBundle where it leads out."""
    target = folder / member.name
    inside = ".." not in Path(member.name).parts and not member.name.startswith("/")
    if inside and member.isdir():
        target.mkdir(exist_ok=True)
        target.chmod(0o755)
    elif inside and member.isreg():
        content = archive.extractfile(member)
        assert content is not None
        with target.open("xb") as file:
            shutil.copyfileobj(content, file)
        target.chmod(0o755 if member.mode & 0o100 else 0o644)
    elif inside and member.issym() and _leads_nowhere_else(member):
        target.symlink_to(member.linkname)
    else:
        raise BadBundle(f"the bundle holds {member.name!r}, which is no plain file of its own folder")


def _leads_nowhere_else(link: tarfile.TarInfo) -> bool:
    """True for a link beside itself, or to the interpreter of the device."""
    return "/" not in link.linkname or _INTERPRETER.fullmatch(link.linkname) is not None
