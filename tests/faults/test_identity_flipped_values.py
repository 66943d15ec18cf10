"""One bad value in identity.db, in which SQLite finds no fault: the device stays, or comes back by itself.

A flipped bit makes a text a blob, or one name another; a runtime that was rolled back finds names that only
a newer one knows; a machine put back to a snapshot finds moments that are yet to come.
"""

from __future__ import annotations

import math
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runtime.adapters.bus.sockets import Hints
from runtime.adapters.identity.database import IdentityStore
from runtime.adapters.process.clock import SystemClock, read_moment
from runtime.adapters.process.status_file import read_status
from runtime.core.identity import enrolment, renewal
from runtime.core.identity.enrolment import Call, Enrolment, EnrolmentState, Wish
from runtime.core.identity.escalation import Task
from runtime.core.identity.platform_answer import Outcome, PlatformAnswer, PlatformResult, Registration
from runtime.core.identity.renewal import RenewalPolicy, RetryPace
from runtime.core.moment import Moment
from runtime.core.secret import Secret
from runtime.workers.refresh import RefreshLoop
from tests.support.harness import Home, heart

WISH = Wish("platform.example", "7f", None)
NOW = read_moment(SystemClock())
VALUES = {
    "another type": "x'00ff'",
    "another name": "'newer'",
    "no UTF-8": "cast(x'fffe' AS TEXT)",
    "nothing": "NULL",
    "a huge number": "9e200",
    "a negative number": "-7",
    "a moment to come": "1e12",
}


COLUMNS = {
    "tokens": ("kind", "text", "serial", "lifetime_s", "age_s", "draw", "wall_s", "boot_s", "boot_id"),
    "enrolment": (
        *("phase", "basis", "operation_id", "verification_code", "trouble", "reason", "failures", "pause_s"),
        *("wall_s", "boot_s", "boot_id", "adopted"),
    ),
    "paces": ("task", "failures", "pause_s", "outcome", "reason", "wall_s", "boot_s", "boot_id", "asked_s"),
    "hub": ("host", "device_id", "generation", "certificate", "key", "accepted_id"),
    "facts": ("value",),
}


@pytest.fixture
def home() -> Iterator[Home]:
    """In memory, where there is such a place: thousands of commits have nothing to wait for."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="edge-", dir=shm if shm.is_dir() else None) as folder:
        yield Home(Path(folder) / "home")


def live(store: IdentityStore) -> None:
    """A device with everything in its database."""
    past = Moment(NOW.wall_s - 60, NOW.boot_s - 60, NOW.boot_id)
    record = Enrolment(
        EnrolmentState.PROVISIONED, WISH.basis(), "op", "AB-12", Outcome.CUT, "cut", 1, past, 5.0
    )
    store.save_provisioned(record, PlatformResult(Secret("first-token"), 3600.0), past, 0.5)
    store.save_registered(1, Registration("hub", "w:d", 3600.0, Secret("a-good-sas")), past, 0.5)
    store.save_refreshed(1, PlatformResult(Secret("second-token"), 3600.0), past, 0.5)
    store.save_failed(2, Task.REGISTER, RetryPace(1, past, 30.0, Outcome.CUT, "cut"))
    store.save_skew(3.0)


def decide(store: IdentityStore) -> float:
    """As both workers do at each turn; the seconds until either does something."""
    identity = store.read()
    has_token = identity.registration is not None or identity.parent is not None
    record = enrolment.settled(identity.enrolment, WISH, has_token, identity.granted)
    asks = enrolment.next_step(record, WISH, has_token, NOW)
    enrolment.after(record, Call.INIT, PlatformAnswer(Outcome.CUT), enrolment.EnrolmentPolicy(), NOW, 0.5)
    held = identity.held(NOW)
    step = renewal.next_step(held, RenewalPolicy(), NOW)
    renewal.registration_state(held, NOW)
    return min(step.in_s if step.task else math.inf, asks.in_s if asks.call else math.inf)


@pytest.mark.parametrize("value", VALUES)
def test_no_single_value_keeps_a_device_from_coming_back(value: str, home: Home) -> None:
    path = home.layout.identity_db
    live(IdentityStore(home.layout))
    sound = path.read_bytes()
    for table, names in COLUMNS.items():
        for column in names:
            for row in range(rows(home, table)):
                path.write_bytes(sound)
                if flipped(home, table, column, row, VALUES[value]):
                    assert_comes_back(IdentityStore(home.layout), f"{table}.{column} of row {row}")


@pytest.mark.parametrize("kind", ["registration", "sas"])
def test_a_token_that_one_bit_turned_into_a_blob_is_not_taken_for_a_sealed_one(kind: str, home: Home) -> None:
    store = IdentityStore(home.layout)
    live(store)
    before = store.read()
    with closing(sqlite3.connect(home.layout.identity_db)) as db, db:
        db.execute("UPDATE tokens SET text = cast(text AS BLOB) WHERE kind = ?", (kind,))
    after = store.read()
    assert after.locked == "" and getattr(after, kind).secret == getattr(before, kind).secret


@pytest.mark.parametrize("text", ["second\ufffdtoken", "second\ntoken"])
def test_a_token_that_no_header_takes_is_not_offered_for_ever(text: str, home: Home) -> None:
    """One bit more or less: it passed for a platform that cannot be reached, and the SAS ran out."""
    store = IdentityStore(home.layout)
    live(store)
    with closing(sqlite3.connect(home.layout.identity_db)) as db, db:
        db.execute("UPDATE tokens SET text = ? WHERE kind = 'registration'", (text,))
    assert store.read().registration is None
    assert renewal.next_step(store.read().held(NOW), RenewalPolicy(), NOW).task is Task.REFRESH_PARENT
    assert store.save_refreshed(1, PlatformResult(Secret("child"), 3600.0), NOW, 0.5), (
        "the parent's child was dropped"
    )
    assert store.save_registered(newest(store), found(), NOW, 0.5)


def test_a_sas_that_is_no_ascii_is_not_asked_for_without_a_pause(home: Home) -> None:
    """It came so: the hub has to say what it thinks of it, and the next one would be the same."""
    store = IdentityStore(home.layout)
    live(store)
    assert store.save_registered(2, Registration("hub", "w:d", None, Secret("s\u00e4s")), NOW, 0.5)
    assert store.read().sas is not None


@pytest.mark.parametrize("version", [0, 1, 2, 3])
def test_a_schema_number_that_is_too_low_costs_nothing(version: int, home: Home) -> None:
    live(IdentityStore(home.layout))
    with closing(sqlite3.connect(home.layout.identity_db)) as db, db:
        db.execute(f"PRAGMA user_version = {version}")
    assert IdentityStore(home.layout).hub_credentials() is not None


def rows(home: Home, table: str) -> int:
    with closing(sqlite3.connect(home.layout.identity_db)) as db:
        return int(db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def flipped(home: Home, table: str, column: str, row: int, value: str) -> bool:
    """Put it there; False where SQLite itself would not have it."""
    one = f"SELECT rowid FROM {table} LIMIT 1 OFFSET {row}"
    with closing(sqlite3.connect(home.layout.identity_db)) as db, db:
        db.execute("PRAGMA synchronous = OFF")
        try:
            db.execute(f"UPDATE {table} SET {column} = {value} WHERE rowid = ({one})")
        except sqlite3.IntegrityError:
            return False
    return True


def assert_comes_back(store: IdentityStore, where: str) -> None:
    assert decide(store) <= 3600, f"{where}: nobody does anything any more"
    assert store.read().locked == "", f"{where}: no key will ever open it"
    serial = next((t.serial for t in (store.read().registration, store.read().parent) if t), None)
    if serial is not None:
        assert store.save_refreshed(serial, PlatformResult(Secret("child"), 3600.0), NOW, 0.5), where
        assert store.save_failed(newest(store), Task.REGISTER, RetryPace(1, NOW, 1.0, Outcome.CUT)), where
        assert store.save_registered(newest(store), found(), NOW, 0.5), where
        assert store.hub_credentials() is not None, where
    store.drop_registration(newest(store))
    store.save_provisioned(
        Enrolment(EnrolmentState.PROVISIONED, WISH.basis()), PlatformResult(Secret("new"), None), NOW, 0.5
    )
    assert store.save_registered(newest(store), found(), NOW, 0.5), where
    credentials = store.hub_credentials()
    assert credentials is not None and credentials.sas == Secret("sas"), where


def found() -> Registration:
    return Registration("hub", "w:d", 3600.0, Secret("sas"), token_remaining_s=1800.0)


def newest(store: IdentityStore) -> int:
    registration = store.read().registration
    return registration.serial if registration else 0


def test_a_way_in_without_tokens_gets_over_the_loss_of_the_row_that_stands_for_one(home: Home) -> None:
    """It waited for a provisioning that such a device has none of, while its SAS ran out."""
    change = "UPDATE tokens SET kind = 'registratiOn' WHERE kind = 'registration'"
    change_beneath(home, "SharedAccessKey=a2V5", change)
    assert (read_status(home.layout.status_file("refresh")) or {})["state"] == "registered"


@pytest.mark.parametrize("flipped", ["host = 'hub.exampld'", "device_id = 'w:e'"])
@pytest.mark.parametrize("rest", ["SharedAccessKey=a2V5", "SharedAccessSignature=SharedAccessSignature sr=h"])
def test_a_hub_whose_name_one_bit_made_another_is_asked_for_anew(rest: str, flipped: str, home: Home) -> None:
    """Nobody renews what a fixed connection string says: a host that is not there was called for ever."""
    change_beneath(home, rest, f"UPDATE hub SET {flipped}")
    found = IdentityStore(home.layout).hub_credentials()
    assert found is not None and (found.hub_host, found.device_id) == ("hub.example", "w:d")


def change_beneath(home: Home, rest: str, change: str) -> None:
    """A device on a connection string, whose database says something else from one turn to the next."""
    connection = home.folder / "connection"
    connection.write_text(f"HostName=hub.example;DeviceId=w:d;{rest}\n")
    connection.chmod(0o600)
    home.write_config(f'[identity]\nmode = "connection-string"\nconnection_string_file = "{connection}"\n')
    with closing(Hints(home.layout, "refresh")) as hints:
        keeper = RefreshLoop(home.config, heart(home, "refresh"), hints)
        while keeper.turn(False) <= 0:
            pass
        with closing(sqlite3.connect(home.layout.identity_db)) as db, db:
            db.execute(change)
        while keeper.turn(False) <= 0:
            pass
