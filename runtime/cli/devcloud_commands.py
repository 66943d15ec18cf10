"""Commands of `edgectl devcloud`: the stand-in in the foreground, and a script's calls to a running one."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from runtime.cli import Commands, devcloud_dps, devcloud_management
from runtime.cli import devcloud_calls as calls
from runtime.cli.devcloud import require_extra

LIFETIMES = {
    "sas_s": "lifetime of a SAS",
    "registration_token_s": "lifetime of a Registration Token",
    "grace_s": "how long the parent of a refreshed Registration Token stays valid",
    "operation_s": "how long a provisioning operation stays open",
    "upload_s": "how long an upload's address is valid",
}


def register(commands: Commands, meaning: str) -> None:
    devcloud = commands.add_parser(
        "devcloud",
        help=meaning,
        description="Without a subcommand: run the stand-in cloud in the foreground.",
    )
    devcloud.add_argument(
        "--dir", type=Path, default=Path("devcloud"), help="its folder (default: ./devcloud)"
    )
    devcloud.add_argument("--address", default="auto", help="loopback address; auto: a free one, kept")
    devcloud.add_argument("--https-port", type=port, default=0, metavar="N", help="0: a free one, kept")
    devcloud.add_argument(
        "--name", default="", metavar="HOST", help="host name it goes by; devices have to resolve it"
    )
    devcloud.add_argument("--workspace", default="demo", help="name of its workspace")
    for name, meaning in LIFETIMES.items():
        flag = f"--{name.removesuffix('_s').replace('_', '-')}-lifetime-s"
        devcloud.add_argument(flag, type=float, dest=name, metavar="S", help=meaning)
    devcloud.set_defaults(run=_serve, homeless=True)
    _register_subcommands(devcloud)


def port(text: str) -> int:
    """A port on the command line; argparse reports anything else in a sentence."""
    value = int(text)
    if not 0 <= value <= 65_535:
        raise ValueError(text)
    return value


def _register_subcommands(devcloud: argparse.ArgumentParser) -> None:
    subcommands = devcloud.add_subparsers(metavar="SUBCOMMAND")
    listing = _add(subcommands, "ls", calls.ls, "list waiting devices and registered ones")
    listing.add_argument("--json", action="store_true", help="for a program")
    approve = _add(subcommands, "approve", calls.approve, "let waiting devices in")
    approve.add_argument("operation", nargs="?", metavar="CODE", help="verification code or operation id")
    approve.add_argument("--all", action="store_true", help="every device that waits")
    approve.add_argument("--device-id", metavar="ID", help="another id than the device wished for")
    cancel = _add(subcommands, "cancel", calls.cancel, "turn a waiting device away")
    cancel.add_argument("operation", metavar="CODE", help="verification code or operation id")
    _register_tokens(subcommands)
    faults = _add(subcommands, "faults", calls.faults, "show what it does wrong, or change that")
    faults.add_argument("faults", nargs="*", metavar="NAME=JSON", help="e.g. ack_delay_ms=200 silent=true")
    faults.add_argument("--reset", action="store_true", help="end all faults first")
    drop = _add(subcommands, "drop", calls.drop, "cut connections to the hub")
    drop.add_argument("--device", metavar="ID", help="only of this device")
    drop.add_argument("--polite", action="store_true", help="close instead of reset")
    hub = _add(subcommands, "hub", calls.hub, "take the hub away, or bring it back")
    hub.add_argument("state", choices=("up", "down"))
    messages = _add(subcommands, "messages", calls.messages, "print what arrived, one JSON object a line")
    messages.add_argument("--device", metavar="ID", help="only of this device")
    messages.add_argument("--after", type=int, default=0, metavar="N", help="only after this number")
    messages.add_argument("--follow", action="store_true", help="go on as they arrive")
    _add(subcommands, "page", calls.page, "print a link that opens the page once")


def _register_tokens(subcommands: Commands) -> None:
    tokens = _add(subcommands, "tokens", calls.ls_tokens, "list Provisioning Tokens")
    tokens.add_argument("--json", action="store_true", help="for a program")
    verbs = tokens.add_subparsers(metavar="VERB")
    create = _add(verbs, "create", calls.create_token, "make a Provisioning Token and print it")
    create.add_argument(
        "--mode", default="DeviceAndTechnicianAllow", help="who chooses the device id (default: %(default)s)"
    )
    create.add_argument("--expires", metavar="TIME", help="RFC 3339, e.g. 2030-01-01T00:00:00Z")
    create.add_argument("--lifetime-s", type=float, metavar="S", help="of its Registration Tokens")
    by_hand = _add(
        verbs, "registration", calls.create_registration_token, "make a Registration Token and print it"
    )
    by_hand.add_argument("device", metavar="ID")
    by_hand.add_argument("--expires", metavar="TIME", help="RFC 3339")
    certificate = _add(
        subcommands, "certificate", calls.certificate, "write a client certificate for a device"
    )
    certificate.add_argument("device", metavar="ID")
    certificate.add_argument("--out", type=Path, default=Path(), help="folder for ID.pem and ID.key")
    certificate.add_argument("--expires", metavar="TIME", help="RFC 3339")
    string = _add(
        subcommands, "connection-string", calls.connection_string, "print a device's, with its key in it"
    )
    string.add_argument("device", metavar="ID")
    devcloud_dps.register(subcommands, _add)
    devcloud_management.register(subcommands, _add)
    revoke = _add(subcommands, "revoke", calls.revoke, "have tokens count no more")
    whose = revoke.add_mutually_exclusive_group(required=True)
    whose.add_argument("--device", metavar="ID", help="its Registration Tokens")
    whose.add_argument("--sas", metavar="ID", help="every SAS of this device, which also cuts its connection")
    whose.add_argument("--provisioning-token", metavar="TOKEN_ID", help="as `tokens` lists it")


def _add(
    subcommands: Commands, name: str, run: Callable[[argparse.Namespace], int], meaning: str
) -> argparse.ArgumentParser:
    made = subcommands.add_parser(name, help=meaning, description=meaning)
    # SUPPRESS: a default here would overwrite a --dir given before the subcommand
    made.add_argument("--dir", type=Path, default=argparse.SUPPRESS, help="folder of the running devcloud")
    made.set_defaults(run=run)
    return made


def _serve(arguments: argparse.Namespace) -> int:
    require_extra()
    from runtime.devcloud.server import ServerOptions, run

    lifetimes = {name: getattr(arguments, name) for name in LIFETIMES if getattr(arguments, name) is not None}
    options = ServerOptions(
        arguments.dir.absolute(),
        arguments.address,
        arguments.https_port,
        arguments.name,
        arguments.workspace,
        lifetimes,
    )
    run(options, lambda sentence: print(sentence, flush=True))
    return 0
