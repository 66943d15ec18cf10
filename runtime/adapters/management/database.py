"""management.db: the twin, the commands and the kept answers. One writer, and one commit for a turn.

Invariants:

1. What `commit` returned from is on disk (WAL, synchronous FULL).
2. `serial` grows with each commit, and is at least the highest seq ever given. Beside the database stands the
   serial of about a second ago: a database that is behind it is a restored copy. It gets another uuid, under
   which results go to `ingest`, and gives no seq again. So does one that was copied from another machine.
3. Ends are numbered in their order, without a gap: results go to `ingest` by these numbers.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from runtime.adapters.management.rows import (
    COMMAND_COLUMNS,
    SELECT_TWIN,
    TWIN_DOCUMENTS,
    answer_from_row,
    command_from_row,
    command_to_json,
    content_of,
    moment_from_json,
    moment_to_json,
    text_of_json,
    twin_from_rows,
    twin_marks,
)
from runtime.adapters.process.machine_names import named_apart, was_copied
from runtime.adapters.store.errors import (
    StoreDamaged,
    StoreError,
    StoreNewer,
    StoreReplaced,
    StoreUnavailable,
    committing,
    translated,
)
from runtime.adapters.store.file_identity import FileIdentity
from runtime.adapters.store.id_watermark import IdWatermark
from runtime.adapters.store.opening import REMEDY, configure
from runtime.adapters.store.wal import write_again
from runtime.core.management.call_record import KeptAnswer
from runtime.core.management.calls import ANSWER_KEPT_S
from runtime.core.management.command_record import CommandRow, Instant
from runtime.core.management.command_results import WAIT_FOR_A_PERSON, forgettable
from runtime.core.management.twin_record import TwinRecord
from runtime.layout import Layout

MANAGEMENT_SCHEMA = 1
SERIALS_UNSAVED = 100_000
"""Far more than can be given between two saves of the watermark: a restored copy goes on beyond them."""
CHECKED_BYTES = 67_108_864
"""A database up to this size is checked as a whole when it is opened: that takes a fraction of a second."""
FORGET_AT_ONCE = 50
CACHE_KIB = 512
"""Pages kept in memory: a turn touches a few."""
MOST_ANSWERS = 1_000
"""Kept answers; beyond it the oldest are forgotten."""

_TABLES = """
CREATE TABLE IF NOT EXISTS meta (
    id INTEGER PRIMARY KEY, uuid TEXT NOT NULL, serial INTEGER NOT NULL, next_seq INTEGER NOT NULL,
    next_end INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS twin (name TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS commands (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL, digest TEXT NOT NULL, content TEXT NOT NULL,
    ended_no INTEGER, result_stored INTEGER NOT NULL, row TEXT NOT NULL, result BLOB NOT NULL,
    payload BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS commands_id ON commands (id, content);
CREATE INDEX IF NOT EXISTS commands_digest ON commands (digest) WHERE digest <> '';
CREATE INDEX IF NOT EXISTS commands_open ON commands (seq) WHERE ended_no IS NULL;
CREATE UNIQUE INDEX IF NOT EXISTS commands_ended ON commands (ended_no) WHERE ended_no IS NOT NULL;
CREATE INDEX IF NOT EXISTS commands_unsent ON commands (ended_no)
    WHERE ended_no IS NOT NULL AND result_stored = 0;
CREATE TABLE IF NOT EXISTS answers (
    method TEXT, call_id TEXT, status INTEGER NOT NULL, payload BLOB NOT NULL, kept TEXT NOT NULL,
    PRIMARY KEY (method, call_id));
CREATE TABLE IF NOT EXISTS losses (reason TEXT PRIMARY KEY, commands INTEGER NOT NULL) WITHOUT ROWID;
"""

_SELECT = f"SELECT {COMMAND_COLUMNS} FROM commands"  # noqa: S608 a constant


class EndedCommand(NamedTuple):
    """A final command, with the number of its end."""

    number: int
    command: CommandRow


class ManagementDatabase:
    """The open database. Its methods raise StoreError."""

    def __init__(self, layout: Layout, *, max_pages: int | None = None) -> None:
        self.path = layout.management_db
        self.restored = False
        """True if it is an older copy of itself, or another machine's: what it calls open may have ended."""
        with translated():
            write_again(self.path)
            self._db = sqlite3.connect(self.path, isolation_level=None, timeout=1.0)
            try:
                self._open(layout, max_pages)
            except BaseException:
                self._db.close()
                raise
        self._identity = FileIdentity(self.path)
        self._twin: TwinRecord | None = None
        """The record on disk; None where that is not known, or there is none."""
        self._changed = False

    def _open(self, layout: Layout, max_pages: int | None) -> None:
        configure(self._db, max_pages)
        self._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        self._check()
        ((version,),) = self._db.execute("PRAGMA user_version").fetchall()
        if version > MANAGEMENT_SCHEMA:
            text = f"{self.path} has schema {version}, this runtime knows {MANAGEMENT_SCHEMA}"
            raise StoreNewer(f"{text}: a newer one wrote it", hint=REMEDY)
        self._watermark = IdWatermark(layout.commands_given)
        self._db.execute("BEGIN IMMEDIATE")
        if version < MANAGEMENT_SCHEMA:
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {MANAGEMENT_SCHEMA}")
        rows = self._db.execute("SELECT uuid, serial, next_seq, next_end FROM meta").fetchall()
        meta: tuple[str, int, int, int] = rows[0] if rows else self._new_meta()
        self.uuid, self._serial, self.next_seq, self._next_end = meta
        given = len(self._watermark.missing(self.uuid, self._serial))
        if given or was_copied(self.path):
            self.restored = True
            self._serial += given + SERIALS_UNSAVED
            self.uuid, self.next_seq = uuid.uuid4().hex, self._serial
        self._db.execute("DELETE FROM meta")
        self._db.execute("INSERT INTO meta VALUES (1, ?, ?, ?, ?)", self._meta())
        self._db.execute("COMMIT")
        named_apart(self.path)
        self._remember()

    def _new_meta(self) -> tuple[str, int, int, int]:
        """A new database gives no seq that one before it gave."""
        given = self._watermark.highest
        first = given + SERIALS_UNSAVED if given else 1
        return uuid.uuid4().hex, first, first, 1

    def _meta(self) -> tuple[str, int, int, int]:
        return self.uuid, self._serial, self.next_seq, self._next_end

    def _check(self) -> None:
        with contextlib.suppress(OSError):
            if self.path.stat().st_size > CHECKED_BYTES:
                return
        problems = [row[0] for row in self._db.execute("PRAGMA quick_check(1)")]
        if problems != ["ok"]:
            raise StoreDamaged(str(problems[0]))

    # --- reading ---

    def twin(self) -> TwinRecord:
        with _decoded():
            rows = dict(self._db.execute(SELECT_TWIN))
            record = twin_from_rows(rows)
        self._twin = record if rows else None
        return record

    def twin_received(self) -> Any:
        """The time that `save_twin_received` kept, as JSON; None where there is none."""
        with _decoded():
            rows = self._db.execute("SELECT text FROM twin WHERE name = 'received'").fetchall()
            return json.loads(rows[0][0]) if rows else None

    def open_commands(self) -> list[CommandRow]:
        return self._commands("ended_no IS NULL ORDER BY seq")

    def unsent(self, most: int) -> list[EndedCommand]:
        """Final commands whose results `ingest` has not acknowledged, in the order of their ends."""
        with _decoded():
            rows = self._db.execute(
                f"SELECT ended_no, {COMMAND_COLUMNS} FROM commands"  # noqa: S608 a constant
                " WHERE ended_no IS NOT NULL AND result_stored = 0 ORDER BY ended_no LIMIT ?",
                (most,),
            ).fetchall()
            return [EndedCommand(number, command_from_row(tuple(row))) for number, *row in rows]

    def command(self, seq: int) -> CommandRow | None:
        return self._one("seq = ?", seq)

    def command_of(self, id: str, content: str | None = None) -> CommandRow | None:
        """The newest command with this id, and this content where the id alone does not name it."""
        if content is None:
            return self._one("id = ? ORDER BY seq DESC", id)
        return self._one("id = ? AND content = ? ORDER BY seq DESC", id, content)

    def command_of_digest(self, digest: str) -> CommandRow | None:
        """The newest command without an id of its own that has this digest."""
        return self._one("digest = ? AND digest <> '' ORDER BY seq DESC", digest)

    def newest_commands(self, most: int) -> list[CommandRow]:
        return self._commands(f"1 ORDER BY seq DESC LIMIT {most:d}")

    def _one(self, where: str, *values: object) -> CommandRow | None:
        found = self._commands(f"{where} LIMIT 1", *values)
        return found[0] if found else None

    def _commands(self, where: str, *values: object) -> list[CommandRow]:
        with _decoded():
            rows = self._db.execute(f"{_SELECT} WHERE {where}", values)
            return [command_from_row(row) for row in rows]

    def answer(self, method: str, call_id: str) -> KeptAnswer | None:
        with _decoded():
            rows = self._db.execute(
                "SELECT method, call_id, status, payload, kept FROM answers WHERE method = ? AND call_id = ?",
                (method, call_id),
            ).fetchall()
            return answer_from_row(rows[0]) if rows else None

    def losses(self) -> dict[str, int]:
        with translated():
            return dict(self._db.execute("SELECT reason, commands FROM losses"))

    # --- writing: in the transaction that `commit` ends ---

    def save_twin(self, record: TwinRecord) -> None:
        with self._writing() as run:
            for name in TWIN_DOCUMENTS:
                document = getattr(record, name)
                if self._twin is None or document is not getattr(self._twin, name):
                    run("INSERT OR REPLACE INTO twin VALUES (?, ?)", (name, text_of_json(document)))
            run("INSERT OR REPLACE INTO twin VALUES ('marks', ?)", (twin_marks(record),))
        self._twin = record

    def save_twin_received(self, received: Any) -> None:
        with self._writing() as run:
            run("INSERT OR REPLACE INTO twin VALUES ('received', ?)", (text_of_json(received),))

    def save_command(self, command: CommandRow) -> None:
        values = (command_to_json(command), command.result, command.result_stored)
        with self._writing() as run:
            changed = run(
                "UPDATE commands SET row = ?, result = ?, result_stored = ? WHERE seq = ?",
                (*values, command.seq),
            ).rowcount
            if not changed:
                keys = (command.id, command.digest, content_of(command.properties, command.payload))
                run(
                    "INSERT INTO commands (seq, id, digest, content, row, result, result_stored, payload)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (command.seq, *keys, *values, command.payload),
                )
            if command.state.final:
                self._number_end(command.seq)
        self.next_seq = max(self.next_seq, command.seq + 1)

    def _number_end(self, seq: int) -> None:
        numbered = self._db.execute(
            "UPDATE commands SET ended_no = ? WHERE seq = ? AND ended_no IS NULL", (self._next_end, seq)
        ).rowcount
        self._next_end += numbered

    def save_answer(self, answer: KeptAnswer) -> None:
        kept = text_of_json(moment_to_json(answer.kept))
        with self._writing() as run:
            run(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)",
                (answer.method, answer.call_id, answer.status, answer.payload, kept),
            )
            run("DELETE FROM answers WHERE rowid <= (SELECT max(rowid) FROM answers) - ?", (MOST_ANSWERS,))

    def count_loss(self, reason: str) -> None:
        """Count a command whose result never reaches the cloud."""
        with self._writing() as run:
            run(
                "INSERT INTO losses VALUES (?, 1) ON CONFLICT (reason) DO UPDATE SET commands = commands + 1",
                (reason,),
            )

    def forget(self, now: Instant, after: int = 0) -> int | None:
        """Delete some of the oldest final commands and answers that need no memory any more.

        Returns the number of the end from which to go on, or None where the rest is too young.
        """
        self._forget_answers(now)
        with _decoded():
            rows = self._db.execute(
                f"SELECT ended_no, {COMMAND_COLUMNS} FROM commands"  # noqa: S608 a constant
                " WHERE ended_no > ? ORDER BY ended_no LIMIT ?",
                (after, FORGET_AT_ONCE),
            ).fetchall()
            ((newer,),) = self._db.execute("SELECT count(*) FROM commands WHERE ended_no > ?", (after,))
            ended = [EndedCommand(number, command_from_row(tuple(row))) for number, *row in rows]
        for at, (number, command) in enumerate(ended):
            if forgettable(command, newer - at - 1, now):
                with self._writing() as run:
                    run("DELETE FROM commands WHERE ended_no = ?", (number,))
            elif command.result_stored and (command.dropped or command.state not in WAIT_FOR_A_PERSON):
                return None
        return ended[-1].number if len(ended) == FORGET_AT_ONCE else None

    def _forget_answers(self, now: Instant) -> None:
        with _decoded():
            rows = self._db.execute(
                "SELECT rowid, kept FROM answers ORDER BY rowid LIMIT ?", (FORGET_AT_ONCE,)
            ).fetchall()
            kept = [(rowid, moment_from_json(json.loads(text))) for rowid, text in rows]
        for rowid, moment in kept:
            age_s = now.moment.since(moment) if moment else None
            if age_s is not None and age_s > ANSWER_KEPT_S:
                with self._writing() as run:
                    run("DELETE FROM answers WHERE rowid = ?", (rowid,))

    def commit(self) -> None:
        """Make what was saved durable. Raises StoreError; nothing of it counts then."""
        if not self._changed:
            return
        with translated():
            if not self._identity.is_current():
                raise StoreReplaced(f"{self.path} was removed or replaced while in use")
            self._serial = max(self._serial + 1, self.next_seq)
            self._db.execute(
                "UPDATE meta SET serial = ?, next_seq = ?, next_end = ?",
                (self._serial, self.next_seq, self._next_end),
            )
            with committing():
                self._db.execute("COMMIT")
        self._changed = False
        self._remember()

    def rollback(self) -> None:
        """Undo what was saved since the last commit. The next one writes the whole twin."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("ROLLBACK")
        self._changed, self._twin = False, None
        with translated():
            row = self._db.execute("SELECT serial, next_seq, next_end FROM meta").fetchone()
        self._serial, self.next_seq, self._next_end = row

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Any]:
        with translated():
            if not self._changed:
                self._db.execute("BEGIN IMMEDIATE")
                self._changed = True
            yield self._db.execute

    # --- the watermark, and the end ---

    def _remember(self) -> None:
        self._watermark.remember(self.uuid, self._serial)

    def save_watermark(self) -> None:
        """Write the serial beside the database; called about once a second."""
        self._watermark.save()

    def close(self) -> None:
        self._watermark.save()
        self._identity.leave(self._db)
        self._db.close()


@contextlib.contextmanager
def _decoded() -> Iterator[None]:
    """Turn what a damaged row raises into StoreDamaged."""
    try:
        with translated():
            yield
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
        raise StoreDamaged(f"a row cannot be decoded: {exc!r}") from exc


def open_ids(path: Path) -> tuple[list[str], int | None]:
    """Ids of the open commands in a damaged database, as far as they can be read, and their number.

    The number is None where not all could be read.
    """
    ids: list[str] = []
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        with contextlib.closing(db):
            for (id,) in db.execute("SELECT id FROM commands WHERE ended_no IS NULL ORDER BY seq"):
                ids.append(str(id))
    except (sqlite3.Error, UnicodeDecodeError):
        return ids, None
    return ids, len(ids)


def set_aside(path: Path) -> Path:
    """Move a damaged database out of the way, with its WAL. Raises StoreUnavailable."""
    number = 1
    while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    try:
        path.replace(target)
        for suffix in ("-wal", "-shm"):
            side = path.with_name(path.name + suffix)
            if side.exists():
                side.replace(target.with_name(target.name + suffix))
    except OSError as exc:
        raise StoreUnavailable(f"cannot move {path} away: {exc.strerror}") from exc
    return target


__all__ = ["EndedCommand", "ManagementDatabase", "StoreError", "open_ids", "set_aside"]
