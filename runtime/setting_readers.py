"""Which workers read a setting, and which of them take a change of it while they run.

Declared once: the running workers, `edgectl reload` and docs/configuration.md go by it. A whole table has an
entry, and a setting one of its own where its readers are others. What a worker does not take live it takes at
its next start, which `edgectl reload` brings about.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from runtime.layout import PROGRAMS


@dataclass(frozen=True)
class Readers:
    """The workers that read a setting."""

    live: tuple[str, ...] = ()
    """These take a change while they run."""
    restart: tuple[str, ...] = ()
    """These take it at their next start."""


_IDENTITY = Readers(live=("provisioning", "refresh"))
_IDENTITY_AND_HUB = Readers(live=("provisioning", "refresh"), restart=("upload",))
_SEALING = Readers(live=("provisioning", "refresh", "upload"))
_HUB_AND_TIME = Readers(live=("refresh",), restart=("upload",))
"""refresh asks the hub for the time where it signs by itself."""
_INGEST = Readers(restart=("ingest",))
_INGEST_LIVE = Readers(live=("ingest",))
_UPLOAD = Readers(restart=("upload",))

READERS: Mapping[str, Readers] = {
    "device": _IDENTITY,
    "platform": _IDENTITY,
    "platform.ca_file": _IDENTITY_AND_HUB,
    "platform.proxy": _IDENTITY_AND_HUB,
    "identity": _IDENTITY,
    "identity.encrypt": _SEALING,
    "identity.encryption_key_file": _SEALING,
    "provisioning": Readers(live=("provisioning",)),
    "refresh": Readers(live=("refresh",)),
    "ingest": _INGEST,
    "ingest.commit_messages": _INGEST_LIVE,
    "ingest.commit_bytes": _INGEST_LIVE,
    "ingest.max_producers": _INGEST_LIVE,
    "store": _INGEST,
    "store.max_bytes": _INGEST_LIVE,
    "store.max_messages": _INGEST_LIVE,
    "store.max_streams": _INGEST_LIVE,
    "store.leaf_max_messages": _INGEST_LIVE,
    "store.quarantine_max_bytes": _INGEST_LIVE,
    "store.fold_s": Readers(live=("ingest",), restart=("upload",)),
    "upload": _UPLOAD,
    "upload.ca_file": _HUB_AND_TIME,
    "upload.https_port": _HUB_AND_TIME,
    "upload.proxy": _HUB_AND_TIME,
    "upload.websockets": _HUB_AND_TIME,
    "link": Readers(live=("upload",)),
    "sentinel": Readers(live=("sentinel",)),
    "alarm": Readers(live=("sentinel",)),
    "observer": Readers(restart=("observer",)),
    "observer.enabled": Readers(live=("sentinel",)),
    "management": Readers(restart=("management",)),
    "management.enabled": Readers(live=("sentinel", "upload")),
    "gateway": _INGEST_LIVE,
    "update": Readers(),
    "update.folder": Readers(restart=("sentinel", "management")),
    "update.boot_dir": Readers(restart=("sentinel", "management")),
    "log": Readers(live=PROGRAMS),
    "log.ship": Readers(live=("sentinel",), restart=("observer",)),
    "log.ship_level": Readers(restart=("observer",)),
    "log.ship_lines_per_minute": Readers(restart=("observer",)),
    "log.ship_bytes_per_day": Readers(restart=("observer",)),
    "log.ship_ttl_s": Readers(restart=("observer",)),
    "stream": _INGEST,
    "stream.compression": _UPLOAD,
    "stream.pack": _UPLOAD,
    "stream.linger_s": _UPLOAD,
    "stream.pack_units": _UPLOAD,
    "stream.pack_message_id": _UPLOAD,
    "stream.fold_completion": _UPLOAD,
    "stream.chunk_bytes": _UPLOAD,
    "stream.drain": _UPLOAD,
    "stream.over_budget": _UPLOAD,
}


def readers_of(setting: str) -> Readers:
    """The readers of a setting by its dotted name; a stream's own name does not matter."""
    table, name = setting.partition(".")[0], setting.rpartition(".")[2]
    return READERS.get(f"{table}.{name}") or READERS[table]
