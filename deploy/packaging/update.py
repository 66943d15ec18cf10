"""The bundle of an update, for `edgectl update apply`: the program beside the one in use, or an image's slot.

The tree is the one that the package holds. Its scripts find their interpreter beside themselves, because its
folder is named by the version. `EDGE_UPDATE_KEY` names minisign's secret key (made by `minisign -G -W`);
without one the bundle is not signed, and no device takes it before `minisign -Sm manifest.json` and `pack`.
"""

from __future__ import annotations

import io
import lzma
import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

from deploy.packaging.targets import Target
from deploy.packaging.tree import PREFIX, SCRIPTS, Origin
from deploy.packaging.wheels import run, sha256
from runtime.adapters.update.bundle_file import MANIFEST, SIGNATURE
from runtime.core.update.manifest import BundleKind, BundlePart, Manifest
from runtime.operations.updates import SCHEMAS

MINIMUM_VERSION = "0.1.0"
"""The oldest version whose data and configuration this one takes over."""
PRESET = 6
"""Of xz: beyond it the device needs more memory to unpack, for hardly fewer bytes."""
TREE_PART, IMAGE_PART = "tree.tar.xz", "image.squashfs"
_SCRIPT = """#!/bin/sh
'''exec' "$(/usr/bin/dirname -- "$(/usr/bin/realpath -- "$0")")/python" "$0" "$@"
' '''
import sys

{line}

sys.exit(main())
"""


def bundle_of_tree(root: Path, target: Target, origin: Origin, out: Path) -> Path:
    """The bundle of the program that the package's `root` holds. Raises BuildError."""
    folder = out / "update" / f"{target.arch}-{target.release}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tree = folder / "tree"
    shutil.copytree(root / PREFIX.relative_to("/"), tree, symlinks=True)
    for name, line in SCRIPTS.items():
        (tree / "bin" / name).write_text(_SCRIPT.format(line=line))
    part = folder / TREE_PART
    part.write_bytes(_tar_xz(tree, origin.epoch_s))
    size = sum(path.lstat().st_size for path in tree.rglob("*") if path.is_file())
    manifest = _manifest(BundleKind.TREE, part, target, origin, size)
    shutil.rmtree(tree)
    return pack(
        manifest.text().encode(), part, out / f"edge-runtime_{_file_version(target, origin)}.update", origin
    )


def bundle_of_image(image: Path, target: Target, origin: Origin, out: Path) -> Path:
    """The bundle of a slot's image. Raises BuildError."""
    folder = out / "update" / "image"
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / IMAGE_PART
    shutil.copyfile(image, part)
    manifest = _manifest(BundleKind.IMAGE, part, target, origin, part.stat().st_size)
    file = out / f"edge-image_{_file_version(target, origin)}.update"
    return pack(manifest.text().encode(), part, file, origin)


def pack(
    manifest: bytes, part: Path, file: Path, origin: Origin, environ: Mapping[str, str] = os.environ
) -> Path:
    """Sign the manifest where a key is given, and write manifest, signature and part into one file."""
    folder = part.parent
    (folder / MANIFEST).write_bytes(manifest)
    (folder / SIGNATURE).unlink(missing_ok=True)
    members = [MANIFEST, part.name]
    if key := environ.get("EDGE_UPDATE_KEY", ""):
        sign(folder / MANIFEST, key, f"edge-runtime {origin.version}")
        members.insert(1, SIGNATURE)
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as archive:
        for name in members:
            archive.addfile(
                _info(name, (folder / name).stat().st_size, origin.epoch_s), (folder / name).open("rb")
            )
    return file


def sign(file: Path, key: str, comment: str) -> None:
    """Sign a file with minisign: FILE.minisig beside it. Raises BuildError."""
    run("minisign", "-S", "-s", key, "-m", str(file), "-t", comment)


def _manifest(kind: BundleKind, part: Path, target: Target, origin: Origin, unpacked_bytes: int) -> Manifest:
    return Manifest(
        version=origin.version,
        kind=kind,
        architecture=target.arch,
        part=BundlePart(part.name, sha256(part), part.stat().st_size),
        unpacked_bytes=unpacked_bytes,
        python=target.python if kind is BundleKind.TREE else "",
        minimum_version=MINIMUM_VERSION,
        schemas=SCHEMAS,
        commit=origin.commit,
    )


def _file_version(target: Target, origin: Origin) -> str:
    return f"{origin.version}~deb{target.release}_{target.arch}"


def _tar_xz(tree: Path, epoch_s: int) -> bytes:
    """The same bytes for the same tree."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(tree.rglob("*")):
            info = archive.gettarinfo(path, str(path.relative_to(tree)))
            executable = info.isdir() or info.mode & 0o100
            info.mode, info.mtime = 0o755 if executable else 0o644, epoch_s
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            archive.addfile(info, path.open("rb") if info.isreg() else None)
    return lzma.compress(packed.getvalue(), preset=PRESET)


def _info(name: str, size: int, epoch_s: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, epoch_s, 0o644
    return info
