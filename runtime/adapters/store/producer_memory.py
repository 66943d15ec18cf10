"""Memory of keyed producers in messages.db: written with their messages, read when they come back."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, OrderedDict
from collections.abc import Iterable

from runtime.adapters.store.errors import StoreDamaged, translated
from runtime.core.ingest.admission import Admission
from runtime.core.ingest.ownership import AFTER_ALL_OWNERS, of_row, row_boot
from runtime.core.ingest.protocol import ProducerKey
from runtime.core.ingest.quota import OWNER_SHARES
from runtime.core.ingest.sequences import Sequences
from runtime.core.ingest.store_view import Stamp

IN_MEMORY = 1_024


class Known(dict[ProducerKey, Sequences]):
    """The sequence memory of some producers."""

    apart: frozenset[ProducerKey] = frozenset()
    """Those of the requested producers whose name and boot are another owner's."""


class ProducerMemory:
    """The sequences of all producers, on disk; those of the latest ones are also cached in memory."""

    def __init__(self, db: sqlite3.Connection, count: int, most: int) -> None:
        self._db = db
        self._most = most
        self.count = count
        self._counted = False
        self.share = max(1, most // OWNER_SHARES)
        """Producers that each owner may have, even where others hold all."""
        self.owned: Counter[str] = Counter()
        """Number of producers by owner; read from all rows the first time that room is scarce."""
        self._known: OrderedDict[ProducerKey, Sequences] = OrderedDict()
        self._apart: set[ProducerKey] = set()
        """Those of them whose plain names another owner's messages already have."""
        self._copied: set[ProducerKey] = set()
        """Those of them that have no row of their own yet."""
        self._unfolded: dict[ProducerKey, Stamp] = {}
        """Those of them whose rows are behind, and when they were last met (`fold.py`)."""

    @property
    def room(self) -> int:
        """Number of further producers that there is room for."""
        return max(0, self._most - self.count)

    def known(self, keys: Iterable[ProducerKey]) -> Known:
        """Memory of those producers that were met before, under their owner or under an unknown one."""
        keys, known = set(keys), Known()
        for key in keys:
            memory = self._known.get(key)
            if memory is None:
                memory = self._read(key)
                if memory is None:
                    continue
            self._known[key] = known[key] = memory
            self._known.move_to_end(key)
        known.apart = frozenset(key for key in keys if self._is_apart(key))
        excess = len(self._known) - max(IN_MEMORY, len(keys))
        if excess > 0:  # these stay until they are stored, and others until their rows are written
            stays = keys | self._unfolded.keys()
            for key in [key for key in self._known if key not in stays][:excess]:
                self._drop(key)
        return known

    def _is_apart(self, key: ProducerKey) -> bool:
        return key in self._apart or (key not in self._known and self._held_by_another(key))

    def has_row(self, key: ProducerKey) -> bool:
        """True if the remembered producer is counted already."""
        return key in self._known and key not in self._copied

    def has_rows(self, admission: Admission) -> bool:
        """True if each of its producers has a row, and keeps it."""
        return all(
            self.has_row(key) and admission.is_apart(key) == (key in self._apart)
            for key in admission.producers
        )

    def _read(self, key: ProducerKey) -> Sequences | None:
        own = {row_boot(key, apart=apart): apart for apart in (False, True)}
        with translated():
            rows = dict(
                self._db.execute(
                    "SELECT boot, memory FROM producers WHERE producer = ? AND boot IN (?, ?, ?)",
                    (key.producer, key.boot, *own),
                ).fetchall()
                if key.owner
                else self._db.execute(
                    "SELECT boot, memory FROM producers WHERE producer = ? AND boot = ?", key[:2]
                ).fetchall()
            )
        for boot, apart in own.items():
            if boot in rows:
                if apart:
                    self._apart.add(key)
                return _unpacked(rows[boot])
        if key.boot not in rows:
            return None
        self._copied.add(key)
        if self._held_by_another(key):
            self._apart.add(key)
        of_all = key._replace(owner="")
        return self._known[of_all].copy() if of_all in self._unfolded else _unpacked(rows[key.boot])

    def _held_by_another(self, key: ProducerKey) -> bool:
        """True if another owner's messages have the plain names of this producer and boot."""
        if not key.owner:
            return False
        with translated():
            rows = self._db.execute(
                "SELECT boot FROM producers WHERE producer = ? AND boot > ? AND boot < ?",
                (key.producer, f"{key.boot}@", f"{key.boot}{AFTER_ALL_OWNERS}"),
            ).fetchall()
        holders = (of_row(key.producer, boot) for (boot,) in rows)
        return any(not apart and holder.owner != key.owner for holder, apart in holders)

    def _drop(self, key: ProducerKey) -> None:
        self._known.pop(key, None)
        self._apart.discard(key)
        self._copied.discard(key)

    def store(self, admission: Admission) -> None:
        """Write the rows that change with this commit."""
        self._write(
            (key, memory, admission.stamp, admission.is_apart(key))
            for key, memory in admission.producers.items()
        )

    def write_unfolded(self) -> None:
        """Write the rows that are behind, in the transaction of a fold."""
        self._write(
            (key, self._known[key], stamp, key in self._apart) for key, stamp in self._unfolded.items()
        )

    def folded(self) -> None:
        """Called when the fold is on disk."""
        self._unfolded.clear()

    def _write(self, rows: Iterable[tuple[ProducerKey, Sequences, Stamp, bool]]) -> None:
        self._db.executemany(
            "INSERT INTO producers (producer, boot, memory, used_boot, used_boot_s) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (producer, boot) DO UPDATE SET memory = excluded.memory, "
            "used_boot = excluded.used_boot, used_boot_s = excluded.used_boot_s",
            [
                (key.producer, row_boot(key, apart=apart), memory.pack(), stamp.boot, stamp.boot_s)
                for key, memory, stamp, apart in rows
            ],
        )

    def committed(self, admission: Admission, met: int, *, folded: bool) -> None:
        """Update after the commit; `met` of its producers had no row before."""
        if not folded:
            self._unfolded.update(dict.fromkeys(admission.producers, admission.stamp))
        if met:
            self.owned.update(key.owner for key in admission.producers if not self.has_row(key))
        self._known.update(admission.producers)
        self._copied.difference_update(admission.producers)
        self._apart.update(key for key in admission.producers if admission.is_apart(key))
        self.count += met

    def forget(self, now: Stamp, older_than_s: float, but: Iterable[ProducerKey]) -> list[ProducerKey]:
        """Delete up to a fifth of all that may be kept: silent for longest, and for at least `older_than_s`.

        Producers in `but` are here again, and stay.
        """
        gone = self._db.execute(
            "DELETE FROM producers WHERE (producer, boot) IN (SELECT producer, boot FROM producers "
            "WHERE CASE used_boot WHEN ? THEN used_boot_s ELSE 0 END < ? "
            "AND producer || '/' || boot NOT IN (SELECT value FROM json_each(?)) "
            "ORDER BY used_boot, used_boot_s LIMIT ?) RETURNING producer, boot",
            (
                now.boot,
                now.boot_s - older_than_s,
                json.dumps([f"{key.producer}/{row_boot(key, apart=key in self._apart)}" for key in but]),
                self._most // 5,
            ),
        ).fetchall()
        if gone:  # else nothing is written: this is called every second
            self._db.execute("UPDATE store SET producers = producers - ? WHERE id = 1", (len(gone),))
        return [of_row(*row)[0] for row in gone]

    def forgotten(self, gone: Iterable[ProducerKey]) -> None:
        """Update after the commit that deleted these producers."""
        for key in gone:
            self.count -= 1
            self.owned[key.owner] -= 1
            self._drop(key)

    def crowded(self, room: int | None) -> bool:
        """True if `room` more, or a tenth of all, would not fit; at the first such time rows are counted.

        One flipped bit in the counter would refuse every new producer.
        """
        wanted = self._most // 10 if room is None else room
        if self.room < wanted and not self._counted:
            with translated():
                ((self.count,),) = self._db.execute("SELECT count(*) FROM producers").fetchall()
                self._db.execute("UPDATE store SET producers = ? WHERE id = 1", (self.count,))
                rows = self._db.execute("SELECT producer, boot FROM producers")
                self.owned = Counter(of_row(*row)[0].owner for row in rows)
            self._counted = True
        return self.room < wanted


def _unpacked(packed: bytes) -> Sequences:
    try:
        return Sequences.unpack(packed)
    except (ValueError, TypeError) as exc:
        raise StoreDamaged(f"the memory of a producer cannot be read: {exc}") from exc
