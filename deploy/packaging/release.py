"""What goes with the artefacts: SHA256SUMS, its signature, and one archive for a place without a network."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

from deploy.packaging.lock import LOCK_FILE, TOP
from deploy.packaging.tree import Origin
from deploy.packaging.update import sign
from deploy.packaging.wheels import BuildError, run, sha256

SUMS = "SHA256SUMS"
KEY_FILE = "edge-runtime.asc"
_ARTEFACTS = ("*.deb", "*.oci.tar", "*.update", "*.cdx.json")
_DOCUMENTS = (
    *("README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md", "constraints.txt", "docs", "deploy/RUNBOOK.md"),
    *("deploy/edge.toml.example", "deploy/container", "deploy/install.sh", "deploy/edge-runtime.sysusers"),
    *("deploy/edge-runtime.service", "deploy/edge-runtime-update.service"),
)


def sums_of(folder: Path) -> str:
    """One line for every file below a folder, as `sha256sum -c` reads it; not for the lines themselves."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(SUMS))
    return "".join(f"{sha256(path)}  {path.relative_to(folder)}\n" for path in files)


def bundle(origin: Origin, out: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Collect the artefacts of this version with wheels, documents and the public key; returns the archive.

    `EDGE_SIGN_KEY` names the GnuPG key that signs. Raises BuildError where nothing is built.
    """
    name = f"edge-runtime-{origin.version}-offline"
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    artefacts = [
        file for each in _ARTEFACTS for file in sorted(out.glob(each)) if origin.version in file.name
    ]
    if not artefacts:
        raise BuildError(f"nothing of version {origin.version} is in {out}; build it first: make deb")
    for file in artefacts:
        _copy(file, folder / "packages" / file.name)
    for wheel in sorted((out / "wheels").rglob("*.whl")):
        _copy(wheel, folder / "wheels" / wheel.name)
    _copy(LOCK_FILE, folder / "wheels" / LOCK_FILE.name)
    for each in _DOCUMENTS:
        _copy(TOP / each, folder / "documents" / each)
    key = environ.get("EDGE_SIGN_KEY", "")
    if key:
        (folder / KEY_FILE).write_text(run("gpg", "--batch", "--armor", "--export", key))
    update_key = environ.get("EDGE_UPDATE_KEY", "")
    write_sums(folder / SUMS, sums_of(folder), key, update_key)
    write_sums(out / SUMS, sums_of(folder / "packages"), key, update_key)
    archive = out / f"{name}.tar"
    _pack(folder, archive, origin.epoch_s)
    shutil.rmtree(folder)
    return archive


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copyfile(source, target)


def write_sums(file: Path, text: str, key: str, update_key: str = "") -> None:
    """Write the lines, and beside them their signatures: GnuPG's, and minisign's by the key of updates."""
    file.write_text(text)
    for suffix in ("asc", "minisig"):
        file.with_name(f"{file.name}.{suffix}").unlink(missing_ok=True)
    if key:
        run("gpg", "--batch", "--yes", "--local-user", key, "--armor", "--detach-sign", str(file))
    if update_key:
        sign(file, update_key, file.name)


def _pack(folder: Path, archive: Path, epoch_s: int) -> None:
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as packed:
        for path in sorted(folder.rglob("*")):
            info = packed.gettarinfo(path, f"{folder.name}/{path.relative_to(folder)}")
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime = epoch_s
            info.mode = 0o755 if info.isdir() or path.suffix == ".sh" else 0o644
            if info.isreg():
                with path.open("rb") as content:
                    packed.addfile(info, content)
            else:
                packed.addfile(info)
