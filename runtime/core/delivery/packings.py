"""The packing that a message keeps when its stream's settings change, so that a repeat is the same bytes.

A message that was sent and not acknowledged may have arrived. Cut or encoded otherwise when it is sent again,
it would come under the same `$.mid` with other bytes, and the chunks of two cuts would be mixed. So the
packing of a message that may have been sent is remembered before it is sent: not by message, but by stream,
that of all leaves together, up to which id, some ahead, so that one write serves many messages. Later
messages are packed as configured.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from runtime.core.delivery.envelope import Compression, Packing
from runtime.core.message import StreamName

AHEAD = 256
"""Ids beyond the one that is sent that count as sent, too."""
MOST_STREAMS = 1_024
"""Most streams that are remembered; those that sent nothing for longest give way."""
MOST_CHANGES = 4
"""Most changes of one stream's packing that are remembered, with messages of each still in the store."""


@dataclass(frozen=True, slots=True)
class _Era:
    """Messages up to this id may have been sent with this packing, where no earlier era covers them."""

    up_to: int
    packing: Packing


class Packings:
    """The ranges of ids that may have been sent, and their packing."""

    def __init__(self) -> None:
        self._eras: dict[StreamName, list[_Era]] = {}
        self._store: str | None = None
        """The uuid of the store that all ids belong to."""
        self.changed = False

    def of(self, store: str | None, name: StreamName, id: int, configured: Packing) -> Packing:
        """The packing of this message."""
        if store != self._store:
            return configured
        for era in self._eras.get(name, ()):
            if id <= era.up_to:
                return era.packing
        return configured

    def sending(self, store: str | None, name: StreamName, id: int, configured: Packing) -> None:
        """The message is about to be sent, packed as `of` says."""
        if store != self._store:
            self._store = store
            self._eras.clear()
        eras = self._eras.get(name, [])
        if eras and id <= eras[-1].up_to:
            return
        if eras and eras[-1].packing == configured:
            eras = [*eras[:-1], replace(eras[-1], up_to=id + AHEAD)]
        else:
            eras = [*eras, _Era(id + AHEAD, configured)]
        self._eras.pop(name, None)
        self._eras[name] = eras[-MOST_CHANGES:]
        while len(self._eras) > MOST_STREAMS:
            del self._eras[next(iter(self._eras))]
        self.changed = True

    def packed(self, name: StreamName) -> bool:
        """True if messages of the stream may have been sent in packs, of those that are still remembered."""
        return any(era.packing.packs for era in self._eras.get(name, ()))

    def begin(self, store: str | None, newest: int, oldest: int = 0) -> None:
        """A run begins, and the store has messages between these two only: later ones were never sent.

        So a message from quarantine, under its new id, is packed by the present settings, too.
        """
        if store != self._store:
            return
        for name, eras in self._eras.items():
            kept = [replace(era, up_to=min(era.up_to, newest)) for era in eras]
            self._eras[name] = [era for era in kept if era.up_to >= oldest]

    def to_json(self) -> dict[str, Any]:
        """The form that is written to the disk."""
        self.changed = False
        return {
            "store": self._store,
            "streams": [
                (name.group, name.stream, [_written(era) for era in eras])
                for name, eras in self._eras.items()
            ],
        }

    @classmethod
    def of_json(cls, saved: Any) -> Packings:
        """Read the form on the disk. Entries that cannot be read count as nothing."""
        packings = cls()
        try:
            packings._store = saved["store"]
            packings._eras = {StreamName(*name): _read(eras) for *name, eras in saved["streams"]}
        except (KeyError, TypeError, ValueError):
            return cls()
        return packings


def _written(era: _Era) -> tuple[Any, ...]:
    packing = era.packing
    rest = (packing.chunk_bytes, packing.file_from_units, packing.site_id, packing.packs)
    return (era.up_to, packing.compression.name, *rest)


def _read(eras: Iterable[Any]) -> list[_Era]:
    return [
        _Era(int(up_to), Packing(Compression[compression], int(chunk_bytes), int(units), site, any(packs)))
        for up_to, compression, chunk_bytes, units, site, *packs in eras
    ]
