"""identity.db: tokens are there after a crash, are nobody else's to read, and survive two writers."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest

from runtime.adapters.identity import database_file
from runtime.adapters.identity.database import IdentityReader, IdentityStore
from runtime.adapters.identity.values import IdentityRecord
from runtime.core.identity.enrolment import Enrolment, EnrolmentState
from runtime.core.identity.escalation import Task
from runtime.core.identity.platform_answer import Outcome, PlatformResult, Registration
from runtime.core.identity.renewal import RetryPace
from runtime.core.moment import Moment
from runtime.core.secret import Secret
from runtime.errors import NeedsHuman, Retryable
from runtime.layout import Layout
from tests.support.harness import Home

NOW = Moment(1_800_000_000.5, 1000.25, "boot")
DONE = Enrolment(EnrolmentState.PROVISIONED, "basis", at=NOW)


def grant(text: str, lifetime_s: float | None = 3600.0) -> PlatformResult:
    return PlatformResult(Secret(text), lifetime_s)


def registration(sas: str, remaining_s: float | None = None) -> Registration:
    return Registration("hub", "w:dev", 600.0, Secret(sas), token_remaining_s=remaining_s)


@pytest.fixture
def layout(home: Home) -> Layout:
    return home.layout


@pytest.fixture
def store(layout: Layout) -> IdentityStore:
    return IdentityStore(layout)


def texts(identity: IdentityRecord) -> dict[str, str | None]:
    return {
        kind: token.secret.reveal() if token and token.secret else None
        for kind, token in (
            ("registration", identity.registration),
            ("parent", identity.parent),
            ("sas", identity.sas),
        )
    }


def test_a_device_that_was_never_provisioned_has_an_empty_identity_and_no_file(layout: Layout) -> None:
    assert IdentityReader(layout).hub_credentials() is None
    assert IdentityReader(layout).read() == IdentityRecord(Enrolment())
    assert not layout.identity_db.exists()


def test_everything_that_was_saved_is_read_back(store: IdentityStore, layout: Layout) -> None:
    record = Enrolment(EnrolmentState.PENDING, "b", "op", "CODE", Outcome.TIMED_OUT, "slow", 3, NOW, 7.5)
    store.save_enrolment(record)
    assert IdentityReader(layout).read().enrolment == record
    store.save_provisioned(DONE, grant("rt"), NOW, 0.25)
    store.save_registered(1, registration("sas-1", 1800.0), NOW, 0.75)
    pace = RetryPace(2, NOW, 30.0, Outcome.THROTTLED, "too many")
    store.save_failed(1, Task.REFRESH, pace)
    store.save_skew(-12.5)
    found = IdentityReader(layout).read()
    assert texts(found) == {"registration": "rt", "parent": None, "sas": "sas-1"}
    assert found.registration is not None and found.registration.life.remaining_s(NOW) == 1800
    assert found.registration.life.draw == 0.25, "the draw is made once per token and kept"
    assert (found.paces, found.skew_s) == ({Task.REFRESH: pace}, -12.5)
    credentials = IdentityReader(layout).hub_credentials()
    assert credentials is not None and credentials.sas == Secret("sas-1")
    assert (credentials.hub_host, credentials.device_id, credentials.generation) == ("hub", "w:dev", 1)


def test_an_identity_that_has_certainly_not_changed_is_not_read_again(
    store: IdentityStore, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = IdentityReader(layout)
    assert reader.read() is not reader.read(), "so soon after a change another may bear the same time"
    monkeypatch.setattr(database_file, "JUST_NOW_NS", 0)
    before = reader.read()
    assert reader.read() is before
    store.save_enrolment(Enrolment(verification_code="ABCD"))
    assert reader.read().enrolment.verification_code == "ABCD"
    layout.identity_db.chmod(0o644)
    with pytest.raises(NeedsHuman):
        reader.read()


def test_the_parent_stays_known_until_its_child_has_registered(store: IdentityStore) -> None:
    store.save_provisioned(DONE, grant("first"), NOW, 0.5)
    store.save_registered(1, registration("sas-1"), NOW, 0.5)
    assert store.save_refreshed(1, grant("second"), NOW, 0.5)
    assert texts(store.read()) == {"registration": "second", "parent": "first", "sas": "sas-1"}
    assert store.save_registered(2, registration("sas-2"), NOW, 0.5)
    assert texts(store.read()) == {"registration": "second", "parent": None, "sas": "sas-2"}


def test_a_dead_child_leaves_its_parent_and_a_refresh_with_it_heals(store: IdentityStore) -> None:
    store.save_provisioned(DONE, grant("first"), NOW, 0.5)
    store.save_refreshed(1, grant("second"), NOW, 0.5)
    store.drop_registration(2)
    assert texts(store.read()) == {"registration": None, "parent": "first", "sas": None}
    assert store.save_refreshed(1, grant("third"), NOW, 0.5)
    assert texts(store.read()) == {"registration": "third", "parent": "first", "sas": None}


def test_an_answer_to_a_token_that_was_replaced_meanwhile_is_dropped(store: IdentityStore) -> None:
    store.save_provisioned(DONE, grant("old"), NOW, 0.5)
    store.save_provisioned(DONE, grant("new"), NOW, 0.5)
    assert not store.save_refreshed(1, grant("child of old"), NOW, 0.5)
    assert not store.save_registered(1, registration("sas of old"), NOW, 0.5)
    pace = RetryPace(9, NOW, 300.0, Outcome.UNAUTHORIZED, "old")
    assert not store.save_failed(1, Task.REGISTER, pace, refused=True)
    found = store.read()
    assert texts(found) == {"registration": "new", "parent": None, "sas": None}
    assert not found.token_refused and not found.paces


def test_the_sas_in_force_stays_in_force_while_the_device_is_provisioned_again(store: IdentityStore) -> None:
    store.save_provisioned(DONE, grant("old"), NOW, 0.5)
    store.save_registered(1, registration("sas-1"), NOW, 0.5)
    store.drop_registration(1)
    store.save_provisioned(DONE, grant("new"), NOW, 0.5)
    credentials = store.hub_credentials()
    assert credentials is not None and credentials.sas == Secret("sas-1")


def test_generations_only_ever_grow_even_over_a_reset(store: IdentityStore) -> None:
    store.save_provisioned(DONE, grant("one"), NOW, 0.5)
    store.save_registered(1, registration("sas"), NOW, 0.5)
    store.reset()
    assert store.hub_credentials() is None
    store.save_provisioned(DONE, grant("two"), NOW, 0.5)
    store.save_registered(2, registration("sas"), NOW, 0.5)
    credentials = store.hub_credentials()
    assert credentials is not None and credentials.generation > 1


def test_another_device_id_waits_for_a_word_where_that_is_wished(store: IdentityStore) -> None:
    store.save_provisioned(DONE, grant("one"), NOW, 0.5)
    store.save_registered(1, registration("sas-1"), NOW, 0.5, hold=True)
    assert store.hub_credentials() is not None, "the first id is no change"
    store.reset()
    store.save_provisioned(DONE, grant("two"), NOW, 0.5)
    other = Registration("hub", "w:other", 600.0, Secret("sas-2"))
    store.save_registered(2, other, NOW, 0.5, hold=True)
    assert store.hub_credentials() is None and store.read().on_hold
    store.save_registered(2, other, NOW, 0.5, hold=True)
    assert store.hub_credentials() is None, "a renewal is no word of a person"
    store.accept()
    credentials = store.hub_credentials()
    assert credentials is not None and credentials.device_id == "w:other"


def test_a_device_that_is_back_under_the_id_in_force_needs_no_word(store: IdentityStore) -> None:
    def known_as(device_id: str, *, hold: bool = True) -> str | None:
        """The id under which messages go out now."""
        store.save_provisioned(DONE, grant("one"), NOW, 0.5)
        found = Registration("hub", device_id, 600.0, Secret(f"sas of {device_id}"))
        serial = store.read().registration
        assert serial is not None and store.save_registered(serial.serial, found, NOW, 0.5, hold=hold)
        credentials = store.hub_credentials()
        return credentials.device_id if credentials else None

    assert known_as("w:a") == "w:a"
    assert known_as("w:b") is None, "nothing ever went out under b"
    assert known_as("w:a") == "w:a"
    assert known_as("w:b") is None
    assert known_as("w:c") is None
    store.accept()
    assert known_as("w:c") == "w:c"
    assert known_as("w:a") is None, "c is the one in force"
    assert known_as("w:a", hold=False) == "w:a", "whoever does not want to be asked any more is not"


def test_the_database_is_for_its_owner_alone(store: IdentityStore, layout: Layout) -> None:
    assert stat.S_IMODE(layout.identity_db.stat().st_mode) == 0o600
    assert stat.S_IMODE(layout.state.stat().st_mode) == 0o700


@pytest.mark.parametrize(("what", "mode"), [("identity_db", 0o640), ("state", 0o755)])
def test_tokens_that_others_could_read_are_refused_with_the_remedy(
    what: str, mode: int, store: IdentityStore, layout: Layout
) -> None:
    path: Path = getattr(layout, what)
    path.chmod(mode)
    for touch in (IdentityReader(layout).read, lambda: IdentityStore(layout), lambda: store.save_skew(1)):
        with pytest.raises(NeedsHuman, match="open to others") as caught:
            touch()
        assert caught.value.hint.startswith("chmod ")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_database_of_somebody_else_is_refused(store: IdentityStore, layout: Layout) -> None:
    os.chown(layout.identity_db, 12345, 12345)
    os.chown(layout.state, 12345, 12345)
    child = os.fork()
    if child == 0:  # as an ordinary user, who must be able to come that far
        os.setuid(54321)
        try:
            IdentityReader(layout).read()
        except NeedsHuman:
            os._exit(0)
        finally:
            os._exit(1)  # whatever happened, this child must not go on as a second pytest
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_deleted_token_is_gone_from_the_file_too(store: IdentityStore, layout: Layout) -> None:
    store.save_provisioned(DONE, grant("a-token-to-be-forgotten"), NOW, 0.5)
    assert b"a-token-to-be-forgotten" in layout.identity_db.read_bytes()
    store.reset()
    for path in layout.state.iterdir():
        assert b"a-token-to-be-forgotten" not in path.read_bytes(), path


def test_two_writers_at_once_neither_fail_nor_lose_a_write(layout: Layout) -> None:
    IdentityStore(layout).save_provisioned(DONE, grant("t"), NOW, 0.5)
    failed: list[BaseException] = []
    tasks = [task for task in Task if task is not Task.REGISTER_FORMER]

    def write(task: Task) -> None:
        try:
            mine = IdentityStore(layout)
            for n in range(40):
                mine.save_failed(1, task, RetryPace(n + 1, NOW, 1.0, Outcome.CUT, ""))
        except BaseException as exc:
            failed.append(exc)

    writers = [threading.Thread(target=write, args=(task,)) for task in tasks]
    for one in writers:
        one.start()
    for one in writers:
        one.join(60)
    assert failed == []
    assert {t: p.failures for t, p in (IdentityReader(layout).read().paces or {}).items()} == dict.fromkeys(
        tasks, 40
    )


@pytest.mark.parametrize("damage", [b"not a database at all" * 100, None], ids=["overwritten", "torn page"])
def test_a_damaged_database_is_set_aside_and_the_device_can_be_provisioned_again(
    damage: bytes | None, store: IdentityStore, layout: Layout
) -> None:
    store.save_provisioned(DONE, grant("t"), NOW, 0.5)
    store.save_registered(1, registration("sas"), NOW, 0.5)
    before = store.hub_credentials()
    whole = layout.identity_db.read_bytes()
    layout.identity_db.write_bytes(damage or whole[:4096] + bytes([0xA5]) * (len(whole) - 4096))
    again = IdentityStore(layout)
    assert again.read().registration is None
    assert (layout.state / "identity.db.damaged").exists()
    again.save_provisioned(DONE, grant("t2"), NOW, 0.5)
    again.save_registered(1, registration("sas"), NOW, 0.5)
    after = again.hub_credentials()
    assert before is not None and after is not None and after.generation > before.generation


def test_a_database_of_the_first_schema_keeps_everything_when_a_newer_runtime_starts(layout: Layout) -> None:
    store = IdentityStore(layout)
    store.save_provisioned(DONE, grant("kept"), NOW, 0.5)
    pace = RetryPace(2, NOW, 30.0, Outcome.THROTTLED, "too many", 30.0)
    store.save_failed(1, Task.REFRESH, pace)
    with closing(sqlite3.connect(layout.identity_db)) as db, db:
        db.execute("ALTER TABLE enrolment DROP COLUMN adopted")
        db.execute("ALTER TABLE hub DROP COLUMN accepted_id")
        db.execute("ALTER TABLE paces DROP COLUMN asked_s")
        for table, column in (("tokens", "host"), ("tokens", "basis"), ("paces", "refusals")):
            db.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        for column in ("begun", "refusals"):
            db.execute(f"ALTER TABLE enrolment DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 1")
    assert texts(IdentityReader(layout).read())["registration"] == "kept", "a reader comes before the writer"
    assert IdentityReader(layout).read().paces == {Task.REFRESH: pace}, "asked for, as far as anybody knows"
    newer = IdentityStore(layout)
    newer.save_failed(1, Task.REFRESH, pace)
    assert newer.read().paces == {Task.REFRESH: pace}
    adopted = Enrolment(EnrolmentState.PROVISIONED, "basis", at=NOW, adopted="mark")
    assert newer.read().enrolment == DONE
    newer.save_enrolment(adopted)
    assert newer.read().enrolment == adopted and texts(newer.read())["registration"] == "kept"


@pytest.mark.parametrize("on_hold", [False, True])
def test_a_device_of_the_second_schema_is_held_exactly_where_it_was(on_hold: bool, layout: Layout) -> None:
    store = IdentityStore(layout)
    store.save_provisioned(DONE, grant("kept"), NOW, 0.5)
    store.save_registered(1, registration("sas"), NOW, 0.5, hold=True)
    with closing(sqlite3.connect(layout.identity_db)) as db, db:
        db.execute("ALTER TABLE hub DROP COLUMN accepted_id")
        db.execute("INSERT INTO facts VALUES ('on_hold', ?)", (1 if on_hold else 0,))
        db.execute("PRAGMA user_version = 2")
    assert (IdentityReader(layout).hub_credentials() is None) is on_hold
    newer = IdentityStore(layout)
    newer.save_registered(1, registration("sas-2"), NOW, 0.5, hold=True)
    assert (newer.hub_credentials() is None) is on_hold
    newer.accept()
    assert newer.hub_credentials() is not None


def test_a_sound_database_is_never_set_aside_by_two_that_start_at_once(layout: Layout) -> None:
    IdentityStore(layout).save_provisioned(DONE, grant("kept"), NOW, 0.5)
    starters = [threading.Thread(target=IdentityStore, args=(layout,)) for _ in range(8)]
    for one in starters:
        one.start()
    for one in starters:
        one.join(30)
    assert texts(IdentityReader(layout).read())["registration"] == "kept"
    assert not (layout.state / "identity.db.damaged").exists()


def test_a_database_that_somebody_holds_is_weather_and_not_a_crash(
    store: IdentityStore, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.adapters.identity.database_file.BUSY_TIMEOUT_S", 0.1)
    with closing(sqlite3.connect(layout.identity_db, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        for touch in (store.read, lambda: store.save_skew(1.0)):
            with pytest.raises(Retryable, match="locked"):
                touch()
    store.save_skew(1.0)


def test_a_writer_that_hangs_while_it_makes_the_database_holds_up_nobody_for_good(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.adapters.identity.database_file.BUSY_TIMEOUT_S", 0.1)
    with (layout.state / "identity.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Retryable, match=r"another process has held identity\.lock for 0\.1 s"):
            IdentityStore(layout)
    IdentityStore(layout).save_skew(1.0)


def test_a_full_disk_is_weather_and_leaves_what_was_there(store: IdentityStore, layout: Layout) -> None:
    store.save_provisioned(DONE, grant("kept"), NOW, 0.5)
    size_bytes = layout.identity_db.stat().st_size
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, size_bytes))
        try:
            store.save_enrolment(Enrolment(reason="x" * 100_000))
        except Retryable:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert texts(store.read())["registration"] == "kept"


def test_a_writer_killed_in_a_transaction_leaves_the_state_before_it(layout: Layout) -> None:
    store = IdentityStore(layout)
    store.save_provisioned(DONE, grant("kept"), NOW, 0.5)
    child = os.fork()
    if child == 0:
        db = sqlite3.connect(layout.identity_db, isolation_level=None)
        db.execute("PRAGMA cache_size = 0")  # pages go to the file before the commit: a hot journal stays
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE tokens SET text = 'half'")
        db.execute("CREATE TABLE bulk AS SELECT randomblob(500000) AS b")
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert (layout.state / "identity.db-journal").exists()
    assert texts(IdentityReader(layout).read())["registration"] == "kept"
    store.save_skew(1.0)
