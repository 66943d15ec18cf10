"""`edgectl quarantine`: look at messages that could not be delivered, retry them, or drop them."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from typing import TYPE_CHECKING, Any

from runtime.cli import Commands, load_config
from runtime.cli.terminal import TextRow, table, write_json, write_lines
from runtime.core.printable import printable

if TYPE_CHECKING:
    from runtime.adapters.store.reader import SetAside
    from runtime.config import Config
    from runtime.core.message import CorruptRow, StoredMessage
    from runtime.core.settlement import Settled

CONFIRM_TIMEOUT_S = 10.0
PAGE = 500
MOST_OF_A_NAME = 40
"""Characters of a stream's name in the list; `show` has all of it."""


def register(commands: Commands) -> None:
    group = commands.add_parser(
        "quarantine", help="messages that could not be delivered: ls, show, requeue, drop"
    )
    actions = group.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("ls", help="list them with the reason")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(run=_list)
    show = actions.add_parser("show", help="everything about one of them")
    show.add_argument("id", type=int)
    show.add_argument("--payload", action="store_true", help="write its payload to standard output, as it is")
    show.set_defaults(run=_show)
    for name, meaning in (
        ("requeue", "put them at the end of the store again, to be sent once more, whatever their ttl"),
        ("drop", "delete them for good"),
    ):
        action = actions.add_parser(name, help=meaning)
        action.add_argument("ids", type=int, nargs="*", metavar="ID")
        action.add_argument("--all", action="store_true", help="all that are there now")
        action.set_defaults(run=_requeue if name == "requeue" else _drop)


def _list(arguments: argparse.Namespace) -> int:
    messages = _all(load_config(arguments))
    if arguments.json:
        for aside in messages:
            write_json(_described(aside), indent=None)
        return 0
    if not messages:
        write_lines("nothing is in quarantine")
        return 0
    head, *rows = table(["ID", "STREAM", "BYTES"], [_row(_described(aside)) for aside in messages])
    write_lines(f"{head}  REASON")
    write_lines(
        *(
            TextRow(f"{row:<{len(head)}}  {aside.reason}", indent=4)
            for row, aside in zip(rows, messages, strict=True)
        )
    )
    return 0


def _row(fields: dict[str, Any]) -> list[str]:
    return [
        str(fields["id"]),
        printable(fields.get("stream", "?"), MOST_OF_A_NAME),
        str(fields.get("bytes", 0)),
    ]


def _show(arguments: argparse.Namespace) -> int:
    from runtime.errors import UsageError

    config = load_config(arguments)
    by_id = {aside.message.id: aside for aside in _all(config)}
    aside = by_id.get(arguments.id)
    if aside is None:
        raise UsageError(f"message {arguments.id} is not in quarantine")
    if arguments.payload:
        _write_payload(config, aside.message)
    else:
        write_json(_described(aside, everything=True))
    return 0


def _write_payload(config: Config, message: StoredMessage | CorruptRow) -> None:
    """Write the payload as it is. A missing one must not pass for an empty one: the reader
    may drop the message next.
    """
    from runtime.core.message import CorruptRow
    from runtime.errors import Rejected

    if isinstance(message, CorruptRow):
        raise Rejected(f"message {message.id} {message.reason}")
    if message.file is None:
        sys.stdout.buffer.write(message.payload)
        return
    try:
        with (config.layout.spool / message.file).open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
    except FileNotFoundError:
        raise Rejected(f"the file of message {message.id} is gone: {message.file}") from None


def _requeue(arguments: argparse.Namespace) -> int:
    from runtime.core.settlement import Settled

    return _carry_out(arguments, lambda ids: Settled(requeued=ids), "requeued")


def _drop(arguments: argparse.Namespace) -> int:
    from runtime.core.settlement import Settled

    return _carry_out(arguments, lambda ids: Settled(discarded=ids), "dropped")


def _carry_out(arguments: argparse.Namespace, order: Any, word: str) -> int:
    """Send the request to ingest, which alone writes the store, and wait until it is on disk."""
    from runtime.errors import Retryable, UsageError

    config = load_config(arguments)
    known = {aside.message.id for aside in _all(config)}
    ids = sorted(known) if arguments.all else arguments.ids
    if not ids and not arguments.all:
        raise UsageError("name the ids, or --all")
    if missing := sorted(set(ids) - known):
        raise UsageError(f"not in quarantine: {', '.join(map(str, missing))}")
    if ids and not _confirmed(config, order(ids)):
        raise Retryable(f"ingest did not answer within {CONFIRM_TIMEOUT_S:g} s; is it running?")
    write_lines(f"{len(ids)} {word}")
    return 0


def _confirmed(config: Config, order: Settled) -> bool:
    from runtime.adapters.bus.sockets import DeliveryReporter

    reporter = DeliveryReporter(config.layout)
    try:
        reporter.report(order)
        waiting, deadline_s = order.ids(), time.monotonic() + CONFIRM_TIMEOUT_S
        while waiting and time.monotonic() < deadline_s:
            reporter.socket.poll(200)
            waiting -= reporter.confirmed()
        return not waiting
    finally:
        reporter.close()


def _all(config: Config) -> list[SetAside]:
    from runtime.adapters.store.reader import StoreReader

    reader = StoreReader(config.layout.messages_db)
    messages: list[SetAside] = []
    try:
        while page := reader.quarantine(messages[-1].message.id if messages else 0, PAGE):
            messages += page
    finally:
        reader.close()
    return messages


def _described(aside: SetAside, *, everything: bool = False) -> dict[str, Any]:
    from runtime.core.message import OPTIONAL_FIELDS, StoredMessage

    message, since = aside.message, aside.set_aside_wall_s
    fields: dict[str, Any] = {"id": message.id, "reason": aside.reason}
    if since is not None:
        fields["since"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(since))
    if not isinstance(message, StoredMessage):
        return fields
    fields |= {"stream": str(message.name), "bytes": len(message.payload), "key": message.key}
    if everything:
        for name in ("kind", "priority", *OPTIONAL_FIELDS):
            value = getattr(message, name)
            if value is not None:
                fields[name] = getattr(value, "name", value)
        fields["properties"] = dict(message.properties)
        fields["payload"] = message.payload[:200].decode(errors="backslashreplace")
    return fields
