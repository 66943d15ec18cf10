"""The ledger of the overview: from the disk, or from the record of ingest where no database may be opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runtime.adapters.process.status_file import StatusRecord
from runtime.core.operations.ledger import MOST_STREAMS, Account, Ledger, LossEntry
from runtime.errors import EdgeError, UsageError

MOST_ACCOUNTS = 1_000
"""Streams that `edgectl ledger` names; the others are one."""
UNKNOWN_BOOKS: Mapping[str, Any] = {
    **dict.fromkeys(
        ("stored", "delivered", "waiting", "set_aside", "requeued", "lost", "late", "difference", "since")
    ),
    "streams": [],
}
"""The ledger of a store that cannot be read, or that was never opened by a version that keeps a ledger."""
MOST_ROWS_COUNTED = 200_000
"""A check counts the rows of a store up to this size, too: it takes a second at most."""


def books_on_disk(path: Path) -> dict[str, Any]:
    """`ledger` and `streams` of the overview."""
    from runtime.adapters.store.reader import StoreReader

    try:
        if path.exists():
            with closing(StoreReader(path)) as reader:
                return books(reader.ledger())
    except (EdgeError, OSError):
        pass
    return books(None)


def books(ledger: Ledger | None) -> dict[str, Any]:
    """The parts of an overview that come from the ledger."""
    return {
        "ledger": UNKNOWN_BOOKS if ledger is None else books_record(ledger),
        "streams": [] if ledger is None else ledger.waiting_record(),
    }


def books_in_record(ingest: StatusRecord) -> dict[str, Any]:
    """The same from the status record of ingest, which is a few seconds old."""
    ledger = ingest.values.get("ledger")
    streams = ingest.values.get("waiting_by_stream")
    known = isinstance(ledger, Mapping) and isinstance(ledger.get("streams"), list)
    return {
        "ledger": ledger if known else UNKNOWN_BOOKS,
        "streams": streams if isinstance(streams, list) else [],
    }


def books_record(ledger: Ledger, most: int = MOST_STREAMS) -> dict[str, Any]:
    """The ledger as JSON shows it."""
    return {**ledger.as_record(most), "since": date(ledger.since_wall_s)}


def date(wall_s: float | None) -> str | None:
    """A date for people; None where the clock was not set."""
    if wall_s is None:
        return None
    return datetime.fromtimestamp(wall_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """The data of `edgectl ledger`."""

    accounts: list[Account]
    """By stream, those that stored most first."""
    losses: list[LossEntry]
    """The newest first."""
    cut_messages: int
    """Messages lost so long ago that the log no longer has their ids."""
    since: str | None
    """Since when every movement is counted."""
    wrong: list[str] | None = None
    """What does not close, a sentence each; None where it was not checked."""

    def of_stream(self, name: str) -> LedgerReport:
        """The part of one stream: as the table names it, or without the dash of no group."""
        names = (name, f"-/{name}")
        accounts = [each for each in self.accounts if each.stream in names]
        losses = [each for each in self.losses if each.stream in names]
        return replace(self, accounts=accounts, losses=losses)

    def as_record(self) -> dict[str, Any]:
        record = books_record(Ledger(self.accounts), MOST_ACCOUNTS)
        return {
            **record,
            "since": self.since,
            "losses": [_loss_record(each) for each in self.losses],
            "cut_messages": self.cut_messages,
            **({} if self.wrong is None else {"closes": not self.wrong, "wrong": self.wrong}),
        }


def report(path: Path, *, check: bool) -> LedgerReport:
    """The ledger of the store at this path, also with every worker down. Raises Retryable, UsageError."""
    from runtime.adapters.store.reader import StoreReader

    with closing(StoreReader(path)) as reader:
        ledger, log = reader.ledger(), reader.loss_log()
        if ledger is None:
            raise UsageError("this store has no ledger yet: ingest begins it at its next start")
        rows = None
        if check and ledger.total.waiting + ledger.total.set_aside <= MOST_ROWS_COUNTED:
            ledger, *rows = reader.ledger_and_rows()
    accounts = ledger.bounded(MOST_ACCOUNTS)
    wrong = _wrong(ledger, rows) if check else None
    return LedgerReport(accounts, log.entries, log.cut_messages, date(ledger.since_wall_s), wrong)


def _wrong(ledger: Ledger, rows: Sequence[int] | None) -> list[str]:
    wrong = [
        f"{each.stream or 'all streams together'}: {_excess(each.difference)}"
        for each in ledger.open_accounts
    ]
    counts = (("wait", ledger.total.waiting), ("are set aside", ledger.total.set_aside))
    return wrong + [
        f"{count} messages {what} by the counters, {row_count} by the rows"
        for (what, count), row_count in zip(counts, rows or (), strict=False)
        if count != row_count
    ]


def _excess(difference: int) -> str:
    if difference > 0:
        return f"{difference} of the stored messages are in no account"
    return f"{-difference} messages more are in the accounts than were stored"


def _loss_record(entry: LossEntry) -> dict[str, Any]:
    return {
        "stream": entry.stream,
        "reason": entry.reason,
        "messages": entry.messages,
        "ids": [entry.first_id, entry.last_id],
        "first": date(entry.first_wall_s),
        "last": date(entry.last_wall_s),
    }
