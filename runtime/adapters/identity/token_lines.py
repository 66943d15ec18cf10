"""Token lines, the Registration Tokens of identity.db: the one in force, and the one before it, which rests.

    line      a Registration Token, and its parent until the child is proven
    in force  the rows `registration` and `parent`: the tokens that requests to the platform carry
    at rest   the rows `former` and `former parent`

Invariants:

1. A line that registered is deleted only once another one has registered, whatever took its place: a token
   made by hand with a piece missing, another mode, another platform, an answer that was a mistake.
2. A token is for the platform that granted it: no other is sent it. Back there, its line is in force again.
3. A line that was refused is not put in force by itself: registering with it, tried now and then, has to
   succeed first.

All of it runs inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from runtime.adapters.identity import rows
from runtime.adapters.identity.values import Token
from runtime.adapters.identity.vault import Keys
from runtime.core.identity import enrolment
from runtime.core.identity.escalation import Task
from runtime.core.identity.platform_answer import Outcome
from runtime.core.identity.renewal import FORMER_PAUSE_S, RetryPace
from runtime.core.moment import Moment

_IN_FORCE = ("registration", "parent")
_AT_REST = ("former", "former parent")
_REFUSED = "the registration token was refused; it is tried again now and then"


def begin(db: sqlite3.Connection, keys: Keys, token: Token, now: Moment) -> None:
    """Put a new token line in force; the one before rests."""
    _put_to_rest(db, keys, now)
    _delete(db, "parent")
    rows.put_token(db, keys, "registration", replace(token, serial=rows.next_serial(db)))
    rows.put_fact(db, "token_refused", None)
    rows.put_fact(db, "doubted", None)


def retire(db: sqlite3.Connection, keys: Keys, serial: int, now: Moment, *, whole: bool) -> None:
    """Give up a token; its parent stays, unless the `whole` line is given up. `settle` decides afterwards."""
    tokens = rows.tokens_of(db, keys)
    dropped = next((kind for kind in _IN_FORCE if kind in tokens and tokens[kind].serial == serial), None)
    if dropped is None:
        return
    rows.forget_failed_refreshes(db)
    if dropped == "registration" and "parent" in tokens and not whole:
        _delete(db, "registration")
    else:
        rows.put_fact(db, "token_refused", 1)
        _put_to_rest(db, keys, now)
        _delete(db, *_IN_FORCE)
    rows.put_fact(db, "token_refused", None)
    rows.put_fact(db, "doubted", None)


def settle(db: sqlite3.Connection, keys: Keys, host: str, now: Moment) -> None:
    """Put the token line in force that may be sent to the platform `host`, where there is one."""
    tokens = rows.tokens_of(db, keys)
    current = tokens.get("registration") or tokens.get("parent")
    if current is not None and current.is_for(host):
        return
    former = tokens.get("former")
    line = {kind: tokens[kind] for kind in _AT_REST if kind in tokens}
    returns = former is not None and former.is_for(host) and not _refused(db)
    if returns:
        _delete(db, *_AT_REST)
    _put_to_rest(db, keys, now)
    _delete(db, *_IN_FORCE)
    rows.put_fact(db, "token_refused", None)
    rows.put_fact(db, "doubted", None)
    if returns:
        _put_back(db, keys, line)


def proven(db: sqlite3.Connection, keys: Keys, host: str | None) -> None:
    """Record that the token in force registered at `host`: nothing that came before it is needed any more."""
    _delete(db, "parent")
    rows.put_fact(db, "doubted", None)
    rows.put_fact(db, "token_refused", None)
    token = rows.tokens_of(db, keys).get("registration")
    if token is None or token.stands_for_none:
        return
    _delete(db, *_AT_REST)
    rows.put_pace(db, Task.REGISTER_FORMER, None)
    if token.host is None and host is not None:
        rows.put_token(db, keys, "registration", replace(token, host=host))
    record = rows.enrolment_of(db)
    if record.begun and record.state is enrolment.EnrolmentState.PROVISIONED:
        rows.put_enrolment(db, replace(record, begun=0))


def revive(db: sqlite3.Connection, keys: Keys) -> None:
    """Put the line at rest in force again: it has registered."""
    tokens = rows.tokens_of(db, keys)
    line = {kind: tokens[kind] for kind in _AT_REST if kind in tokens}
    _delete(db, *_AT_REST)
    _put_back(db, keys, line)


def _put_to_rest(db: sqlite3.Connection, keys: Keys, now: Moment) -> None:
    """Put the line in force to rest, unless it never registered and one at rest did."""
    tokens = rows.tokens_of(db, keys)
    line = {kind: tokens[kind] for kind in _IN_FORCE if kind in tokens and not tokens[kind].stands_for_none}
    if not line:
        return
    sas = tokens.get("sas")
    worked = "parent" in line or (sas is not None and sas.serial == line["registration"].serial)
    if "former" in tokens and not worked:
        return
    _delete(db, *_AT_REST)
    for kind, token in zip(_AT_REST, line.values(), strict=False):
        rows.put_token(db, keys, kind, token)
    refused = rows.fact(db, "token_refused")
    pace = RetryPace(1, now, FORMER_PAUSE_S, Outcome.UNAUTHORIZED, _REFUSED) if refused else None
    rows.put_pace(db, Task.REGISTER_FORMER, pace)


def _put_back(db: sqlite3.Connection, keys: Keys, line: dict[str, Token]) -> None:
    if "former" not in line:
        return
    _delete(db, *_IN_FORCE)
    for kind, token in zip(_IN_FORCE, line.values(), strict=False):
        rows.put_token(db, keys, kind, token)
    rows.put_pace(db, Task.REGISTER_FORMER, None)
    basis = line["former"].basis
    if basis is not None:
        rows.put_enrolment(db, enrolment.restored(rows.enrolment_of(db), basis))


def _refused(db: sqlite3.Connection) -> bool:
    return Task.REGISTER_FORMER in rows.paces_of(db)


def _delete(db: sqlite3.Connection, *kinds: str) -> None:
    for kind in kinds:
        db.execute("DELETE FROM tokens WHERE kind = ?", (kind,))
