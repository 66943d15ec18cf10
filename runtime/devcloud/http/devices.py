"""Device API for people and scripts: tokens and certificates by hand, twins, commands, methods."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.devcloud.http.operators import WORKSPACE, operator
from runtime.devcloud.http.web import (
    json_body,
    limited_body,
    now_s,
    optional_seconds,
    optional_time,
    rfc3339,
    text_field,
)
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.enrolment import check_device_id
from runtime.devcloud.state.problems import bad_request, not_found
from runtime.devcloud.state.values import ConnectionRefused


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


async def desired_properties(request: Request) -> Response:
    """GET the desired properties, PATCH merges, PUT replaces all."""
    cloud = operator(request)
    device_id = cloud.hub_id(known_device(cloud, request.path_params["device"]))
    if request.method == "GET":
        return JSONResponse(cloud.twin_get(device_id)["desired"])
    patch = await json_body(request)
    if request.method == "PUT":
        held = cloud.twin_get(device_id)["desired"]
        patch = {**{key: None for key in held if key != "$version"}, **patch}
    version = cloud.patch_desired(device_id, patch)
    if isinstance(version, ConnectionRefused):
        raise bad_request(version.reason)
    return JSONResponse({"$version": version})


async def reported_properties(request: Request) -> Response:
    cloud = operator(request)
    device_id = known_device(cloud, request.path_params["device"])
    return JSONResponse(cloud.twin_get(cloud.hub_id(device_id))["reported"])


async def send_c2d(request: Request) -> Response:
    """Queue the body as a cloud-to-device message; its properties are the query."""
    cloud = operator(request)
    device_id = known_device(cloud, request.path_params["device"])
    payload = await limited_body(request, 64 * 1024)  # the hub's limit for this direction
    message_id = cloud.send_command(cloud.hub_id(device_id), payload, dict(request.query_params), now_s())
    return JSONResponse({"messageId": message_id}, 202)


async def call_method(request: Request) -> Response:
    """Call a direct method: `{"methodName", "payload", "responseTimeoutInSeconds"}`."""
    cloud = operator(request)
    device_id = known_device(cloud, request.path_params["device"])
    body = await json_body(request)
    answer = await cloud.call_method(
        cloud.hub_id(device_id),
        _method_name(body),
        body.get("payload"),
        optional_seconds(body, "responseTimeoutInSeconds") or 30.0,
    )
    if answer is None:
        raise not_found("An answer of the device in time")
    status, payload = answer
    return JSONResponse({"status": status, "payload": _decoded(payload)})


def _method_name(body: dict[str, Any]) -> str:
    name = text_field(body, "methodName")
    if not re.fullmatch(r"[0-9A-Za-z_\-.]{1,100}", name):  # it becomes a level of a topic
        raise bad_request("methodName must be 1 to 100 of 0-9 A-Z a-z _ - .")
    return name


def _decoded(payload: bytes) -> Any:
    try:
        return json.loads(payload) if payload else None
    except ValueError:
        return {"base64": base64.b64encode(payload).decode()}


def known_device(cloud: Cloud, device: str) -> str:
    """The bare id of a device named with or without its workspace. Raises Problem."""
    device_id = device.removeprefix(f"{cloud.workspace}:")
    if cloud.registrations.device(device_id) is None:
        raise not_found(f"The device {device_id}")
    return device_id


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
    Route(
        f"{_DEVICE}/desired-properties",
        desired_properties,
        methods=["GET", "PUT", "PATCH"],
    ),
    Route(f"{_DEVICE}/reported-properties", reported_properties),
    Route(f"{_DEVICE}/c2d-messages", send_c2d, methods=["POST"]),
    Route(f"{_DEVICE}/methods", call_method, methods=["POST"]),
]
