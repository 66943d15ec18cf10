"""Debian packages, put together file by file and packed by `dpkg-deb`.

`edge-runtime` holds everything but the interpreter. `edge-producer` is for programs of the system's Python:
one module tree for all architectures, with Debian's python3-zmq.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

from deploy.packaging import sbom
from deploy.packaging.lock import NOT_UNPACKED, TOP
from deploy.packaging.targets import Target
from deploy.packaging.tree import PREFIX, Origin, make_environment, prune, unpack
from deploy.packaging.wheels import fetch, own_wheel, run

HERE = Path(__file__).parent / "debian"
COMPRESSION = ("-Zxz", "--threads-max=1")
"""One thread: more would cut the content into pieces by the builder's cores."""
SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
MAINTAINER = "Edge runtime <edge-runtime@example.org>"
HOMEPAGE_FILES = ("README.md", "deploy/RUNBOOK.md")
UNIT = "usr/lib/systemd/system/edge-runtime.service"
UPDATE_UNIT = "usr/lib/systemd/system/edge-runtime-update.service"
UPDATED = "/opt/edge-runtime"
"""The link to the version that an update brought into use."""
COMMAND = f"""#!/bin/sh
# The version in use: that of an update, else the package's own.
if [ -x {UPDATED}/bin/edgectl ]; then exec {UPDATED}/bin/edgectl "$@"; fi
exec {PREFIX}/bin/edgectl "$@"
"""
SYSUSERS = "usr/lib/sysusers.d/edge-runtime.conf"
CONFFILE = "etc/edge-runtime/edge.toml"


@dataclass(frozen=True)
class Package:
    """The control data of one package."""

    name: str
    version: str
    arch: str
    depends: tuple[str, ...]
    summary: str
    description: str
    scripts: Mapping[str, str] = field(default_factory=dict)
    conffiles: tuple[str, ...] = ()

    def file_name(self) -> str:
        return f"{self.name}_{self.version}_{self.arch}.deb"

    def control(self, installed_kib: int) -> str:
        """The control file."""
        lines = [
            f"Package: {self.name}",
            f"Version: {self.version}",
            f"Architecture: {self.arch}",
            f"Maintainer: {MAINTAINER}",
            f"Installed-Size: {installed_kib}",
            f"Depends: {', '.join(self.depends)}",
            "Section: net",
            "Priority: optional",
            f"Description: {self.summary}",
            *(f" {line}" if line else " ." for line in self.description.splitlines()),
        ]
        return "\n".join(lines) + "\n"


def version_for(target: Target | None, origin: Origin) -> str:
    """The package's version: a newer release of Debian has a newer one, so that its upgrade brings it."""
    return f"{origin.version}~deb{target.release}" if target else origin.version


def build_runtime(target: Target, origin: Origin, out: Path) -> Path:
    """Build `edge-runtime` for a target into `out`, with its parts list beside it. Raises BuildError."""
    wheels_folder = out / "wheels" / f"{target.arch}-{target.release}"
    fetched = [
        wheel for wheel in fetch(target, wheels_folder) if wheel.name.split("-")[0] not in NOT_UNPACKED
    ]
    wheels = [*fetched, own_wheel(wheels_folder, origin.epoch_s)]
    package = Package(
        "edge-runtime", version_for(target, origin), target.arch, tuple(target.depends()),
        "store messages on disk, then deliver them to the cloud",
        "A service for devices on which losing a message is not an option. Programs hand\n"
        "messages over on a local ZeroMQ socket; an acknowledged message is on disk, and\n"
        "reaches Azure IoT Hub at least once and in order, or its loss is counted.\n"
        "\nEverything is inside; nothing is fetched on the device.",
        {name: (HERE / name).read_text() for name in SCRIPTS}, (f"/{CONFFILE}",),
    )  # fmt: skip
    root = _fresh(out / "root" / f"{target.arch}-{target.release}")
    site = make_environment(root, target, wheels, origin)
    _add_service(root)
    parts = sbom.of_package(package.name, package.version, target, site, wheels, origin)
    _add_documents(root, package, origin, parts)
    (out / f"{package.file_name()}.cdx.json").write_text(parts)
    return pack(root, package, origin, out)


def build_producer(origin: Origin, out: Path) -> Path:
    """Build `edge-producer`, for every architecture at once."""
    wheel = own_wheel(out / "wheels" / "all", origin.epoch_s, TOP / "deploy" / "producer")
    package = Package(
        "edge-producer", version_for(None, origin), "all", ("python3 (>= 3.11~)", "python3-zmq (>= 24)"),
        "send messages to the edge runtime of this device (Python client)",
        "The module runtime.producer for programs of the system's Python: what it has\n"
        "acknowledged is on the disk of the edge runtime.",
    )  # fmt: skip
    root = _fresh(out / "root" / "producer")
    site = root / "usr/lib/python3/dist-packages"
    site.mkdir(parents=True)
    unpack(wheel, site)
    prune(site)
    parts = sbom.of_package(package.name, package.version, None, site, [wheel], origin)
    _add_documents(root, package, origin, parts)
    (out / f"{package.file_name()}.cdx.json").write_text(parts)
    return pack(root, package, origin, out)


def _fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _add_service(root: Path) -> None:
    """The command, the unit, the user and the configuration."""
    command = root / "usr/bin/edgectl"
    command.parent.mkdir(parents=True)
    _write(command, COMMAND, 0o755)
    for unit in (UNIT, UPDATE_UNIT):
        text = (TOP / "deploy" / Path(unit).name).read_text()
        own = text.replace(
            f"{UPDATED}/bin\n", f"{UPDATED}/bin:{PREFIX}/bin\n"
        )  # without an update the package's
        _write(root / unit, own)
    _write(root / SYSUSERS, (TOP / "deploy" / "edge-runtime.sysusers").read_text())
    _write(root / CONFFILE, (HERE / "edge.toml").read_text(), 0o640)
    example = (TOP / "deploy" / "edge.toml.example").read_text()
    _write(root / "usr/share/doc/edge-runtime/examples/edge.toml.example", example)


def _add_documents(root: Path, package: Package, origin: Origin, parts: str) -> None:
    folder = root / "usr/share/doc" / package.name
    date = format_datetime(datetime.fromtimestamp(origin.epoch_s, UTC))
    entry = (
        f"{package.name} ({package.version}) stable; urgency=medium\n\n"
        f"  * Built of commit {origin.commit}.\n\n -- {MAINTAINER}  {date}\n"
    )
    _write(folder / "changelog.gz", "")
    (folder / "changelog.gz").write_bytes(gzip.compress(entry.encode(), 9, mtime=0))
    _write(folder / "copyright", _copyright(package, parts))
    _write(folder / "sbom.cdx.json", parts)
    for name in HOMEPAGE_FILES:
        _write(folder / Path(name).name, (TOP / name).read_text())


def _copyright(package: Package, parts: str) -> str:
    """Who holds what: the runtime's own licence, and one line for every part."""
    listed = "\n".join(f"  {name} {version}: {licence}" for name, version, licence in sbom.licences(parts))
    return (
        f"{package.name} is free software under the Apache License, version 2.0; on Debian its text is in\n"
        "/usr/share/common-licenses/Apache-2.0.\n\n"
        "Copyright: the contributors of the edge runtime\n\n"
        f"The package holds these parts under licences of their own; their texts are in *.dist-info below\n"
        f"{PREFIX}, and sbom.cdx.json beside this file is the same list for a program:\n\n{listed}\n"
    )


def _write(file: Path, text: str, mode: int = 0o644) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)


def pack(root: Path, package: Package, origin: Origin, out: Path) -> Path:
    """Pack `root`: the same bytes for the same content, whatever the builder's umask, clock and cores."""
    control = root / "DEBIAN"
    control.mkdir()
    normalise(root, origin.epoch_s)
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
    files = [path for path in files if control not in path.parents]
    conffiles = {root / name.lstrip("/") for name in package.conffiles}
    _write(control / "md5sums", "".join(_md5_line(root, path) for path in files if path not in conffiles))
    _write(control / "control", package.control(sum(-(-path.stat().st_size // 1024) for path in files)))
    if package.conffiles:
        _write(control / "conffiles", "".join(f"{name}\n" for name in package.conffiles))
    for name, text in package.scripts.items():
        _write(control / name, text, 0o755)
    normalise(root, origin.epoch_s)
    file = out / package.file_name()
    run("dpkg-deb", "--root-owner-group", *COMPRESSION, "--build", str(root), str(file),
        environment={"SOURCE_DATE_EPOCH": str(origin.epoch_s)})  # fmt: skip
    return file


def _md5_line(root: Path, file: Path) -> str:
    digest = hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()
    return f"{digest}  {file.relative_to(root)}\n"


def normalise(root: Path, epoch_s: int, paths: Iterable[Path] | None = None) -> None:
    """Give every path a mode and a time that do not depend on the builder."""
    for path in [root, *(paths if paths is not None else root.rglob("*"))]:
        if path.is_symlink():
            os.utime(path, (epoch_s, epoch_s), follow_symlinks=False)
            continue
        executable = path.is_dir() or path.stat().st_mode & 0o100
        private = path.name == Path(CONFFILE).name
        path.chmod(0o640 if private else 0o755 if executable else 0o644)
        os.utime(path, (epoch_s, epoch_s))
