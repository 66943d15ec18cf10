"""identity.db: who this device is, and the tokens that prove it.

Two processes write it, `provisioning` and `refresh`; every other process only reads. Transactions are short
and take the write lock before they read (BEGIN IMMEDIATE). A decision made on an older state is written only
if that state still holds: `serial` names the Registration Token that a call was made with, `instead_of` the
enrolment; an answer to another one is dropped.

A rollback journal, not WAL: a few writes a day, no second file with tokens in it, and no race between two
writers at a WAL reset. `synchronous=EXTRA` syncs the folder too, so that a saved token survives a power cut.

    tokens      registration, parent (until its child is proven), sas: text (a blob: sealed) and life;
                former, former parent: the token line that was in force before (see `token_lines`)
    enrolment   the provisioning state machine's record, one row
    paces       the pause and the retries that each task's last failures demand
    hub         the hub assignment and the credentials upload connects with, one row
    facts       skew, and other single values
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

from runtime.adapters.identity import rows
from runtime.adapters.identity import token_lines as lines
from runtime.adapters.identity.database_file import (
    SCHEMA_VERSION,
    FileMark,
    check_private,
    connect,
    create,
    damaged,
    file_mark,
    is_newer,
    set_aside,
    translated,
    writer_lock,
)
from runtime.adapters.identity.values import IdentityRecord, Token, mark
from runtime.adapters.identity.vault import Keys, Vault
from runtime.core.identity.credentials import HubCredentials
from runtime.core.identity.enrolment import Enrolment
from runtime.core.identity.escalation import Task
from runtime.core.identity.platform_answer import PlatformResult, Registration
from runtime.core.identity.renewal import Life, RetryPace
from runtime.core.moment import Moment
from runtime.core.secret import Secret
from runtime.layout import Layout


class IdentityReader:
    """Reader of identity.db: it never writes. The database need not exist yet; without a vault
    sealed tokens stay closed.
    """

    def __init__(self, layout: Layout, vault: Vault | None = None, busy_s: float | None = None) -> None:
        """`busy_s`: how long to wait for a change that is being written; the data path does not."""
        self._busy_s = busy_s
        self._path = layout.identity_db
        self._vault = vault or Vault()
        self._last: tuple[FileMark, Keys, IdentityRecord] | None = None

    def read(self) -> IdentityRecord:
        """Read the whole identity in one snapshot; it is empty where there is no database.
        Raises NeedsHuman, Retryable.

        Three workers ask every two seconds, and it changes every few hours: a file that is certainly the one
        that was read is not read again.
        """
        with translated(self._path):
            if not self._path.exists():
                return IdentityRecord(Enrolment())
            check_private(self._path)
            mark, keys = file_mark(self._path), self._vault.keys()
            if mark is not None and self._last is not None and self._last[:2] == (mark, keys):
                return self._last[2]
            record = self._read(keys)
            self._last = (mark, keys, record) if mark is not None and mark == file_mark(self._path) else None
            return record

    def _read(self, keys: Keys) -> IdentityRecord:
        with closing(connect(self._path, self._busy_s)) as db:
            db.execute("PRAGMA query_only = 1")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                return IdentityRecord(Enrolment())  # the first writer is creating it
            db.execute("BEGIN")
            try:
                return rows.read_all(db, keys)
            except sqlite3.OperationalError:
                if version > SCHEMA_VERSION:  # the columns we read may stand elsewhere there
                    raise is_newer(version) from None
                raise

    def hub_credentials(self) -> HubCredentials | None:
        """The credentials to connect to the hub with, or None until the device was registered."""
        return self.read().hub_credentials()


class IdentityStore(IdentityReader):
    """Reader and writer of identity.db."""

    def __init__(self, layout: Layout, vault: Vault | None = None) -> None:
        """Create the database where there is none, or none that can be read.

        Raises NeedsHuman where other users could read it, Retryable where the disk refuses.
        """
        super().__init__(layout, vault)
        with translated(self._path), writer_lock(self._path.parent):
            create(self._path)
            if damaged(self._path):
                set_aside(self._path)
                create(self._path)
                self._begin_after(time.time())

    def _begin_after(self, wall_s: float) -> None:
        """Begin with a generation that was never handed out: the seconds since 1970 are more than there were
        changes.
        """
        with self._change() as db:
            db.execute("INSERT INTO hub VALUES (1, '', '', ?, NULL, NULL, '')", (int(wall_s),))

    def save_enrolment(self, record: Enrolment, instead_of: Enrolment | None = None) -> bool:
        """Save the state machine's record, if `instead_of` (None: anything) is still the stored enrolment."""
        with self._change() as db:
            return self._put_enrolment(db, record, instead_of)

    def save_provisioned(
        self,
        record: Enrolment,
        grant: PlatformResult,
        now: Moment,
        draw: float,
        instead_of: Enrolment | None = None,
        *,
        host: str | None = None,
    ) -> bool:
        """Begin a new token line with a new Registration Token, for the platform `host`;
        the line before it rests.
        """
        with self._change() as db:
            if not self._put_enrolment(db, record, instead_of):
                return False
            db.execute("DELETE FROM paces WHERE task <> ?", (Task.REGISTER_FORMER.value,))
            life = Life(now, grant.lifetime_s, draw)
            lines.begin(
                db, self._vault.keys(), Token(grant.token, life, 0, host=host, basis=record.basis), now
            )
            return True

    def settle_lines(self, host: str, now: Moment) -> None:
        """Put the token line in force that is for the platform `host`; the other one rests."""
        with self._change() as db:
            lines.settle(db, self._vault.keys(), host, now)

    def _put_enrolment(self, db: sqlite3.Connection, record: Enrolment, instead_of: Enrolment | None) -> bool:
        if instead_of is not None and rows.enrolment_of(db) != instead_of:
            return False
        rows.put_enrolment(db, record)
        return True

    def save_refreshed(self, serial: int, grant: PlatformResult, now: Moment, draw: float) -> bool:
        """Put a child in the place of the token `serial`, which stays known as its parent
        until the child is proven.
        """
        with self._change() as db:
            if not rows.is_current(db, self._vault.keys(), serial):
                return False
            db.execute("DELETE FROM tokens WHERE kind = 'parent' AND serial <> ?", (serial,))
            keys = self._vault.keys()
            tokens = rows.tokens_of(db, keys)
            before = tokens.get("registration") or tokens["parent"]
            rows.put_token(db, keys, "parent", before)  # sealed under its row's name, so it is sealed again
            child = Token(
                grant.token,
                Life(now, grant.lifetime_s, draw),
                rows.next_serial(db),
                host=before.host,
                basis=before.basis,
            )
            rows.put_token(db, keys, "registration", child)
            rows.put_fact(db, "token_refused", None)
            rows.put_fact(db, "doubted", None)
            rows.forget_failed_refreshes(db)
            return True

    def save_registered(
        self,
        serial: int,
        registration: Registration,
        now: Moment,
        draw: float,
        *,
        hold: bool = False,
        host: str | None = None,
    ) -> bool:
        """Put a registration in force: the new SAS, and what the platform said about the Registration Token.

        Registering, at `host`, proves the token: its parent is no longer needed, nor is the token line before
        it. With `hold`, a device id other than the one that messages went out under waits for `accept`.
        """
        with self._change() as db:
            keys = self._vault.keys()
            if rows.is_former(db, keys, serial):
                lines.revive(db, keys)
            if not rows.is_current(db, keys, serial):
                return False
            # registering by certificate has a lifetime too, and no token text: the certificate is the secret
            life = Life(now, registration.lifetime_s, draw)
            rows.put_hub(db, registration, serial, hold=hold)
            rows.put_token(db, keys, "sas", Token(registration.sas or Secret(""), life, serial))
            db.execute("DELETE FROM paces WHERE task = ?", (Task.REGISTER.value,))
            lines.proven(db, keys, host)
            if registration.token_remaining_s is not None:
                rows.correct_registration(db, registration.token_remaining_s, now)
            return True

    def rewrite(self) -> None:
        """Write every token in the form that the settings demand:
        sealed with the first key, or in the clear.
        """
        with self._change() as db:
            keys = self._vault.keys()
            for kind, token in rows.tokens_of(db, keys).items():
                if not token.as_wanted:
                    rows.put_token(db, keys, kind, token)

    def drop_registration(self, serial: int, now: Moment | None = None, *, whole: bool = False) -> None:
        """Give up a Registration Token (the registration or the
        parent) or the `whole` token line: it rests.
        """
        with self._change() as db:
            at = now or Moment(time.time(), 0.0, "")
            lines.retire(db, self._vault.keys(), serial, at, whole=whole)

    def save_failed(
        self, serial: int, task: Task, pace: RetryPace, *, refused: bool = False, doubted: bool = False
    ) -> bool:
        """Save the pause that the failures of `task`, asked with the token `serial`, demand;
        `refused`: the token itself was.
        """
        with self._change() as db:
            known = rows.is_former if task is Task.REGISTER_FORMER else rows.is_current
            if not known(db, self._vault.keys(), serial):
                return False
            rows.put_pace(db, task, pace)
            if refused:
                rows.put_fact(db, "token_refused", 1)
            if doubted:
                rows.put_fact(db, "doubted", 1)
            return True

    def forget_failed(self, task: Task) -> None:
        """Forget the failures of `task`: they are over."""
        with self._change() as db:
            rows.put_pace(db, task, None)

    def check_room(self) -> None:
        """Raise Retryable where the disk could not keep what the platform is about to hand out."""
        with self._change() as db:
            rows.put_fact(db, "room", time.time())

    def save_skew(self, skew_s: float, now: Moment | None = None) -> None:
        """Save the server's clock minus ours, which counts until our clock is set or the machine boots."""
        with self._change() as db:
            rows.put_fact(db, "skew_s", skew_s)
            rows.put_fact(db, "skew_offset_s", now.wall_s - now.boot_s if now else None)
            rows.put_fact(db, "skew_boot", mark(now.boot_id) if now else None)

    def accept(self) -> None:
        """Record that a person agrees to messages going out under the new device id."""
        with self._change() as db:
            rows.put_fact(db, "on_hold", None)
            db.execute("UPDATE hub SET accepted_id = device_id")

    def reset(self) -> None:
        """Forget the tokens. The device ids stay, to be compared, and the generation, which only grows."""
        with self._change() as db:
            for table in ("tokens", "enrolment", "paces"):
                db.execute(f"DELETE FROM {table}")  # noqa: S608 - names of our own
            db.execute("DELETE FROM facts WHERE name NOT IN ('serial', 'on_hold')")
            db.execute("UPDATE hub SET host = '', generation = generation + 1")

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One short transaction, which takes the write lock first.
        Raises Retryable where the disk refuses.
        """
        with translated(self._path):
            check_private(self._path)
            with closing(connect(self._path)) as db:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")  # any exception before this closes the connection, which rolls back
