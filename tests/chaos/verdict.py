"""What must be true in the end: nothing lost, out of order, under two ids, or left over."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from runtime.adapters.store.reader import StoreReader
from runtime.core.message import StoredMessage
from runtime.errors import EdgeError
from tests.chaos.scene import Scene
from tests.chaos.watch import processes
from tests.support.harness import Arrived

BACK_WITHIN_S = {
    "SIGKILL": 2.5,
    "SIGTERM": 2.5,
    "SIGSTOP": 30.0,
    "deadlock": 30.0,
    "SIGKILL while it starts": 4.0,
    "driven to FATAL": 30.0,
}
SUPERVISOR_BACK_WITHIN_S = {"SIGKILL": 10.0, "SIGTERM": 30.0, "SIGSTOP": 40.0, "deadlock": 40.0}
"""supervisord itself: its manager's pause and five cold starts; asked politely also the sum of all stops."""
SENTINEL_BACK_WITHIN_S = {"SIGKILL": 5.0, "SIGTERM": 5.0, "SIGSTOP": 35.0, "deadlock": 35.0}
"""The one that supervises. Until it is back nobody is missed but a hung or given-up worker."""
SPOILERS = ("supervisord", "sentinel", "full disk", "clock", "restart all", "reload", "FATAL")
"""Who was hit while one of these was under way is not held to the limit: supervision itself was hit."""
RUBBISH = re.compile(r"(\.|.*/\.).*|.*\.(new|tmp)|state/(spool|uploads)/.*|core(\.\d+)?")
"""Half-written files, and what belongs to messages that are gone."""
MOST_FILES = 60
"""Databases, locks, status files, names of sockets that nobody has open, capped logs. More keeps growing."""


@dataclass
class Count:
    """The messages of a run."""

    acknowledged: int = 0
    delivered: int = 0
    quarantined: int = 0
    lost: int = 0
    repeats: int = 0
    wrong: list[str] = field(default_factory=list)


def count(acknowledged: Iterable[str], arrived: Iterable[Arrived], set_aside: dict[str, str]) -> Count:
    """Compare what producers hold acknowledgements for with what the cloud has."""
    told = set(acknowledged)
    found = Count(acknowledged=len(told), quarantined=len(set_aside))
    first: dict[str, str] = {}
    for message in arrived:
        if message.message_id.startswith("probe:"):
            continue
        payload = message.payload.decode()
        found.repeats += payload in first
        if first.setdefault(payload, message.message_id) != message.message_id:
            found.wrong.append(f"{payload!r} arrived under two ids")
    found.delivered = len(first)
    found.wrong += _disorder(first)
    found.wrong += [
        f"{payload!r} is set aside without a reason" for payload, why in set_aside.items() if not why
    ]
    lost = told - first.keys() - set_aside.keys()
    found.lost = len(lost)
    if lost:
        found.wrong.append(f"{len(lost)} acknowledged messages are lost, among them {sorted(lost)[:3]}")
    return found


def _disorder(first_arrivals: Iterable[str]) -> list[str]:
    """Payloads are `producer stream number`; numbers of a producer's stream only grow."""
    wrong, last = [], dict[str, int]()
    for payload in first_arrivals:
        stream, _, number = payload.rpartition(" ")
        if int(number) < last.get(stream, -1):
            wrong.append(f"{payload!r} arrived behind {last[stream]}")
        last[stream] = max(last.get(stream, -1), int(number))
    return wrong


def ledger_lines(ledger: Path) -> list[str]:
    """A producer that was killed may leave half a line."""
    text = ledger.read_text() if ledger.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def quarantined(reader: StoreReader) -> dict[str, str]:
    """What was set aside, and why."""
    return {
        found.message.payload.decode(): found.reason
        for found in reader.quarantine(limit=100_000)
        if isinstance(found.message, StoredMessage)
    }


def backlog(reader: StoreReader) -> int:
    """-1 while it cannot be read."""
    with contextlib.suppress(EdgeError):
        return reader.backlog().messages
    return -1


def left_over(scene: Scene) -> list[str]:
    """After `edgectl down`: processes, sockets and files that should be gone."""
    home = scene.home.folder
    wrong = [f"{name} ({pid}) still runs" for pid, name in processes(home).items()]
    sockets = [
        line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if str(home) in line
    ]
    wrong += [f"socket {path} is still open" for path in sorted(set(sockets))]
    files = [str(path.relative_to(home)) for path in sorted(home.rglob("*")) if not path.is_dir()]
    wrong += [f"{name} is left behind" for name in files if RUBBISH.fullmatch(name)]
    if len(files) > MOST_FILES:
        wrong.append(f"{len(files)} files are left behind: {files}")
    return wrong


def limit_s(recovery: dict[str, Any]) -> float | None:
    """How soon the victim had to be back; None where nothing is promised, or supervision was hit as well."""
    if any(word in what for what in recovery["beside"] for word in SPOILERS):
        return None
    limits = {"supervisord": SUPERVISOR_BACK_WITHIN_S, "sentinel": SENTINEL_BACK_WITHIN_S}
    return limits.get(recovery["victim"], BACK_WITHIN_S).get(recovery["kind"])


def too_late(recovered: list[dict[str, Any]], slack: float) -> list[str]:
    """Who was not back in time. `slack` stretches the limits for a machine that others use as well."""
    return [
        f"{r['victim']} was back {r['took_s']:.1f} s after {r['kind']}, not within {limit:g} s, "
        f"beside {r['beside']}"
        for r in recovered
        if (limit := limit_s(r)) is not None and r["took_s"] > limit * slack
    ]


def recoveries(recovered: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By what happened to whom: how often, how long on the middle and at worst; undisturbed, and in all."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for each in recovered:
        who = each["victim"] if each["victim"] in ("sentinel", "supervisord") else "worker"
        groups.setdefault(f"{each['kind']} {who}", []).append(each)
    return {name: _figures(group) for name, group in sorted(groups.items())}


def _figures(group: list[dict[str, Any]]) -> dict[str, float]:
    alone = [r["took_s"] for r in group if not any(w in what for what in r["beside"] for w in SPOILERS)]
    found: dict[str, float] = {"times": len(group), "worst_s": max(r["took_s"] for r in group)}
    if alone:
        found |= {"undisturbed": len(alone), "median_s": median(alone), "undisturbed_worst_s": max(alone)}
    return found
