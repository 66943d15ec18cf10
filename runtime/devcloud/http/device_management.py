"""Device management for people and scripts: twins, cloud-to-device messages with their feedback, methods."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_plus

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.devcloud.http.operators import WORKSPACE, operator
from runtime.devcloud.http.web import (
    json_body,
    known_device,
    limited_body,
    now_s,
    optional_number,
    optional_text,
    rfc3339,
    text_field,
    time_of,
    whole,
)
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.commands import MOST_BYTES, C2dState, CommandOptions, FeedbackMode
from runtime.devcloud.state.method_calls import MOST_TIMEOUT_S
from runtime.devcloud.state.problems import Problem, bad_request
from runtime.devcloud.state.values import TwinRefused

MOST_RECORDS = 1000
MOST_WAIT_S = 60.0
"""The longest that `/admin/await` waits."""
_AWAIT_EVERY_S = 0.02


def managed(request: Request) -> tuple[Cloud, str]:
    """The cloud and the hub's id of the device in the path. Raises Problem, also on the basic tier."""
    cloud = operator(request)
    device_id = cloud.hub_id(known_device(cloud, request.path_params["device"]))
    cloud.limits.require_management()
    return cloud, device_id


# -- twin ------------------------------------------------------------------------------------------------


async def twin(request: Request) -> Response:
    """The whole twin: tags, desired and reported properties with their metadata, version and etag."""
    cloud, device_id = managed(request)
    return JSONResponse(cloud.twins.whole(device_id))


async def desired_properties(request: Request) -> Response:
    """GET the desired properties, PATCH merges, PUT replaces all; `$version` and `$metadata` in a body
    are passed over. `If-Match` holds the twin's etag or `*`.
    """
    cloud, device_id = managed(request)
    if request.method == "GET":
        return JSONResponse(cloud.twins.get(device_id)["desired"])
    body = {n: v for n, v in (await json_body(request)).items() if n not in ("$version", "$metadata")}
    _check_etag(cloud, device_id, request)
    change = cloud.replace_desired if request.method == "PUT" else cloud.patch_desired
    return JSONResponse({"$version": _version(change(device_id, body, now_s()))})


async def tags(request: Request) -> Response:
    """GET the tags, PATCH merges. The device sees nothing of them."""
    cloud, device_id = managed(request)
    if request.method == "PATCH":
        body = await json_body(request)
        _check_etag(cloud, device_id, request)
        _version(cloud.twins.patch(device_id, "tags", body, now_s()))
    return JSONResponse(cloud.twins.document(device_id, "tags"))


async def reported_properties(request: Request) -> Response:
    cloud, device_id = managed(request)
    return JSONResponse(cloud.twins.get(device_id)["reported"])


def _version(answer: int | TwinRefused) -> int:
    if isinstance(answer, TwinRefused):
        raise bad_request(answer.reason)
    return answer


def _check_etag(cloud: Cloud, device_id: str, request: Request) -> None:
    asked = request.headers.get("if-match", "*")
    if asked not in ("*", cloud.twins.whole(device_id)["etag"]):
        raise Problem(412, "hub/preconditionFailed", "The twin has changed", f"If-Match was {asked}")


# -- cloud-to-device messages ----------------------------------------------------------------------------


async def send_c2d(request: Request) -> Response:
    """Queue the body as a cloud-to-device message. Its properties are the query (`name` without `=`: no
    value), system properties are headers: `iothub-messageid` (empty: none), `iothub-ack`, `iothub-expiry` ...
    """
    cloud, device_id = managed(request)
    options = _options(request)
    payload = await limited_body(request, MOST_BYTES)
    command = cloud.send_command(device_id, payload, _properties(request), now_s(), options)
    return JSONResponse({"messageId": command.message_id, "seq": command.seq}, 202)


def _options(request: Request) -> CommandOptions:
    headers = request.headers
    expiry, ack = headers.get("iothub-expiry"), headers.get("iothub-ack")
    if ack is not None and ack not in set(FeedbackMode):
        raise bad_request(f"iothub-ack is not one of {', '.join(FeedbackMode)}")
    return CommandOptions(
        message_id=headers.get("iothub-messageid"),
        correlation_id=headers.get("iothub-correlationid"),
        user_id=headers.get("iothub-userid"),
        content_type=headers.get("iothub-contenttype"),
        content_encoding=headers.get("iothub-contentencoding"),
        expires_at_s=None if expiry is None else time_of(expiry, "iothub-expiry"),
        ack=None if ack is None else FeedbackMode(ack),
    )


def _properties(request: Request) -> dict[str, str | None]:
    pairs = [part.partition("=") for part in request.url.query.split("&") if part]
    return {unquote_plus(name): unquote_plus(value) if equals else None for name, equals, value in pairs}


async def list_c2d(request: Request) -> Response:
    """Commands of a device in any state, after number `after` and oldest first, or the `newest` few."""
    cloud, device_id = managed(request)
    query = request.query_params
    if "newest" in query:
        records = cloud.commands.newest(device_id, min(whole(query["newest"]), MOST_RECORDS))
    else:
        records = cloud.commands.records(device_id, whole(query.get("after", "0")), MOST_RECORDS)
    return JSONResponse({"messages": [shown_command(row) for row in records]})


async def purge_c2d(request: Request) -> Response:
    """Empty the queue of a device."""
    cloud, device_id = managed(request)
    return JSONResponse({"purged": cloud.commands.purge(device_id, now_s())})


async def feedback(request: Request) -> Response:
    """Feedback records after number `after`, oldest first, in the hub's form."""
    cloud = operator(request)
    records = cloud.commands.feedback(whole(request.query_params.get("after", "0")), MOST_RECORDS)
    return JSONResponse({"feedback": [_shown_feedback(row) for row in records]})


def shown_command(row: dict[str, Any]) -> dict[str, Any]:
    """A command in a form for a person."""
    return {
        "seq": row["seq"],
        "messageId": row["message_id"],
        "state": row["state"],
        "deliveries": row["deliveries"],
        "queuedAt": rfc3339(row["queued_at"]),
        "expiresAt": rfc3339(row["expires_at"]),
        "settledAt": rfc3339(row["settled_at"]),
        "properties": json.loads(row["properties"]),
        "system": json.loads(row["system"]),
        **shown_payload(row["payload"]),
    }


def shown_payload(payload: bytes) -> dict[str, str]:
    """A payload as text, or where it is none as base64."""
    try:
        return {"text": payload.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(payload).decode()}


def _shown_feedback(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "seq": row["seq"],
        "originalMessageId": row["message_id"],
        "enqueuedTimeUtc": rfc3339(row["at"]),
        "statusCode": row["status"],
        "description": row["status"],
        "deviceId": row["device_id"],
        "deviceGenerationId": row["generation"],
    }


# -- methods ---------------------------------------------------------------------------------------------


async def call_method(request: Request) -> Response:
    """Call a direct method: `{"methodName", "payload"}`, with `responseTimeoutInSeconds` (30) and
    `connectTimeoutInSeconds` (0).
    """
    cloud, device_id = managed(request)
    body = await json_body(request)
    least_s = cloud.limits.method_least_timeout_s
    status, payload = await cloud.call_method(
        device_id,
        _method_name(body),
        body.get("payload"),
        optional_number(body, "responseTimeoutInSeconds", least_s, MOST_TIMEOUT_S, 30.0),
        optional_number(body, "connectTimeoutInSeconds", 0, MOST_TIMEOUT_S, 0.0),
    )
    return JSONResponse({"status": status, "payload": _answer(payload)})


def _method_name(body: dict[str, Any]) -> str:
    name = text_field(body, "methodName")
    if not re.fullmatch(r"[0-9A-Za-z_\-.]{1,100}", name):  # it becomes a level of a topic
        raise bad_request("methodName must be 1 to 100 of 0-9 A-Z a-z _ - .")
    return name


def _answer(payload: bytes) -> Any:
    try:
        return json.loads(payload) if payload else None
    except (ValueError, RecursionError):
        raise Problem(502, "hub/badDeviceResponse", "The device's answer is not JSON") from None


# -- for tests: what devices did, and facts to wait for -------------------------------------------------


async def twin_requests(request: Request) -> Response:
    """Twin requests of devices after number `after`, oldest first; `device` narrows it."""
    cloud, query = operator(request), request.query_params
    device_id = cloud.hub_id(known_device(cloud, query["device"])) if query.get("device") else None
    rows = cloud.twin_log.requests(device_id, whole(query.get("after", "0")), MOST_RECORDS)
    shown = [{**row, "at": rfc3339(row["at"]), "payload": shown_payload(row["payload"])} for row in rows]
    return JSONResponse({"requests": shown})


async def wait_for(request: Request) -> Response:
    """Wait until a fact holds, at most `wait_s`: `{"device", "wait_s", ...}` with one of
    `"command": number, "state": name` · `"pending": n` · `"reported": {...}`, equal without its version.
    The answer is `{"met": bool, "now": ...}`, with what the fact was compared to.
    """
    cloud = operator(request)
    body = await json_body(request)
    device_id = cloud.hub_id(known_device(cloud, text_field(body, "device")))
    wait_s = optional_number(body, "wait_s", 0, MOST_WAIT_S, 10.0)
    look, wanted = _fact(cloud, device_id, body)
    loop = asyncio.get_running_loop()
    end_s = loop.time() + wait_s
    while (now := look()) != wanted and loop.time() < end_s:
        await asyncio.sleep(_AWAIT_EVERY_S)
    return JSONResponse({"met": now == wanted, "now": now})


def _fact(cloud: Cloud, device_id: str, body: dict[str, Any]) -> tuple[Callable[[], Any], Any]:
    """A look at the state, and what it is to become. Raises Problem."""
    if isinstance(body.get("reported"), dict):
        return lambda: cloud.twins.document(device_id, "reported"), body["reported"]
    if _is_whole(body.get("pending")):
        return lambda: cloud.commands.depth(device_id), body["pending"]
    if _is_whole(body.get("command")):
        state = optional_text(body, "state") or C2dState.COMPLETED
        return lambda: _state_of(cloud, device_id, body["command"]), state
    raise bad_request("there is no fact to wait for: reported, pending or command")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _state_of(cloud: Cloud, device_id: str, seq: int) -> str | None:
    rows = cloud.commands.records(device_id, seq - 1, 1)
    return rows[0]["state"] if rows and rows[0]["seq"] == seq else None


_DEVICE = f"{WORKSPACE}/devices/{{device}}"

routes = [
    Route(f"{WORKSPACE}/devices/c2d-feedback", feedback),
    Route(f"{_DEVICE}/twin", twin),
    Route(f"{_DEVICE}/tags", tags, methods=["GET", "PATCH"]),
    Route(f"{_DEVICE}/desired-properties", desired_properties, methods=["GET", "PUT", "PATCH"]),
    Route(f"{_DEVICE}/reported-properties", reported_properties),
    Route(f"{_DEVICE}/c2d-messages", send_c2d, methods=["POST"]),
    Route(f"{_DEVICE}/c2d-messages", list_c2d),
    Route(f"{_DEVICE}/c2d-messages", purge_c2d, methods=["DELETE"]),
    Route(f"{_DEVICE}/methods", call_method, methods=["POST"]),
    Route("/admin/twin-requests", twin_requests),
    Route("/admin/await", wait_for, methods=["POST"]),
]
