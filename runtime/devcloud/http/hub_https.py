"""The hub over HTTPS, as far as its calls share it: authentication of the caller, and
refusals in the hub's form.
"""

from __future__ import annotations

import json
import re

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.devcloud.http.web import client_certificate, cloud_of, now_s, rfc3339
from runtime.devcloud.state.values import ConnectionRefused


class HubRefusal(Exception):
    """The hub will not do this."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class QuotaUsedUp(HubRefusal):
    """It will not do this before 00:00 UTC."""

    def __init__(self) -> None:
        super().__init__(403, "IotHubQuotaExceeded", "")


def caller(request: Request) -> str:
    """Hub device id of a caller with a valid SAS or a certificate for it. Raises HubRefusal."""
    if not re.fullmatch(r"\d{4}-\d\d-\d\d(-preview)?", request.query_params.get("api-version", "")):
        raise HubRefusal(400, "InvalidProtocolVersion", "api-version is missing or no date")
    device_id: str = request.path_params["device"]
    answer = cloud_of(request).check_device(
        device_id, request.headers.get("authorization"), client_certificate(request), now_s()
    )
    if isinstance(answer, ConnectionRefused):
        raise HubRefusal(401, "IotHubUnauthorizedAccess", answer.reason)
    return device_id


async def render_hub_refusal(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, HubRefusal)
    body = {"Message": f"ErrorCode:{exc.code};{exc}", "ExceptionMessage": str(exc)}
    if isinstance(exc, QuotaUsedUp):  # as the real hub does it: JSON within JSON
        host = cloud_of(request).hub_host.partition(".")[0]
        sentence = (
            f"Total number of messages on IotHub '{host}' exceeded the allocated quota. Send and Receive "
            "operations are blocked for this hub until the next UTC day."
        )
        refusal = {"errorCode": 403002, "message": sentence, "timestampUtc": rfc3339(now_s())}
        body = {"Message": json.dumps(refusal), "ExceptionMessage": ""}
    return JSONResponse(body, exc.status, headers={"iothub-errorcode": exc.code})


handlers = {HubRefusal: render_hub_refusal}
