"""Fault injection in HTTP on request: waits, odd answers, connections cut without an answer (`faults.http`).

Every call of the platform's is counted with its answer, so that a test can tell a fault that struck from one
that no call met.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.faults import HttpFault

ABOVE_FAULTS = ("/admin/", "/page/")
"""Paths without faults: otherwise no caller could end one."""
COUNTED = ("/provisioning-operations/", "/devices/register", "/devices/registration-tokens/")
"""The platform's calls. Paths of blobs and operators are unbounded in number."""


class FaultInjection:
    """ASGI middleware, the outermost, so that it also cuts what would answer 404."""

    def __init__(self, app: ASGIApp, cloud: Cloud) -> None:
        self._app = app
        self._cloud = cloud

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._fault_for(scope)
        if scope["type"] == "http" and scope["path"].startswith(COUNTED):
            send = self._counting(scope, send, cut=fault is not None and fault.cut)
        if fault is None:
            await self._app(scope, receive, send)
            return
        if fault.delay_s:
            await asyncio.sleep(fault.delay_s)
        if fault.cut:
            await _cut(scope, receive)
        elif fault.status is not None:
            await _answer(fault, fault.status)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _counting(self, scope: Scope, send: Send, *, cut: bool) -> Send:
        """`send`, recording the status that goes out; a call that is cut has none."""
        answers = self._cloud.answers[f"{scope['method']} {scope['path']}"]
        answers["cut"] += cut

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                answers[str(message["status"])] += 1
            await send(message)

        return counting

    def _fault_for(self, scope: Scope) -> HttpFault | None:
        if scope["type"] != "http" or scope["path"].startswith(ABOVE_FAULTS):
            return None
        return self._cloud.faults.next_http(scope["method"], scope["path"])


def _answer(fault: HttpFault, status: int) -> Response:
    headers = {} if fault.retry_after is None else {"Retry-After": f"{fault.retry_after:g}"}
    if fault.body is not None:
        return Response(fault.body, status, headers, "application/json")
    if status < 400:
        return Response(status_code=status, headers=headers)
    problem = {"type": "/problems/common/injected", "title": "Injected fault", "status": status}
    return JSONResponse(problem, status, headers, "application/problem+json")


async def _cut(scope: Scope, receive: Receive) -> None:
    """Reset the connection; return once the server noticed, so that it does not answer by itself."""
    transport: Any = scope["state"]["transport"]
    transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass
