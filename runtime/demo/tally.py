"""Acknowledged against delivered: pure, so that the table can be trusted.

A message is named by its sender and its number there. A message is lost if it was acknowledged and did not
arrive. A duplicate is an arrival whose message id arrived before; an arrival of the same message under
another id would be a message stored twice, which the table calls by its name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Name = tuple[str, int]


@dataclass(frozen=True)
class Arrival:
    """One message as it came to the hub."""

    name: Name
    message_id: str
    stream: str = ""
    """Order is promised within a stream: a sender's messages of two may overtake each other."""


@dataclass(frozen=True)
class Tally:
    """The result. `ok` decides the exit status."""

    acknowledged: int
    stored: int
    delivered: int
    lost: tuple[Name, ...]
    repeated: int
    twice: tuple[Name, ...]
    """Delivered under more than one message id."""
    unknown: tuple[Name, ...]
    """Delivered, though no producer holds an acknowledgement."""
    disorder: tuple[Name, ...]
    """First arrivals that came after one with a larger number of the same sender and stream."""
    restarts: Mapping[str, int]
    difference: int = 0
    """Messages that the store's ledger does not account for."""

    @property
    def ok(self) -> bool:
        return (
            self.acknowledged == self.delivered == self.stored
            and not self.difference
            and not self.lost
            and not self.twice
            and not self.disorder
        )


@dataclass(frozen=True)
class CommandTally:
    """What became of the commands from the cloud, and of the twin."""

    sent: int
    """Commands that the hub took."""
    done: int
    """Of them those whose result, done, is at the hub."""
    twice: int
    """Commands that the program carried out more than once."""
    twin_equal: bool

    @property
    def ok(self) -> bool:
        return self.sent == self.done and not self.twice and self.twin_equal


def command_table(tally: CommandTally) -> list[str]:
    """The tally as lines for a person."""
    rows = [
        ("commands sent", str(tally.sent), "commands that the hub took for the device"),
        ("commands done", str(tally.done), "of them carried out, with the result at the hub"),
        ("commands lost", str(tally.sent - tally.done), "sent and without a result"),
        ("done twice", str(tally.twice), "carried out more than once"),
        (
            "twin equal",
            "yes" if tally.twin_equal else "no",
            "desired and reported, here and at the hub",
        ),
    ]
    return [f"  {name:<18} {value:>7}   {meaning}" for name, value, meaning in rows]


def count(
    acknowledged: set[Name],
    stored: int,
    arrivals: Iterable[Arrival],
    restarts: Mapping[str, int],
    difference: int = 0,
) -> Tally:
    """Compare the acknowledgements of producers with the arrivals, in order of arrival."""
    ids: dict[Name, set[str]] = {}
    times: Counter[str] = Counter()
    highest: dict[tuple[str, str], int] = {}
    disorder = []
    for arrival in arrivals:
        times[arrival.message_id] += 1
        if arrival.name not in ids:
            sender, number = arrival.name
            before = highest.get((sender, arrival.stream), -1)
            if number < before:
                disorder.append(arrival.name)
            highest[sender, arrival.stream] = max(number, before)
        ids.setdefault(arrival.name, set()).add(arrival.message_id)
    delivered = set(ids)
    return Tally(
        acknowledged=len(acknowledged),
        stored=stored,
        delivered=len(delivered),
        lost=tuple(sorted(acknowledged - delivered)),
        repeated=sum(times.values()) - len(times),
        twice=tuple(sorted(name for name, arrivals in ids.items() if len(arrivals) > 1)),
        unknown=tuple(sorted(delivered - acknowledged)),
        disorder=tuple(disorder),
        restarts=dict(restarts),
        difference=difference,
    )


def table(tally: Tally) -> list[str]:
    """The tally as lines for a person."""
    rows: list[tuple[str, object, str]] = [
        ("acknowledged", tally.acknowledged, "messages a producer was told are on disk"),
        ("stored", tally.stored, "messages the store took, ever"),
        ("delivered", tally.delivered, "of them at the hub"),
        ("lost", len(tally.lost), "acknowledged and not delivered"),
        ("unaccounted for", tally.difference, "stored, and in no account of the store's ledger"),
        ("repeated", tally.repeated, "arrived at the hub once more, each under a known message id"),
    ]
    for meaning, names in (
        ("stored twice", tally.twice),
        ("out of order", tally.disorder),
        ("never acknowledged", tally.unknown),
    ):
        if names:
            rows.append((meaning, len(names), f"first: {names[0][0]} {names[0][1]}"))
    restarts = ", ".join(f"{worker} {times}" for worker, times in tally.restarts.items())
    lines = [f"  {name:<18} {value:>7}   {meaning}" for name, value, meaning in rows]
    return [*lines, f"  {'restarts':<18} {sum(tally.restarts.values()):>7}   {restarts}"]
