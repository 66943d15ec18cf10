"""A fleet and its platform: requests per second, with our renewal decisions and with a fixed margin.

How a fleet drains into one hub that throttles stands in `drain`, and is reported beside it.

All devices are switched on within a minute and live through almost two lifetimes of their SAS; then the
platform is unreachable for an hour. Devices do not see each other, so each is followed by itself through its
whole life, with the very functions that `refresh` uses; its requests, answered or not, make a histogram.
Their Registration Tokens live for 30 days and are not due before the tenth: what renews in these days are
SAS.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from runtime.bench import FigureRow, drain
from runtime.core.identity.renewal import Life, RenewalPolicy, renewal_age_s, retry_pause_s
from runtime.core.moment import Moment

SWITCHED_ON_WITHIN_S = 60.0
FIXED_MARGIN_S = 600.0
"""The habit of many clients: renew ten minutes before expiry."""
FIXED_RETRY_S = 60.0
OURS = "renewal at a share of the life"

Retry = Callable[[float, float, int, random.Random], float]
"""(time of receipt, now, failures) -> seconds until the next attempt."""


@dataclass(frozen=True)
class Scene:
    """The events in the fleet's life."""

    devices: int = 1_000_000
    sas_lifetime_s: float = 86_400.0
    outage_at_s: float = 47 * 3600.0
    outage_s: float = 3600.0
    watched_after_s: float = 3600.0

    @property
    def back_at_s(self) -> float:
        return self.outage_at_s + self.outage_s

    @property
    def end_s(self) -> float:
        return self.back_at_s + self.watched_after_s


@dataclass(frozen=True)
class Load:
    """Requests per second at the platform, from switch-on to the end of the scene."""

    name: str
    per_second: array[int]
    scene: Scene

    def _part(self, from_s: float, to_s: float) -> array[int]:
        return self.per_second[int(from_s) : int(to_s)]

    @property
    def steady_mean(self) -> float:
        """Mean of the last lifetime before the outage."""
        part = self._part(self.scene.outage_at_s - self.scene.sas_lifetime_s, self.scene.outage_at_s)
        return sum(part) / len(part)

    @property
    def steady_peak(self) -> int:
        """Busiest second between the first minute and the outage."""
        return max(self._part(SWITCHED_ON_WITHIN_S + 1, self.scene.outage_at_s))

    @property
    def hour_mean(self) -> float:
        """Mean of the first hour after the outage."""
        part = self._part(self.scene.back_at_s, self.scene.end_s)
        return sum(part) / len(part)

    @property
    def hour_peak(self) -> int:
        """Busiest second of that hour."""
        return max(self._part(self.scene.back_at_s, self.scene.end_s))

    def by_minute(self) -> list[float]:
        """Mean requests per second of each minute, for a plot; `peaks_by_minute` has the busiest second."""
        return [sum(self.per_second[at : at + 60]) / 60 for at in range(0, len(self.per_second) - 59, 60)]

    def peaks_by_minute(self) -> list[int]:
        return [max(self.per_second[at : at + 60]) for at in range(0, len(self.per_second) - 59, 60)]


def ours(scene: Scene, policy: RenewalPolicy | None = None, seed: int = 1) -> Load:
    """The fleet with the decisions of `runtime.core.identity.renewal`."""
    policy = policy or RenewalPolicy()
    lifetime_s = scene.sas_lifetime_s

    def age_s(draw: float) -> float:
        return renewal_age_s(lifetime_s, draw, policy)

    def retry_s(received_s: float, now_s: float, failures: int, dice: random.Random) -> float:
        life = Life(Moment(0, received_s, ""), lifetime_s, 0)
        return retry_pause_s(life, failures, dice.random(), policy, Moment(0, now_s, ""))

    return Load(OURS, _follow(scene, age_s, retry_s, random.Random(seed)), scene)


def fixed_margin(scene: Scene, seed: int = 1) -> Load:
    """The same fleet, renewing a fixed time before expiry and retrying at a fixed pace."""
    margin_s = min(FIXED_MARGIN_S, scene.sas_lifetime_s / 4)

    def age_s(draw: float) -> float:
        return scene.sas_lifetime_s - margin_s

    def retry_s(received_s: float, now_s: float, failures: int, dice: random.Random) -> float:
        return FIXED_RETRY_S

    return Load("renewal at a fixed margin", _follow(scene, age_s, retry_s, random.Random(seed)), scene)


def _follow(scene: Scene, age_s: Callable[[float], float], retry_s: Retry, dice: random.Random) -> array[int]:
    """Each device's life, one after the other, into one histogram."""
    counts = array("L", bytes(array("L").itemsize * (int(scene.end_s) + 1)))
    draw, end_s, outage_at_s, back_at_s = dice.random, scene.end_s, scene.outage_at_s, scene.back_at_s
    for _ in range(scene.devices):
        received_s = at_s = draw() * SWITCHED_ON_WITHIN_S
        failures = 0
        while at_s < end_s:
            counts[int(at_s)] += 1
            if outage_at_s <= at_s < back_at_s:
                at_s += retry_s(received_s, at_s, failures, dice)
                failures += 1
            else:
                received_s, failures = at_s, 0
                at_s += age_s(draw())
    return counts


def measure(quick: bool) -> list[FigureRow]:
    """Both fleets as rows; a quick run is too small for the peaks of single seconds to mean much."""
    scene = Scene(50_000 if quick else 1_000_000)
    renewals = [
        row for load in (ours(scene), fixed_margin(scene)) for row in _rows(load, bounded=load.name == OURS)
    ]
    return renewals + drain.measure(quick)


def _rows(load: Load, bounded: bool) -> list[FigureRow]:
    devices = f"{load.scene.devices:,} devices, {load.name}"
    steady, after = load.steady_mean, load.hour_mean
    return [
        FigureRow(
            f"{devices}: busiest second of the first two days",
            load.steady_peak,
            "requests/s",
            steady,
            load.steady_peak / steady,
            "<= 3" if bounded else "",
        ),
        FigureRow(
            f"{devices}: busiest second of the hour after an outage",
            load.hour_peak,
            "requests/s",
            after,
            load.hour_peak / max(after, 1e-9),
            "<= 5" if bounded else "",
        ),
    ]
