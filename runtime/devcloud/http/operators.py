"""Operator API for people and scripts: tokens, approvals, devices. The paths follow the platform's."""

from __future__ import annotations

import hmac
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.devcloud.http.web import (
    cloud_of,
    json_body,
    now_s,
    optional_seconds,
    optional_text,
    optional_time,
    rfc3339,
    text_field,
)
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.enrolment import Mode
from runtime.devcloud.state.problems import bad_request, not_found, unauthorized


def operator(request: Request) -> Cloud:
    """The cloud, for a caller who holds the operator token. Raises Problem."""
    cloud = cloud_of(request)
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme != "Bearer" or not hmac.compare_digest(token.encode(), cloud.operator_token.encode()):
        raise unauthorized("The call carries no valid Bearer token")
    if request.path_params.get("workspace", cloud.workspace) != cloud.workspace:
        raise not_found("The workspace")
    return cloud


# -- Provisioning Tokens -----------------------------------------------------------------------------


async def create_provisioning_token(request: Request) -> Response:
    cloud = operator(request)
    body = await json_body(request)
    expires_at_s = optional_time(body, "expirationTime")
    if expires_at_s is not None and expires_at_s <= now_s():
        raise bad_request("expirationTime has passed")
    token_id = cloud.enrolment.create_token(
        _mode(body), expires_at_s, optional_seconds(body, "registrationTokenLifetimeSeconds"), now_s()
    )
    token = cloud.enrolment.token_text(token_id)
    return JSONResponse(
        {
            "provisioningTokenId": token_id,
            "provisioningToken": token,
            "expirationTime": rfc3339(expires_at_s),
        },
        201,
    )


def _mode(body: dict[str, Any]) -> Mode:
    name = optional_text(body, "deviceIdMode") or Mode.DEVICE_AND_TECHNICIAN_ALLOW.value
    try:
        return Mode(name)
    except ValueError:
        raise bad_request(f"deviceIdMode is not one of {', '.join(mode.value for mode in Mode)}") from None


async def list_provisioning_tokens(request: Request) -> Response:
    return JSONResponse({"provisioningTokens": shown_tokens(operator(request))})


def shown_tokens(cloud: Cloud) -> list[dict[str, Any]]:
    """Every Provisioning Token, without its text."""
    return [
        {
            "provisioningTokenId": token["id"],
            "deviceIdMode": token["mode"],
            "creationTime": rfc3339(token["created_at"]),
            "expirationTime": rfc3339(token["expires_at"]),
            "registrationTokenLifetimeSeconds": token["registration_lifetime_s"],
            "isRevoked": token["revoked_at"] is not None,
        }
        for token in cloud.enrolment.tokens()
    ]


async def revoke_provisioning_token(request: Request) -> Response:
    cloud = operator(request)
    body = await json_body(request)
    cloud.enrolment.revoke_token(text_field(body, "provisioningTokenId"), now_s())
    return Response(status_code=204)


# -- provisioning operations -------------------------------------------------------------------------


async def list_operations(request: Request) -> Response:
    cloud = operator(request)
    return JSONResponse({"provisioningOperations": [shown(o) for o in cloud.enrolment.operations(now_s())]})


async def approve(request: Request) -> Response:
    """Approve a device; the id may also be its verification code."""
    cloud = operator(request)
    body = await json_body(request)
    operation = cloud.enrolment.approve(
        text_field(body, "provisioningOperationId"), optional_text(body, "deviceId") or None, now_s()
    )
    return JSONResponse(shown(operation))


async def cancel(request: Request) -> Response:
    cloud = operator(request)
    body = await json_body(request)
    return JSONResponse(shown(cloud.enrolment.cancel(text_field(body, "provisioningOperationId"), now_s())))


def shown(operation: dict[str, Any]) -> dict[str, Any]:
    """An operation as operators see it."""
    return {
        "provisioningOperationId": operation["id"],
        "verificationCode": operation["verification_code"],
        "status": operation["state"],
        "requestedDeviceId": operation["wished_id"],
        "deviceId": operation["device_id"],
        "deviceIdMode": operation["mode"],
        "creationTime": rfc3339(operation["created_at"]),
        "expirationTime": rfc3339(operation["expires_at"]),
    }


WORKSPACE = "/workspaces/{workspace}"

routes = [
    Route(f"{WORKSPACE}/provisioning-tokens/create", create_provisioning_token, methods=["POST"]),
    Route(f"{WORKSPACE}/provisioning-tokens/revoke", revoke_provisioning_token, methods=["PUT"]),
    Route(f"{WORKSPACE}/provisioning-tokens", list_provisioning_tokens),
    Route(f"{WORKSPACE}/provisioning-operations", list_operations),
    Route(f"{WORKSPACE}/provisioning-operations/approve", approve, methods=["PUT"]),
    Route(f"{WORKSPACE}/provisioning-operations/cancel", cancel, methods=["PUT"]),
]
