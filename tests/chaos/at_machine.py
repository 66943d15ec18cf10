"""The machine itself: a disk without a free block, a clock that jumps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.plan import Fault
from tests.chaos.scene import NotSeen, Scene

AGAIN_S = 60.0
JUMPED_S = 60.0
LAST_MOMENT_S = 2**31 - 1
"""supervisord tells no later one (XML-RPC counts with 32 bits), though it goes on beyond."""
HOUR_S, YEAR_S = 3600, 365 * 86400


def _full_disk(scene: Scene, fault: Fault) -> str:
    assert scene.disk is not None
    rubbish = scene.disk / "rubbish"
    silent_s = 0
    try:
        until_s = time.monotonic() + fault.lasts_s
        while time.monotonic() < until_s:
            _fill(rubbish)  # again and again: what is delivered or rotated away makes room
            if os.statvfs(scene.disk).f_bavail:
                raise NotSeen("the disk has room")
            before = scene.acknowledged()
            scene.over.wait(1.0)
            silent_s += scene.acknowledged() == before
    finally:
        rubbish.unlink(missing_ok=True)
    before = scene.acknowledged()
    took_s = scene.until(lambda: scene.acknowledged() > before, AGAIN_S, "producers are served again")
    return f"no block free; nobody was acknowledged for {silent_s} s; with room again after {took_s:.1f} s"


def _fill(path: Path) -> None:
    """Until the last block."""
    with path.open("ab", buffering=0) as rubbish:
        try:
            while rubbish.write(bytes(4096)):
                pass
        except OSError:
            pass


def _jump(offset: Callable[[Fault], tuple[str, float]]) -> Callable[[Scene, Fault], str]:
    """The clock jumps, and later it jumps back."""

    def way(scene: Scene, fault: Fault) -> str:
        assert scene.clock is not None
        words, seconds = offset(fault)
        scene.clock.set(words)
        try:
            scene.until(lambda: _off(scene, seconds), JUMPED_S, f"supervisord's clock is off by {words}")
            scene.over.wait(fault.lasts_s)
        finally:
            scene.clock.set("+0")
        scene.until(lambda: _off(scene, 0), JUMPED_S, "supervisord's clock is right again")
        return f"supervisord's own clock was off by {seconds / 86400:.1f} days, and then right again"

    return way


def _off(scene: Scene, seconds: float) -> bool:
    """Whether the runtime's clock, as supervisord tells it, is off by so much."""
    told_s = scene.told_wall_s()
    return told_s is not None and abs(told_s - min(time.time() + seconds, LAST_MOMENT_S)) < 30


def _ahead(fault: Fault) -> tuple[str, float]:
    seconds = round((HOUR_S, 10 * YEAR_S)[fault.draw > 0.5] * (0.5 + fault.draw))
    return f"+{seconds}", seconds


def _behind(fault: Fault) -> tuple[str, float]:
    seconds = round((HOUR_S, 5 * YEAR_S)[fault.draw > 0.5] * (0.5 + fault.draw))
    return f"-{seconds}", -seconds


def _at_1970(fault: Fault) -> tuple[str, float]:
    """A device without a clock that keeps time, before NTP has found a server."""
    seconds = round(time.time()) - 60
    return f"-{seconds}", -seconds


def unable(scene: Scene, fault: Fault) -> str:
    """Why this machine cannot do it; nothing where it can."""
    if fault.kind == "full disk" and scene.disk is None:
        return "mounting a small disk needs root"
    if fault.kind.startswith("clock") and scene.clock is None:
        return "faketime is not installed"
    return ""


WAYS = {
    "full disk": _full_disk,
    "clock ahead": _jump(_ahead),
    "clock behind": _jump(_behind),
    "clock at 1970": _jump(_at_1970),
}
