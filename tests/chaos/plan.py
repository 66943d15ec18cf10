"""What will be broken, when, and whom it hits: a pure function of seed and minutes.

Five hands break things at the same time, each in a field of its own, one thing after the other. A hand deals
from a deck: first one card of every kind (those first that even the shortest run must see), then the rest,
then a fresh deck. So a run of `LONG_ENOUGH_MINUTES` has every kind, and one of half an hour every victim of
every kind. What is planned for a machine that cannot do it (no root, no faketime) is left out when its turn
comes, and said; the plan stays the same.

Deaths and hangs rest in the last part of every cycle: whoever is killed every few seconds cannot show a leak.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.layout import WORKERS

EVERYBODY = (*WORKERS, "sentinel", "supervisord")
LONG_ENOUGH_MINUTES = 3.0
CYCLE_S = 300.0
BUSY_S = 180.0
"""Of each cycle, for those who kill and stop processes."""
PAUSE_S = (0.5, 3.0)
CALM_S = (4.0, 12.0)
"""Between two cards of one hand. Weather must leave the device time to deliver."""
CALMER = ("hub", "platform", "machine")


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to break something."""

    name: str
    field: str
    takes_s: float
    """About how long until its effect is seen and it is over, besides what it lasts."""
    lasts_s: tuple[float, float] = (0.0, 0.0)
    """Drawn between these."""
    victims: tuple[str, ...] = ("",)
    weight: int = 1
    """Cards of each victim in a deck."""
    first: bool = False
    """Even the shortest run must see it."""


KINDS = (
    Kind("SIGKILL", "deaths", 4, victims=EVERYBODY, weight=2, first=True),
    Kind("SIGTERM", "deaths", 5, victims=EVERYBODY),
    Kind("SIGKILL while it starts", "deaths", 7, victims=("ingest", "upload")),
    Kind("restart all", "deaths", 12),
    Kind("reload", "deaths", 10),
    Kind("driven to FATAL", "deaths", 25, victims=("refresh",)),
    Kind("SIGSTOP", "hangs", 30, victims=EVERYBODY, first=True),
    Kind("deadlock", "hangs", 30, victims=EVERYBODY),
    Kind("abrupt drop", "hub", 1, first=True),
    Kind("polite drop", "hub", 1),
    Kind("silent hub", "hub", 6, first=True),
    Kind("acknowledgements withheld", "hub", 7),
    Kind("throttling", "hub", 5),
    Kind("hub away", "hub", 1, lasts_s=(1, 6)),
    Kind("connections refused as not authorised", "hub", 3, lasts_s=(1, 5)),
    Kind("connections refused as unavailable", "hub", 3, lasts_s=(1, 5)),
    Kind("503", "platform", 6, first=True),
    Kind("registration token revoked", "platform", 8, first=True),
    Kind("registration token expired", "platform", 8),
    Kind("provisioning token revoked", "platform", 10),
    Kind("sas revoked", "platform", 4),
    Kind("sas expired", "platform", 8),
    Kind("429", "platform", 8),
    Kind("423", "platform", 6),
    Kind("platform cut off", "platform", 6),
    Kind("platform too slow", "platform", 8),
    Kind("full disk", "machine", 5, lasts_s=(3, 8)),
    Kind("clock ahead", "machine", 2, lasts_s=(5, 20)),
    Kind("clock behind", "machine", 2, lasts_s=(5, 20)),
    Kind("clock at 1970", "machine", 2, lasts_s=(5, 20)),
)
FIELDS = tuple(dict.fromkeys(kind.field for kind in KINDS))
RESTING = ("deaths", "hangs")


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that will be broken."""

    at_s: float
    """Since the breaking began; later, where the hand is still busy with the one before."""
    field: str
    kind: str
    victim: str
    lasts_s: float
    pause_s: float
    """At least so long after the one before of the same hand, however late that was over."""
    draw: float
    """Random in [0, 1), for whatever else the kind has to choose."""

    def __str__(self) -> str:
        lasting = f" for {self.lasts_s:.1f} s" if self.lasts_s else ""
        return f"{self.kind}{' to ' if self.victim else ''}{self.victim}{lasting}"


def plan(seed: int, minutes: float) -> list[Fault]:
    """Everything that a run will break, in order of time."""
    faults = [fault for field in FIELDS for fault in _hand(field, seed, minutes * 60)]
    return sorted(faults, key=lambda fault: (fault.at_s, fault.field))


def _hand(field: str, seed: int, until_s: float) -> Iterator[Fault]:
    chance = random.Random(f"{seed} {field}")
    at_s = pause_s = 0.0
    for kind, victim in _cards(field, chance):
        if field in RESTING and at_s % CYCLE_S > BUSY_S:
            at_s += CYCLE_S - at_s % CYCLE_S
        if at_s >= until_s:
            return
        lasts_s, draw = chance.uniform(*kind.lasts_s), chance.random()
        yield Fault(at_s, field, kind.name, victim, lasts_s, pause_s, draw)
        pause_s = chance.uniform(*(CALM_S if field in CALMER and not kind.first else PAUSE_S))
        at_s += kind.takes_s + lasts_s + pause_s


def _cards(field: str, chance: random.Random) -> Iterator[tuple[Kind, str]]:
    """One deck after the other, for ever."""
    kinds = [kind for kind in KINDS if kind.field == field]
    while True:
        chance.shuffle(kinds)
        kinds.sort(key=lambda kind: not kind.first)
        top = [(kind, chance.choice(kind.victims)) for kind in kinds]
        rest = [(kind, victim) for kind in kinds for victim in kind.victims * kind.weight]
        for card in top:
            rest.remove(card)
        chance.shuffle(rest)
        yield from top
        yield from rest
