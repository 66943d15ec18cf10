"""`edgectl devcloud dps`: the devices that the stand-in's DPS may assign to the hub."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from runtime.cli import Commands
from runtime.devcloud.remote import Remote

Add = Callable[[Commands, str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def register(subcommands: Commands, add: Add) -> None:
    """Declare the command; `add` makes a subcommand that knows --dir."""
    dps = add(subcommands, "dps", ls, "list enrolments of its Azure DPS, and who was assigned")
    dps.add_argument("--json", action="store_true", help="for a program")
    verbs = dps.add_subparsers(metavar="VERB")
    adding = add(verbs, "add", enrol, "make an enrolment and print its key, if it has one")
    adding.add_argument("name", metavar="ID", help="registration id, or name of the group")
    adding.add_argument("--group", action="store_true", help="for many devices, with keys derived from its")
    adding.add_argument(
        "--certificate", action="store_true", help="by certificate, see `edgectl devcloud certificate`"
    )
    for verb, run, meaning in (
        ("enable", enable, "have it count again"),
        ("disable", disable, "answer its devices that it is disabled"),
        ("rm", rm, "forget it; devices that were assigned stay so"),
    ):
        add(verbs, verb, run, meaning).add_argument("name", metavar="ID")


def ls(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    listing = {"host": remote.facts["dps_host"], **remote.call("GET", _enrolments(remote))}
    if arguments.json:
        print(json.dumps(listing, indent=2))
        return 0
    print(f"host {listing['host']}, id scope {listing['idScope']}")
    for enrolment in listing["enrolments"]:
        kind = "group" if enrolment["group"] else "individual"
        state = "" if enrolment["enabled"] else "  disabled"
        print(f"{kind:<10} {enrolment['name']}  by {enrolment['attestation']}{state}")
    for device in listing["assigned"]:
        print(
            f"{'assigned':<10} {device['registrationId']}  as {device['deviceId']}, {device['times']} times"
        )
    return 0


def enrol(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    attestation = "certificate" if arguments.certificate else "key"
    body = {"name": arguments.name, "group": arguments.group, "attestation": attestation}
    made = remote.call("POST", f"{_enrolments(remote)}/create", body)
    if made["key"]:
        print(made["key"])
    return 0


def enable(arguments: argparse.Namespace) -> int:
    return _switch(arguments, enabled=True)


def disable(arguments: argparse.Namespace) -> int:
    return _switch(arguments, enabled=False)


def rm(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    remote.call("DELETE", f"{_enrolments(remote)}/{arguments.name}")
    return 0


def _switch(arguments: argparse.Namespace, *, enabled: bool) -> int:
    remote = Remote(arguments.dir)
    remote.call("PUT", f"{_enrolments(remote)}/{arguments.name}", {"enabled": enabled})
    return 0


def _enrolments(remote: Remote) -> str:
    return f"{remote.workspace}/dps/enrolments"
