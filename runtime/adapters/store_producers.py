"""The memory of keyed producers in messages.db: written with their messages, read when they come back."""

from __future__ import annotations

import json
import sqlite3
from collections import OrderedDict
from collections.abc import Iterable, Mapping

from runtime.adapters.store_errors import StoreDamaged, translated
from runtime.core.admission import Admission, Stamp
from runtime.core.protocol import ProducerKey
from runtime.core.sequences import Sequences

IN_MEMORY = 1_024


class ProducerMemory:
    """Of all producers on disk, of those met last in memory too."""

    def __init__(self, db: sqlite3.Connection, count: int, most: int) -> None:
        self._db = db
        self._most = most
        self.count = count
        self._counted = False
        self._known: OrderedDict[ProducerKey, Sequences] = OrderedDict()

    @property
    def room(self) -> int:
        """How many more may be met."""
        return max(0, self._most - self.count)

    def known(self, keys: Iterable[ProducerKey]) -> dict[ProducerKey, Sequences]:
        """The memory of those producers that were met before."""
        found = {}
        for key in set(keys):
            memory = self._known.get(key)
            if memory is None:
                with translated():
                    row = self._db.execute(
                        "SELECT memory FROM producers WHERE producer = ? AND boot = ?", key
                    ).fetchone()
                if row is None:
                    continue
                memory = _unpacked(row[0])
            self._known[key] = found[key] = memory
            self._known.move_to_end(key)
        while len(self._known) > IN_MEMORY:
            self._known.popitem(last=False)
        return found

    def store(self, admission: Admission) -> None:
        """Write what changes with this commit."""
        _, boot_s, boot = admission.stamp
        self._db.executemany(
            "INSERT INTO producers (producer, boot, memory, used_boot, used_boot_s) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT (producer, boot) DO UPDATE SET memory = excluded.memory, "
            "used_boot = excluded.used_boot, used_boot_s = excluded.used_boot_s",
            [(*key, memory.pack(), boot, boot_s) for key, memory in admission.producers.items()],
        )

    def book(self, producers: Mapping[ProducerKey, Sequences], met: int) -> None:
        """The commit stands; `met` of them were not met before."""
        self._known.update(producers)
        self.count += met

    def forget(self, now: Stamp, older_than_s: float, but: Iterable[ProducerKey]) -> list[ProducerKey]:
        """Delete up to a fifth of all that may be kept: silent for longest, and for so long at least.

        `but` those who are here again.
        """
        gone = self._db.execute(
            "DELETE FROM producers WHERE (producer, boot) IN (SELECT producer, boot FROM producers "
            "WHERE CASE used_boot WHEN ? THEN used_boot_s ELSE 0 END < ? "
            "AND producer || '/' || boot NOT IN (SELECT value FROM json_each(?)) "
            "ORDER BY used_boot, used_boot_s LIMIT ?) RETURNING producer, boot",
            (
                now.boot,
                now.boot_s - older_than_s,
                json.dumps(["/".join(key) for key in but]),
                self._most // 5,
            ),
        ).fetchall()
        if gone:  # else nothing is written: this is asked every second
            self._db.execute("UPDATE store SET producers = producers - ? WHERE id = 1", (len(gone),))
        return [ProducerKey(*key) for key in gone]

    def forgotten(self, gone: Iterable[ProducerKey]) -> None:
        """That stands, too."""
        for key in gone:
            self.count -= 1
            self._known.pop(key, None)

    def crowded(self, room: int | None) -> bool:
        """Whether so many more, or a tenth of all, would not fit: by looking, the first time that it matters.

        One flipped bit in the counter would refuse every new producer.
        """
        wanted = self._most // 10 if room is None else room
        if self.room < wanted and not self._counted:
            with translated():
                ((self.count,),) = self._db.execute("SELECT count(*) FROM producers").fetchall()
                self._db.execute("UPDATE store SET producers = ? WHERE id = 1", (self.count,))
            self._counted = True
        return self.room < wanted


def _unpacked(packed: bytes) -> Sequences:
    try:
        return Sequences.unpack(packed)
    except (ValueError, TypeError) as exc:
        raise StoreDamaged(f"the memory of a producer cannot be read: {exc}") from exc
