"""File upload, the hub's part: hand out an address for one blob, and take the notification of its outcome."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from runtime.devcloud.http.blobs import CONTAINER, MOST_NAME_CHARS, sas_token
from runtime.devcloud.http.hub_https import HubRefusal, QuotaUsedUp, caller
from runtime.devcloud.http.web import cloud_of, json_body, now_s
from runtime.devcloud.state.problems import Problem
from runtime.devcloud.state.uploads import MOST_OPEN


async def open_upload(request: Request) -> Response:
    """Hand out an address to which one blob may be written."""
    cloud = cloud_of(request)
    device_id = caller(request)
    blob_name = (await _body(request)).get("blobName")
    if not isinstance(blob_name, str) or not 0 < len(blob_name) <= MOST_NAME_CHARS - len(device_id) - 1:
        raise HubRefusal(400, "ArgumentInvalid", "blobName is missing, empty or too long")
    if cloud.quota_used_up():
        raise QuotaUsedUp
    name = f"{device_id}/{blob_name}"
    at_s = now_s()
    upload = cloud.uploads.open(device_id, name, cloud.lifetimes.upload_s, at_s)
    if upload is None:
        raise HubRefusal(
            403, "DeviceMaximumActiveFileUploadLimitExceeded", f"{MOST_OPEN} uploads are open; notify them"
        )
    return JSONResponse(
        {
            "correlationId": upload["correlation_id"],
            "hostName": request.url.netloc,
            "containerName": CONTAINER,
            "blobName": name,
            "sasToken": sas_token(cloud, name, upload["expires_at"]),
        }
    )


async def notify(request: Request) -> Response:
    """Take the device's notification of an upload's outcome, which closes it. A
    success needs an existing blob.
    """
    cloud = cloud_of(request)
    device_id = caller(request)
    body = await _body(request)
    correlation_id, succeeded = body.get("correlationId"), body.get("isSuccess")
    code, description = body.get("statusCode"), body.get("statusDescription")
    if not isinstance(correlation_id, str) or not isinstance(succeeded, bool):
        raise HubRefusal(400, "ArgumentInvalid", "correlationId or isSuccess is missing")
    if not (code is None or _is_status(code)) or not isinstance(description, str | None):
        raise HubRefusal(400, "ArgumentInvalid", "statusCode is not a number or statusDescription not text")
    upload = cloud.uploads.opened(device_id, correlation_id)
    if upload is None:
        raise HubRefusal(400, "InvalidFileUploadCorrelationId", "no open upload has this correlationId")
    if succeeded and cloud.uploads.blob(upload["blob_name"]) is None:
        raise HubRefusal(400, "InvalidFileUploadCompletionStatus", "the blob was never written")
    cloud.uploads.settle(correlation_id, succeeded, code, description, now_s())
    return Response(status_code=204)


def _is_status(code: object) -> bool:
    return isinstance(code, int) and not isinstance(code, bool) and abs(code) < 2**31


async def _body(request: Request) -> dict[str, Any]:
    try:
        return await json_body(request)
    except Problem as exc:
        raise HubRefusal(exc.status, "ArgumentInvalid", str(exc)) from exc


routes = [
    Route("/devices/{device}/files", open_upload, methods=["POST"]),
    Route("/devices/{device}/files/notifications", notify, methods=["POST"]),
]
