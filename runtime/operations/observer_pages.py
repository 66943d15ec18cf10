"""Observer pages: what the observer answers over HTTP, out of one overview that is at most a second old."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import re
import threading
from collections.abc import Callable, Mapping
from http import HTTPStatus
from importlib import resources
from typing import Any

from runtime.adapters.net.http_server import HttpAnswer
from runtime.core.operations.metrics import prometheus_text
from runtime.operations.metrics_report import report

FRESH_S = 1.0
"""An overview is taken at most so often, however many readers there are: it costs 13 ms of CPU."""
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
JSON = "application/json"


class ObserverPages:
    """The pages. Called from several threads; an overview is taken by one of them at a time."""

    def __init__(
        self,
        observe: Callable[[], Mapping[str, Any]],
        history: Callable[[], list[dict[str, Any]]],
        boot_s: Callable[[], float],
        wall_s: Callable[[], float],
    ) -> None:
        self._observe, self._history, self._boot_s, self._wall_s = observe, history, boot_s, wall_s
        self._lock = threading.Lock()
        self._state: Mapping[str, Any] = {}
        self._taken_s: float | None = None
        self._pages: dict[str, Callable[[], HttpAnswer]] = {
            "/": _page,
            "/metrics": self._metrics,
            "/healthz": lambda: HttpAnswer(b"alive\n"),
            "/readyz": self._ready,
            "/status.json": lambda: _json(self.state()),
            "/history.json": lambda: _json({"points": self._history()}),
            "/qr.svg": self._qr,
        }

    def answer(self, path: str) -> HttpAnswer | None:
        """The answer for a path; None: there is no such page."""
        page = self._pages.get(path)
        return page() if page else None

    def state(self) -> Mapping[str, Any]:
        """The overview, at most FRESH_S old."""
        with self._lock:
            now_s = self._boot_s()
            if self._taken_s is None or now_s - self._taken_s >= FRESH_S:
                self._state, self._taken_s = self._observe(), now_s
            return self._state

    def _metrics(self) -> HttpAnswer:
        text = prometheus_text(report(self.state(), now_s=self._wall_s()))
        return HttpAnswer(text.encode(), PROMETHEUS)

    def _ready(self) -> HttpAnswer:
        """Ready: messages are stored. Nothing else is asked, so that no outage of the cloud's fails it."""
        state = self.state()
        worker, store = state["workers"]["ingest"]["state"], state["backlog"]["store"]
        if worker in ("RUNNING", "UNSUPERVISED") and store == "open":
            return HttpAnswer(b"messages are stored\n")
        text = f"ingest is {worker}, its store {store or 'unknown'}\n"
        return HttpAnswer(text.encode(), status=HTTPStatus.SERVICE_UNAVAILABLE)

    def _qr(self) -> HttpAnswer:
        import segno

        code = self.state()["identity"]["verification_code"]
        if not code:
            return HttpAnswer(b"no code waits\n", status=HTTPStatus.NOT_FOUND)
        drawn = io.BytesIO()
        segno.make(code).save(drawn, kind="svg", scale=4, border=2)
        return HttpAnswer(drawn.getvalue(), "image/svg+xml")


def _json(value: Mapping[str, Any]) -> HttpAnswer:
    return HttpAnswer(json.dumps(value, default=str).encode(), JSON)


@functools.cache
def _page() -> HttpAnswer:
    """The page, with a policy under which it runs its own script and style and talks to this server only."""
    body = resources.files("runtime.operations").joinpath("page.html").read_bytes()
    script = _digest(body, b"script")
    style = _digest(body, b"style")
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return HttpAnswer(body, "text/html; charset=utf-8", headers={"Content-Security-Policy": policy})


def _digest(page: bytes, tag: bytes) -> str:
    inside = re.search(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    assert inside, f"the page has no {tag.decode()}"
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside[1]).digest()).decode()}'"
