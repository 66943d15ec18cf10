"""The bundle of an update: one tar file with the manifest, its signature and one part, in this order.

    manifest.json           runtime/core/update/manifest.py
    manifest.json.minisig   its signature by minisign
    tree.tar.xz             or image.squashfs: what the manifest's sha256 is of

The bundle may lie on a stick that changes while it is read. So the part is hashed twice: as a whole before
anything is written, and again as it is written; what is written counts only where both are as signed.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from runtime.adapters.update.signature import verify
from runtime.core.update.manifest import BadManifest, Manifest, parse_manifest
from runtime.core.update.minisign import BadSignature, PublicKey
from runtime.errors import Rejected

MANIFEST, SIGNATURE = "manifest.json", "manifest.json.minisig"
MOST_MANIFEST_BYTES = 65_536
BLOCK_BYTES = 1 << 20
Progress = Callable[[int], None]


class BadBundle(Rejected):
    """The bundle is not one that may be applied."""


@dataclass(frozen=True)
class UpdateBundle:
    """A bundle whose manifest is signed by a key of ours."""

    file: Path
    manifest: Manifest
    comment: str
    """The signer's trusted comment."""
    offset_bytes: int
    """Where the part begins in the file."""

    def check(self, progress: Progress = lambda _: None) -> None:
        """Read the whole part once. Raises BadBundle where it is not the one that was signed."""
        with self.part() as source:
            while block := source.read(BLOCK_BYTES):
                progress(len(block))

    @contextmanager
    def part(self) -> Iterator[HashedReader]:
        """The part, to be read to its end. Raises BadBundle at the end of the block where it is another."""
        with translated(self.file), self.file.open("rb") as file:
            file.seek(self.offset_bytes)
            source = HashedReader(file, self.manifest.part.size_bytes)
            yield source
            while source.read(BLOCK_BYTES):
                pass
            if source.digest() != self.manifest.part.sha256:
                raise BadBundle(f"{self.manifest.part.name} in {self.file} is damaged: its sha256 is another")


class HashedReader:
    """A part of a file that is hashed while it is read."""

    def __init__(self, file: IO[bytes], size_bytes: int) -> None:
        self._file = file
        self._left_bytes = size_bytes
        self._hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        size = self._left_bytes if size < 0 else min(size, self._left_bytes)
        block = self._file.read(size)
        self._left_bytes -= len(block)
        self._hash.update(block)
        return block

    def digest(self) -> str:
        return self._hash.hexdigest()


@contextmanager
def translated(file: Path) -> Iterator[None]:
    """Say of a damaged archive which file it is. Raises BadBundle."""
    try:
        yield
    except (tarfile.TarError, EOFError, UnicodeDecodeError) as exc:
        raise BadBundle(f"{file} is no bundle, or cut off: {exc}") from exc


def open_bundle(file: Path, keys: tuple[PublicKey, ...]) -> UpdateBundle:
    """Read manifest and signature; of the rest only where it stands. Raises BadBundle, OSError."""
    with translated(file), tarfile.open(file, "r:") as archive:
        content = _member(archive, MANIFEST)
        signature = _member(archive, SIGNATURE).decode()
        try:
            comment = verify(content, signature, keys)
            manifest = parse_manifest(content)
        except (BadSignature, BadManifest) as exc:
            raise BadBundle(f"{file}: {exc}") from exc
        info = archive.next()
        if info is None or info.name != manifest.part.name or not info.isreg():
            raise BadBundle(f"{file} has no {manifest.part.name}: it is cut off")
        if info.size != manifest.part.size_bytes:
            raise BadBundle(
                f"{info.name} in {file} has {info.size} bytes, signed are {manifest.part.size_bytes}"
            )
        return UpdateBundle(file, manifest, comment, info.offset_data)


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    info = archive.next()
    if name == SIGNATURE and info is not None and info.name != name:
        raise BadBundle(f"{archive.name!s} is not signed; EDGE_UPDATE_KEY signs it where it is made")
    if info is None or info.name != name or not info.isreg() or info.size > MOST_MANIFEST_BYTES:
        raise BadBundle(f"{archive.name!s} is no bundle: it should begin with {name}")
    content = archive.extractfile(info)
    assert content is not None
    return content.read()
