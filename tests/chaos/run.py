"""One run: set the scene, break it, let it settle, stop it in order, and judge."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runtime.adapters.store.reader import StoreReader
from runtime.operations.ledger_report import report
from tests.chaos import at_hub, at_machine, at_platform, at_processes, verdict
from tests.chaos.plan import FIELDS, RESTING, Fault, plan
from tests.chaos.scene import FakeClock, NotSeen, Scene
from tests.chaos.watch import Watch

WAYS = {**at_processes.WAYS, **at_hub.WAYS, **at_platform.WAYS, **at_machine.WAYS}
SETTLE_S = 150.0
"""A hang, a kill, a start, a long pause, and then the backlog: after so long all must be in order."""

Tell = Callable[[str], None]


def run(
    seed: int,
    minutes: float,
    folder: Path,
    tell: Tell = print,
    *,
    slack: float = 1.0,
    keep: Path | None = None,
    weather_only: bool = False,
    **tables: str,
) -> dict[str, Any]:
    """Break things for so long; the summary, whose `wrong` is empty if all is well.

    `weather_only` leaves out deaths and hangs: processes that live for hours show what grows slowly.
    `slack` stretches the limits of recoveries; where something was wrong, `keep` gets what the runtime
    left; `tables` adds lines to a table of edge.toml.
    """
    began_s = time.monotonic()
    scene = Scene(folder, **tables)
    watch = None
    try:
        scene.start()
        tell(f"everything runs after {time.monotonic() - began_s:.1f} s")
        watch = Watch(scene.home.folder)
        faults = [f for f in plan(seed, minutes) if not (weather_only and f.field in RESTING)]
        _break(scene, faults, minutes * 60, tell)
        wrong, counted = _aftermath(scene, tell)
        watch.close()
        wrong += watch.wrong() + verdict.too_late(scene.facts.recovered, slack)
        summary = _summary(seed, minutes, faults, scene, watch, counted, wrong)
        if keep is not None and summary["wrong"]:
            scene.keep(keep)
        return summary
    finally:
        scene.over.set()
        if watch is not None:
            watch.close()
        scene.close()
        FakeClock.sweep()


def _break(scene: Scene, faults: list[Fault], lasting_s: float, tell: Tell) -> None:
    """A hand for each field, all at the same time."""
    began_s = time.monotonic()
    until_s = began_s + lasting_s
    hands = [
        threading.Thread(
            target=_hand,
            args=(scene, [f for f in faults if f.field == field], began_s, until_s, tell),
            name=field,
        )
        for field in FIELDS
    ]
    for hand in hands:
        hand.start()
    try:
        for hand in hands:
            hand.join()
    finally:
        scene.over.set()  # after a Ctrl-C the hands are to come to their end
        for hand in hands:
            hand.join()
        scene.over.clear()


def _hand(scene: Scene, faults: list[Fault], began_s: float, until_s: float, tell: Tell) -> None:
    """One after the other; when the time is over only what has not been seen at all."""
    over_s = began_s
    for fault in faults:
        if time.monotonic() > until_s and fault.kind in scene.facts.seen:
            continue
        start_s = max(began_s + fault.at_s, over_s + fault.pause_s)
        if scene.over.wait(max(0.0, start_s - time.monotonic())):
            return
        if why := at_machine.unable(scene, fault):
            scene.facts.left_out[fault.kind] = why
            continue
        scene.under_way[fault.field] = str(fault)
        at_s = time.monotonic() - began_s
        try:
            seen = WAYS[fault.kind](scene, fault)
            scene.facts.seen[fault.kind] += 1
        except NotSeen as exc:
            seen = f"NOT SEEN: {exc}"
            scene.facts.unseen.append(f"{fault} at {at_s:.1f} s: {exc}")
        except Exception as exc:  # the cloud's API in bad weather of our own making: a hole in the run
            seen = f"NOT DONE: {type(exc).__name__}: {exc}"
            scene.facts.unseen.append(f"{fault} at {at_s:.1f} s: {type(exc).__name__}: {exc}")
        scene.under_way.pop(fault.field)
        over_s = time.monotonic()
        tell(f"{at_s:7.1f} s  {fault}: {seen}")


def _aftermath(scene: Scene, tell: Tell) -> tuple[list[str], verdict.Count]:
    """Let it settle, stop, and count."""
    began_s = time.monotonic()
    scene.cloud.no_faults()
    wrong = [f"without effect: {what}" for what in scene.facts.unseen]
    wrong += _settled(scene.all_running, "not everything runs again")
    for sender, _ in scene.senders:
        if not sender.running():
            wrong.append(f"a producer gave up: {sender.said()[-300:]}")
        sender.close()
    reader = StoreReader(scene.home.layout.messages_db)
    tell(f"in order after {time.monotonic() - began_s:.1f} s, {verdict.backlog(reader)} messages to go")
    wrong += _drained(reader)
    tell(f"all is delivered after {time.monotonic() - began_s:.1f} s")
    set_aside = verdict.quarantined(reader)
    reader.close()
    wrong += [f"the ledger: {why}" for why in report(scene.home.layout.messages_db, check=True).wrong or ()]
    acknowledged = [line for _, ledger in scene.senders for line in verdict.ledger_lines(ledger)]
    counted = verdict.count(acknowledged, scene.cloud.messages(), set_aside)
    scene.manager.let_go()
    down = scene.home.edgectl("down", timeout_s=60)
    if down.returncode != 0:
        wrong.append(f"`edgectl down` failed: {down.stderr}")
    tell(", ".join(f"{name} {number}" for name, number in asdict(counted).items() if name != "wrong"))
    return wrong + counted.wrong + verdict.left_over(scene), counted


def _settled(fact: Callable[[], bool], otherwise: str) -> list[str]:
    """What is wrong where it does not become true in time."""
    until_s = time.monotonic() + SETTLE_S
    while not fact():
        if time.monotonic() > until_s:
            return [f"{otherwise} within {SETTLE_S:g} s"]
        time.sleep(0.1)
    return []


def _drained(reader: StoreReader) -> list[str]:
    """However much has gathered in hours of bad weather, it must become less and less."""
    least, until_s = sys.maxsize, time.monotonic() + SETTLE_S
    while (left := verdict.backlog(reader)) != 0:
        if 0 < left < least:
            least, until_s = left, time.monotonic() + SETTLE_S
        if time.monotonic() > until_s:
            return [f"the backlog of {least} does not become less within {SETTLE_S:g} s"]
        time.sleep(0.1)
    return []


def _summary(
    seed: int,
    minutes: float,
    faults: list[Fault],
    scene: Scene,
    watch: Watch,
    counted: verdict.Count,
    wrong: list[str],
) -> dict[str, Any]:
    planned = {fault.kind for fault in faults} - scene.facts.left_out.keys()
    never = sorted(planned - scene.facts.seen.keys())
    return {
        "seed": seed,
        "minutes": minutes,
        "messages": {k: v for k, v in asdict(counted).items() if k != "wrong"},
        "faults": dict(sorted(scene.facts.seen.items())),
        "left_out": scene.facts.left_out,
        "recovery": verdict.recoveries(scene.facts.recovered),
        "starts_of_everything": scene.manager.starts,
        "watchdog_kills": scene.manager.watchdog_kills,
        "processes": watch.summary(),
        "wrong": wrong + [f"never seen to have an effect: {kind}" for kind in never],
    }
