"""`edgectl doctor --deep`: a message from end to end, to the hub's PUBACK, and a block to the storage.

It goes the way of every other message, so it proves each part of that way: ingest, the disk, upload, the
token and the hub. The status files say when it was acknowledged, as they do to `edgectl trace`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from runtime import wiring
from runtime.adapters.hub.https_api import HttpsRoute, HubRefusedCall
from runtime.adapters.hub.upload_calls import UploadCalls
from runtime.adapters.identity.database import IdentityReader
from runtime.adapters.identity.values import IdentityRecord
from runtime.adapters.process.clock import Clock, read_moment
from runtime.adapters.process.status_file import last_record
from runtime.adapters.process.threads import start_thread
from runtime.config import Config
from runtime.core.identity import renewal
from runtime.core.identity.credentials import HubCredentials
from runtime.core.operations.diagnosis import Check, judge_delivery, judge_lifetimes
from runtime.errors import EdgeError
from runtime.operations.trace import SETTLED, look_up

LOOK_EVERY_S = 0.1
STORAGE_S = 15.0
"""Deadline for the control upload."""
BLOCK = b"a block of edgectl doctor --deep, of which no blob is made"
_ENDED = ("delivered", "set aside", "expired", "shed")
NOTED_S = 3.0
"""A message that has left the store is known as delivered within this time: upload reports each second."""


def examine_deep(config: Config, clock: Clock, store: Callable[[], int], limit_s: float) -> Iterator[Check]:
    """Run the steps in the order of a message's way.

    `store` stores the test message and returns its id. It raises EdgeError where ingest does not take it.
    """
    until_s = time.monotonic() + limit_s
    yield _lifetimes(config, clock)
    try:
        began_s, sent_boot_s = time.monotonic(), clock.boot_s()
        id = store()
    except EdgeError as exc:
        yield Check("test message", "error", f"not stored: {exc}", "`edgectl status`: does ingest run?")
        return
    took_ms = (time.monotonic() - began_s) * 1000
    yield Check("test message", "ok", f"on disk as message {id}, acknowledged after {took_ms:.0f} ms")
    yield _delivery(config, clock, id, sent_boot_s, (until_s, limit_s))
    yield _storage(config, clock)


def _identity(config: Config) -> IdentityRecord:
    return IdentityReader(config.layout, wiring.vault(config.settings)).read()


def _lifetimes(config: Config, clock: Clock) -> Check:
    """The remaining lifetimes of the tokens. The PUBACK proves that the hub takes the SAS."""
    try:
        held = _identity(config).held(now := read_moment(clock))
    except EdgeError as exc:
        return Check("token life", "warning", str(exc), "`edgectl status` says who works on it")
    registration_s = held.registration.remaining_s(now) if held.registration else None
    return judge_lifetimes(renewal.sas_left_s(held, now), registration_s, by_certificate=held.by_certificate)


def _delivery(config: Config, clock: Clock, id: int, sent_boot_s: float, limit: tuple[float, float]) -> Check:
    """Wait until the hub has acknowledged the message, or it is clear that it will not.

    `limit`: when to end by the monotonic clock, and the seconds that were given.
    """
    until_s, limit_s = limit
    facts: dict[str, Any] = {}
    trouble, left_at_s = "", math.inf
    while True:
        try:
            facts = look_up(config.layout, clock, id)
        except EdgeError as exc:  # the store is busy, or was replaced
            trouble = str(exc)
        now_s = time.monotonic()
        if facts.get("state") == SETTLED:
            left_at_s = min(left_at_s, now_s)
        if facts.get("state") in _ENDED or now_s > min(until_s, left_at_s + NOTED_S):
            break
        time.sleep(LOOK_EVERY_S)
    upload = last_record(config.layout.status_file("upload"), clock.boot_id())
    took_s = max(0.0, clock.boot_s() - sent_boot_s - (facts.get("delivered_s") or 0.0))
    return judge_delivery(facts, took_s, limit_s, upload.text("trouble") or trouble)


def _storage(config: Config, clock: Clock) -> Check:
    """A control upload: an address from the hub, and a block that the storage takes."""
    upload = last_record(config.layout.status_file("upload"), clock.boot_id())
    if barred := upload.text("barred"):
        return Check("storage", "ok", f"not tried: nothing may be sent now ({barred})")
    try:
        credentials = _identity(config).hub_credentials()
    except EdgeError as exc:
        return Check("storage", "warning", f"not tried: {exc}", "`edgectl status` says who works on it")
    if credentials is None:
        return Check("storage", "warning", "not tried: this device is not registered", "see `edgectl status`")
    route = wiring.hub_route(config.settings)
    return _control_upload(HttpsRoute(route.ca_file, route.https_port, route.proxy), credentials)


def _control_upload(route: HttpsRoute, credentials: HubCredentials) -> Check:
    remedy = (
        "messages flow without it; files do not: see `edgectl doctor` for the way, the hub for its storage"
    )
    outcome: list[str | Exception] = []
    ended = threading.Event()

    def call() -> None:
        try:
            outcome.append(calls.control_upload(BLOCK))
        except (OSError, HubRefusedCall) as exc:
            outcome.append(exc)
        ended.set()

    with closing(UploadCalls(route, credentials)) as calls:
        try:
            start_thread(call, "storage-check")
        except BlockingIOError as exc:
            return Check("storage", "warning", str(exc.strerror), "try again")
        if not ended.wait(STORAGE_S):
            calls.stop()
            return Check("storage", "error", f"no answer within {STORAGE_S:g} s", remedy)
    if isinstance(host := outcome[0], Exception):
        return Check("storage", "error", str(host), remedy)
    return Check("storage", "ok", f"{host} took a block, of which no blob is made")
