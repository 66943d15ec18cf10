"""An old version on the home of a newer one: every part says so, with what helps, and harms nothing."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from runtime.adapters.identity.database import IdentityReader, IdentityStore
from runtime.adapters.store.writer import MessageStore
from runtime.errors import NeedsHuman
from tests.support.harness import Home, eventually
from tests.support.store_tools import ObedientClock, keep, put

NEWER = 99


@pytest.fixture
def newer(home: Home) -> Home:
    """Both databases have a schema that this version does not know."""
    store = MessageStore(home.layout.messages_db, ObedientClock())
    keep(store, put([b"x"]))
    store.close()
    IdentityStore(home.layout)
    for path in (home.layout.messages_db, home.layout.identity_db):
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA user_version = {NEWER}")
    return home


@pytest.mark.parametrize("name", ["messages.db", "identity.db"])
def test_doctor_does_not_call_a_database_of_a_newer_version_in_order(newer: Home, name: str) -> None:
    other = "identity.db" if name == "messages.db" else "messages.db"
    (newer.layout.state / other).unlink()
    checks = {check["name"]: check for check in json.loads(newer.edgectl("doctor", "--json").stdout)}
    found = checks["databases"]
    assert found["verdict"] == "error"
    assert f"{name} has schema {NEWER}" in found["text"] and "wrote it" in found["text"]
    assert "install that" in found["remedy"]


@pytest.mark.parametrize(
    ("worker", "file"),
    [
        ("ingest", "messages.db"),
        ("upload", "messages.db"),
        ("refresh", "identity.db"),
        ("provisioning", "identity.db"),
    ],
)
def test_every_worker_says_what_a_newer_version_wrote_and_what_helps(
    newer: Home, worker: str, file: str
) -> None:
    newer.write_config('[platform]\ninstance = "localhost:1"\nprovisioning_token = "t"\n')
    running = newer.start_worker(worker)
    said = f"{file} has schema {NEWER}"
    eventually(lambda: said in running.said(), 30, f"it says {said}")
    line = next(line for line in running.said().splitlines() if said in line)
    assert "a newer" in line and "install that" in line, line


def test_a_reader_of_a_schema_in_which_things_have_another_place_says_so(newer: Home) -> None:
    with closing(sqlite3.connect(newer.layout.identity_db)) as db:
        db.execute("ALTER TABLE tokens RENAME TO secrets")
    with pytest.raises(NeedsHuman, match="a newer runtime wrote it"):
        IdentityReader(newer.layout).read()
