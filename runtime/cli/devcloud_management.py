"""`edgectl devcloud twin`, `send`, `call` and `limits`: an operator manages a device at the stand-in."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from runtime.cli import Commands
from runtime.devcloud.remote import Remote
from runtime.errors import UsageError

Add = Callable[[Commands, str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def register(subcommands: Commands, add: Add) -> None:
    """Declare the commands; `add` makes a subcommand that knows --dir."""
    twin = add(subcommands, "twin", show_twin, "show a device's twin, or change its desired properties")
    twin.add_argument("device", metavar="ID")
    twin.add_argument("--patch", metavar="JSON", help="merge into the desired properties; null removes a key")
    send = add(subcommands, "send", send_command, "send a device a cloud-to-device message")
    send.add_argument("device", metavar="ID")
    send.add_argument("payload", metavar="TEXT")
    send.add_argument("--property", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    call = add(subcommands, "call", call_method, "call a method of a device and print its answer")
    call.add_argument("device", metavar="ID")
    call.add_argument("method")
    call.add_argument("payload", nargs="?", default="null", metavar="JSON")
    call.add_argument("--timeout-s", type=float, default=30.0, metavar="S", help="for its answer (30)")
    limits = add(subcommands, "limits", show_limits, "show the hub's tier and limits, or change them")
    limits.add_argument(
        "limits", nargs="*", metavar="NAME=JSON", help="e.g. tier=basic command_lock_s=1; null: the default"
    )


def show_twin(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    if arguments.patch is not None:
        patch = _json(arguments.patch)
        remote.call("PATCH", f"{_device(remote, arguments)}/desired-properties", patch)
    print(json.dumps(remote.call("GET", f"{_device(remote, arguments)}/twin"), indent=2, ensure_ascii=False))
    return 0


def send_command(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    properties = dict(text.partition("=")[::2] for text in arguments.property)
    path = f"{_device(remote, arguments)}/c2d-messages"
    sent = remote.call("POST", path, arguments.payload.encode(), **properties)
    print(sent["messageId"])
    return 0


def call_method(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    body = {
        "methodName": arguments.method,
        "payload": _json(arguments.payload),
        "responseTimeoutInSeconds": arguments.timeout_s,
    }
    answer = remote.call("POST", f"{_device(remote, arguments)}/methods", body, timeout_s=arguments.timeout_s)
    print(json.dumps(answer, indent=2, ensure_ascii=False))
    return 0


def show_limits(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    asked = dict(map(_limit, arguments.limits))
    limits = remote.call("POST", "/admin/limits", asked) if asked else remote.call("GET", "/admin/limits")
    print(json.dumps(limits, indent=2))
    return 0


def _limit(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text} is not NAME=JSON")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # tier=basic needs no quotes


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as exc:
        raise UsageError(f"{text[:80]!r} is not JSON: {exc}") from None


def _device(remote: Remote, arguments: argparse.Namespace) -> str:
    return f"{remote.workspace}/devices/{quote(arguments.device, safe='')}"
