"""The journal of one file upload: `state/uploads/<id>.json`, 0600, for it holds the SAS URI."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from runtime.adapters.process import checksummed_line

ADDRESS_LIFE_S = 3_000.0
"""A SAS URI lives about an hour; ten minutes are kept for the last block."""


@dataclass(slots=True)
class Journal:
    """The record of one upload."""

    correlation_id: str
    address: str
    blob_name: str
    block_bytes: int
    blocks: int = 0
    """Number of blocks that the storage has."""
    began_wall_s: float = 0.0
    state: str = "open"
    """open, committed (the blob is whole), done (and the hub is notified)."""
    of: str = ""
    """Owner of the journal: the hub, the device, the name asked for, and the payload's fingerprint. An id may
    be given again when a store is replaced by a new one, and blocks of a compressed payload do not go with
    blocks of a plain one."""
    sent_bytes: int = 0
    """Size of those blocks together."""
    digest: str = ""
    """Hash of those blocks, see `payloads.digest_with`."""
    mark: str = ""
    """The state of the file when the first of them was read."""

    def is_young(self) -> bool:
        """True if its SAS URI is still valid. Where the clock jumped it is not: another one is cheap."""
        return 0 <= time.time() - self.began_wall_s < ADDRESS_LIFE_S

    def same_blob(self, other: Journal) -> bool:
        """True if blocks that went to the other SAS URI belong to this one's blob."""
        return self.of == other.of and self.address.partition("?")[0] == other.address.partition("?")[0]

    def go_on_from(self, other: Journal) -> None:
        """Take over the blocks of the other journal, which the storage has."""
        self.blocks, self.block_bytes = other.blocks, other.block_bytes
        self.sent_bytes, self.digest, self.mark = other.sent_bytes, other.digest, other.mark

    def start_over(self, mark: str) -> None:
        """Begin with the first block, which overwrites the one that the storage may have."""
        self.blocks, self.sent_bytes, self.digest, self.mark = 0, 0, "", mark

    def goes_on_with(self, mark: str) -> bool:
        """True if the blocks that it knows of are of this state of the file, and have a hash so far."""
        return bool(self.blocks and self.digest) and self.mark == mark


def read(path: Path) -> Journal | None:
    """Read a journal; None where there is none that can be used."""
    try:
        return Journal(**checksummed_line.read(path))
    except TypeError:
        return None


def write(path: Path, journal: Journal) -> None:
    """Write the journal. Raises OSError."""
    fresh = path.with_suffix(".new")
    checksummed_line.write(fresh, asdict(journal))
    fresh.replace(path)
