"""identity.db: who this device is, and the tokens that prove it.

Two processes write it, `provisioning` and `refresh`; everyone reads. Transactions are short and take the
write lock before they read (BEGIN IMMEDIATE). What was decided on an older state is written only if that
still holds: `serial` names the Registration Token that a call was made with; an answer to another is dropped.

A rollback journal, not WAL: a few writes a day, no second file with tokens in it, and no race between two
writers at a WAL reset. `synchronous=EXTRA` syncs the folder too, so that a saved token survives a power cut.

    tokens      registration, parent (until its child is proven), sas: text and life
    enrolment   the provisioning state machine's record, one row
    paces       what the last failures of each task demand
    hub         what upload connects with, one row
    facts       skew, and whatever else is one value
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.adapters.identity_file import alone, check_private, connect, create, damaged, set_aside, weather
from runtime.core.answer import Grant, Outcome, Registration
from runtime.core.credentials import HubCredentials
from runtime.core.enrolment import Enrolment
from runtime.core.enrolment import Phase as EnrolmentPhase
from runtime.core.moment import Moment
from runtime.core.renewal import Life, Pace, Task
from runtime.core.secret import Secret
from runtime.layout import Layout


@dataclass(frozen=True)
class Token:
    """A token at rest."""

    secret: Secret
    life: Life
    serial: int
    """Registration and parent: grows with every token. SAS: that of the Registration Token it came from."""


@dataclass(frozen=True)
class Hub:
    """The connection that is in force."""

    host: str
    device_id: str
    generation: int
    certificate: Path | None
    key: Path | None


@dataclass(frozen=True)
class Identity:
    """Everything in the database, read in one snapshot."""

    enrolment: Enrolment
    registration: Token | None = None
    parent: Token | None = None
    sas: Token | None = None
    hub: Hub | None = None
    paces: Mapping[Task, Pace] | None = None
    token_refused: bool = False
    skew_s: float | None = None
    """Server's clock minus ours, as last seen."""
    on_hold: bool = False
    """The device id is another one than before, and a person wants to be asked before anything goes out."""

    def hub_credentials(self) -> HubCredentials | None:
        """What upload connects with, or None until the device was registered, and while it is on hold."""
        hub, sas = self.hub, self.sas.secret if self.sas and self.sas.secret else None
        if self.on_hold or hub is None or (sas is None) == (hub.certificate is None):
            return None
        return HubCredentials(hub.host, hub.device_id, hub.generation, sas, hub.certificate, hub.key)


class IdentityReader:
    """Reads, never writes. The database need not exist yet."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.identity_db

    def read(self) -> Identity:
        """Everything, in one snapshot. Empty where there is none. Raises NeedsHuman, Retryable."""
        if not self._path.exists():
            return Identity(Enrolment())
        check_private(self._path)
        with weather(), closing(connect(self._path)) as db:
            db.execute("PRAGMA query_only = 1")
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                return Identity(Enrolment())  # the first writer is at it
            db.execute("BEGIN")
            return _read(db)

    def hub_credentials(self) -> HubCredentials | None:
        """What to connect to the hub with, or None until the device was registered."""
        return self.read().hub_credentials()


class IdentityStore(IdentityReader):
    """Reads and writes."""

    def __init__(self, layout: Layout) -> None:
        """Make the database where there is none, or none that can be read.

        Raises NeedsHuman where others could read it.
        """
        super().__init__(layout)
        with alone(self._path.parent):
            create(self._path)
            if damaged(self._path):
                set_aside(self._path)
                create(self._path)
                self._begin_after(time.time())

    def _begin_after(self, wall_s: float) -> None:
        """Generations that were never handed out: the seconds since 1970 are more than there were changes."""
        with self._change() as db:
            db.execute("INSERT INTO hub VALUES (1, '', '', ?, NULL, NULL)", (int(wall_s),))

    def save_enrolment(self, record: Enrolment) -> None:
        """Keep the state machine's record."""
        with self._change() as db:
            _put_enrolment(db, record)

    def save_provisioned(self, record: Enrolment, grant: Grant, now: Moment, draw: float) -> None:
        """A new Registration Token begins a new line: what the old one promised no longer counts."""
        with self._change() as db:
            _put_enrolment(db, record)
            db.execute("DELETE FROM tokens WHERE kind = 'parent'")
            db.execute("DELETE FROM paces")
            _put_token(db, "registration", grant.token, Life(now, grant.lifetime_s, draw), _next_serial(db))
            _put_fact(db, "token_refused", None)

    def save_refreshed(self, serial: int, grant: Grant, now: Moment, draw: float) -> bool:
        """Put a child in the place of the token `serial`, which stays known as its parent until it proves."""
        with self._change() as db:
            if not _is_current(db, serial):
                return False
            db.execute("DELETE FROM tokens WHERE kind = 'parent' AND serial <> ?", (serial,))
            db.execute("UPDATE tokens SET kind = 'parent' WHERE kind = 'registration'")
            _put_token(db, "registration", grant.token, Life(now, grant.lifetime_s, draw), _next_serial(db))
            db.execute("DELETE FROM paces")
            _put_fact(db, "token_refused", None)
            return True

    def save_registered(
        self, serial: int, found: Registration, now: Moment, draw: float, *, hold: bool = False
    ) -> bool:
        """Put a registration in force: the new SAS, and what became known of the Registration Token.

        Registering proves the token: its parent is not needed any more. With `hold` another device id than
        before waits for `accept`.
        """
        with self._change() as db:
            if not _is_current(db, serial):
                return False
            before = db.execute("SELECT device_id FROM hub").fetchone()
            if hold and before is not None and before[0] != found.device_id:
                _put_fact(db, "on_hold", 1)
            _put_sas(db, found, serial, now, draw)
            _put_hub(db, found)
            db.execute("DELETE FROM tokens WHERE kind = 'parent'")
            db.execute("DELETE FROM paces WHERE task = ?", (Task.REGISTER.value,))
            _put_fact(db, "token_refused", None)
            if found.token_remaining_s is not None:
                _correct_registration(db, found.token_remaining_s, now)
            return True

    def drop_registration(self, serial: int) -> None:
        """Forget a Registration Token that is dead: the registration, or else the parent."""
        with self._change() as db:
            db.execute(
                "DELETE FROM tokens WHERE serial = ? AND kind IN ('registration', 'parent')", (serial,)
            )
            db.execute("DELETE FROM paces")
            _put_fact(db, "token_refused", None)

    def save_refused(self, serial: int) -> None:
        """Note that registering with the token `serial` was refused."""
        with self._change() as db:
            if _is_current(db, serial):
                _put_fact(db, "token_refused", 1)

    def save_pace(self, task: Task, pace: Pace | None) -> None:
        """Keep what the failures of `task` demand; None: they are over."""
        with self._change() as db:
            db.execute("DELETE FROM paces WHERE task = ?", (task.value,))
            if pace is not None and pace.at is not None:
                outcome = pace.outcome.name if pace.outcome else None
                row = (task.value, pace.failures, pace.pause_s, outcome, pace.reason, *_moment(pace.at))
                db.execute("INSERT INTO paces VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def save_skew(self, skew_s: float) -> None:
        """Keep the server's clock minus ours."""
        with self._change() as db:
            _put_fact(db, "skew_s", skew_s)

    def accept(self) -> None:
        """A person agrees that messages go out under the new device id."""
        with self._change() as db:
            _put_fact(db, "on_hold", None)

    def reset(self) -> None:
        """Forget the tokens. The device id stays, to be compared, and the generation, which only grows."""
        with self._change() as db:
            for table in ("tokens", "enrolment", "paces"):
                db.execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own
            db.execute("DELETE FROM facts WHERE name NOT IN ('serial', 'on_hold')")
            db.execute("UPDATE hub SET host = '', generation = generation + 1")

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One short transaction; takes the write lock first. Raises Retryable where the disk refuses."""
        check_private(self._path)
        with weather(), closing(connect(self._path)) as db:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")  # whatever comes in between closes the connection, which rolls back


def _read(db: sqlite3.Connection) -> Identity:
    db.row_factory = sqlite3.Row
    tokens = {row["kind"]: _token(row) for row in db.execute("SELECT * FROM tokens").fetchall()}
    facts = dict(db.execute("SELECT name, value FROM facts").fetchall())
    hub = db.execute("SELECT * FROM hub WHERE host <> ''").fetchone()
    enrolment = db.execute("SELECT * FROM enrolment").fetchone()
    return Identity(
        _enrolment(enrolment) if enrolment else Enrolment(),
        tokens.get("registration"),
        tokens.get("parent"),
        tokens.get("sas"),
        _hub(hub) if hub else None,
        {Task(row["task"]): _pace(row) for row in db.execute("SELECT * FROM paces").fetchall()},
        bool(facts.get("token_refused")),
        facts.get("skew_s"),
        bool(facts.get("on_hold")),
    )


def _token(row: sqlite3.Row) -> Token:
    life = Life(_at(row), row["lifetime_s"], row["draw"], row["age_s"])
    return Token(Secret(row["text"]), life, row["serial"])


def _hub(row: sqlite3.Row) -> Hub:
    paths = [Path(row[name]) if row[name] else None for name in ("certificate", "key")]
    return Hub(row["host"], row["device_id"], row["generation"], paths[0], paths[1])


def _pace(row: sqlite3.Row) -> Pace:
    outcome = Outcome[row["outcome"]] if row["outcome"] else None
    return Pace(row["failures"], _at(row), row["pause_s"], outcome, row["reason"])


def _enrolment(row: sqlite3.Row) -> Enrolment:
    return Enrolment(
        EnrolmentPhase[row["phase"]],
        row["basis"],
        row["operation_id"],
        row["verification_code"],
        Outcome[row["trouble"]] if row["trouble"] else None,
        row["reason"],
        row["failures"],
        _at(row) if row["boot_id"] else None,
        row["pause_s"],
    )


def _at(row: sqlite3.Row) -> Moment:
    return Moment(row["wall_s"], row["boot_s"], row["boot_id"])


def _moment(at: Moment | None) -> tuple[Any, Any, Any]:
    return (at.wall_s, at.boot_s, at.boot_id) if at else (None, None, None)


def _put_enrolment(db: sqlite3.Connection, record: Enrolment) -> None:
    row = (
        1,
        record.phase.name,
        record.basis,
        record.operation_id,
        record.verification_code,
        record.trouble.name if record.trouble else None,
        record.reason,
        record.failures,
        record.pause_s,
        *_moment(record.at),
    )
    db.execute(f"REPLACE INTO enrolment VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 - only marks


def _put_token(db: sqlite3.Connection, kind: str, text: Secret, life: Life, serial: int) -> None:
    row = (kind, text.reveal(), serial, life.lifetime_s, life.age_s, life.draw, *_moment(life.received))
    db.execute("REPLACE INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def _put_sas(db: sqlite3.Connection, found: Registration, serial: int, now: Moment, draw: float) -> None:
    """A registration by certificate has a life too, and no text: the certificate is the secret."""
    text = found.sas or Secret("")
    _put_token(db, "sas", text, Life(now, found.lifetime_s, draw), serial)


def _put_hub(db: sqlite3.Connection, found: Registration) -> None:
    row = db.execute("SELECT generation FROM hub").fetchone()
    certificate, key = found.certificate or (None, None)
    new = (1, found.hub_host, found.device_id, (row[0] if row else 0) + 1, certificate, key)
    db.execute("REPLACE INTO hub VALUES (?, ?, ?, ?, ?, ?)", new)


def _correct_registration(db: sqlite3.Connection, remaining_s: float, now: Moment) -> None:
    db.row_factory = sqlite3.Row
    row = db.execute("SELECT * FROM tokens WHERE kind = 'registration'").fetchone()
    if row is not None:
        token = _token(row)
        _put_token(db, "registration", token.secret, token.life.corrected(remaining_s, now), token.serial)


def _is_current(db: sqlite3.Connection, serial: int) -> bool:
    """Whether `serial` still names the newest Registration Token that is known."""
    row = db.execute("SELECT max(serial) FROM tokens WHERE kind IN ('registration', 'parent')").fetchone()
    return bool(row[0] == serial)


def _next_serial(db: sqlite3.Connection) -> int:
    row = db.execute("SELECT value FROM facts WHERE name = 'serial'").fetchone()
    serial = int(row[0]) + 1 if row else 1
    _put_fact(db, "serial", serial)
    return serial


def _put_fact(db: sqlite3.Connection, name: str, value: float | None) -> None:
    db.execute("DELETE FROM facts WHERE name = ?", (name,))
    if value is not None:
        db.execute("INSERT INTO facts VALUES (?, ?)", (name, value))
