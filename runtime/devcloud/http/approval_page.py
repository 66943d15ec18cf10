"""The page where a person approves devices and watches messages arrive.

The page itself holds no secret. Its script sends the operator token as a Bearer header, which no other site
can send on a person's behalf; it gets that token typed in, or once for a one-time link.
"""

from __future__ import annotations

import secrets
from importlib import resources
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from runtime.devcloud.http import admin, devices, dps_api, operators
from runtime.devcloud.http.web import cloud_of, json_body, now_s, text_field, whole
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.problems import unauthorized

MOST_MESSAGES = 200
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline';"
    " connect-src 'self'; img-src data: blob:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


def one_time_url(cloud: Cloud, instance: str) -> str:
    """A link that opens the page without typing the operator token; only the first visitor is let in."""
    link = secrets.token_urlsafe(16)
    cloud.database.execute("INSERT INTO links (id, created_at) VALUES (?, ?)", link, now_s())
    return f"https://{instance}/?token={link}"


async def html(request: Request) -> Response:
    """The page, whole in one answer: it loads nothing else."""
    here = resources.files(__package__)
    text, panel = (here.joinpath(name).read_text() for name in ("approval_page.html", "device_panel.js"))
    return HTMLResponse(text.replace("/* device_panel.js */", panel), headers=_HEADERS)


async def redeem(request: Request) -> Response:
    """The operator token for a one-time link that was not used before."""
    cloud = cloud_of(request)
    link = text_field(await json_body(request), "token")
    if not cloud.database.change("DELETE FROM links WHERE id = ?", link):
        raise unauthorized("The link was used before or is unknown")
    return JSONResponse({"operatorToken": cloud.operator_token}, headers=_HEADERS)


async def link(request: Request) -> Response:
    """Another one-time link, for scripts."""
    cloud = operators.operator(request)
    return JSONResponse({"url": one_time_url(cloud, request.url.netloc)})


async def feed(request: Request) -> Response:
    """The data of the page; of messages those after `after`, at most the newest few."""
    cloud = operators.operator(request)
    newest = cloud.records.newest()
    after = max(whole(request.query_params.get("after", "0")), newest - MOST_MESSAGES)
    waiting = [o for o in cloud.enrolment.operations(now_s()) if o["state"] == "Pending"]
    return JSONResponse(
        {
            "workspace": cloud.workspace,
            "hub": cloud.hub_host,
            "tier": cloud.limits.tier,
            "waiting": [{**operators.shown(o), "deviceExists": _exists(cloud, o)} for o in waiting],
            "provisioningTokens": operators.shown_tokens(cloud),
            "devices": devices.listed(cloud),
            "dps": dps_api.listed(cloud),
            "messages": [admin.shown(m) for m in cloud.records.messages(after, MOST_MESSAGES)],
            "newest": newest,
            "faults": {k: v for k, v in cloud.faults.to_json().items() if v not in (None, False, 0.0, {})},
        },
        headers=_HEADERS,
    )


def _exists(cloud: Cloud, operation: dict[str, Any]) -> bool:
    """True if approving as wished takes over the name of an existing device."""
    wish = operation["wished_id"]
    return wish is not None and cloud.registrations.device(wish) is not None


routes = [
    Route("/", html),
    Route("/page/session", redeem, methods=["POST"]),
    Route("/page/feed", feed),
    Route("/admin/page-link", link, methods=["POST"]),
]
