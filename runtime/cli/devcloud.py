"""`edgectl devcloud`: the stand-in cloud in the foreground, and what a script asks of a running one."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

from runtime.cli import Commands
from runtime.errors import Retryable, UsageError

NEEDS = ("amqtt", "cryptography", "starlette", "trustme", "uvicorn")
LIFETIMES = {
    "sas_s": "lifetime of a SAS",
    "registration_token_s": "lifetime of a Registration Token",
    "grace_s": "how long the parent of a refreshed Registration Token stays valid",
    "operation_s": "how long a provisioning operation stays open",
    "upload_s": "how long an upload's address is valid",
}
CALL_TIMEOUT_S = 30.0


def register(commands: Commands) -> None:
    devcloud = commands.add_parser(
        "devcloud",
        help="run the stand-in cloud, or talk to a running one",
        description="Without a subcommand: run the stand-in cloud in the foreground.",
    )
    devcloud.add_argument(
        "--dir", type=Path, default=Path("devcloud"), help="its folder (default: ./devcloud)"
    )
    devcloud.add_argument("--address", default="auto", help="loopback address; auto: a free one, kept")
    devcloud.add_argument("--https-port", type=int, default=0, metavar="N", help="0: a free one, kept")
    devcloud.add_argument("--workspace", default="demo", help="name of its workspace")
    for name, meaning in LIFETIMES.items():
        flag = f"--{name.removesuffix('_s').replace('_', '-')}-lifetime-s"
        devcloud.add_argument(flag, type=float, dest=name, metavar="S", help=meaning)
    devcloud.set_defaults(run=_serve)
    _register_subcommands(devcloud)


def _register_subcommands(devcloud: argparse.ArgumentParser) -> None:
    subcommands = devcloud.add_subparsers(metavar="SUBCOMMAND")

    def add(name: str, run: Any, help: str) -> argparse.ArgumentParser:
        made = subcommands.add_parser(name, help=help, description=help)
        made.add_argument(
            "--dir", type=Path, default=argparse.SUPPRESS, help="folder of the running devcloud"
        )
        made.set_defaults(run=run)
        return made

    listing = add("ls", _ls, "list waiting devices and registered ones")
    listing.add_argument("--json", action="store_true", help="for a program")
    approve = add("approve", _approve, "let waiting devices in")
    approve.add_argument("operation", nargs="?", metavar="CODE", help="verification code or operation id")
    approve.add_argument("--all", action="store_true", help="whoever waits")
    approve.add_argument("--device-id", metavar="ID", help="another id than the device wished for")
    cancel = add("cancel", _cancel, "turn a waiting device away")
    cancel.add_argument("operation", metavar="CODE", help="verification code or operation id")
    _register_tokens(add)
    faults = add("faults", _faults, "show what it does wrong, or change that")
    faults.add_argument("faults", nargs="*", metavar="NAME=JSON", help="e.g. ack_delay_ms=200 silent=true")
    faults.add_argument("--reset", action="store_true", help="end all faults first")
    drop = add("drop", _drop, "cut connections to the hub")
    drop.add_argument("--device", metavar="ID", help="only of this device")
    drop.add_argument("--polite", action="store_true", help="close instead of reset")
    hub = add("hub", _hub, "take the hub away, or bring it back")
    hub.add_argument("state", choices=("up", "down"))
    messages = add("messages", _messages, "print the messages that arrived, one JSON object a line")
    messages.add_argument("--device", metavar="ID", help="only of this device")
    messages.add_argument("--after", type=int, default=0, metavar="N", help="only after this number")
    messages.add_argument("--follow", action="store_true", help="go on as they arrive")
    add("page", _page, "print a link that opens the page once")


def _register_tokens(add: Any) -> None:
    tokens = add("tokens", _ls_tokens, "list Provisioning Tokens")
    tokens.add_argument("--json", action="store_true", help="for a program")
    verbs = tokens.add_subparsers(metavar="VERB")
    create = verbs.add_parser("create", help="make a Provisioning Token and print it")
    create.add_argument("--mode", default="DeviceAndTechnicianAllow", help="who chooses the device id")
    create.add_argument("--expires", metavar="TIME", help="RFC 3339, e.g. 2030-01-01T00:00:00Z")
    create.add_argument(
        "--lifetime-s", type=float, metavar="S", help="of the Registration Tokens it leads to"
    )
    create.set_defaults(run=_create_token)
    by_hand = verbs.add_parser("registration", help="make a Registration Token by hand and print it")
    by_hand.add_argument("device", metavar="ID")
    by_hand.add_argument("--expires", metavar="TIME", help="RFC 3339")
    by_hand.set_defaults(run=_create_registration_token)
    revoke = add("revoke", _revoke, "have tokens count no more")
    whose = revoke.add_mutually_exclusive_group(required=True)
    whose.add_argument("--device", metavar="ID", help="its Registration Tokens")
    whose.add_argument("--sas", metavar="ID", help="every SAS of this device, which also cuts its connection")
    whose.add_argument("--provisioning-token", metavar="TOKEN_ID", help="as `tokens` lists it")


# -- run it ------------------------------------------------------------------------------------------


def require_extra() -> None:
    """Raises UsageError where the extra is not installed."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the stand-in cloud needs {', '.join(missing)}; run: pip install 'edge-runtime[devcloud]'"
        )


def _serve(arguments: argparse.Namespace) -> int:
    require_extra()
    from runtime.devcloud.server import Options, run

    lifetimes = {name: getattr(arguments, name) for name in LIFETIMES if getattr(arguments, name) is not None}
    options = Options(
        arguments.dir.absolute(), arguments.address, arguments.https_port, arguments.workspace, lifetimes
    )
    run(options, lambda sentence: print(sentence, flush=True))
    return 0


# -- talk to it --------------------------------------------------------------------------------------


class Remote:
    """A running devcloud, found by its folder."""

    def __init__(self, folder: Path) -> None:
        facts = folder / "devcloud.json"
        try:
            self.facts: dict[str, Any] = json.loads(facts.read_text())
        except (OSError, ValueError):
            raise UsageError(
                f"no devcloud runs in {folder}; start it with: edgectl devcloud --dir {folder}"
            ) from None
        self.workspace = f"/workspaces/{self.facts['workspace']}"

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """The decoded answer. Raises UsageError with the platform's reason, Retryable without any answer."""
        import requests

        try:
            answer = requests.request(
                method,
                self.facts["admin_url"] + path,
                params=query,
                json=body,
                headers={"Authorization": f"Bearer {self.facts['operator_token']}"},
                verify=self.facts["ca_file"],
                timeout=CALL_TIMEOUT_S,
            )
        except requests.RequestException as exc:
            raise Retryable(f"devcloud at {self.facts['instance']} does not answer") from exc
        if not answer.ok:
            problem = answer.json()
            raise UsageError(problem.get("detail") or problem["title"])
        return answer.json() if answer.content else None


def _ls(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    waiting = [o for o in _operations(remote) if o["status"] == "Pending"]
    devices = remote.call("GET", f"{remote.workspace}/devices")["devices"]
    if arguments.json:
        print(json.dumps({"waiting": waiting, "devices": devices}, indent=2))
        return 0
    for operation in waiting:
        wish = operation["requestedDeviceId"] or "no wish"
        print(f"waiting    {operation['verificationCode']}  {wish}  until {operation['expirationTime']}")
    for device in devices:
        state = "connected" if device["connected"] else "offline" if device["enabled"] else "disabled"
        print(f"{state:<10} {device['deviceId']}")
    return 0


def _approve(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    if bool(arguments.operation) == arguments.all:
        raise UsageError("say whom: a verification code, or --all")
    waiting = [o["provisioningOperationId"] for o in _operations(remote) if o["status"] == "Pending"]
    for operation in waiting if arguments.all else [arguments.operation]:
        body = {"provisioningOperationId": operation, "deviceId": arguments.device_id}
        approved = remote.call("PUT", f"{remote.workspace}/provisioning-operations/approve", body)
        print(f"approved {approved['verificationCode']} as {approved['deviceId']}")
    return 0


def _cancel(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    body = {"provisioningOperationId": arguments.operation}
    cancelled = remote.call("PUT", f"{remote.workspace}/provisioning-operations/cancel", body)
    print(f"cancelled {cancelled['verificationCode']}")
    return 0


def _operations(remote: Remote) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = remote.call("GET", f"{remote.workspace}/provisioning-operations")[
        "provisioningOperations"
    ]
    return found


def _ls_tokens(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    listed = remote.call("GET", f"{remote.workspace}/provisioning-tokens")["provisioningTokens"]
    if arguments.json:
        print(json.dumps(listed, indent=2))
        return 0
    for token in listed:
        state = "revoked" if token["isRevoked"] else f"expires {token['expirationTime'] or 'never'}"
        print(f"{token['provisioningTokenId']}  {token['deviceIdMode']}  {state}")
    return 0


def _create_token(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    body = {
        "deviceIdMode": arguments.mode,
        "expirationTime": arguments.expires,
        "registrationTokenLifetimeSeconds": arguments.lifetime_s,
    }
    made = remote.call("POST", f"{remote.workspace}/provisioning-tokens/create", body)
    print(made["provisioningToken"])
    return 0


def _create_registration_token(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    body = {"deviceId": arguments.device, "expirationTime": arguments.expires}
    made = remote.call("POST", f"{remote.workspace}/devices/registration-tokens/create", body)
    print(made["registrationToken"])
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    if arguments.provisioning_token:
        body = {"what": "provisioning-token", "provisioningTokenId": arguments.provisioning_token}
    elif arguments.sas:
        body = {"what": "sas", "device": arguments.sas}
    else:
        body = {"what": "registration-token", "device": arguments.device}
    remote.call("POST", "/admin/tokens", body)
    return 0


def _faults(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    if arguments.reset:
        remote.call("DELETE", "/admin/faults")
    asked = dict(_fault(text) for text in arguments.faults)
    found = remote.call("POST", "/admin/faults", asked) if asked else remote.call("GET", "/admin/faults")
    print(json.dumps(found, indent=2))
    return 0


def _fault(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text} is not NAME=JSON")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # poison=bang needs no quotes


def _drop(arguments: argparse.Namespace) -> int:
    body = {"mode": "polite" if arguments.polite else "abrupt", "device": arguments.device}
    print(f"dropped {Remote(arguments.dir).call('POST', '/admin/drop', body)['dropped']}")
    return 0


def _hub(arguments: argparse.Namespace) -> int:
    Remote(arguments.dir).call("POST", "/admin/hub", {"up": arguments.state == "up"})
    return 0


def _messages(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    after = arguments.after
    narrowed = {"device": arguments.device} if arguments.device else {}
    while True:
        found = remote.call("GET", "/admin/messages", after=after, limit=1000, **narrowed)["messages"]
        for message in found:
            print(json.dumps(message, ensure_ascii=False))
        after = found[-1]["seq"] if found else after
        sys.stdout.flush()
        if not found and not arguments.follow:
            return 0
        if not found:
            time.sleep(0.5)


def _page(arguments: argparse.Namespace) -> int:
    print(Remote(arguments.dir).call("POST", "/admin/page-link")["url"])
    return 0
