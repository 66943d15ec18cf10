"""Cloud: the whole state of the stand-in, and the interface between its two halves.

The HTTPS side (the modules of `http`) and the MQTT side (`mqtt`) meet only here. Both run in one asyncio
loop, so nothing here locks or awaits. Everything is in DIR/devcloud.db before a method returns: a SIGKILL at
any instant costs nothing that was answered.

The hub offers `async def serve(cloud, host, port, ssl_context) -> Broker` with `await broker.stop()`
(listener and connections go) and `broker.drop(mode, device_id) -> int` (`abrupt` or `polite`, None for all;
returns how many). Device ids on this interface are the hub's: `WORKSPACE:DEVICE`.
"""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.devcloud.state import tokens, twin_rules
from runtime.devcloud.state.certificates import Certificates
from runtime.devcloud.state.command_locks import CommandLocks
from runtime.devcloud.state.commands import CommandOptions, CommandQueue
from runtime.devcloud.state.database import Database
from runtime.devcloud.state.dps_enrolments import DpsEnrolments
from runtime.devcloud.state.enrolment import EnrolmentBook, Mode
from runtime.devcloud.state.faults import Faults
from runtime.devcloud.state.hub_limits import HubLimits
from runtime.devcloud.state.kept_sessions import forget_session
from runtime.devcloud.state.lifetimes import LONGEST_S, Lifetimes
from runtime.devcloud.state.message_log import MessageLog
from runtime.devcloud.state.method_calls import MethodCalls
from runtime.devcloud.state.problems import Problem
from runtime.devcloud.state.registrations import Registrations
from runtime.devcloud.state.twin_log import TwinLog
from runtime.devcloud.state.twins import Twins
from runtime.devcloud.state.uploads import Uploads
from runtime.devcloud.state.values import (
    Admitted,
    Command,
    CommandsWaiting,
    ConnectionRefused,
    DesiredChange,
    Event,
    Received,
    TwinRefused,
)

NOT_AUTHORIZED = 5  # MQTT 3.1.1 CONNACK codes
BAD_CLIENT_ID = 2
QUOTA_USED_UP = "the daily quota is used up"


class Cloud:
    """One stand-in: a workspace, its devices, and all the messages they sent."""

    def __init__(self, folder: Path, hub_host: str, now_s: float, workspace: str = "demo") -> None:
        self.folder = folder
        self.hub_host = hub_host
        self.workspace = workspace
        self.faults = Faults()
        self._metered = (self.faults, 0)
        self.drop: Callable[[str, str | None], int] = lambda mode, device_id: 0
        """Cuts connections, of one device or of all: `server.py` puts the hub's own here while it is up."""
        self.database = Database(folder / "devcloud.db")
        self.records = MessageLog(self.database)
        self.records.close_all("the stand-in ended", now_s)
        self.twins = Twins(self.database)
        self.twin_log = TwinLog(self.database)
        self.secret = bytes.fromhex(self._once("secret", lambda: secrets.token_hex(32)))
        """The key that signs tokens and upload addresses."""
        self.enrolment = EnrolmentBook(self.database, self.secret)
        self.registrations = Registrations(self.database, self.secret, workspace)
        self.limits = HubLimits().merge(json.loads(self.database.recall("hub_limits") or "{}"))
        self.commands = CommandQueue(self.database, lambda: self.limits, self.generation)
        self.locks = CommandLocks()
        self.methods = MethodCalls(self._publish)
        self.certificates = Certificates(self.database, folder)
        id_scope = self._once("dps_id_scope", lambda: f"0ne{secrets.token_hex(4).upper()}")
        self.dps = DpsEnrolments(self.database, self.certificates, id_scope)
        self.uploads = Uploads(self.database, folder / "blobs")
        self.operator_token = self._once("operator_token", lambda: secrets.token_urlsafe(32))
        self.provisioning_token = self.enrolment.token_text(
            self._once(
                "provisioning_token",
                lambda: self.enrolment.create_token(Mode.DEVICE_AND_TECHNICIAN_ALLOW, None, None, now_s),
            )
        )
        """The token that `devcloud.json` contains; it never expires."""
        self.answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
        """Counts of answers by call of the platform's and status, since the start."""
        self._listeners: dict[str, list[Callable[[Event], bool]]] = defaultdict(list)

    def close(self) -> None:
        self.database.close()

    # -- what it remembers about itself --------------------------------------------------------------

    def _once(self, name: str, make: Callable[[], str]) -> str:
        """A value made at the first start of this folder and kept."""
        kept = self.database.recall(name)
        if kept is None:
            self.database.remember(name, kept := make())
        return kept

    @property
    def lifetimes(self) -> Lifetimes:
        return Lifetimes(**json.loads(self.database.recall("lifetimes") or "{}"))

    def change_lifetimes(self, asked: Mapping[str, Any]) -> Lifetimes:
        """Replace some lifetimes. Raises Problem."""
        changed = self.lifetimes.merge(asked)
        self.database.remember("lifetimes", json.dumps(dataclasses.asdict(changed)))
        return changed

    def change_limits(self, asked: Mapping[str, Any]) -> HubLimits:
        """Replace some limits of the hub. Raises Problem."""
        self.limits = self.limits.merge(asked)
        self.database.remember("hub_limits", json.dumps(dataclasses.asdict(self.limits)))
        return self.limits

    @property
    def workspace_enabled(self) -> bool:
        return self.database.recall("workspace_enabled") != "no"

    def enable_workspace(self, enabled: bool) -> None:
        self.database.remember("workspace_enabled", "yes" if enabled else "no")

    # -- names and lifetimes in force ----------------------------------------------------------------

    def hub_id(self, device: str) -> str:
        """`WORKSPACE:DEVICE` of a bare device id."""
        return f"{self.workspace}:{device}"

    def resource(self, device_id: str) -> str:
        """The resource that a SAS for this hub device id is signed for."""
        return f"{self.hub_host}/devices/{device_id}"

    def key_string(self, device: str) -> str:
        """The connection string that holds a device's key itself."""
        known = self.registrations.device(device)
        assert known is not None  # the caller has checked
        return f"HostName={self.hub_host};DeviceId={self.hub_id(device)};SharedAccessKey={known['key']}"

    def sas_lifetime_s(self) -> float:
        asked_s = self.faults.sas_lifetime_s
        return self.lifetimes.sas_s if asked_s is None else min(asked_s, LONGEST_S)

    def registration_lifetime_s(self, of_provisioning_token_s: float | None) -> float | None:
        """Lifetime of a Registration Token handed out now; None: unlimited."""
        asked_s = self.faults.registration_token_lifetime_s
        if asked_s is not None:
            return min(asked_s, LONGEST_S)
        return of_provisioning_token_s or self.lifetimes.registration_token_s

    def assign(
        self, device: str, enrolment: Mapping[str, Any], certificate: bytes | None, now_s: float
    ) -> str:
        """Assign a device to this hub by DPS; the hub knows it from now on. Returns its id here."""
        with self.database.transaction():
            self.registrations.adopt(device, now_s)
            if enrolment["key"]:
                self.registrations.give_key(device, enrolment["key"])
            elif certificate:
                self.certificates.adopt(certificate, device, now_s)
            self.registrations.registered(device, now_s)
            self.dps.note(device, enrolment["name"], self.hub_id(device), now_s)
        return self.hub_id(device)

    def forget(self, device: str, now_s: float) -> None:
        """Delete a device of this bare id: the next one of its name inherits nothing."""
        with self.database.transaction():
            self.registrations.delete(device, now_s)
            self.certificates.revoke(device, now_s)
            self._forget_state(self.hub_id(device))

    def recreate(self, device: str, now_s: float) -> None:
        """Delete a device of this bare id and make it again with the same credentials: its twin starts again
        at version 1, its commands and its session are gone.
        """
        with self.database.transaction():
            self.registrations.begin_again(device, now_s)
            self._forget_state(self.hub_id(device))
        self.drop("polite", self.hub_id(device))

    def _forget_state(self, device_id: str) -> None:
        forget_session(self.database, device_id)
        self.commands.forget(device_id)
        self.database.execute("DELETE FROM twins WHERE device_id = ?", device_id)

    def generation(self, device_id: str) -> str:
        """The name of a device's life: another one after it was deleted and made again."""
        known = self.registrations.device(device_id.removeprefix(f"{self.workspace}:"))
        return str(int(known["created_at"] * 1e7)) if known else ""

    # -- the hub: connections ------------------------------------------------------------------------

    def authenticate(
        self,
        client_id: str,
        username: str | None,
        password: str | None,
        now_s: float,
        certificate: bytes | None = None,
    ) -> Admitted | ConnectionRefused:
        """Check a CONNECT: names that agree, a device that is known and enabled, a valid SAS of its key.

        Without a password the client certificate (DER) counts, which TLS has checked.
        """
        workspace, _, device = client_id.partition(":")
        if workspace != self.workspace or not device:
            return ConnectionRefused(BAD_CLIENT_ID, f"client id is not {self.workspace}:DEVICE")
        if (username or "").partition("/?")[0].rstrip("/") != f"{self.hub_host}/{client_id}":
            return ConnectionRefused(NOT_AUTHORIZED, "user name does not agree with host and client id")
        return self.check_device(client_id, password, certificate, now_s)

    def check_device(
        self, device_id: str, sas: str | None, certificate: bytes | None, now_s: float
    ) -> Admitted | ConnectionRefused:
        """Check that the caller is this device: by its SAS, or without one by its certificate."""
        if sas is not None or certificate is None:
            return self.check_sas(device_id, sas or "", now_s)
        owner = self.certificates.owner(certificate)
        if owner is None or self.hub_id(owner) != device_id:
            return ConnectionRefused(
                NOT_AUTHORIZED, "the certificate is unknown, revoked or another device's"
            )
        return Admitted(device_id, None)

    def check_sas(self, device_id: str, text: str, now_s: float) -> Admitted | ConnectionRefused:
        """Check that `text` is a SAS for this device, signed by its key, and valid at `now_s`."""
        known = self.registrations.device(device_id.removeprefix(f"{self.workspace}:"))
        if known is None or not known["enabled"]:
            return ConnectionRefused(NOT_AUTHORIZED, "device is unknown or disabled")
        sas = tokens.parse_sas(text)
        if sas is None:
            return ConnectionRefused(NOT_AUTHORIZED, "not a shared access signature")
        if sas.resource != self.resource(device_id):
            return ConnectionRefused(NOT_AUTHORIZED, "the SAS is for another resource")
        if not tokens.sas_holds(sas, known["key"]):
            return ConnectionRefused(NOT_AUTHORIZED, "the SAS has a wrong signature")
        if sas.expires_at_s <= now_s:
            return ConnectionRefused(NOT_AUTHORIZED, "the SAS has expired")
        return Admitted(device_id, float(sas.expires_at_s))

    def opened(self, client_id: str, answer: Admitted | ConnectionRefused, at_s: float) -> int:
        """Record a CONNECT and its answer (also a refusal). Returns the connection's number."""
        if isinstance(answer, Admitted):
            return self.records.opened(client_id, answer.device_id, 0, "accepted", at_s)
        return self.records.opened(client_id, None, answer.code, answer.reason, at_s)

    def closed(self, connection: int, reason: str, at_s: float) -> None:
        """Record how a connection ended; the first reason counts."""
        self.records.closed(connection, reason, at_s)

    def spend_quota(self, count: int = 1) -> bool:
        """Count messages against the daily quota, all or none; False where it does not hold so many."""
        if self.quota_used_up(count):
            return False
        self._metered = (self.faults, self._metered[1] + count)
        return True

    def quota_used_up(self, count: int = 1) -> bool:
        """True if the hub does not take `count` more messages today. Other faults begin another day."""
        if self._metered[0] is not self.faults:
            self._metered = (self.faults, 0)
        return self.faults.quota_left is not None and self._metered[1] + count > self.faults.quota_left

    def record(self, received: Sequence[Received]) -> None:
        """Store first, acknowledge second: the messages are committed, in one commit, when this returns."""
        self.records.append(received)

    # -- the hub: towards the device -----------------------------------------------------------------

    def subscribe(self, device_id: str, callback: Callable[[Event], bool]) -> Callable[[], None]:
        """Have `callback` called, on the loop, with the events for a device; it returns true for one that
        went out to the device. Returns the function that ends this.
        """
        self._listeners[device_id].append(callback)
        return lambda: self._listeners[device_id].remove(callback)

    def _publish(self, device_id: str, event: Event) -> bool:
        """Pass an event on; true if it went out to the device."""
        went_out = [callback(event) for callback in list(self._listeners[device_id])]
        return any(went_out)

    def twin_get(self, device_id: str) -> dict[str, Any] | TwinRefused:
        """The twin in the form of the hub's answer, or the refusal."""
        if not self.spend_quota():
            return TwinRefused(403, QUOTA_USED_UP)
        return self.twins.get(device_id)

    def twin_patch_reported(self, device_id: str, patch: object, at_s: float) -> int | TwinRefused:
        """Merge a device's report. Returns the new version, or the refusal."""
        if not self.spend_quota():
            return TwinRefused(403, QUOTA_USED_UP)
        return self.twins.patch(device_id, "reported", patch, at_s, self.faults)

    def commands_for(self, device_id: str) -> list[Command]:
        """Cloud-to-device messages that the device has not acknowledged, oldest first."""
        return self.commands.pending(device_id)

    # -- the operator's side of the same -------------------------------------------------------------

    def patch_desired(self, device_id: str, patch: Mapping[str, Any], at_s: float) -> int | TwinRefused:
        """Change desired properties and publish the change, if the device is subscribed."""
        version = self.twins.patch(device_id, "desired", patch, at_s, self.faults)
        if isinstance(version, int):
            self._publish(device_id, DesiredChange(patch, version))
        return version

    def replace_desired(self, device_id: str, wanted: Mapping[str, Any], at_s: float) -> int | TwinRefused:
        """Make desired properties equal to `wanted`, and publish what that changes, null for what is gone."""
        if twin_rules.holds_null(wanted):
            return TwinRefused(400, "a whole document holds no null")
        patch = twin_rules.difference(self.twins.document(device_id, "desired"), wanted)
        return self.patch_desired(device_id, patch, at_s)

    def send_command(
        self,
        device_id: str,
        payload: bytes,
        properties: Mapping[str, str | None],
        at_s: float,
        options: CommandOptions = CommandOptions(),  # noqa: B008 (frozen)
    ) -> Command:
        """Queue a cloud-to-device message. Raises Problem where the hub refuses it."""
        self._require_quota()
        command = self.commands.enqueue(device_id, payload, properties, options, at_s)
        self.spend_quota()
        self._publish(device_id, CommandsWaiting())
        return command

    def _require_quota(self) -> None:
        """Raise Problem once the daily quota is used up: the hub sends nothing more, either."""
        if self.quota_used_up():
            raise Problem(403, "hub/quotaExceeded", QUOTA_USED_UP)

    async def call_method(
        self,
        device_id: str,
        name: str,
        payload: object,
        response_timeout_s: float,
        connect_timeout_s: float = 0.0,
    ) -> tuple[int, bytes]:
        """Call a method on the device. Returns status and body. Raises Problem: 403, 404, 504."""
        self._require_quota()
        answer = await self.methods.call(device_id, name, payload, response_timeout_s, connect_timeout_s)
        self.spend_quota()
        return answer
