"""Weather on the line to the hub. Each is over only when the hub or the device has noticed it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.chaos.plan import Fault
from tests.chaos.scene import NotSeen, Scene, reachable

LINE_S = 90.0
"""The device may just be without credentials, killed, or hung: so long it takes at most to come back."""
NOTICE_S = 120.0
"""A device that has nothing in flight notices only when it sends again."""
HUB_PORT = 8883
THROTTLE_PER_S = 20.0
THROTTLED_FOR_S = 3.0


@contextlib.contextmanager
def faults(scene: Scene, **fields: Any) -> Iterator[None]:
    """These faults of the cloud, and no longer: other hands have theirs."""
    scene.cloud.faults(**fields)
    try:
        yield
    finally:
        scene.cloud.faults(**dict.fromkeys(fields))


def connected(scene: Scene) -> None:
    """Wait until the device is connected and messages come in."""
    newest = scene.newest()
    scene.until(lambda: scene.newest() > newest, LINE_S, "messages arrive")


def _drop(mode: str) -> Callable[[Scene, Fault], str]:
    def way(scene: Scene, fault: Fault) -> str:
        condition = f"end_reason = 'dropped on request ({mode})'"
        before = scene.connections(condition)
        connected(scene)
        scene.until(lambda: _dropped(scene, mode) and scene.connections(condition) > before, LINE_S, mode)
        return "the hub ended the connection"

    return way


def _dropped(scene: Scene, mode: str) -> bool:
    return bool(scene.cloud.call("POST", "/admin/drop", {"mode": mode})["dropped"])


def _mute(**fields: Any) -> Callable[[Scene, Fault], str]:
    """The device must notice by itself that nobody answers."""

    def way(scene: Scene, fault: Fault) -> str:
        connected(scene)
        before = _overdue(scene)
        with faults(scene, **fields):
            took_s = scene.until(lambda: _overdue(scene) > before, NOTICE_S, "the device noticed")
        return f"the device connected anew after {took_s:.1f} s without an answer"

    return way


def _overdue(scene: Scene) -> int:
    """How often the device has let go of the line for want of an answer."""
    return scene.said("upload", "discarded: no answer") + scene.said(
        "upload", "discarded: no acknowledgement"
    )


def _throttling(scene: Scene, fault: Fault) -> str:
    with faults(scene, throttle_per_s=THROTTLE_PER_S):
        deadline_s = time.monotonic() + LINE_S
        while time.monotonic() < deadline_s:
            newest = scene.newest()
            scene.over.wait(THROTTLED_FOR_S)
            a_second = (scene.newest() - newest) / THROTTLED_FOR_S
            if 0 < a_second <= 2 * THROTTLE_PER_S:
                return f"{a_second:.0f} messages a second came through"
    raise NotSeen("the line was never slower than usual")


def _hub_away(scene: Scene, fault: Fault) -> str:
    condition = "end_reason = 'dropped on request (abrupt)'"
    connected(scene)
    before = scene.connections(condition)
    scene.cloud.hub(up=False)
    try:
        if reachable(scene.cloud.facts["hub_host"], HUB_PORT):
            raise NotSeen("the hub still listens")
        scene.over.wait(fault.lasts_s)
    finally:
        scene.cloud.hub(up=True)
    return f"{scene.connections(condition) - before} connection ended, nobody listened"


def _refusing(code: int) -> Callable[[Scene, Fault], str]:
    def way(scene: Scene, fault: Fault) -> str:
        condition = f"code = {code} AND reason = 'refused on request'"
        before = scene.connections(condition)
        with faults(scene, refuse_connect_code=code):
            _dropped(scene, "abrupt")
            scene.until(lambda: scene.connections(condition) > before, LINE_S, "a CONNECT was refused")
            scene.over.wait(fault.lasts_s)
        return f"{scene.connections(condition) - before} CONNECTs were refused with {code}"

    return way


WAYS = {
    "abrupt drop": _drop("abrupt"),
    "polite drop": _drop("polite"),
    "silent hub": _mute(silent=True),
    "acknowledgements withheld": _mute(withhold_acks=True),
    "throttling": _throttling,
    "hub away": _hub_away,
    "connections refused as not authorised": _refusing(5),
    "connections refused as unavailable": _refusing(3),
}
