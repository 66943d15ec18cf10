"""HTTP as this platform speaks it: strict JSON in, JSON out, problem+json where it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from runtime.devcloud.state.certificates import shown_by
from runtime.devcloud.state.lifetimes import LONGEST_S
from runtime.devcloud.state.problems import Problem, bad_request, not_found

if TYPE_CHECKING:
    from runtime.devcloud.state.cloud import Cloud

MOST_BODY_BYTES = 256 * 1024

Handler = Callable[[Request], Awaitable[Response]]


def cloud_of(request: Request) -> Cloud:
    """The stand-in's state behind this application."""
    cloud: Cloud = request.app.state.cloud
    return cloud


def now_s() -> float:
    """Unix time by the platform's clock: the only place on the HTTPS side that reads it."""
    return time.time()


def client_certificate(request: Request) -> bytes | None:
    """The certificate (DER) that the caller presented in the TLS handshake, if any."""
    return shown_by(request.scope["state"]["transport"])


async def json_body(request: Request) -> dict[str, Any]:
    """The JSON object in a request. Raises Problem for anything else."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "common/unsupportedMediaType", "Content-Type must be application/json")
    try:
        body = json.loads(await limited_body(request, MOST_BODY_BYTES), parse_constant=_no_constant)
        json.dumps(body, ensure_ascii=False).encode()  # an escaped lone surrogate is no text
    except (ValueError, RecursionError):
        raise bad_request("the body is not JSON") from None
    if not isinstance(body, dict):
        raise bad_request("the body is not a JSON object")
    return body


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is Python's, not JSON's")


async def limited_body(request: Request, most_bytes: int) -> bytes:
    """The whole body, if it is small enough. Raises Problem."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise Problem(413, "common/tooLarge", f"The body exceeds {most_bytes} bytes")
    return bytes(body)


def text_field(body: dict[str, Any], name: str) -> str:
    """A text that must be there. Raises Problem."""
    value = optional_text(body, name)
    if not value:
        raise bad_request(f"{name} is missing")
    return value


def optional_text(body: dict[str, Any], name: str) -> str | None:
    """A text that may be there, or be null. Raises Problem for any other type."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise bad_request(f"{name} is not text")
    return value


def optional_time(body: dict[str, Any], name: str) -> float | None:
    """An RFC 3339 time as Unix time. Raises Problem."""
    text = optional_text(body, name)
    return None if text is None else time_of(text, name)


def time_of(text: str, name: str) -> float:
    """Unix time of an RFC 3339 text. Raises Problem."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise bad_request(f"{name} is not an RFC 3339 time") from None
    if moment.tzinfo is None:
        raise bad_request(f"{name} has no time zone")
    if not 1970 <= moment.year < 9999:  # times at the ends of the calendar cannot be converted
        raise bad_request(f"{name} is not in a year that we can handle")
    return moment.timestamp()


def optional_seconds(body: dict[str, Any], name: str) -> float | None:
    """A number of seconds above zero. Raises Problem."""
    value = body.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST_S:
        raise bad_request(f"{name} is not a number of seconds above zero")
    return float(value)


def optional_number(body: dict[str, Any], name: str, least: float, most: float, default: float) -> float:
    """A number within a range, or a default where there is none. Raises Problem."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise bad_request(f"{name} is not a number from {least:g} to {most:g}")
    return float(value)


def whole(text: str) -> int:
    """A whole number out of a query. Raises Problem."""
    if not (text.isascii() and text.isdigit()) or len(text) > 15:
        raise bad_request(f"{text!r} is not a whole number")
    return int(text)


def known_device(cloud: Cloud, device: str) -> str:
    """The bare id of a device named with or without its workspace. Raises Problem."""
    device_id = device.removeprefix(f"{cloud.workspace}:")
    if cloud.registrations.device(device_id) is None:
        raise not_found(f"The device {device_id}")
    return device_id


def rfc3339(moment_s: float | None) -> str | None:
    """`2026-11-24T12:00:00Z`, with microseconds where there are any."""
    if moment_s is None:
        return None
    return datetime.fromtimestamp(moment_s, UTC).isoformat().replace("+00:00", "Z")


def timespan(duration_s: float | None) -> str | None:
    """`[-][d.]hh:mm:ss[.fffffff]`."""
    if duration_s is None:
        return None
    length = timedelta(seconds=abs(duration_s))
    hours, rest = divmod(length.seconds, 3600)
    text = f"{hours:02}:{rest // 60:02}:{rest % 60:02}"
    days = f"{length.days}." if length.days else ""
    fraction = f".{length.microseconds * 10:07}" if length.microseconds else ""
    return ("-" if duration_s < 0 else "") + days + text + fraction


async def render_problem(request: Request, exc: Exception) -> Response:
    """A Problem as application/problem+json."""
    assert isinstance(exc, Problem)
    body = {"type": f"/problems/{exc.kind}", "title": exc.title, "status": exc.status}
    if exc.detail:
        body["detail"] = exc.detail
    body["instance"] = request.url.path
    return JSONResponse(body, exc.status, headers=exc.headers, media_type="application/problem+json")


async def render_http_exception(request: Request, exc: Exception) -> Response:
    """A refusal of the router itself (404, 405), in the same form."""
    assert isinstance(exc, HTTPException)
    return await render_problem(
        request, Problem(exc.status_code, "common/http", exc.detail, **dict(exc.headers or {}))
    )
