"""Commands over HTTPS, for devices that poll: receive one; complete, abandon or reject it by its lock."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from runtime.devcloud.http.https_messages import PROPERTY
from runtime.devcloud.http.hub_https import HubRefusal, QuotaUsedUp, caller
from runtime.devcloud.http.web import cloud_of, now_s
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.command_locks import CommandLock
from runtime.devcloud.state.hub_limits import Tier
from runtime.devcloud.state.values import Command

_HEADERS: Mapping[str, str] = {
    "$.exp": "iothub-expiry",
    "$.cid": "iothub-correlationid",
    "$.uid": "iothub-userid",
    "$.mid": "iothub-messageid",
    "$.ct": "iothub-contenttype",
    "$.ce": "iothub-contentencoding",
    "iothub-ack": "iothub-ack",
}
"""Headers of the system properties."""


async def receive(request: Request) -> Response:
    """Lock the oldest command that is free and answer with it, its lock token in ETag; 204 without any."""
    cloud, device_id, at_s = _receiver(request)
    cloud.commands.expire(at_s)
    command = next((c for c in cloud.commands_for(device_id) if not cloud.locks.is_locked(c.seq, at_s)), None)
    if command is None:
        return Response(status_code=204)
    lock = cloud.locks.lock(command.seq, at_s + cloud.limits.command_lock_s)
    deliveries = cloud.commands.delivered(command.seq)
    headers = {
        **_described(command),
        "etag": f'"{lock.token}"',
        "iothub-to": f"/devices/{quote(device_id, safe='')}/messages/devicebound",
        "iothub-sequencenumber": str(command.seq),
        "iothub-deliverycount": str(deliveries - 1),  # those before this one
    }
    return Response(command.payload, headers=headers, media_type="application/octet-stream")


def _described(command: Command) -> dict[str, str]:
    system = {_HEADERS[name]: value for name, value in command.system.items()}
    return system | {f"{PROPERTY}{name}": value or "" for name, value in command.properties.items()}


async def settle(request: Request) -> Response:
    """Complete a command by its lock token, or with `reject` in the query refuse it for ever."""
    cloud, device_id, at_s = _receiver(request)
    lock = _held(request, cloud, device_id, at_s)
    cloud.locks.release(lock)
    end = cloud.commands.reject if "reject" in request.query_params else cloud.commands.complete
    end(lock.seq, at_s)
    return Response(status_code=204)


async def abandon(request: Request) -> Response:
    """Give a command back; abandoned too often it is dead-lettered."""
    cloud, device_id, at_s = _receiver(request)
    lock = _held(request, cloud, device_id, at_s)
    cloud.locks.release(lock)
    cloud.commands.abandon(lock.seq, at_s)
    return Response(status_code=204)


def _receiver(request: Request) -> tuple[Cloud, str, float]:
    """The cloud, the calling device and the time. Raises HubRefusal."""
    cloud, device_id = cloud_of(request), caller(request)
    if cloud.limits.tier is Tier.BASIC:
        raise HubRefusal(400, "InvalidOperation", "the basic tier has no cloud-to-device messages")
    if cloud.quota_used_up():
        raise QuotaUsedUp
    return cloud, device_id, now_s()


def _held(request: Request, cloud: Cloud, device_id: str, at_s: float) -> CommandLock:
    lock = cloud.locks.of_token(request.path_params["token"], at_s)
    if lock is None or not any(c.seq == lock.seq for c in cloud.commands_for(device_id)):
        raise HubRefusal(412, "DeviceMessageLockLost", "the lock has ended, or the command has")
    return lock


routes = [
    route
    for spelling in ("devicebound", "deviceBound")  # both are in use by published clients
    for base in [f"/devices/{{device}}/messages/{spelling}"]
    for route in (
        Route(base, receive),
        Route(f"{base}/{{token}}", settle, methods=["DELETE"]),
        Route(f"{base}/{{token}}/abandon", abandon, methods=["POST"]),
    )
]
