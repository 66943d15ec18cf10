"""A script's calls to a running devcloud: the subcommands of `edgectl devcloud`, each one call or two."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from runtime.devcloud.remote import Remote
from runtime.errors import UsageError

FOLLOW_EVERY_S = 0.5


def ls(arguments: argparse.Namespace) -> int:
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


def approve(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    if bool(arguments.operation) == arguments.all:
        raise UsageError("say whom: a verification code, or --all")
    waiting = [o["provisioningOperationId"] for o in _operations(remote) if o["status"] == "Pending"]
    if arguments.all and not waiting:
        print(
            "no device is waiting; `edgectl devcloud ls` lists those that wait and those that are registered"
        )
    for operation in waiting if arguments.all else [arguments.operation]:
        body = {"provisioningOperationId": operation, "deviceId": arguments.device_id}
        approved = remote.call("PUT", f"{remote.workspace}/provisioning-operations/approve", body)
        print(f"approved {approved['verificationCode']} as {approved['deviceId']}")
    return 0


def cancel(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    body = {"provisioningOperationId": arguments.operation}
    cancelled = remote.call("PUT", f"{remote.workspace}/provisioning-operations/cancel", body)
    print(f"cancelled {cancelled['verificationCode']}")
    return 0


def _operations(remote: Remote) -> list[dict[str, Any]]:
    operations: list[dict[str, Any]] = remote.call("GET", f"{remote.workspace}/provisioning-operations")[
        "provisioningOperations"
    ]
    return operations


def ls_tokens(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    listed = remote.call("GET", f"{remote.workspace}/provisioning-tokens")["provisioningTokens"]
    if arguments.json:
        print(json.dumps(listed, indent=2))
        return 0
    for token in listed:
        state = "revoked" if token["isRevoked"] else f"expires {token['expirationTime'] or 'never'}"
        print(f"{token['provisioningTokenId']}  {token['deviceIdMode']}  {state}")
    return 0


def create_token(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    body = {
        "deviceIdMode": arguments.mode,
        "expirationTime": arguments.expires,
        "registrationTokenLifetimeSeconds": arguments.lifetime_s,
    }
    made = remote.call("POST", f"{remote.workspace}/provisioning-tokens/create", body)
    print(made["provisioningToken"])
    return 0


def create_registration_token(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    body = {"deviceId": arguments.device, "expirationTime": arguments.expires}
    made = remote.call("POST", f"{remote.workspace}/devices/registration-tokens/create", body)
    print(made["registrationToken"])
    return 0


def connection_string(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    path = f"{remote.workspace}/devices/connection-string"
    print(remote.call("POST", path, {"deviceId": arguments.device})["connectionString"])
    return 0


def certificate(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    body = {"deviceId": arguments.device, "expirationTime": arguments.expires}
    made = remote.call("POST", f"{remote.workspace}/devices/certificates/create", body)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for ending, content in (("pem", made["certificate"]), ("key", made["privateKey"])):
        path = arguments.out / f"{arguments.device}.{ending}"
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)  # before there is anything to read
        path.write_text(content)
        print(path)
    return 0


def revoke(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    if arguments.provisioning_token:
        body = {"what": "provisioning-token", "provisioningTokenId": arguments.provisioning_token}
    elif arguments.sas:
        body = {"what": "sas", "device": arguments.sas}
    else:
        body = {"what": "registration-token", "device": arguments.device}
    remote.call("POST", "/admin/tokens", body)
    return 0


def faults(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    if arguments.reset:
        remote.call("DELETE", "/admin/faults")
    asked = dict(_fault(text) for text in arguments.faults)
    active = remote.call("POST", "/admin/faults", asked) if asked else remote.call("GET", "/admin/faults")
    print(json.dumps(active, indent=2))
    return 0


def _fault(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"{text} is not NAME=JSON")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # poison=bang needs no quotes


def drop(arguments: argparse.Namespace) -> int:
    body = {"mode": "polite" if arguments.polite else "abrupt", "device": arguments.device}
    print(f"dropped {Remote(arguments.dir).call('POST', '/admin/drop', body)['dropped']}")
    return 0


def hub(arguments: argparse.Namespace) -> int:
    Remote(arguments.dir).call("POST", "/admin/hub", {"up": arguments.state == "up"})
    return 0


def messages(arguments: argparse.Namespace) -> int:
    remote = Remote(arguments.dir)
    after = arguments.after
    narrowed = {"device": arguments.device} if arguments.device else {}
    while True:
        page = remote.call("GET", "/admin/messages", after=after, limit=1000, **narrowed)["messages"]
        for message in page:
            print(json.dumps(message, ensure_ascii=False))
        after = page[-1]["seq"] if page else after
        sys.stdout.flush()
        if not page and not arguments.follow:
            return 0
        if not page:
            time.sleep(FOLLOW_EVERY_S)


def page(arguments: argparse.Namespace) -> int:
    print(Remote(arguments.dir).call("POST", "/admin/page-link")["url"])
    return 0
