"""Reading side of messages.db: short reads in autocommit, no cursor left open, never a held snapshot.

A reader that holds a snapshot, or a cursor after `fetchone()`, keeps the WAL from being reset: it grew 170 MB
in 4 s when we measured. So every read here ends with `fetchall()`.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, get_type_hints

from runtime.adapters.store.errors import StoreDamaged, StoreUnavailable, translated
from runtime.adapters.store.file_identity import FileIdentity
from runtime.adapters.store.keyless_names import LifeNames, read_names
from runtime.adapters.store.leaf_names import read_streams
from runtime.adapters.store.ledger import LossLogPage, read_ledger, read_loss_log
from runtime.adapters.store.opening import check_readable
from runtime.adapters.store.unfolded import LEVELS, NEXT_ID, WAITS, prepare
from runtime.core.ingest.message_fields import DETAIL_COLUMNS, MessageRow
from runtime.core.ingest.quota import TOP_PRIORITY
from runtime.core.message import Backlog, CorruptRow, Kind, StoredMessage, StreamName
from runtime.core.operations.ledger import Ledger

_FIELDS = (
    *(name for name in (*MessageRow._fields, *DETAIL_COLUMNS) if name not in ("bytes", "payload", "request")),
    "payload",  # last: the columns before it are read without touching its overflow pages
)
READ_COLUMNS = ", ".join(_FIELDS)
_TEXT_TYPES = {str, type(None)}
_TEXTS = attrgetter(*(name for name, kind in get_type_hints(StoredMessage).items() if kind == str | None))


@dataclass(frozen=True, slots=True)
class SetAside:
    """A message in quarantine."""

    message: StoredMessage | CorruptRow
    reason: str
    set_aside_wall_s: float | None


class StoreReader:
    """Reads the files that are at the path now, without writing: ingest may replace a damaged store."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._identity: FileIdentity | None = None
        self.uuid: str | None = None
        """Uuid of the store; None until one was open."""

    def open(self) -> None:
        """Connect. Raises Retryable while there is no store of a schema this runtime knows."""
        self.close()
        try:
            self._path.stat()
        except FileNotFoundError as exc:
            raise StoreUnavailable(f"{self._path} does not exist yet") from exc
        except OSError as exc:
            raise StoreUnavailable(f"{self._path} cannot be read: {exc.strerror}") from exc
        self._identity = FileIdentity(self._path)
        with translated():
            db = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, isolation_level=None, timeout=1.0)
            try:
                self._look_at(db)
            except BaseException:
                db.close()  # half open it would be taken for open
                raise
        self._streams: dict[int, StreamName] = {}
        self._boots: dict[int, str] = {}
        self._names, self._named_below = LifeNames(""), 0
        self._db = db

    def _look_at(self, db: sqlite3.Connection) -> None:
        """Check that the store is readable by us, and read its uuid."""
        db.text_factory = text_or_bytes
        check_readable(db, self._path)
        prepare(db)
        rows = db.execute(f"SELECT uuid, {NEXT_ID} FROM store").fetchall()  # noqa: S608  # our own names
        if len(rows) != 1 or not isinstance(rows[0][0], str) or not isinstance(rows[0][1], int):
            raise StoreDamaged(f"{self._path} does not know its name")
        self.uuid, self._next_id = rows[0]

    def close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _connection(self) -> sqlite3.Connection:
        if self._db is None or self._identity is None or not self._identity.is_current():
            self.open()
        assert self._db is not None
        return self._db

    def after(self, id: int, limit: int, max_bytes: int) -> list[StoredMessage | CorruptRow]:
        """The oldest messages after `id`, in id order: at least one, then as many as both bounds allow."""
        db = self._connection()
        with translated():
            sizes = db.execute(
                f"SELECT id, bytes FROM messages WHERE id > ? AND {WAITS} ORDER BY id LIMIT ?",  # noqa: S608
                (id, limit),
            ).fetchall()
            last, total_bytes = None, 0
            for number, size in sizes:
                total_bytes += size if isinstance(size, int) else 0  # damaged: the row itself will say so
                if last is not None and total_bytes > max_bytes:
                    break
                last = number
            if last is None:
                return []
            rows = db.execute(
                f"SELECT {READ_COLUMNS} FROM messages "  # noqa: S608  # our own names
                f"WHERE id > ? AND id <= ? AND {WAITS} ORDER BY id",
                (id, last),
            ).fetchall()
        return [self._message(row) for row in rows]

    def next_id(self) -> int:
        """The id of the message that is stored next: all ids given so far are smaller."""
        db = self._connection()
        with translated():
            ((next_id,),) = db.execute(f"SELECT {NEXT_ID}").fetchall()
        return int(next_id)

    def ahead(self, id: int, most: int) -> int:
        """How many of the `most` oldest messages are of the same stream as message `id`, and before it."""
        db = self._connection()
        with translated():
            ((count,),) = db.execute(
                "SELECT count(*) FROM "  # noqa: S608  # our own names
                f"(SELECT stream FROM messages WHERE id < ?1 AND {WAITS} ORDER BY id LIMIT ?2)"
                f" WHERE stream IS (SELECT stream FROM messages WHERE id = ?1 AND {WAITS})",
                (id, most),
            ).fetchall()
        return int(count)

    def backlog(self) -> Backlog:
        """The backlog from the counters: cheap, however much is stored."""
        db = self._connection()
        with translated():
            ((messages, size),) = db.execute(
                f"SELECT coalesce(sum(messages), 0), coalesce(sum(bytes), 0) FROM {LEVELS}"  # noqa: S608
            ).fetchall()
            ((oldest,),) = db.execute(f"SELECT min(id) FROM messages WHERE {WAITS}").fetchall()  # noqa: S608
        return Backlog(messages, size, oldest)

    def quarantine(self, after: int = 0, limit: int = 100) -> list[SetAside]:
        """Messages that are set aside, in id order."""
        db = self._connection()
        with translated():
            rows = db.execute(
                f"SELECT {READ_COLUMNS}, reason, set_aside_wall_s FROM quarantine "  # noqa: S608  # our own names
                "WHERE id > ? ORDER BY id LIMIT ?",
                (after, limit),
            ).fetchall()
        return [SetAside(self._message(row[:-2]), row[-2], row[-1]) for row in rows]

    def quarantined(self) -> int:
        """Number of messages that are set aside: few, so they are counted."""
        db = self._connection()
        with translated():
            ((count,),) = db.execute("SELECT count(*) FROM quarantine").fetchall()
        return int(count)

    def lost(self) -> dict[str, int]:
        """Number of messages that left the store undelivered, by reason."""
        db = self._connection()
        with translated():
            rows = db.execute("SELECT reason, sum(messages) FROM losses GROUP BY reason").fetchall()
        return {str(reason): count for reason, count in rows if isinstance(count, int) and count > 0}

    def ledger(self) -> Ledger | None:
        """The ledger, from the counters; None in a store of a version that kept none."""
        db = self._connection()
        with translated():
            return read_ledger(db)

    def loss_log(self) -> LossLogPage:
        """Which ids were lost, when and why, the newest first."""
        db = self._connection()
        with translated():
            return read_loss_log(db)

    def ledger_and_rows(self) -> tuple[Ledger, int, int]:
        """The ledger, messages that wait and messages set aside, counted row by row in the same moment.

        The snapshot is held for so long: for stores of moderate size only.
        """
        db = self._connection()
        with translated():
            db.execute("BEGIN")
            try:
                ledger = read_ledger(db)
                ((waiting, aside),) = db.execute(
                    f"SELECT (SELECT count(*) FROM messages WHERE {WAITS}), "  # noqa: S608
                    "(SELECT count(*) FROM quarantine)"
                ).fetchall()
            finally:
                db.execute("ROLLBACK")
        return ledger or Ledger(), int(waiting), int(aside)

    def _message(self, row: Sequence[Any]) -> StoredMessage | CorruptRow:
        columns = dict(zip(_FIELDS, row, strict=True))
        number = columns["id"]
        try:
            columns["stream_group"], columns["stream"], columns["leaf"] = self._stream(columns["stream"])
            columns["stored_boot_id"] = self._boot(columns.pop("boot"))
            columns["properties"] = json.loads(columns["properties"]) if columns["properties"] else {}
            columns["kind"] = Kind(columns["kind"])
            columns["key"] = columns["key"] or f"{self._life(number)}/{number}"
            message = StoredMessage(**columns)
            _check(message)
        except (ValueError, TypeError, KeyError) as exc:
            return CorruptRow(number, f"cannot be read: {exc}"[:200])
        return message

    def _stream(self, number: int) -> StreamName:
        if number not in self._streams:
            with translated():
                self._streams = read_streams(self._connection())
        return self._streams[number]

    def _life(self, number: int) -> str:
        if number >= self._named_below:  # given since the names were read
            db = self._connection()
            with translated():
                ((next_id,),) = db.execute(f"SELECT {NEXT_ID}").fetchall()
                self._names = read_names(db, str(self.uuid))
            self._named_below = next_id if isinstance(next_id, int) else 0
        return self._names.of(number)

    def _boot(self, number: int) -> str:
        if number not in self._boots:
            with translated():
                self._boots = dict(self._connection().execute("SELECT id, boot_id FROM boots").fetchall())
        return self._boots[number]


def _check(message: StoredMessage) -> None:
    """Check the types: SQLite stores any type in any column, and a flipped bit may show as one. Raises
    TypeError.
    """
    sound = (
        _TEXT_TYPES.issuperset(map(type, _TEXTS(message)))
        and isinstance(message.payload, bytes)
        and isinstance(message.priority, int)
        and 0 <= message.priority <= TOP_PRIORITY
        and isinstance(message.properties, dict)
        and all(isinstance(value, str) for value in message.properties.values())
        and (message.ttl_s is None or _is_time(message.ttl_s))
        and (message.stored_wall_s is None or _is_time(message.stored_wall_s))
        and _is_time(message.stored_boot_s)
        and isinstance(message.key, str)
        and isinstance(message.stored_boot_id, str)
    )
    if not sound:
        raise TypeError("a column has the wrong type")


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def text_or_bytes(raw: bytes) -> str | bytes:
    """Text that cannot be decoded stays bytes: that row is corrupt, and the reading of others goes on."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
