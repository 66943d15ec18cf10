"""Uploaded files: the open uploads, and the blobs that were written.

A blob is whole or not there: it is written beside its place and renamed. Its file is named by a hash, so
that no blob name reaches the file system.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from runtime.devcloud.state.database import Database

MOST_OPEN = 10  # per device; the hub's limit


class Uploads:
    """All uploads and blobs of devices."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        for leftover in folder.glob("*.part"):
            leftover.unlink()

    # -- uploads -------------------------------------------------------------------------------------

    def open(self, device_id: str, blob_name: str, lifetime_s: float, now_s: float) -> dict[str, Any] | None:
        """Open an upload; None where the device has too many already."""
        open_now = self._database.row(
            "SELECT count(*) AS n FROM uploads WHERE device_id = ? AND state = 'open' AND expires_at > ?",
            *(device_id, now_s),
        )
        if open_now and open_now["n"] >= MOST_OPEN:
            return None
        correlation_id = secrets.token_urlsafe(24)
        self._database.execute(
            "INSERT INTO uploads (correlation_id, device_id, blob_name, created_at, expires_at, state)"
            " VALUES (?, ?, ?, ?, ?, 'open')",
            *(correlation_id, device_id, blob_name, now_s, now_s + lifetime_s),
        )
        return self.opened(device_id, correlation_id)

    def opened(self, device_id: str, correlation_id: str) -> dict[str, Any] | None:
        """An upload that waits for its notification."""
        return self._database.row(
            "SELECT * FROM uploads WHERE device_id = ? AND correlation_id = ? AND state = 'open'",
            *(device_id, correlation_id),
        )

    def settle(
        self, correlation_id: str, succeeded: bool, code: int | None, description: str | None, now_s: float
    ) -> None:
        """Settle an upload by the device's notification: it is no longer open."""
        self._database.execute(
            "UPDATE uploads SET state = ?, status_code = ?, status_description = ?, notified_at = ?"
            " WHERE correlation_id = ?",
            *("succeeded" if succeeded else "failed", code, description, now_s, correlation_id),
        )

    def uploads(self) -> list[dict[str, Any]]:
        return self._database.rows("SELECT * FROM uploads ORDER BY created_at")

    # -- blobs ---------------------------------------------------------------------------------------

    def blob(self, name: str) -> dict[str, Any] | None:
        return self._database.row("SELECT * FROM blobs WHERE name = ?", name)

    def blobs(self) -> list[dict[str, Any]]:
        return self._database.rows("SELECT * FROM blobs ORDER BY written_at")

    def content(self, name: str) -> Path | None:
        """The path of a blob's bytes."""
        return self._folder / _hash(name) if self.blob(name) else None

    def part(self) -> Part:
        """A file for bytes that arrive."""
        return Part(self._folder / f"{secrets.token_hex(8)}.part")

    def keep(self, name: str, part: Part, now_s: float) -> None:
        """Make the received bytes the blob, in the place of any before it."""
        part.path.replace(self._folder / _hash(name))
        self._database.execute(
            "INSERT INTO blobs (name, bytes, md5, written_at) VALUES (?, ?, ?, ?) ON CONFLICT (name)"
            " DO UPDATE SET bytes = excluded.bytes, md5 = excluded.md5, written_at = excluded.written_at",
            *(name, part.length_bytes, part.md5.hexdigest(), now_s),
        )

    def keep_block(self, name: str, block_id: str, part: Part) -> None:
        """Keep one block until a block list names it."""
        part.path.replace(self._block(name, block_id))

    def join(self, name: str, block_ids: Iterable[str], now_s: float) -> bool:
        """Make the blob of these blocks, in this order; False where one of them was never sent."""
        blocks = [self._block(name, block_id) for block_id in block_ids]
        if not all(block.exists() for block in blocks):
            return False
        with self.part() as whole:
            for block in blocks:
                with block.open("rb") as file:
                    while chunk := file.read(1024 * 1024):
                        whole.write(chunk)
        self.keep(name, whole, now_s)
        for block in self._folder.glob(f"{_hash(name)}.*.block"):
            block.unlink()
        return True

    def _block(self, name: str, block_id: str) -> Path:
        return self._folder / f"{_hash(name)}.{_hash(block_id)}.block"


class Part:
    """A file that grows until it is kept. As a context it vanishes on an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.length_bytes = 0
        self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def write(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self.md5.update(chunk)
        self.length_bytes += len(chunk)

    def __enter__(self) -> Part:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is not None:
            self.path.unlink(missing_ok=True)


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:40]
