"""A device whose updates are tried without processes: a version is three files, the service a name."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from runtime.adapters.update.bundle_file import UpdateBundle
from runtime.adapters.update.durable_files import DurableFiles
from runtime.adapters.update.service import Called, UpdatedService
from runtime.adapters.update.side_by_side import TRIAL, SideBySide
from runtime.config import Config, load
from runtime.core.update.manifest import (
    BundleKind,
    BundlePart,
    InstalledVersion,
    Judgement,
    Manifest,
    SchemaRange,
    judge,
)
from runtime.layout import Layout
from runtime.operations.update_steps import SideBySideUpdate
from runtime.settings_update import UpdateSettings
from tests.support.power_of_files import CutFiles
from tests.support.store_tools import ObedientClock

OLD, NEW = "1.0.0", "1.1.0"
SCHEMAS = {"messages.db": SchemaRange(1, 1)}
INSTALLED = InstalledVersion(OLD, BundleKind.TREE, "amd64", "3.11", SCHEMAS)


def content_of(version: str) -> dict[str, bytes]:
    """The files of a version, by name."""
    return {"bin/edgectl": f"#!{version}".encode(), "lib/a.py": version.encode() * 9, "lib/b.py": b"b" * 99}


@lru_cache
def tree_part(version: str) -> bytes:
    """The packed tree of a version."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for folder in ("bin", "lib"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
        for name, content in content_of(version).items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            archive.addfile(info, io.BytesIO(content))
    return lzma.compress(packed.getvalue(), preset=0)


def manifest_of(version: str, part: bytes, **changes: object) -> Manifest:
    packed = BundlePart("tree.tar.xz", hashlib.sha256(part).hexdigest(), len(part))
    manifest = Manifest(version, BundleKind.TREE, "amd64", packed, 1000, "3.11", "", SCHEMAS, "c0ffee")
    return replace(manifest, **changes)  # type: ignore[arg-type]


def bundle_in(folder: Path, version: str = NEW, **changes: object) -> UpdateBundle:
    """A bundle as it is after its signature was verified."""
    part = tree_part(version)
    file = folder / f"{version}.part"
    file.write_bytes(part)
    return UpdateBundle(file, manifest_of(version, part, **changes), "signed", 0)


@lru_cache
def _defaults() -> Config:
    return load({}, home=Path("/nonexistent"), file=None)


def config_of(place: Path, folder: Path) -> Config:
    """The configuration of a home at `place`, with no patience."""
    update = UpdateSettings(folder=folder, hold_max_s=0, confirm_s=5)
    settings = replace(_defaults().settings, update=update)
    return replace(_defaults(), layout=Layout(place / "home"), settings=settings)


@dataclass
class World:
    """A device with version OLD in use."""

    config: Config
    folder: Path
    running: str = OLD
    good: bool = True
    restarts: int = 0
    imports: bool = True
    files: DurableFiles | None = None
    package: Path | None = None
    """The folder of a package's own version OLD."""
    counts: list[int] = field(default_factory=list)
    """What the service manager's counter of restarts shows, look by look."""
    crash_loop: bool = False

    @classmethod
    def of(cls, place: Path) -> World:
        root = place / "opt"
        folder = root / "edge-runtime.d"
        for name, content in content_of(OLD).items():
            path = folder / OLD / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (root / "edge-runtime").symlink_to(f"edge-runtime.d/{OLD}")
        return cls(config_of(place, folder), folder)

    def starts(self) -> str:
        """The version that the unit would start: that on trial, else that in use; it has to be whole."""
        for link in (self.folder / TRIAL, self.folder.with_suffix("")):
            if link.exists():
                version = OLD if link.resolve() == self.package else link.resolve().name
                for name, content in content_of(version).items():
                    assert (link / name).read_bytes() == content, f"{version} is not whole"
                return version
        raise AssertionError("no version starts")

    def boot(self) -> None:
        """Power on: the service starts what the links name."""
        self.running = self.starts()

    def update(self, files: DurableFiles | None = None) -> WorldUpdate:
        self.files = files
        versions = SideBySide(self.folder, None, files or DurableFiles())
        clock = ObedientClock()

        def sleep(seconds: float) -> None:
            clock.boot += max(seconds, 0.1)

        service = WorldService(("restart",), (), counts=self.counts, world=self)
        return WorldUpdate(
            self.config, versions, service, INSTALLED, clock=clock, sleep=sleep, call=self.call
        )

    def call(self, version: Path, words: Sequence[str], time_s: float) -> Called:
        if "imports" in words:
            return Called(self.imports, "ImportError")
        if "probe" in words:
            asked = OLD if version == self.package else version.name
            works = self.running == asked and (self.good or asked == OLD)
            return Called(works, "ingest does not run yet", crash_loop=self.crash_loop and not works)
        return Called(self.good, "it cannot migrate")


@dataclass(frozen=True)
class CountedService(UpdatedService):
    """A service whose manager counted so many restarts at each look; the last one from then on."""

    counts: list[int] = field(default_factory=list)

    def restarts(self) -> int | None:
        return self.counts.pop(0) if len(self.counts) > 1 else next(iter(self.counts), None)


@dataclass(frozen=True)
class WorldService(CountedService):
    """The service of the world: its restart is a change, too."""

    world: World | None = None

    def restart(self) -> None:
        assert self.world is not None
        self._moment(self.world)
        self.world.running = self.world.starts()
        self.world.restarts += 1
        self._moment(self.world)

    @staticmethod
    def _moment(world: World) -> None:
        if isinstance(world.files, CutFiles):
            world.files.cut_here()


class WorldUpdate(SideBySideUpdate):
    """Bundles of the world are verified already."""

    bundle: UpdateBundle

    def inspect(self, file: Path) -> tuple[UpdateBundle, Judgement]:
        self.bundle.check()
        return self.bundle, judge(self.bundle.manifest, self.installed)
