"""Azure's Device Provisioning Service through azure-iot-device's own client, in a process of its own.

The client knows no deadline, and after an error it may leave a network thread behind. A child that is killed
when its time is over leaves nothing, and `refresh` need not carry the library for one call a day. The request
goes to the child's stdin and the answer comes from its stdout: no key is in a command line or file.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from runtime.adapters.net.dial import dial
from runtime.adapters.net.proxies import ProxyTrouble, as_azure_wants_it, in_words, trouble_beneath
from runtime.adapters.net.reasons import reason_at
from runtime.adapters.net.tls_options import SLICE_S, Waiting, authorities, wrong_time
from runtime.core.identity.connection_string import check_names
from runtime.core.identity.platform_answer import Outcome
from runtime.core.proxy_url import Proxy
from runtime.core.secret import Secret

CONNECT_S = 20.0
"""Deadline for one connection, all its addresses together."""
DEADLINE_S = 60.0
"""Deadline for the whole registration: the service assigns in steps of a few seconds."""


@dataclass(frozen=True)
class DpsRequest:
    """Who registers with which service, by a key, or by a certificate with its private key."""

    host: str
    id_scope: str
    registration_id: str
    key: Secret | None = None
    certificate: Path | None = None
    key_file: Path | None = None
    ca_file: Path | None = None
    proxy: Proxy | None = None
    websockets: bool = False
    """As for the hub: a device that cannot reach port 8883 there cannot reach it here."""
    ahead_s: float = 0.0
    """The service's clock minus ours, where ours is wrong: the library signs by the time of day."""

    def to_json(self) -> str:
        """The request as JSON, for the child's stdin."""
        paths = {name: str(getattr(self, name) or "") for name in ("certificate", "key_file", "ca_file")}
        names = {"host": self.host, "id_scope": self.id_scope, "registration_id": self.registration_id}
        way = {
            "proxy": as_azure_wants_it(self.proxy) if self.proxy else None,
            "websockets": self.websockets,
            "ahead_s": self.ahead_s,
        }
        return json.dumps({**names, **paths, **way, "key": self.key.reveal() if self.key else ""})


@dataclass(frozen=True)
class Assigned:
    """The service's answer. `hub_host` and `device_id` are set where the outcome is good."""

    outcome: Outcome
    hub_host: str = ""
    device_id: str = ""
    reason: str = ""


def assign(
    question: DpsRequest, waiting: Waiting = lambda: False, deadline_s: float = DEADLINE_S
) -> Assigned:
    """Ask the service to assign our hub, within `deadline_s`; `waiting` may end it sooner."""
    try:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "runtime.adapters.identity.dps", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
    except OSError as exc:  # no process, or no descriptor, is available now
        return Assigned(Outcome.UNREACHABLE, reason=f"no process can be started now: {exc.strerror}")
    with child:
        try:
            return _listen(child, question, waiting, time.monotonic() + deadline_s)
        finally:
            child.kill()


def _listen(child: subprocess.Popen[str], question: DpsRequest, waiting: Waiting, end_s: float) -> Assigned:
    question_text: str | None = question.to_json()
    while True:
        try:
            answer, _ = child.communicate(question_text, timeout=SLICE_S)
        except subprocess.TimeoutExpired:
            question_text = None  # it has been handed over
            if waiting():
                return Assigned(Outcome.ABANDONED)
            if time.monotonic() >= end_s:
                return Assigned(Outcome.TIMED_OUT, reason="no assignment in time")
            continue
        try:
            fields = json.loads(answer)
            return _sound(Assigned(Outcome[fields.pop("outcome")], **fields))
        except (ValueError, KeyError, TypeError):
            if waiting():  # supervisord stops whole process groups: that is no failure of the service
                return Assigned(Outcome.ABANDONED)
            return Assigned(Outcome.CUT, reason=f"the provisioning client ended with {child.returncode}")


def _sound(assigned: Assigned) -> Assigned:
    """Check the answer: the library passes on any text of the service's unchecked."""
    try:
        if assigned.outcome.good:
            check_names(assigned.hub_host, assigned.device_id)
    except ValueError as exc:
        return Assigned(Outcome.GARBLED, reason=str(exc))
    return assigned


def _client(asked: dict[str, Any]) -> Any:
    import azure.iot.device

    library: Any = azure.iot.device  # X509 has no types
    client = library.ProvisioningDeviceClient
    _sign_ahead(asked.get("ahead_s") or 0.0)
    more: dict[str, Any] = {"websockets": asked["websockets"]}
    if asked["proxy"]:
        more["proxy_options"] = library.ProxyOptions(*asked["proxy"])
    if asked["ca_file"]:
        more["server_verification_cert"] = authorities(Path(asked["ca_file"]))
    who = (asked["host"], asked["registration_id"], asked["id_scope"])
    if asked["key"]:
        return client.create_from_symmetric_key(*who, asked["key"], **more)
    certificate = library.X509(asked["certificate"], asked["key_file"])
    return client.create_from_x509_certificate(*who, certificate, **more)


_WORDS = {
    Outcome.UNAUTHORIZED: "the service refused the key or the certificate, or knows no such device",
    Outcome.DISABLED: "the enrolment is disabled at the service",
    Outcome.UNAVAILABLE: "the service answered with an error",
    Outcome.BAD_REQUEST: "the id scope, the registration id or the key has a form that cannot be sent",
}


def _sign_ahead(ahead_s: float) -> None:
    """Have the library sign by the service's clock. Only in the child, which does nothing else."""
    if ahead_s:
        from azure.iot.device.common.auth import sastoken

        signing: Any = sastoken
        signing.time = SimpleNamespace(time=lambda: time.time() + ahead_s)


def _ask(asked: dict[str, Any]) -> dict[str, str]:
    """The child's whole work. Every failure becomes one of our outcomes."""
    from azure.iot.device import exceptions

    names: dict[type[Exception], Outcome] = {
        exceptions.CredentialError: Outcome.UNAUTHORIZED,
        exceptions.ConnectionFailedError: Outcome.UNREACHABLE,
        exceptions.ConnectionDroppedError: Outcome.CUT,
        exceptions.OperationTimeout: Outcome.TIMED_OUT,
        exceptions.ServiceError: Outcome.UNAVAILABLE,
        OSError: Outcome.NO_CERTIFICATE,
        ValueError: Outcome.BAD_REQUEST,
    }
    try:
        result = _client(asked).register()
    except Exception as exc:  # the library's exceptions are not all documented; an unnamed one is transient
        if (beneath := trouble_beneath(exc)) is not None:
            tls = Outcome.WRONG_TIME if wrong_time(beneath) else Outcome.TLS_FAILED
            kind = Outcome.PROXY if isinstance(beneath, ProxyTrouble) else tls
            return {"outcome": kind.name, "reason": in_words(beneath)}
        cause = exc.__cause__ if type(exc) is exceptions.ClientError and exc.__cause__ else exc
        outcome = next((o for kind, o in names.items() if isinstance(cause, kind)), Outcome.UNEXPECTED)
        if "registration status disabled" in str(cause):  # the client knows no such status
            outcome = Outcome.DISABLED
        where = f"{asked['host']}:{443 if asked['websockets'] else 8883}"
        reason = _WORDS.get(outcome) or reason_at(cause, where)
        return {"outcome": outcome.name, "reason": reason}
    state = result.registration_state
    if result.status != "assigned" or not state.assigned_hub:
        return {"outcome": Outcome.FORBIDDEN.name, "reason": f"the service says {result.status}"}
    return {"outcome": Outcome.OK.name, "hub_host": state.assigned_hub, "device_id": state.device_id}


def try_all_addresses() -> None:
    """Try all addresses, in the child: paho's `socket.create_connection` gives the first
    one all the time there is.
    """

    def create(address: tuple[str, int], timeout: Any = None, source_address: Any = None) -> socket.socket:
        return dial(*address, float(timeout or CONNECT_S))

    socket.create_connection = create  # type: ignore[assignment]


if __name__ == "__main__":
    from runtime.adapters.process.process import die_with_parent

    die_with_parent(sys.argv[1])
    try_all_addresses()
    sys.stdout.write(json.dumps(_ask(json.load(sys.stdin))))
    sys.stdout.flush()
    os._exit(0)  # the library's threads may not want to end
