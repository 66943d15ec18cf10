"""The fields of a message are declared once: what may be stated, what is stored and what is read follow."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

from runtime.adapters.store import schema
from runtime.adapters.store.reader import READ_COLUMNS
from runtime.adapters.store.statements import COLUMNS
from runtime.core.ingest.message_fields import (
    DETAIL_COLUMNS,
    MESSAGE_FIELDS,
    PLAIN,
    Details,
    MessageRow,
    describe,
)
from runtime.core.ingest.request_packs import Fields
from runtime.core.message import OPTIONAL_FIELDS, StoredMessage

SQL = {str: "TEXT", float: "REAL", int: "INTEGER", bytes: "BLOB"}
NEW_FIELD = '''
import importlib.util, pathlib, sys

def load_changed(name, old, new):
    """Import a module whose source has a line more."""
    spec = importlib.util.find_spec(name)
    source = pathlib.Path(spec.origin).read_text()
    assert old in source
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    exec(compile(source.replace(old, new, 1), spec.origin, "exec"), module.__dict__)
    parent, _, child = name.rpartition(".")
    setattr(sys.modules[parent], child, module)

here = "    content_type: str | None = None\\n"
load_changed("runtime.core.message", here, here + "    colour: str | None = None\\n")
load_changed("runtime.adapters.store.errors", "SCHEMA_VERSION = 2", "SCHEMA_VERSION = 3")

from runtime.adapters.store import schema

@schema.migrations()
def version_3(db):
    for table in ("messages", "quarantine"):
        db.table(table).add_column("colour", str)

from runtime.adapters.salvage.salvage import salvage
from runtime.adapters.store.upload_reader import UploadReader
from runtime.adapters.store.writer import MessageStore
from runtime.core.ingest.protocol import SizeLimits, decode_request
from runtime.core.settlement import Settled
from tests.support.store_tools import ObedientClock, keep

path = pathlib.Path(sys.argv[1]) / "messages.db"
store = MessageStore(path, ObedientClock())
header = b'{"messages": [{"colour": "red"}, {"colour": "blue"}, {}]}'
keep(store, decode_request([header, b"1", b"2", b"3"], SizeLimits(9, 999)))
store.commit(None, Settled(quarantined=[(2, "for the test")]))
store.commit(None, Settled(requeued=[2]))
store.close()

def colours():
    reader = UploadReader(path)
    found, _ = reader.find(0, 9, 9, 999)
    reader.close()
    return [message.colour for message in found]

assert colours() == ["red", None, "blue"], colours()
for _ in salvage(path, "for the test"):
    pass
assert colours() == ["red", None, "blue"], colours()
'''


def test_a_field_is_added_by_one_line_and_its_migration(tmp_path: Path) -> None:
    """Stated, stored, set aside, put back, read and salvaged."""
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", NEW_FIELD, str(tmp_path)], capture_output=True, text=True, cwd=root
    )
    assert run.returncode == 0, run.stderr


def test_the_columns_on_disk_are_those_that_are_declared() -> None:
    db = sqlite3.connect(":memory:")
    schema.migrate(db)
    hints = {**get_type_hints(MessageRow), **get_type_hints(Details)}
    del hints["request"]  # with `gone`, what a row tells of its request until the counters know
    for table, more in {
        "messages": {"request", "gone"},
        "quarantine": {"reason", "set_aside_wall_s"},
    }.items():
        found = db.execute(f"PRAGMA table_info({table})")
        columns = {name: (kind, bool(never)) for _, name, kind, never, *_ in found}
        assert columns.keys() - more == hints.keys()
        for name, hint in hints.items():
            (kind,) = [each for each in (get_args(hint) or (hint,)) if each is not type(None)]
            required = type(None) not in get_args(hint) and name != "id"
            assert columns[name] == (SQL[kind], required), name
    assert set(COLUMNS.split(", ")) == hints.keys()
    db.close()


def test_what_is_read_is_all_that_is_stored_and_the_payload_last() -> None:
    assert READ_COLUMNS.endswith(", payload")
    assert set(READ_COLUMNS.split(", ")) == {*MessageRow._fields, *DETAIL_COLUMNS} - {"bytes", "request"}
    assert set(OPTIONAL_FIELDS) <= set(StoredMessage.__dataclass_fields__)


def test_the_python_client_knows_every_field_that_may_be_stated() -> None:
    assert set(Fields.__annotations__) == MESSAGE_FIELDS


def test_every_text_is_counted_but_the_name_of_a_file() -> None:
    texts = {
        "batch_id": "b",
        "batch_slice_id": "bs",
        "message_id": "mmm",
        "chunk_id": "c",
        "content_type": "t",
    }
    described = describe({**texts, "properties": {"a": "b"}, "ttl_s": 5, "file": "clip.mp4"}, PLAIN)
    assert described.text_bytes == sum(map(len, texts.values())) + len('{"a":"b"}')
