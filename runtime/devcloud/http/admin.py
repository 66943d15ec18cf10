"""Admin API for tests and demonstrations: faults, drops, the hub's listener, tokens that end, the
messages.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.devcloud.http.device_management import shown_payload
from runtime.devcloud.http.operators import operator
from runtime.devcloud.http.web import (
    json_body,
    known_device,
    now_s,
    optional_text,
    rfc3339,
    text_field,
    whole,
)
from runtime.devcloud.state import packs
from runtime.devcloud.state.batch_files import batch_files, decoded, units_of
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.faults import BadFault, Faults
from runtime.devcloud.state.problems import Problem, bad_request
from runtime.devcloud.state.values import TwinRefused
from runtime.errors import UsageError

MOST_MESSAGES = 1000


async def faults(request: Request) -> Response:
    """GET the faults in force, POST merges, DELETE ends all. The answer holds those then in force."""
    cloud = operator(request)
    if request.method == "DELETE":
        cloud.faults = Faults()
    elif request.method == "POST":
        try:
            cloud.faults = cloud.faults.merge(await json_body(request))
        except BadFault as exc:
            raise bad_request(str(exc)) from exc
    return JSONResponse(cloud.faults.to_json())


async def answers(request: Request) -> Response:
    """Counts of the platform's answers by call and status:
    `{"PUT /devices/register": {"200": 3, "cut": 1}}`.
    """
    return JSONResponse(operator(request).answers)


async def lifetimes(request: Request) -> Response:
    """GET the lifetimes, POST replaces some."""
    cloud = operator(request)
    if request.method == "POST":
        cloud.change_lifetimes(await json_body(request))
    return JSONResponse(dataclasses.asdict(cloud.lifetimes))


async def limits(request: Request) -> Response:
    """GET the hub's tier and limits, POST replaces some; a connection follows them at once."""
    cloud = operator(request)
    if request.method == "POST":
        cloud.change_limits(await json_body(request))
    return JSONResponse(dataclasses.asdict(cloud.limits))


async def drop(request: Request) -> Response:
    """Cut connections now: `{"mode": "abrupt"|"polite", "device": optional}`."""
    cloud = operator(request)
    body = await json_body(request)
    mode, device = optional_text(body, "mode") or "abrupt", optional_text(body, "device")
    if mode not in ("abrupt", "polite"):
        raise bad_request("mode is not abrupt or polite")
    device_id = cloud.hub_id(known_device(cloud, device)) if device else None
    return JSONResponse({"dropped": cloud.drop(mode, device_id)})


async def hub(request: Request) -> Response:
    """Close the hub's listener, or open it again: `{"up": bool}`."""
    operator(request)
    up = _flag(await json_body(request), "up")
    try:
        await request.app.state.switch_hub(up)
    except UsageError as exc:  # another process took the port meanwhile
        raise Problem(503, "common/unavailable", "The hub cannot come back", str(exc)) from exc
    return JSONResponse({"up": up})


async def workspace(request: Request) -> Response:
    """Disable the workspace (every call answers 423) or enable it: `{"enabled": bool}`."""
    cloud = operator(request)
    cloud.enable_workspace(_flag(await json_body(request), "enabled"))
    return JSONResponse({"enabled": cloud.workspace_enabled})


async def device(request: Request) -> Response:
    """Disable a device (the hub cuts and refuses it) or enable it: `{"device", "enabled"}`. With `recreate`
    it is deleted and made again with the same credentials: twin, commands and session begin again.
    """
    cloud = operator(request)
    body = await json_body(request)
    device_id = known_device(cloud, text_field(body, "device"))
    if "recreate" in body and _flag(body, "recreate"):
        cloud.recreate(device_id, now_s())
        return JSONResponse({"device": device_id})
    enabled = _flag(body, "enabled")
    cloud.registrations.enable(device_id, enabled)
    if not enabled:
        cloud.drop("polite", cloud.hub_id(device_id))
    return JSONResponse({"device": device_id, "enabled": enabled})


async def reported(request: Request) -> Response:
    """Merge into reported properties as another client of the device would: `{"device", "patch"}`."""
    cloud = operator(request)
    body = await json_body(request)
    device_id = cloud.hub_id(known_device(cloud, text_field(body, "device")))
    version = cloud.twin_patch_reported(device_id, body.get("patch"), now_s())
    if isinstance(version, TwinRefused):
        raise bad_request(version.reason)
    return JSONResponse({"$version": version})


async def end_tokens(request: Request) -> Response:
    """End one of these now: `{"what": "registration-token"|"sas"|"provisioning-token"|"operation", ...}`.

    `how` is `revoke` or `expire` (the same to a device); `device`, `provisioningTokenId` or
    `provisioningOperationId` names the owner. A SAS cannot be revoked, so the device gets another key.
    """
    cloud = operator(request)
    body = await json_body(request)
    what, how = text_field(body, "what"), optional_text(body, "how") or "revoke"
    if how not in ("revoke", "expire"):
        raise bad_request("how is not revoke or expire")
    ending = {
        "registration-token": _end_registration_tokens,
        "sas": _end_sas,
        "provisioning-token": _end_provisioning_token,
        "operation": _end_operation,
    }.get(what)
    if ending is None:
        raise bad_request("what is not registration-token, sas, provisioning-token or operation")
    ending(cloud, body, how)
    return Response(status_code=204)


def _end_registration_tokens(cloud: Cloud, body: dict[str, Any], how: str) -> None:
    device_id = known_device(cloud, text_field(body, "device"))
    end = cloud.registrations.revoke if how == "revoke" else cloud.registrations.expire
    end(device_id, now_s())


def _end_sas(cloud: Cloud, body: dict[str, Any], how: str) -> None:
    device_id = known_device(cloud, text_field(body, "device"))
    cloud.registrations.rotate_key(device_id)
    cloud.drop("polite", cloud.hub_id(device_id))


def _end_provisioning_token(cloud: Cloud, body: dict[str, Any], how: str) -> None:
    token_id = text_field(body, "provisioningTokenId")
    end = cloud.enrolment.revoke_token if how == "revoke" else cloud.enrolment.expire_token
    end(token_id, now_s())


def _end_operation(cloud: Cloud, body: dict[str, Any], how: str) -> None:
    operation = cloud.enrolment.operation(text_field(body, "provisioningOperationId"), now_s())
    cloud.enrolment.expire(operation["id"], now_s())


async def messages(request: Request) -> Response:
    """Messages after number `after`, oldest first; `device` and `limit` narrow it."""
    cloud = operator(request)
    query = request.query_params
    device_id = cloud.hub_id(known_device(cloud, query["device"])) if query.get("device") else None
    after, limit = whole(query.get("after", "0")), whole(query.get("limit", "100"))
    stored = cloud.records.messages(after, min(limit, MOST_MESSAGES), device_id)
    return JSONResponse({"messages": [shown(m) for m in stored], "newest": cloud.records.newest()})


def shown(message: dict[str, Any]) -> dict[str, Any]:
    """A message in a form for a person: its payload unpacked, and as text where it is text."""
    properties, system = json.loads(message["properties"]), json.loads(message["system"])
    payload = _decoded(message["payload"], properties)
    return {
        "seq": message["seq"],
        "receivedAt": rfc3339(message["received_at"]),
        "device": message["device_id"],
        "leaf": properties.get("source-device-id"),
        "messageId": message["message_id"],
        "duplicate": bool(message["dup"]),
        "properties": properties,
        "system": system,
        "bytes": len(message["payload"]),
        "units": units_of(message),
        "members": _members(message["message_id"], properties, payload),
        **shown_payload(payload),
    }


def _decoded(payload: bytes, properties: dict[str, str]) -> bytes:
    with contextlib.suppress(ValueError):
        return decoded(payload, properties)
    return payload


def _members(message_id: str | None, properties: dict[str, str], payload: bytes) -> list[str]:
    """The ids of the messages in a pack; none for a message that came alone."""
    if message_id is None or not packs.is_pack(message_id):
        return []
    with contextlib.suppress(packs.BadPack):
        return [id for id, _ in packs.members(message_id, properties, payload)]
    return []


async def batches(request: Request) -> Response:
    """The batch files, as the platform joins them: `separator` is `newline` or `none`."""
    cloud = operator(request)
    separators = {"newline": b"\n", "none": b""}
    separator = separators.get(request.query_params.get("separator", "newline"))
    if separator is None:
        raise bad_request("separator is not newline or none")
    files = batch_files(cloud.records.all_messages(), separator)
    return JSONResponse(
        {"files": [{**name._asdict(), **shown_payload(content)} for name, content in files.items()]}
    )


async def metering(request: Request) -> Response:
    """The units that the hub bills for the messages so far, by device."""
    cloud = operator(request)
    by_device: dict[str, int] = {}
    for message in cloud.records.all_messages():
        device_id = message["device_id"]
        by_device[device_id] = by_device.get(device_id, 0) + units_of(message)
    return JSONResponse({"units": sum(by_device.values()), "byDevice": by_device})


def _flag(body: dict[str, Any], name: str) -> bool:
    value = body.get(name)
    if not isinstance(value, bool):
        raise bad_request(f"{name} is not true or false")
    return value


routes = [
    Route("/admin/faults", faults, methods=["GET", "POST", "DELETE"]),
    Route("/admin/answers", answers),
    Route("/admin/lifetimes", lifetimes, methods=["GET", "POST"]),
    Route("/admin/limits", limits, methods=["GET", "POST"]),
    Route("/admin/drop", drop, methods=["POST"]),
    Route("/admin/hub", hub, methods=["POST"]),
    Route("/admin/workspace", workspace, methods=["POST"]),
    Route("/admin/device", device, methods=["POST"]),
    Route("/admin/reported", reported, methods=["POST"]),
    Route("/admin/tokens", end_tokens, methods=["POST"]),
    Route("/admin/messages", messages),
    Route("/admin/batches", batches),
    Route("/admin/metering", metering),
]
