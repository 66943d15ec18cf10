"""Opens messages.db for writing: sets its pragmas, finds its schema version, and migrates it to ours.

`PRAGMA user_version` names the version. One flipped bit there would make every store that of a newer runtime,
which only a person can open. So a number that is one bit away from one we know is compared with the list of
migrations that were carried out: only a newer runtime adds one that we do not know.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from loguru import logger

from runtime.adapters.store.errors import SCHEMA_VERSION, StoreNewer, StoreUnavailable, StoreUnknown
from runtime.adapters.store.vacuum import JOURNAL_LIMIT_BYTES
from runtime.core.log_events import LogEvent

REMEDY = "install that again, or move the file away"
_STEP = re.compile(r"version_(\d+)")


def configure(db: sqlite3.Connection, max_pages: int | None) -> None:
    """Set the pragmas, before any write. Raises StoreUnavailable where a commit would not be durable."""
    run = db.execute
    run("PRAGMA auto_vacuum = INCREMENTAL")  # takes effect for a new file only, and must come first
    run("PRAGMA journal_mode = WAL")
    run("PRAGMA synchronous = FULL")  # in WAL mode NORMAL may lose the last commits on power loss
    run(f"PRAGMA journal_size_limit = {JOURNAL_LIMIT_BYTES}")
    run("PRAGMA temp_store = MEMORY")
    if max_pages is not None:
        run(f"PRAGMA max_page_count = {max_pages}")
    in_force = (run("PRAGMA journal_mode").fetchone()[0], run("PRAGMA synchronous").fetchone()[0])
    if in_force != ("wal", 2):
        raise StoreUnavailable(f"the disk under the store refuses WAL with synchronous=FULL: {in_force}")


def bring_up_to_date(db: sqlite3.Connection, path: Path) -> None:
    """Migrate an older store. Raises StoreNewer."""
    ((version,),) = db.execute("PRAGMA user_version").fetchall()
    if version == SCHEMA_VERSION:
        return
    if is_newer(db, version):
        raise StoreNewer(_says(path, version), hint=REMEDY)
    from runtime.adapters.store.schema import migrate  # imported late: sqlite-utils only where it is needed

    if version > SCHEMA_VERSION:
        logger.bind(event=LogEvent.SCHEMA_BIT_FLIPPED).warning(
            "{} says schema {}, which is a flipped bit: it is {}", path, version, migrated_to(db)
        )
    migrate(db)


def check_readable(db: sqlite3.Connection, path: Path) -> None:
    """Raises StoreUnavailable where the store's schema is not ours."""
    ((version,),) = db.execute("PRAGMA user_version").fetchall()
    if version == SCHEMA_VERSION:
        return
    if is_newer(db, version):
        raise StoreUnknown(f"{_says(path, version)}; {REMEDY}")
    raise StoreUnavailable(f"{path} has schema {version}, wanted is {SCHEMA_VERSION}: ingest brings it there")


def is_newer(db: sqlite3.Connection, version: int) -> bool:
    """True if a newer runtime wrote the store with this schema version."""
    return version > SCHEMA_VERSION and not is_flipped(db, version)


def _says(path: Path, version: int) -> str:
    return f"{path} has schema {version}, this runtime knows {SCHEMA_VERSION}: a newer one wrote it"


def is_flipped(db: sqlite3.Connection, version: int) -> bool:
    """True if `version` is that of the migrations carried out, but for one bit, and we know all of them."""
    known = migrated_to(db)
    return known is not None and (version ^ known).bit_count() == 1


def migrated_to(db: sqlite3.Connection) -> int | None:
    """The version by the migrations carried out; None where one of them is unknown, or none can be read."""
    try:
        names = db.execute("SELECT name FROM _sqlite_migrations WHERE migration_set = 'messages'").fetchall()
    except sqlite3.Error:
        return None
    steps = [int(step[1]) for (name,) in names if (step := _STEP.fullmatch(str(name)))]
    return max(steps) if steps and len(steps) == len(names) and max(steps) <= SCHEMA_VERSION else None
