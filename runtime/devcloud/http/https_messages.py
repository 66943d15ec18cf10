"""Telemetry over HTTPS: one message a request, properties in headers. It counts like any other message."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runtime.devcloud.http.hub_https import HubRefusal, QuotaUsedUp, caller
from runtime.devcloud.http.web import cloud_of, now_s
from runtime.devcloud.mqtt.topics import MOST_MESSAGE_BYTES
from runtime.devcloud.state.values import Received

PROPERTY, SYSTEM = "iothub-app-", {"iothub-messageid": "$.mid", "iothub-correlationid": "$.cid"}


async def send(request: Request) -> Response:
    """Take one message."""
    cloud, device_id, headers = cloud_of(request), caller(request), request.headers
    payload = await request.body()
    properties = {n.removeprefix(PROPERTY): v for n, v in headers.items() if n.startswith(PROPERTY)}
    system = {ours: headers[theirs] for theirs, ours in SYSTEM.items() if theirs in headers}
    described = sum(len(n) + len(v) for n, v in (*properties.items(), *system.items()))
    if len(payload) + described > MOST_MESSAGE_BYTES:
        raise HubRefusal(413, "MessageTooLarge", f"more than {MOST_MESSAGE_BYTES} bytes")
    if not cloud.take_quota():
        raise QuotaUsedUp
    message_id = system.get("$.mid")
    cloud.record([Received(device_id, payload, now_s(), 1, False, message_id, properties, system)])
    return Response(status_code=204)


routes = [Route("/devices/{device}/messages/events", send, methods=["POST"])]
