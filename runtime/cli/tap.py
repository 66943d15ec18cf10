"""`edgectl tap STREAM`: the heads of messages as they are stored, for the operator only."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from runtime.cli import Commands, count, load_config
from runtime.cli.terminal import TextRow, write_error, write_json, write_lines
from runtime.core.printable import printable

if TYPE_CHECKING:
    from runtime.adapters.store.stream_reader import PassingMessage
    from runtime.operations.streams import Missed, Tap

LOOK_EVERY_S = 0.05
SHOWN_BYTES = 200
"""Bytes of a payload that are shown."""
MOST_OF_A_TEXT = 120


def register(commands: Commands) -> None:
    tap = commands.add_parser(
        "tap",
        help="the heads of messages as they are stored, until Ctrl-C; with --payload also what is in them",
        description="Show the heads of the messages of a stream as they are stored, from now on, until "
        "Ctrl-C. It reads the store's file and disturbs no worker; a message that is stored and delivered "
        "between two looks is counted and not shown. Only root and the runtime's user may",
    )
    tap.add_argument("stream", nargs="+", metavar="STREAM", help="NAME, or GROUP/NAME; several are one tap")
    tap.add_argument(
        "--payload", action="store_true", help=f"also the first {SHOWN_BYTES} bytes of each payload, escaped"
    )
    tap.add_argument("-n", "--number", type=count, metavar="N", help="end after N messages")
    tap.add_argument("--json", action="store_true", help="one JSON object a line, for a program")
    tap.set_defaults(run=_tap)


def _tap(arguments: argparse.Namespace) -> int:
    from contextlib import closing

    from runtime.core.message import StreamName
    from runtime.operations.streams import Missed, Tap, is_there

    path = load_config(arguments, warn=False).layout.messages_db
    names = [StreamName.parse(text) for text in arguments.stream]
    if not is_there(path):
        write_error(f"{path} does not exist yet: waiting for the first message")
    with closing(Tap(path, names, SHOWN_BYTES if arguments.payload else 0)) as tap:
        shown = 0
        for each in _passing(tap):
            _write(each, arguments)
            shown += not isinstance(each, Missed)
            if arguments.number is not None and shown >= arguments.number:
                break
    return 0


def _passing(tap: Tap) -> Iterator[PassingMessage | Missed]:
    """What passes, without an end. A store that cannot be read now is waited for."""
    from runtime.errors import EdgeError

    trouble = ""
    while True:
        try:
            yield from tap.new()
        except EdgeError as exc:
            if str(exc) != trouble:
                trouble = str(exc)
                write_error(trouble)
        time.sleep(LOOK_EVERY_S)


def _write(each: PassingMessage | Missed, arguments: argparse.Namespace) -> None:
    record = tapped_record(each, payload=arguments.payload)
    if arguments.json:
        write_json(record, indent=None)
    else:
        write_lines(tapped_row(record))


def tapped_record(each: PassingMessage | Missed, *, payload: bool) -> dict[str, Any]:
    from runtime.core.message import CorruptRow
    from runtime.operations.streams import Missed, head

    if isinstance(each, Missed):
        return {"missed": each.messages}
    if isinstance(each.message, CorruptRow):
        return {"id": each.message.id, "damage": each.message.reason}
    shown = {"payload": _text(each.message.payload), "cut": each.payload_bytes > len(each.message.payload)}
    return {**head(each.message), "bytes": each.payload_bytes, **(shown if payload else {})}


def _text(payload: bytes) -> str:
    """The payload as a row of text: what is no printable UTF-8 is escaped."""
    return printable(payload.decode(errors="backslashreplace"), 4 * SHOWN_BYTES)


def tapped_row(record: dict[str, Any]) -> TextRow:
    if "missed" in record:
        return TextRow(
            f"... {record['missed']} more were stored and delivered between two looks", "...", "yellow"
        )
    if "damage" in record:
        return TextRow(f"#{record['id']}  its row is damaged: {record['damage']}", indent=4)
    return TextRow("  ".join(filter(None, _columns(record))), indent=4)


def _columns(record: dict[str, Any]) -> list[str]:
    """The columns of a message, of which the optional ones may be empty."""
    then_s = record["stored_s"]
    clock = "--:--:--" if then_s is None else time.strftime("%H:%M:%S", time.localtime(then_s))
    named = ("batch", "batch_slice", "message", "chunk", "content_type", "ttl_s", "file")
    optional = [f"{name}={_short(record[name])}" for name in named if name in record]
    properties = [f"{name}={_short(value)}" for name, value in record.get("properties", {}).items()]
    text = record.get("payload")
    return [
        f"{clock}  #{record['id']}  {record['stream']}  {record['key']}  {record['bytes']} B",
        f"priority={record['priority']}",
        "" if record["kind"] == "message" else record["kind"],
        *optional,
        f"{{{', '.join(properties)}}}" if properties else "",
        "" if text is None else f"payload: {text}{'...' if record['cut'] else ''}",
    ]


def _short(value: object) -> str:
    return printable(str(value), MOST_OF_A_TEXT)
