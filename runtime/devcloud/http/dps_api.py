"""DPS enrolment API for operators and scripts."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.devcloud.http.operators import WORKSPACE, operator
from runtime.devcloud.http.web import json_body, now_s, optional_text, rfc3339, text_field
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.dps_enrolments import Attestation
from runtime.devcloud.state.enrolment import check_device_id
from runtime.devcloud.state.problems import bad_request


async def create_enrolment(request: Request) -> Response:
    """Create an enrolment. The answer holds the key: the device's own, or the group's."""
    cloud = operator(request)
    body = await json_body(request)
    name, group = text_field(body, "name"), body.get("group", False)
    check_device_id(name)
    if not isinstance(group, bool):
        raise bad_request("group is not true or false")
    try:
        attestation = Attestation(optional_text(body, "attestation") or Attestation.KEY.value)
    except ValueError:
        raise bad_request("attestation is not key or certificate") from None
    made = cloud.dps.create(name, attestation, group=group, now_s=now_s())
    return JSONResponse({**_shown(made), "key": made["key"]}, 201)


async def list_enrolments(request: Request) -> Response:
    return JSONResponse(listed(operator(request)))


def listed(cloud: Cloud) -> dict[str, Any]:
    """Every enrolment, without its keys."""
    assigned = [
        {
            "registrationId": row["registration_id"],
            "enrolment": row["enrolment"],
            "deviceId": row["device_id"],
            "assignmentTime": rfc3339(row["assigned_at"]),
            "times": row["times"],
        }
        for row in cloud.dps.assigned()
    ]
    enrolments = [_shown(row) for row in cloud.dps.all()]
    return {"idScope": cloud.dps.id_scope, "enrolments": enrolments, "assigned": assigned}


async def enable_enrolment(request: Request) -> Response:
    cloud = operator(request)
    body = await json_body(request)
    if not isinstance(body.get("enabled"), bool):
        raise bad_request("enabled is not true or false")
    cloud.dps.enable(request.path_params["name"], body["enabled"])
    return Response(status_code=204)


async def delete_enrolment(request: Request) -> Response:
    operator(request).dps.delete(request.path_params["name"])
    return Response(status_code=204)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """An enrolment without its key."""
    return {
        "name": row["name"],
        "group": bool(row["grouped"]),
        "attestation": row["attestation"],
        "enabled": bool(row["enabled"]),
        "creationTime": rfc3339(row["created_at"]),
    }


routes = [
    Route(f"{WORKSPACE}/dps/enrolments/create", create_enrolment, methods=["POST"]),
    Route(f"{WORKSPACE}/dps/enrolments", list_enrolments),
    Route(f"{WORKSPACE}/dps/enrolments/{{name}}", enable_enrolment, methods=["PUT"]),
    Route(f"{WORKSPACE}/dps/enrolments/{{name}}", delete_enrolment, methods=["DELETE"]),
]
