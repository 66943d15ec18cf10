"""The schema of messages.db and its migrations. Imported only when the version on disk differs.

`PRAGMA user_version` names the schema: comparing it costs microseconds, and sqlite-utils stays out of
ingest's memory on every start but the first after an upgrade.

The next schema is a function `version_3` below the last, and SCHEMA_VERSION = 3: opening an older store
carries it out, and so does the salvage of one. The migration of a released version never changes again. Where
older runtimes must refuse what is new, READABLE_BY says so, beside SCHEMA_VERSION.
"""

from __future__ import annotations

import sqlite3
import uuid

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from runtime.adapters.store.errors import SCHEMA_VERSION

migrations = Migrations("messages")

_COLUMNS = {
    "id": int,
    "stream": int,
    "kind": int,
    "priority": int,
    "ttl_s": float,
    "stored_wall_s": float,
    "stored_boot_s": float,
    "boot": int,
    "batch_id": str,
    "batch_slice_id": str,
    "message_id": str,
    "chunk_id": str,
    "content_type": str,
    "properties": str,
    "key": str,
    "file": str,
    "bytes": int,
    "payload": bytes,  # last: the columns before it are read without touching its overflow pages
}
_NEVER_NULL = {"stream", "kind", "priority", "stored_boot_s", "boot", "bytes", "payload"}


@migrations()
def version_1(db: Database) -> None:
    """The first schema."""
    db.table("store").create(
        {"id": int, "uuid": str, "next_id": int, "next_stream": int, "producers": int}, pk="id"
    )
    db.table("store").insert(
        {"id": 1, "uuid": uuid.uuid4().hex, "next_id": 1, "next_stream": 1, "producers": 0}
    )
    db.table("streams").create({"id": int, "stream_group": str, "stream": str}, pk="id")
    db.table("boots").create({"id": int, "boot_id": str}, pk="id")
    db.table("boots").create_index(["boot_id"], unique=True)
    db.table("messages").create(_COLUMNS, pk="id", not_null=_NEVER_NULL)
    db.table("quarantine").create(
        {**_COLUMNS, "reason": str, "set_aside_wall_s": float}, pk="id", not_null={*_NEVER_NULL, "reason"}
    )
    counts = {"messages": int, "bytes": int, "stored": int, "delivered": int}
    db.table("levels").create({"stream": int, "priority": int, **counts}, pk=("stream", "priority"))
    losses = {"messages": int, "bytes": int, "first_id": int, "last_id": int}
    db.table("losses").create({"stream": int, "reason": str, **losses}, pk=("stream", "reason"))
    db.table("producers").create(
        {"producer": str, "boot": str, "memory": bytes, "used_boot": int, "used_boot_s": float},
        pk=("producer", "boot"),
    )


@migrations()
def version_2(db: Database) -> None:
    """The store folds: the counters of the first schema count what is stored up to the id `folded`.

    Older runtimes would give ids again, and take messages for undelivered that are not: they refuse it.
    """
    db.execute("ALTER TABLE store ADD COLUMN folded INTEGER")
    db.execute("ALTER TABLE store ADD COLUMN closed INTEGER")
    db.execute("UPDATE store SET folded = next_id - 1, closed = 1")
    db.execute("ALTER TABLE messages ADD COLUMN request INTEGER")
    db.execute("ALTER TABLE messages ADD COLUMN gone TEXT")
    db.execute("PRAGMA user_version = 2")  # in the same transaction: no older runtime may write to it now


def migrate(connection: sqlite3.Connection, version: int = SCHEMA_VERSION) -> None:
    """Bring the schema up to `version`; every step is one transaction, carried out once."""
    migrations.apply(Database(connection), stop_before=f"version_{version + 1}")
    connection.execute(f"PRAGMA user_version = {version}")
