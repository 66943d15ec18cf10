"""A strict stand-in for Azure's Device Provisioning Service, as far as a device's registration goes.

MQTT over TLS on port 8883 of a loopback address of its own. It checks the SAS by HMAC (or the certificate by
its authority), the user name, the topics, and answers in two steps: assigning, then assigned.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import random
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote

import trustme

from runtime.devcloud import mqtt
from runtime.devcloud.packets import Bare, Connack, Connect, Kind, Publish, Suback, Subscribe

ID_SCOPE = "0neSTANDIN"
NOT_AUTHORIZED = 5


class Dps:
    """The service. `keys` holds each registration id's own key; `assigns` is what it answers."""

    def __init__(self, folder: Path) -> None:
        self.keys: dict[str, str] = {}
        self.assigns = ("hub.invalid", "w:d")
        self.silent = False
        self.registered: list[str] = []
        self.authority = trustme.CA()
        self.ca_file = folder / "dps-ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))
        self._listener, self.host = _bind()
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.verify_mode = ssl.CERT_OPTIONAL
        self.authority.configure_trust(self._context)
        self.authority.issue_cert(self.host).configure_cert(self._context)
        self._closing = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(OSError):
                raw, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        raw.settimeout(20)
        with contextlib.suppress(OSError, mqtt.Malformed):
            with self._context.wrap_socket(raw, server_side=True) as line:
                self._converse(line)

    def _converse(self, line: ssl.SSLSocket) -> None:
        decoder, who = mqtt.Decoder(), ""
        while data := line.recv(65536):
            if self.silent:
                self._closing.wait(15)
                return
            for packet in decoder.feed(data):
                if isinstance(packet, Connect):
                    who = packet.client_id
                answer = self._react(line, who, packet)
                if answer is None:
                    return
                line.sendall(answer)

    def _react(self, line: ssl.SSLSocket, who: str, packet: object) -> bytes | None:
        """The bytes to send, or None where the conversation is over."""
        match packet:
            case Connect():
                return mqtt.encode(Connack(self._judge(packet, line.getpeercert())))
            case Subscribe():
                assert packet.filters[0][0] == "$dps/registrations/res/#"
                return mqtt.encode(Suback(packet.packet_id, (1,)))
            case Publish():
                ack = mqtt.puback(packet.packet_id) if packet.qos else b""
                return ack + mqtt.encode(self._answer(who, packet))
            case Bare(kind) if kind is Kind.PINGREQ:
                return mqtt.encode(Bare(Kind.PINGRESP))
            case _:
                return None

    def _judge(self, packet: Connect, certificate: object) -> int:
        """CONNACK code: by SAS, or by a certificate of our authority."""
        wanted = f"{ID_SCOPE}/registrations/{packet.client_id}/api-version="
        if not (packet.username or "").startswith(wanted):
            return NOT_AUTHORIZED
        if packet.password is None:
            return 0 if certificate else NOT_AUTHORIZED
        found = re.fullmatch(
            r"SharedAccessSignature sr=([^&]+)&sig=([^&]+)&se=(\d+)(?:&skn=registration)?",
            packet.password.decode(),
        )
        if not found or unquote(found[1]) != f"{ID_SCOPE}/registrations/{packet.client_id}":
            return NOT_AUTHORIZED
        key = base64.b64decode(self.keys.get(packet.client_id, ""))
        good = hmac.new(key, f"{found[1]}\n{found[3]}".encode(), hashlib.sha256).digest()
        fresh = int(found[3]) > time.time()
        return (
            0 if fresh and hmac.compare_digest(base64.b64decode(unquote(found[2])), good) else NOT_AUTHORIZED
        )

    def _answer(self, who: str, packet: Publish) -> Publish:
        path, _, query = packet.topic.partition("/?")
        asked = parse_qs(query)
        rid = asked["$rid"][0]
        if path == "$dps/registrations/PUT/iotdps-register":
            assert json.loads(packet.payload)["registrationId"] == who
            body: dict[str, object] = {"operationId": "op", "status": "assigning"}
            return _reply(f"202/?$rid={rid}&retry-after=1", body)
        assert path == "$dps/registrations/GET/iotdps-get-operationstatus", packet.topic
        assert asked["operationId"] == ["op"]
        self.registered.append(who)
        hub, device = self.assigns
        state = {
            "registrationId": who,
            "status": "assigned",
            "substatus": "initialAssignment",  # without it the client dies in silence
            "assignedHub": hub,
            "deviceId": device,
        }
        return _reply(
            f"200/?$rid={rid}", {"operationId": "op", "status": "assigned", "registrationState": state}
        )


def _reply(rest: str, body: dict[str, object]) -> Publish:
    return Publish(f"$dps/registrations/res/{rest}", json.dumps(body).encode())


def _bind() -> tuple[socket.socket, str]:
    """Port 8883 of a loopback address that nobody else uses."""
    for _ in range(50):
        address = f"127.{random.randint(1, 254)}.{random.randint(1, 254)}.{random.randint(2, 254)}"
        with contextlib.suppress(OSError):
            return socket.create_server((address, 8883)), address
    raise OSError("no free loopback address")


@contextlib.contextmanager
def dps_service(folder: Path) -> Iterator[Dps]:
    service = Dps(folder)
    try:
        yield service
    finally:
        service.close()
