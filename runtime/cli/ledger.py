"""`edgectl ledger`: where every message is that was ever stored, and which were lost, when and why."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from runtime.cli import Commands, load_config
from runtime.cli.terminal import TextRow, table, write_json, write_lines

if TYPE_CHECKING:
    from runtime.core.operations.ledger import Account, LossEntry

MOST_ENTRIES_SHOWN = 20
"""Entries of the loss log in the text; `--json` has all."""


def register(commands: Commands) -> None:
    ledger = commands.add_parser(
        "ledger",
        help="where every message is that was ever stored, and which were lost, when and why",
        epilog="exit status with --check: 0 if every account closes, 1 if one does not",
    )
    ledger.add_argument("stream", nargs="?", metavar="STREAM", help="this stream only, as the table names it")
    ledger.add_argument("--check", action="store_true", help="say what does not close; also counts the rows")
    ledger.add_argument("--json", action="store_true", help="for a program")
    ledger.set_defaults(run=_ledger)


def _ledger(arguments: argparse.Namespace) -> int:
    from runtime.errors import UsageError
    from runtime.operations.ledger_report import report

    found = report(load_config(arguments).layout.messages_db, check=arguments.check)
    if arguments.stream is not None:
        found = found.of_stream(arguments.stream)
        if not found.accounts:
            raise UsageError(f"no stream {arguments.stream!r} in the ledger; edgectl ledger lists them")
    if arguments.json:
        write_json(found.as_record())
    else:
        write_lines(*_accounts(found.accounts), *_losses(found.losses, found.cut_messages))
        write_lines(*_since(found.since))
    if not arguments.check:
        return 0
    if not arguments.json:
        write_lines(*(TextRow(each, each, "red", 4) for each in found.wrong or ()))
    if not found.wrong and not arguments.json:
        write_lines("every account closes")
    return 1 if found.wrong else 0


def _accounts(accounts: list[Account]) -> list[TextRow]:
    from runtime.core.operations.ledger import summed

    if not accounts:
        return [TextRow("nothing was stored yet")]
    total = [summed("total", accounts)] if len(accounts) > 1 else []
    head = ["STREAM", "STORED", "DELIVERED", "WAITING", "SET ASIDE", "LOST", "REQUEUED"]
    title, *rows = table(head, [_row(each) for each in (*accounts, *total)], spare=("REQUEUED",))
    reasons = [f"lost {_reasons(each)} of {each.stream}" for each in (*accounts, *total) if each.lost]
    return [
        TextRow(title, title, "bold"),
        *map(TextRow, rows),
        *(TextRow(each, indent=4) for each in reasons),
    ]


def _row(account: Account) -> list[str]:
    counts = (account.stored, account.delivered, account.waiting, account.set_aside)
    return [account.stream, *map(str, (*counts, sum(account.lost.values()), account.requeued))]


def _reasons(account: Account) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(account.lost.items()))


def _losses(losses: list[LossEntry], cut_messages: int) -> list[TextRow]:
    if not losses:
        return []
    shown = losses[:MOST_ENTRIES_SHOWN]
    title, *rows = table(["LOST", "IDS", "STREAM", "REASON", "WHEN"], [_entry(each) for each in shown])
    more = len(losses) - len(shown)
    further = [f"and {more} earlier entries (--json shows them)"] if more else []
    if cut_messages:
        further.append(f"the entries of {cut_messages} messages lost before were cut: they are counted above")
    return [TextRow(""), TextRow(title, title, "bold"), *map(TextRow, rows), *map(TextRow, further)]


def _entry(entry: LossEntry) -> list[str]:
    from runtime.operations.ledger_report import date

    ids = str(entry.first_id) if entry.first_id == entry.last_id else f"{entry.first_id} to {entry.last_id}"
    count = "?" if entry.messages is None else str(entry.messages)
    return [count, ids, entry.stream, entry.reason, date(entry.last_wall_s) or "clock not set"]


def _since(since: str | None) -> list[Any]:
    return [TextRow(""), f"every movement is counted since {since}"] if since else []
