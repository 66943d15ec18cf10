"""Platform API for devices: provisioning, refresh, registration. Contract: section 1 of it."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.devcloud.http.web import (
    client_certificate,
    cloud_of,
    json_body,
    now_s,
    optional_text,
    rfc3339,
    text_field,
    timespan,
)
from runtime.devcloud.state import tokens
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.problems import Problem, bad_request, unauthorized, workspace_disabled
from runtime.devcloud.state.registrations import Granted

SAS, KEY, HEADER = "SharedAccessSignature", "SharedAccessKey", "AuthorizationHeader"


async def init(request: Request) -> Response:
    """Begin to provision a device, perhaps under an id of its wish."""
    cloud = cloud_of(request)
    token = _provisioning_token(request)
    body = await json_body(request)
    operation = cloud.enrolment.begin(
        token, optional_text(body, "deviceId"), cloud.lifetimes.operation_s, now_s()
    )
    return JSONResponse(
        {
            "provisioningOperationId": operation["id"],
            "verificationCode": operation["verification_code"],
            "expirationTime": rfc3339(operation["expires_at"]),
        }
    )


async def complete(request: Request) -> Response:
    """Hand out the Registration Token once a person approved; a repeated call gets a new one."""
    cloud = cloud_of(request)
    token = _provisioning_token(request)
    body = await json_body(request)
    at_s = now_s()
    operation = cloud.enrolment.approved(token, text_field(body, "provisioningOperationId"), at_s)
    if operation is None:
        return Response(status_code=202)
    device_id = operation["device_id"]
    with cloud.database.transaction():
        cloud.registrations.adopt(device_id, at_s)
        cloud.registrations.revoke(device_id, at_s)
        granted = cloud.registrations.grant(
            device_id, cloud.registration_lifetime_s(operation["registration_lifetime_s"]), at_s
        )
    return _granted(granted, 200)


async def refresh(request: Request) -> Response:
    """A new Registration Token for a valid one: 201, or 200 to a parent whose child got lost."""
    cloud = cloud_of(request)
    provisioning_token = _provisioning_token(request)
    body = await json_body(request)
    at_s = now_s()
    held = cloud.registrations.valid(text_field(body, "registrationToken"), at_s)
    if held is None:
        raise Problem(
            410,
            "deviceProvisioning/registrationTokenInvalid",
            "The Registration Token is invalid, expired or revoked",
        )
    lifetime_s = cloud.registration_lifetime_s(provisioning_token["registration_lifetime_s"])
    granted = cloud.registrations.refresh(held, lifetime_s, cloud.lifetimes.grace_s, at_s)
    return _granted(granted, 200 if granted.after_lost_answer else 201)


async def register(request: Request) -> Response:
    """Hand out the credentials that the device connects to the hub with."""
    cloud = cloud_of(request)
    _workspace_enabled(cloud)
    at_s = now_s()
    if "authorization" not in request.headers and (certificate := client_certificate(request)):
        return await _register_by_certificate(request, certificate, at_s)
    held = cloud.registrations.valid(_device_token(request), at_s)
    if held is None:
        raise unauthorized("The Registration Token is invalid, expired or revoked")
    body = await json_body(request)
    kind = _connection_kind(body)
    cloud.registrations.registered(held["device_id"], at_s)
    remaining_s = None if held["expires_at"] is None else held["expires_at"] - at_s
    return JSONResponse(
        {
            **_connection(cloud, held["device_id"], kind, at_s),
            "iotHubHostName": cloud.hub_host,
            "connectionStringType": kind,
            "tokenRemainingLifetime": timespan(remaining_s),
        }
    )


async def _register_by_certificate(request: Request, certificate: bytes, at_s: float) -> Response:
    """Registration with mTLS: the certificate serves at the hub too, so there is nothing else to hand out."""
    cloud = cloud_of(request)
    device = cloud.certificates.owner(certificate)
    if device is None:
        raise unauthorized("The certificate is unknown or revoked")
    kind = _connection_kind(await json_body(request))
    cloud.registrations.registered(device, at_s)
    return JSONResponse(
        {
            "connectionString": f"HostName={cloud.hub_host};DeviceId={cloud.hub_id(device)};x509=true",
            "connectionStringExpiration": None,
            "iotHubHostName": cloud.hub_host,
            "connectionStringType": kind,
            "tokenRemainingLifetime": None,
        }
    )


def _connection_kind(body: dict[str, Any]) -> str:
    kind = text_field(body, "connectionStringType")
    if kind not in (SAS, KEY, HEADER):
        raise bad_request(f"connectionStringType is not one of {SAS}, {KEY}, {HEADER}")
    return kind


routes = [
    Route("/provisioning-operations/init", init, methods=["POST"]),
    Route("/provisioning-operations/complete", complete, methods=["PUT"]),
    Route("/devices/registration-tokens/refresh", refresh, methods=["PUT"]),
    Route("/devices/register", register, methods=["PUT"]),
]


def _connection(cloud: Cloud, device: str, kind: str, at_s: float) -> dict[str, Any]:
    device_id = cloud.hub_id(device)
    known = cloud.registrations.device(device)
    assert known is not None  # `valid` joined it
    if kind == KEY:
        return {"connectionString": cloud.key_string(device), "connectionStringExpiration": None}
    expires_at_s = int(at_s + cloud.sas_lifetime_s())
    sas = tokens.sign_sas(cloud.resource(device_id), known["key"], expires_at_s)
    whole = f"HostName={cloud.hub_host};DeviceId={device_id};SharedAccessSignature={sas}"
    return {
        "connectionString": sas if kind == HEADER else whole,
        "connectionStringExpiration": rfc3339(expires_at_s),
    }


def _granted(granted: Granted, status: int) -> Response:
    return JSONResponse(
        {"registrationToken": granted.token, "expirationTime": rfc3339(granted.expires_at_s)}, status
    )


def _provisioning_token(request: Request) -> dict[str, Any]:
    """The valid Provisioning Token that a call carries. Raises Problem."""
    cloud = cloud_of(request)
    _workspace_enabled(cloud)
    token = cloud.enrolment.valid(_device_token(request), now_s())
    if token is None:
        raise unauthorized("The Provisioning Token is invalid, expired or revoked")
    return token


def _device_token(request: Request) -> str:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme != "DeviceToken" or not token:
        raise unauthorized("The call carries no DeviceToken")
    return token


def _workspace_enabled(cloud: Cloud) -> None:
    if not cloud.workspace_enabled:
        raise workspace_disabled()
