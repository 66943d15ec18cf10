"""The rows of identity.db as values, and back. All of it runs inside the caller's transaction.

Reading raises nothing, whatever a cell holds: a flipped bit, or a name that only a newer runtime knows, must
not keep both workers from starting. A value that makes no sense counts as unknown, and the runtime asks for
it again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from runtime.adapters.identity.values import HubAssignment, IdentityRecord, Token, mark
from runtime.adapters.identity.vault import REMEDY, Keys
from runtime.core.backoff import LONGEST_RETRY_AFTER_S
from runtime.core.identity.enrolment import Enrolment, EnrolmentState
from runtime.core.identity.escalation import Task
from runtime.core.identity.platform_answer import Outcome, Registration
from runtime.core.identity.renewal import Life, RetryPace
from runtime.core.moment import Moment
from runtime.core.secret import Secret, fits_header
from runtime.errors import NeedsHuman

_HUB = "host", "device_id", "certificate", "key"
"""Columns of the row `hub`: the result of a registration."""

MOST = 2.0**53
"""Upper bound of every number that is ours, a count or a measurement; a larger one is damage."""


def _rows(db: sqlite3.Connection, query: str) -> list[sqlite3.Row]:
    with closing(db.cursor()) as cursor:
        cursor.row_factory = sqlite3.Row
        return cursor.execute(query).fetchall()


def tokens_of(db: sqlite3.Connection, keys: Keys) -> dict[str, Token]:
    """Every token by its kind, without damaged ones: such as one that
    stays sealed where a key opens another.
    """
    rows = [row for row in _rows(db, "SELECT * FROM tokens") if isinstance(row["text"], str | bytes)]
    tokens = [(row, _token(row, keys)) for row in rows]
    opened = any(token.secret and isinstance(row["text"], bytes) for row, token in tokens)
    return {row["kind"]: token for row, token in tokens if _sound(row["kind"], token.secret, opened=opened)}


def _sound(kind: str, secret: Secret | None, *, opened: bool) -> bool:
    """True for a usable token. A text that no header takes is no token of the platform's, and using it would
    look like a platform that cannot be reached.

    A SAS may be anything: the hub refuses a bad one, and the runtime asks for another with the pauses of a
    refusal.
    """
    if secret is None:
        return not opened
    return kind == "sas" or not secret or fits_header(secret)


def read_all(db: sqlite3.Connection, keys: Keys) -> IdentityRecord:
    """Read the whole identity."""
    tokens = tokens_of(db, keys)
    kept = [kind for (kind,) in db.execute("SELECT typeof(text) FROM tokens WHERE text <> ''").fetchall()]
    facts = _facts(db)
    hubs = _rows(db, "SELECT * FROM hub WHERE host <> ''")
    hub = _hub(hubs[0]) if hubs and facts.get("hub_mark") in (None, _hub_mark(hubs[0])) else None
    return IdentityRecord(
        enrolment_of(db),
        tokens.get("registration"),
        tokens.get("parent"),
        tokens.get("sas") if hub else None,
        hub,
        paces_of(db),
        bool(facts.get("token_refused")),
        facts.get("skew_s"),
        bool(facts.get("on_hold")),
        keys.locked(sealed=any(token.secret is None for token in tokens.values())),
        all(kind == "blob" for kind in kept) if kept else None,
        tokens.get("former"),
        tokens.get("former parent"),
        bool(facts.get("doubted")),
        facts.get("skew_offset_s"),
        facts.get("skew_boot"),
    )


def _number(row: sqlite3.Row, name: str, otherwise: float = 0.0) -> float:
    value = row[name]
    return value if isinstance(value, int | float) and abs(value) <= MOST else otherwise


def _count(row: sqlite3.Row, name: str) -> int:
    """A count out of a column that an older schema lacks."""
    return max(0, int(_number(row, name))) if name in row.keys() else 0  # noqa: SIM118 - a Row is no mapping


def _text(row: sqlite3.Row, name: str) -> str:
    return text if isinstance(text := row[name], str) else ""


def _outcome(row: sqlite3.Row, name: str) -> Outcome | None:
    return Outcome.__members__.get(_text(row, name))


def _pause_s(row: sqlite3.Row) -> float:
    """A stored pause. None of ours is longer: see `backoff`."""
    return min(max(_number(row, "pause_s"), 0.0), 2 * LONGEST_RETRY_AFTER_S)


def _at(row: sqlite3.Row) -> Moment:
    return Moment(_number(row, "wall_s"), _number(row, "boot_s"), _text(row, "boot_id"))


def _facts(db: sqlite3.Connection) -> dict[str, float]:
    return {row["name"]: _number(row, "value") for row in _rows(db, "SELECT name, value FROM facts")}


def _token(row: sqlite3.Row, keys: Keys) -> Token:
    lifetime_s = None if row["lifetime_s"] is None else _number(row, "lifetime_s")
    draw = min(max(_number(row, "draw"), 0.0), 1.0)
    life = Life(_at(row), lifetime_s, draw, max(0.0, _number(row, "age_s")))
    serial = int(_number(row, "serial"))
    more = dict(row)  # a reader may run before the writer that migrates the database to our schema
    origin = [text if isinstance(text := more.get(name), str) else None for name in ("host", "basis")]
    opened = keys.open(_text(row, "kind"), row["text"])
    if opened is None:
        return Token(None, life, serial, True, *origin)
    return Token(opened.secret, life, serial, opened.as_wanted, *origin)


def _hub(row: sqlite3.Row) -> HubAssignment:
    paths = [Path(text) if (text := _text(row, name)) else None for name in ("certificate", "key")]
    generation = int(_number(row, "generation"))
    return HubAssignment(_text(row, "host"), _text(row, "device_id"), generation, paths[0], paths[1])


def _hub_mark(row: Mapping[str, Any] | sqlite3.Row) -> float:
    """Mark of the row `hub`; it differs where a bit flipped: a name that leads nowhere would
    stay until the next renewal.
    """
    return mark(repr([row[name] for name in _HUB]))


def paces_of(db: sqlite3.Connection) -> dict[Task, RetryPace]:
    """The retry pace that the failures of each task demand."""
    known = {task.value: task for task in Task}
    paces = _rows(db, "SELECT * FROM paces")
    return {known[row["task"]]: _pace(row) for row in paces if row["task"] in known}


def _pace(row: sqlite3.Row) -> RetryPace:
    failures = max(0, int(_number(row, "failures")))
    pause_s = _pause_s(row)
    asked_s = pause_s  # a reader may be faster than the writer that brings it to our schema
    if "asked_s" in row.keys():  # noqa: SIM118 - a Row is no mapping
        asked_s = min(max(_number(row, "asked_s"), 0.0), pause_s)
    told = _outcome(row, "outcome"), _text(row, "reason")
    return RetryPace(failures, _at(row), pause_s, *told, asked_s, _count(row, "refusals"))


def enrolment_of(db: sqlite3.Connection) -> Enrolment:
    """The state machine's record; a new one where there is none."""
    rows = _rows(db, "SELECT * FROM enrolment")
    return _enrolment(rows[0]) if rows else Enrolment()


def _enrolment(row: sqlite3.Row) -> Enrolment:
    return Enrolment(
        EnrolmentState.__members__.get(_text(row, "phase"), EnrolmentState.FRESH),
        _text(row, "basis"),
        _text(row, "operation_id") or None,
        _text(row, "verification_code") or None,
        _outcome(row, "trouble"),
        _text(row, "reason"),
        max(0, int(_number(row, "failures"))),
        _at(row) if row["boot_id"] else None,
        _pause_s(row),
        dict(row).get("adopted"),  # a reader may be faster than the writer that brings it to our schema
        _count(row, "begun"),
        _count(row, "refusals"),
    )


def moment(at: Moment | None) -> tuple[Any, Any, Any]:
    """Its three columns."""
    return (at.wall_s, at.boot_s, at.boot_id) if at else (None, None, None)


def put_enrolment(db: sqlite3.Connection, record: Enrolment) -> None:
    """Keep the record."""
    row = (
        1,
        record.state.name,
        record.basis,
        record.operation_id,
        record.verification_code,
        record.trouble.name if record.trouble else None,
        record.reason,
        record.failures,
        record.pause_s,
        *moment(record.at),
        record.adopted,
        record.begun,
        record.refusals,
    )
    db.execute(f"REPLACE INTO enrolment VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608 - only marks


def put_token(db: sqlite3.Connection, keys: Keys, kind: str, token: Token) -> None:
    """Save a token. Raises NeedsHuman where the key is missing that would open or seal it."""
    if token.secret is None:
        raise NeedsHuman(keys.locked(sealed=True), hint=REMEDY)
    rest = (token.serial, *_life(token.life), token.host, token.basis)
    # no local variable ever holds a token's text: a crash report shows them all
    db.execute(
        "REPLACE INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (kind, keys.seal(kind, token.secret), *rest),
    )


def _life(life: Life) -> tuple[Any, ...]:
    return (life.lifetime_s, life.age_s, life.draw, *moment(life.received))


def put_pace(db: sqlite3.Connection, task: Task, pace: RetryPace | None) -> None:
    """Save the pace that the failures of `task` demand; None: they are over."""
    db.execute("DELETE FROM paces WHERE task = ?", (task.value,))
    if pace is not None and pace.at is not None:
        outcome = pace.outcome.name if pace.outcome else None
        rest = (outcome, pace.reason, *moment(pace.at), pace.asked_s, pace.refusals)
        row = (task.value, pace.failures, pace.pause_s, *rest)
        db.execute("INSERT INTO paces VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)


def forget_failed_refreshes(db: sqlite3.Connection) -> None:
    """Forget the failures of refreshing: with another Registration Token only those
    of registering still count.
    """
    register = paces_of(db).get(Task.REGISTER)
    db.execute("DELETE FROM paces WHERE task <> ?", (Task.REGISTER_FORMER.value,))
    if register is not None:
        put_pace(db, Task.REGISTER, register.with_another_token())


def put_hub(db: sqlite3.Connection, registration: Registration, serial: int, *, hold: bool) -> None:
    """Put a hub assignment in force, under the next generation where it is another one.

    With `hold` it waits where messages went out under another id before: the one accepted last.
    """
    before = _rows(db, "SELECT * FROM hub")
    generation = int(_number(before[0], "generation")) if before else 0
    accepted_id = before[0]["accepted_id"] if before else registration.device_id
    waits = hold and accepted_id != registration.device_id
    put_fact(db, "on_hold", 1 if waits else None)
    certificate, key = registration.certificate or (None, None)
    now = dict(zip(_HUB, (registration.hub_host, registration.device_id, certificate, key), strict=True))
    put_fact(db, "hub_mark", _hub_mark(now))
    same = before and now == {name: before[0][name] for name in _HUB}
    # also with the same certificate: another one in the same file is another basis, with a serial of its own
    known = {row["serial"] for row in _rows(db, "SELECT serial FROM tokens WHERE kind = 'sas'")}
    if not (same and registration.sas is None and serial in known):
        generation += 1
    rest = (generation, certificate, key, accepted_id if waits else registration.device_id)
    db.execute(
        "REPLACE INTO hub VALUES (1, ?, ?, ?, ?, ?, ?)",
        (registration.hub_host, registration.device_id, *rest),
    )


def correct_registration(db: sqlite3.Connection, remaining_s: float, now: Moment) -> None:
    """Correct the Registration Token's lifetime by what the platform said is left of it."""
    for row in _rows(db, "SELECT * FROM tokens WHERE kind = 'registration'"):
        life = _token(row, Keys(encrypt=False)).life.corrected(remaining_s, now)
        db.execute(
            "UPDATE tokens SET lifetime_s = ?, age_s = ?, draw = ?, wall_s = ?, boot_s = ?, boot_id = ?"
            " WHERE kind = 'registration'",
            _life(life),
        )


def is_current(db: sqlite3.Connection, keys: Keys, serial: int) -> bool:
    """True if `serial` still names the newest known Registration Token."""
    tokens = tokens_of(db, keys)
    newest = tokens.get("registration") or tokens.get("parent")
    return newest is not None and newest.serial == serial


def is_former(db: sqlite3.Connection, keys: Keys, serial: int) -> bool:
    """True if `serial` names the token at rest, and none is in force."""
    tokens = tokens_of(db, keys)
    former = tokens.get("former")
    return "registration" not in tokens and former is not None and former.serial == serial


def next_serial(db: sqlite3.Connection) -> int:
    """The number of a new Registration Token."""
    serial = int(_facts(db).get("serial", 0)) + 1
    put_fact(db, "serial", serial)
    return serial


def fact(db: sqlite3.Connection, name: str) -> float | None:
    """One value, or None where it is not known."""
    return _facts(db).get(name)


def put_fact(db: sqlite3.Connection, name: str, value: float | None) -> None:
    """Keep one value; None forgets it."""
    db.execute("DELETE FROM facts WHERE name = ?", (name,))
    if value is not None:
        db.execute("INSERT INTO facts VALUES (?, ?)", (name, value))
