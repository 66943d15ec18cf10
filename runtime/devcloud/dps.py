"""Azure's Device Provisioning Service in the stand-in: a device proves itself and is assigned to the hub.

Its MQTT, as azure-iot-device's provisioning client speaks it: TLS on port 8883 of an address of its own,
CONNECT with the id scope in the user name and a SAS of the registration, or a certificate; SUBSCRIBE to the
answers; PUT a registration, which is answered `assigning`; GET the operation's status until it is assigned.
Any other packet ends the connection.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import ssl
import time
from typing import Any
from urllib.parse import parse_qs

from loguru import logger

from runtime.devcloud.mqtt.codec import Malformed, PacketDecoder, encode, puback
from runtime.devcloud.mqtt.packets import (
    Bare,
    Connack,
    Connect,
    Packet,
    PacketType,
    Publish,
    Suback,
    Subscribe,
)
from runtime.devcloud.state.certificates import shown_by
from runtime.devcloud.state.cloud import Cloud

LONGEST_S = 120.0
"""The longest life of a connection: a registration takes seconds, so no client stays."""
MOST_PACKET_BYTES = 65_536
RETRY_AFTER_S = 1
"""The pause that the client is told to make before it asks for the status."""
ANSWERS = "$dps/registrations/res/#"
REGISTER = "$dps/registrations/PUT/iotdps-register/"
STATUS = "$dps/registrations/GET/iotdps-get-operationstatus/"
NOT_AUTHORIZED = 5


class Violation(ValueError):
    """A packet that the service does not accept."""


class DpsConnection(asyncio.Protocol):
    """The connection of one device."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._decoder = PacketDecoder(MOST_PACKET_BYTES)
        self._who = ""
        self._enrolment: dict[str, Any] | None = None
        self._listens = False
        self._operation = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._end = asyncio.get_running_loop().call_later(LONGEST_S, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()

    def data_received(self, data: bytes) -> None:
        if self._cloud.faults.silent:
            return
        try:
            for packet in self._decoder.feed(data):
                self._hear(packet)
        except (Malformed, Violation) as exc:
            logger.warning("dps: {} is cut off: {}", self._who or "a stranger", exc)
            self._transport.close()

    def _hear(self, packet: Packet) -> None:
        match packet:
            case Connect() if not self._who:
                self._admit(packet)
            case _ if self._enrolment is None:
                raise Violation("no CONNECT came first")
            case Subscribe(packet_id, ((name, qos),)) if name == ANSWERS:
                self._listens = True
                self._say(Suback(packet_id, (min(qos, 1),)))
            case Publish(topic, payload, qos, packet_id) if qos < 2 and self._listens:
                if qos:
                    self._transport.write(puback(packet_id))
                self._answer(topic, payload, self._enrolment)
            case Bare(PacketType.PINGREQ):
                self._say(Bare(PacketType.PINGRESP))
            case Bare(PacketType.DISCONNECT):
                self._transport.close()
            case _:
                raise Violation(f"{type(packet).__name__} is not for here")

    def _admit(self, packet: Connect) -> None:
        self._who = packet.client_id
        scope = re.escape(self._cloud.dps.id_scope)
        named = rf"{scope}/registrations/{re.escape(self._who)}/api-version=\d{{4}}-\d\d-\d\d(&.*)?"
        sas = None if packet.password is None else packet.password.decode(errors="replace")
        if self._who and re.fullmatch(named, packet.username or ""):
            self._enrolment = self._cloud.dps.attested(self._who, sas, shown_by(self._transport), time.time())
        self._say(Connack(0 if self._enrolment else NOT_AUTHORIZED))
        if self._enrolment is None:
            self._transport.close()

    def _answer(self, topic: str, payload: bytes, enrolment: dict[str, Any]) -> None:
        path, _, query = topic.partition("?")
        asked = parse_qs(query)
        rid = asked.get("$rid", [""])[0]
        if not rid or path not in (REGISTER, STATUS):
            raise Violation(f"a PUBLISH to {topic}")
        if path == REGISTER:
            if _registration_id(payload) != self._who:
                self._reply(f"400/?$rid={rid}", {"errorCode": 400_004, "message": "not your registration id"})
                return
            self._operation = f"5.{secrets.token_hex(8)}"
            answer = {"operationId": self._operation, "status": "assigning"}
            self._reply(f"202/?$rid={rid}&retry-after={RETRY_AFTER_S}", answer)
        elif asked.get("operationId") != [self._operation]:
            self._reply(f"404/?$rid={rid}", {"errorCode": 404_001, "message": "no such operation"})
        else:
            state = self._assigned(enrolment)
            answer = {"operationId": self._operation, "status": state["status"]}
            self._reply(f"200/?$rid={rid}", {**answer, "registrationState": state})

    def _assigned(self, enrolment: dict[str, Any]) -> dict[str, str]:
        if not enrolment["enabled"]:
            return {"registrationId": self._who, "status": "disabled", "substatus": "initialAssignment"}
        device_id = self._cloud.assign(self._who, enrolment, shown_by(self._transport), time.time())
        return {
            "registrationId": self._who,
            "status": "assigned",
            "substatus": "initialAssignment",  # without it the client dies in silence
            "assignedHub": self._cloud.hub_host,
            "deviceId": device_id,
        }

    def _reply(self, rest: str, body: dict[str, Any]) -> None:
        self._say(Publish(ANSWERS.removesuffix("#") + rest, json.dumps(body).encode()))

    def _say(self, packet: Packet) -> None:
        self._transport.write(encode(packet))


def _registration_id(payload: bytes) -> str | None:
    try:
        body = json.loads(payload)
    except ValueError:
        return None
    return body.get("registrationId") if isinstance(body, dict) else None


async def serve(cloud: Cloud, address: str, port: int, context: ssl.SSLContext) -> asyncio.Server:
    """Run a service that listens until it is closed."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(
        lambda: DpsConnection(cloud), address, port, ssl=context, ssl_shutdown_timeout=2.0
    )
