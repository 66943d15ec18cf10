"""`edgectl twin`, `commands`, `call`: what the cloud wants of this device, and what became of it.

What only reads takes it from management.db, so it works with everything down. What changes something is asked
of the worker, as every program asks it.
"""

from __future__ import annotations

import argparse
import base64
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from runtime.cli import Commands, load_config, seconds
from runtime.cli.status import duration
from runtime.cli.terminal import TextRow, table, write_json, write_lines
from runtime.core.printable import printable

if TYPE_CHECKING:
    from runtime.core.management.command_record import CommandRow
    from runtime.core.management.twin_record import TwinRecord
    from runtime.device import Device

MOST_LISTED = 1_000
MOST_OF_A_NAME = 40
ASK_FOR_S = 10.0
"""A worker that gives no answer for so long does not run."""


def register(commands: Commands) -> None:
    twin = commands.add_parser("twin", help="the device twin: get, report, watch")
    actions = twin.add_subparsers(metavar="ACTION", required=True)
    get = actions.add_parser("get", help="a part of the twin, also with everything down")
    _path(get)
    get.add_argument(
        "--half",
        choices=("desired", "reported", "wanted"),
        default="desired",
        help="desired (default); reported: as the hub has it; wanted: as programs want it reported",
    )
    _json(get)
    get.set_defaults(run=_get)
    report = actions.add_parser("report", help="report a value, in place of what is there")
    report.add_argument("path", metavar="PATH", help="a JSON pointer such as /press/speed")
    report.add_argument("value", metavar="VALUE", nargs="?", help="JSON; none with --remove")
    mode = report.add_mutually_exclusive_group()
    mode.add_argument("--patch", action="store_true", help="merge it: null removes, the rest stays")
    mode.add_argument("--remove", action="store_true", help="report nothing there any more")
    report.add_argument(
        "--confirm", type=seconds, default=0.0, metavar="S", help="wait so long until the hub has it"
    )
    _json(report)
    report.set_defaults(run=_report)
    watch = actions.add_parser("watch", help="every change of the desired properties, one JSON a line")
    _path(watch)
    watch.add_argument("--after", type=int, default=0, metavar="N", help="only changes after this number")
    watch.add_argument("--timeout", type=seconds, metavar="S", help="end after so long")
    _json(watch)
    watch.set_defaults(run=_watch)
    _register_commands(commands)
    call = commands.add_parser(
        "call",
        help="call a method of this device, as the cloud would; for tests",
        epilog="exit status: 0 answered below 400, 1 answered with an error or not at all",
    )
    call.add_argument("method", metavar="METHOD")
    call.add_argument("payload", metavar="PAYLOAD", nargs="?", default="", help="JSON")
    call.add_argument(
        "--timeout", type=seconds, default=25.0, metavar="S", help="longest wait (default %(default)g)"
    )
    _json(call)
    call.set_defaults(run=_call)


def _register_commands(commands: Commands) -> None:
    group = commands.add_parser("commands", help="commands from the cloud: ls, show, requeue, drop")
    actions = group.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser("ls", help="list them, the newest first; also with everything down")
    listing.add_argument("--open", action="store_true", help="only those that have not ended")
    listing.add_argument("--state", metavar="STATE", help="only those in this state, as in dead")
    listing.add_argument("-n", type=int, default=100, metavar="N", help="at most so many (default 100)")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(run=_list)
    show = actions.add_parser("show", help="everything about one of them; also with everything down")
    show.add_argument("id", metavar="ID", help="its number here, or its message id at the hub")
    _json(show)
    show.set_defaults(run=_show)
    for name, meaning in (
        ("requeue", "carry dead or uncertain ones out again, each as a new command"),
        ("drop", "be done with dead or uncertain ones"),
    ):
        action = actions.add_parser(name, help=meaning)
        action.add_argument("ids", type=int, nargs="+", metavar="NUMBER")
        _json(action)
        action.set_defaults(run=_requeue if name == "requeue" else _drop)


def _path(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="PATH", nargs="?", default="/", help="a JSON pointer such as /press; default: all"
    )


def _json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="for a program")


# --- the twin ---


def _get(arguments: argparse.Namespace) -> int:
    from runtime.adapters.management.reader import ManagementReader
    from runtime.core.management.device_work import as_path
    from runtime.core.management.exchange import NotUnderstood
    from runtime.core.management.twin import value_at
    from runtime.errors import Rejected, UsageError

    try:
        path = as_path(arguments.path)
    except NotUnderstood as exc:
        raise UsageError(str(exc)) from exc
    record = ManagementReader(load_config(arguments).layout.management_db).twin()
    document, version, change = _half(record, arguments.half)
    value = value_at(document, path)
    if value is None:
        raise Rejected(f"nothing is {arguments.half} at {arguments.path}")
    if arguments.json:
        write_json({"value": value, "version": version, "change": change(path)})
    else:
        write_json(value)
    return 0


def _half(record: TwinRecord, half: str) -> tuple[Any, int | None, Any]:
    if half == "desired":
        return record.desired, record.desired_version, record.desired_change
    if half == "reported":
        return record.confirmed, record.reported_version, record.wanted_change
    return record.wanted, None, record.wanted_change


def _report(arguments: argparse.Namespace) -> int:
    from runtime.errors import UsageError

    if arguments.remove != (arguments.value is None):
        raise UsageError("give a VALUE, or --remove and none")
    value = None if arguments.remove else _parsed(arguments.value, "VALUE")
    with _device(arguments) as device:
        if arguments.remove:
            kept = device.remove(arguments.path, confirm_s=arguments.confirm)
        elif arguments.patch:
            kept = device.patch(arguments.path, value, confirm_s=arguments.confirm)
        else:
            kept = device.set(arguments.path, value, confirm_s=arguments.confirm)
    if arguments.json:
        write_json({"change": kept.change, "confirmed": kept.confirmed})
    else:
        hub = {None: "", True: ", and the hub has it", False: ", and the hub does not have it yet"}
        write_lines(f"kept as change {kept.change}{hub[kept.confirmed]}")
    return 1 if arguments.confirm and not kept.confirmed else 0


def _watch(arguments: argparse.Namespace) -> int:
    from runtime.core.management.exchange import POLL_S

    until_s = time.monotonic() + arguments.timeout if arguments.timeout is not None else float("inf")
    after = arguments.after
    with _device(arguments) as device:
        while (left_s := until_s - time.monotonic()) > 0:
            change = device.watch(arguments.path, after=after, wait_s=min(POLL_S, left_s))
            if change is not None:
                after = change.number
                write_json({"change": change.number, "value": change.value}, indent=None)
    return 0


def _parsed(text: str, name: str) -> Any:
    from runtime.core.management.strict_json import decode_json
    from runtime.errors import UsageError

    try:
        return decode_json(text.encode(errors="surrogateescape"))
    except ValueError as exc:
        raise UsageError(f"{name} is not JSON: {exc}; write text in quotes, as in '\"fast\"'") from exc


# --- commands ---


def _list(arguments: argparse.Namespace) -> int:
    from runtime.adapters.management.reader import ManagementReader

    reader = ManagementReader(load_config(arguments).layout.management_db)
    found = list(_wanted(reader.commands(MOST_LISTED), arguments))[: arguments.n]
    if arguments.json:
        for command in found:
            write_json(_described(command), indent=None)
        return 0
    if not found:
        write_lines("no commands")
        return 0
    head = ["NUMBER", "STATE", "NAME", "AGE", "ATTEMPTS", "STATUS"]
    head_row, *rows = table(head, [_row(command) for command in found])
    write_lines(f"{head_row}  REASON")
    for row, command in zip(rows, found, strict=True):
        write_lines(TextRow(f"{row:<{len(head_row)}}  {command.reason}".rstrip(), indent=4))
    return 0


def _wanted(commands: list[CommandRow], arguments: argparse.Namespace) -> Iterator[CommandRow]:
    for command in commands:
        if arguments.open and command.state.final:
            continue
        if arguments.state and command.state != arguments.state:
            continue
        yield command


def _row(command: CommandRow) -> list[str]:
    age_s = _age_s(command)
    return [
        str(command.seq),
        "dropped" if command.dropped else str(command.state),
        printable(command.name, MOST_OF_A_NAME) + (f" ({command.leaf})" if command.leaf else ""),
        "?" if age_s is None else duration(age_s),
        str(command.attempts),
        "" if command.status is None else str(command.status),
    ]


def _age_s(command: CommandRow) -> float | None:
    from runtime.adapters.process.clock import SystemClock, read_moment

    return read_moment(SystemClock()).since(command.received)


def _show(arguments: argparse.Namespace) -> int:
    from runtime.adapters.management.reader import ManagementReader
    from runtime.errors import UsageError

    command = ManagementReader(load_config(arguments).layout.management_db).command(arguments.id)
    if command is None:
        raise UsageError(
            f"command {arguments.id} is not known: it was never received, or is forgotten by now"
        )
    write_json(_described(command, everything=True))
    return 0


def _described(command: CommandRow, *, everything: bool = False) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "command": command.seq,
        "id": command.id,
        "name": command.name,
        "leaf": command.leaf,
        "state": str(command.state),
        "attempts": command.attempts,
        "age_s": _age_s(command),
        "status": command.status,
        "reason": command.reason,
        "result_stored": command.result_stored,
        "dropped": command.dropped,
    }
    if everything:
        lease = command.lease
        fields |= {
            "received": _utc(command.received.wall_s),
            "ended": _utc(command.ended.wall_s) if command.ended else None,
            "expires_after_s": command.life_s,
            "once": command.once,
            "leased_to": lease.holder if lease else None,
            "lease_s": lease.lease_s if lease else None,
            "properties": dict(command.properties),
            **_content("payload", command.payload),
            **_content("result", command.result),
        }
    return fields


def _utc(wall_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall_s))


def _content(name: str, content: bytes) -> dict[str, str]:
    """Bytes as text where they are that, else in base64."""
    try:
        return {name: content.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(content).decode()}


def _requeue(arguments: argparse.Namespace) -> int:
    from runtime.core.management.replies import Kept
    from runtime.core.management.requests import RequeueRequest

    with _device(arguments) as device:
        for number in arguments.ids:
            reply = device.ask(RequeueRequest(number))
            new = reply.change if isinstance(reply, Kept) else None
            if arguments.json:
                write_json({"command": number, "requeued_as": new}, indent=None)
            else:
                write_lines(f"{number} requeued as {new}")
    return 0


def _drop(arguments: argparse.Namespace) -> int:
    from runtime.core.management.requests import DropRequest

    with _device(arguments) as device:
        for number in arguments.ids:
            device.ask(DropRequest(number))
            if arguments.json:
                write_json({"command": number, "dropped": True}, indent=None)
            else:
                write_lines(f"{number} dropped")
    return 0


# --- methods ---


def _call(arguments: argparse.Namespace) -> int:
    from runtime.core.management.replies import OperatorAnswer
    from runtime.core.management.requests import CallRequest

    if arguments.payload:
        _parsed(arguments.payload, "PAYLOAD")
    with _device(arguments) as device:
        reply = device.ask(CallRequest(arguments.method, arguments.timeout, arguments.payload.encode()))
    assert isinstance(reply, OperatorAnswer)
    payload = json.loads(reply.payload) if reply.payload else None
    if arguments.json:
        write_json({"status": reply.status, "payload": payload})
    else:
        write_lines(f"status {reply.status}")
        if payload is not None:
            write_json(payload)
    return 0 if reply.status < 400 else 1


def _device(arguments: argparse.Namespace) -> Device:
    """The worker, as a program asks it. Raises UsageError where management is off."""
    from runtime.device import Device
    from runtime.errors import UsageError

    config = load_config(arguments)
    if not config.settings.management.enabled:
        raise UsageError("management is off: set management.enabled = true in edge.toml, then edgectl reload")
    return Device(f"ipc://{config.layout.management_socket}", retry_for_s=ASK_FOR_S)
