"""Telemetry over HTTPS: one message a request with its properties in headers, or a batch of them in JSON.

A batch is a JSON array of `{"body", "base64Encoded", "properties"}`, where the properties bear the names that
they have as headers. It is taken whole or refused whole; each of its messages counts like any other.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runtime.devcloud.http.hub_https import HubRefusal, QuotaUsedUp, caller
from runtime.devcloud.http.web import cloud_of, now_s
from runtime.devcloud.mqtt.topics import MOST_MESSAGE_BYTES
from runtime.devcloud.state.values import Received

BATCH = "application/vnd.microsoft.iothub.json"
PROPERTY, SYSTEM = "iothub-app-", {"iothub-messageid": "$.mid", "iothub-correlationid": "$.cid"}
_PROPERTY_TEXT = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]*")
"""Characters that the hub allows in names and values of properties over HTTPS."""


async def send(request: Request) -> Response:
    """Take one message or a batch, by the content type."""
    cloud, device_id = cloud_of(request), caller(request)
    body = await _limited(request)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == BATCH:
        messages = _batch(device_id, body)
    else:
        messages = [_message(device_id, body, request.headers)]
    if not cloud.spend_quota(len(messages)):
        raise QuotaUsedUp
    cloud.record(messages)
    return Response(status_code=204)


async def _limited(request: Request) -> bytes:
    """The body of a request, which even as a batch is no larger than the largest message."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_MESSAGE_BYTES:
            raise _too_large()
    return bytes(body)


def _too_large() -> HubRefusal:
    return HubRefusal(413, "MessageTooLarge", f"more than {MOST_MESSAGE_BYTES} bytes")


def _message(device_id: str, payload: bytes, headers: Mapping[str, str]) -> Received:
    """One message with the properties among `headers`. Raises HubRefusal."""
    properties = {n.removeprefix(PROPERTY): v for n, v in headers.items() if n.startswith(PROPERTY)}
    system = {ours: headers[theirs] for theirs, ours in SYSTEM.items() if theirs in headers}
    for name, value in properties.items():
        if not name or not _PROPERTY_TEXT.fullmatch(name) or not _PROPERTY_TEXT.fullmatch(value):
            raise HubRefusal(
                400, "ArgumentInvalid", f"property {name[:80]!r}: only A-Z a-z 0-9 !#$%&'*+-.^_`|~"
            )
    described = sum(len(n) + len(v) for n, v in (*properties.items(), *system.items()))
    if len(payload) + described > MOST_MESSAGE_BYTES:
        raise _too_large()
    return Received(device_id, payload, now_s(), 1, False, system.get("$.mid"), properties, system)


def _batch(device_id: str, body: bytes) -> list[Received]:
    """The messages of a batch, in its order. Raises HubRefusal for all of them where one is malformed."""
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError):
        entries = None
    if not isinstance(entries, list) or not entries:
        raise HubRefusal(400, "ArgumentInvalid", "the batch is not a JSON array of messages")
    return [_entry(device_id, number, entry) for number, entry in enumerate(entries)]


def _entry(device_id: str, number: int, entry: Any) -> Received:
    if not isinstance(entry, dict) or not isinstance(entry.get("body"), str):
        raise HubRefusal(400, "ArgumentInvalid", f"message {number} of the batch has no body")
    encoded, properties = entry.get("base64Encoded", True), entry.get("properties", {})
    if not isinstance(encoded, bool) or not isinstance(properties, dict):
        raise HubRefusal(
            400, "ArgumentInvalid", f"message {number}: base64Encoded or properties is malformed"
        )
    for name, value in properties.items():
        if not isinstance(value, str) or not (name.startswith(PROPERTY) or name in SYSTEM):
            raise HubRefusal(400, "ArgumentInvalid", f"message {number}: unknown property {name[:80]!r}")
    try:
        payload = base64.b64decode(entry["body"], validate=True) if encoded else entry["body"].encode()
    except (binascii.Error, ValueError):
        raise HubRefusal(400, "ArgumentInvalid", f"message {number}: the body is not base64") from None
    return _message(device_id, payload, properties)


routes = [Route("/devices/{device}/messages/events", send, methods=["POST"])]
