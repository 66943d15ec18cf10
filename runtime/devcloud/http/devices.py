"""Device API for people and scripts: the devices, and tokens and certificates by hand."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.devcloud.http.operators import WORKSPACE, operator
from runtime.devcloud.http.web import (
    json_body,
    known_device,
    now_s,
    optional_time,
    rfc3339,
    text_field,
)
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.enrolment import check_device_id
from runtime.devcloud.state.problems import bad_request


async def list_devices(request: Request) -> Response:
    return JSONResponse({"devices": listed(operator(request))})


def listed(cloud: Cloud) -> list[dict[str, Any]]:
    """Every device, with true for one that is connected to the hub."""
    connected = cloud.records.connected()
    return [
        {
            "deviceId": device["id"],
            "enabled": bool(device["enabled"]),
            "connected": cloud.hub_id(device["id"]) in connected,
            "creationTime": rfc3339(device["created_at"]),
            "registrationTime": rfc3339(device["registered_at"]),
        }
        for device in cloud.registrations.devices()
    ]


async def connection_string(request: Request) -> Response:
    """A connection string with the device's key, for a device without a platform; the
    device may not exist yet.
    """
    cloud = operator(request)
    device_id = text_field(await json_body(request), "deviceId")
    check_device_id(device_id)
    cloud.registrations.adopt(device_id, now_s())
    return JSONResponse({"connectionString": cloud.key_string(device_id)})


async def create_registration_token(request: Request) -> Response:
    """A Registration Token made by hand, for a device that may not exist yet."""
    cloud = operator(request)
    body = await json_body(request)
    device_id, expires_at_s = text_field(body, "deviceId"), optional_time(body, "expirationTime")
    check_device_id(device_id)
    if not isinstance(body.get("allowOnBehalfOfRegistration", False), bool):
        raise bad_request("allowOnBehalfOfRegistration is not true or false")
    at_s = now_s()
    if expires_at_s is not None and expires_at_s <= at_s:
        raise bad_request("expirationTime has passed")
    with cloud.database.transaction():
        cloud.registrations.adopt(device_id, at_s)
        lifetime_s = None if expires_at_s is None else expires_at_s - at_s
        granted = cloud.registrations.grant(device_id, lifetime_s, at_s)
    return JSONResponse(
        {"registrationToken": granted.token, "expirationTime": rfc3339(granted.expires_at_s)}, 201
    )


async def revoke_registration_tokens(request: Request) -> Response:
    """Revoke all Registration Tokens of a device; its SAS stays valid until it expires."""
    cloud = operator(request)
    device_id = known_device(cloud, text_field(await json_body(request), "deviceId"))
    return JSONResponse({"revoked": cloud.registrations.revoke(device_id, now_s())})


async def create_certificate(request: Request) -> Response:
    """A client certificate and its key, for a device that may not exist yet."""
    cloud = operator(request)
    body = await json_body(request)
    device_id, expires_at_s = text_field(body, "deviceId"), optional_time(body, "expirationTime")
    check_device_id(device_id)
    at_s = now_s()
    if expires_at_s is not None and expires_at_s <= at_s:
        raise bad_request("expirationTime has passed")
    with cloud.database.transaction():
        cloud.registrations.adopt(device_id, at_s)
        issued = cloud.certificates.issue(device_id, expires_at_s, at_s)
    return JSONResponse(
        {"certificate": issued.certificate, "privateKey": issued.key, "thumbprint": issued.thumbprint}, 201
    )


async def revoke_certificates(request: Request) -> Response:
    """Revoke all certificates of a device; connections that are up stay up."""
    cloud = operator(request)
    device_id = known_device(cloud, text_field(await json_body(request), "deviceId"))
    return JSONResponse({"revoked": cloud.certificates.revoke(device_id, now_s())})


async def delete_device(request: Request) -> Response:
    cloud = operator(request)
    device_id = known_device(cloud, request.path_params["device"])
    cloud.forget(device_id, now_s())
    cloud.drop("polite", cloud.hub_id(device_id))
    return Response(status_code=204)


_DEVICES = f"{WORKSPACE}/devices"
_DEVICE = f"{_DEVICES}/{{device}}"

routes = [
    Route(_DEVICES, list_devices),
    Route(f"{_DEVICES}/registration-tokens/create", create_registration_token, methods=["POST"]),
    Route(f"{_DEVICES}/registration-tokens/revoke", revoke_registration_tokens, methods=["PUT"]),
    Route(f"{_DEVICES}/connection-string", connection_string, methods=["POST"]),
    Route(f"{_DEVICES}/certificates/create", create_certificate, methods=["POST"]),
    Route(f"{_DEVICES}/certificates/revoke", revoke_certificates, methods=["PUT"]),
    Route(f"{_DEVICE}/delete", delete_device, methods=["DELETE"]),
]
