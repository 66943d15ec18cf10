"""Twin synchronisation over real TLS against the stand-in, whatever it does wrong: both sides end equal.

The decisions are those of the product; the shell around them is this test's, with a clock of its own, so that
half a minute of silence costs nothing.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import time
from typing import Any

import pytest

from runtime.core.management.twin import ReportMode
from runtime.core.management.twin_record import (
    AskTwin,
    DesiredPatch,
    ReportMade,
    SaveTwin,
    SendReported,
    TwinAction,
    TwinEvent,
    TwinLinkDown,
    TwinLinkUp,
    TwinRecord,
    TwinResponse,
    TwinTick,
)
from runtime.core.management.twin_rules import same
from runtime.core.management.twin_sync import TwinPhase, TwinSync, after, due_s
from runtime.devcloud.mqtt.packets import Bare, PacketType, Publish, Subscribe
from tests.support.hub_in_thread import DESIRED, DEVICE, TWIN_RESULTS, HubInThread, Raw
from tests.support.wrong_rules import WrongRule
from tests.unit.test_twin_sync import WRONG_RULES

RESULT = re.compile(r"\$iothub/twin/res/(\d+)/\?\$rid=([^&]+)(?:&\$version=(\d+))?")
DESIRED_PATCH = re.compile(r"\$iothub/twin/PATCH/properties/desired/\?\$version=(\d+)")

FAULTS: list[dict[str, Any]] = [
    {},
    {"twin": {"PATCH": {"lost": True, "times": 1}}},
    {"twin": {"GET": {"lost": True, "times": 1}}},
    {"twin": {"PATCH": {"status": 429, "times": 2}, "GET": {"status": 429, "times": 1}}},
    {"twin": {"PATCH": {"status": 500, "applied": True, "times": 1}}},
    {"twin": {"PATCH": {"status": 400, "times": 1}}},
    {"twin": {"PATCH": {"drop": True, "times": 1}}},
    {"twin": {"GET": {"body": "<html>", "times": 1}}},
    {"drop_at": "twin-patch"},
    {"desired_lost": True},
    {"desired_repeated": True},
    {"twin_siblings_lost": True},
]


class Shell:
    """The least that carries out what `twin_sync` decides."""

    def __init__(self, hub: HubInThread, rng: random.Random) -> None:
        self.hub = hub
        self.rng = rng
        self.now_s = 0.0
        self.disk = TwinRecord()
        self.sync = TwinSync(self.disk, "life1")
        self.raw: Raw | None = None

    def connect(self) -> None:
        if self.raw is None:
            self.raw = self.hub.raw()
            self.raw.send(Subscribe(1, ((TWIN_RESULTS, 0), (DESIRED, 0))))
            self.raw.receive()
            self.on_event(TwinLinkUp(DEVICE))

    def disconnect(self) -> None:
        if self.raw is not None:
            self.raw.socket.close()
            self.raw = None
            self.on_event(TwinLinkDown())

    def on_event(self, event: TwinEvent) -> None:
        self.sync, actions = after(self.sync, event, self.now_s, self.rng.random())
        for action in actions:
            self.perform(action)

    def perform(self, action: TwinAction) -> None:
        match action:
            case SaveTwin(record):
                self.disk = record
            case AskTwin(rid):
                self.publish(f"$iothub/twin/GET/?$rid={rid}", b"")
            case SendReported(rid, patch):
                body = json.dumps(patch).encode()
                self.publish(f"$iothub/twin/PATCH/properties/reported/?$rid={rid}", body)

    def publish(self, topic: str, body: bytes) -> None:
        if self.raw is not None:
            with contextlib.suppress(OSError):  # its end is noticed when it is read from
                self.raw.send(Publish(topic, body))

    def pump(self) -> None:
        """Handle all that the hub has sent until it answers a ping, or the end of the connection."""
        if self.raw is None:
            return
        try:
            self.raw.send(Bare(PacketType.PINGREQ))
            received = []
            while (packet := self.raw.receive()) != Bare(PacketType.PINGRESP):
                received.append(packet)
        except (OSError, EOFError):
            self.disconnect()
            return
        for packet in received:
            self.on_event(event_of(packet))

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.on_event(TwinTick())

    def restart(self) -> None:
        """The process dies; the next one has what is on disk."""
        if self.raw is not None:
            self.raw.socket.close()
        self.raw, self.sync = None, TwinSync(self.disk, f"life{self.rng.random()}")

    def settle(self) -> None:
        """Go on until nothing is due for a long time."""
        for _ in range(100):
            self.connect()
            self.pump()
            wait_s = due_s(self.sync) - self.now_s
            if self.raw is not None and self.sync.phase is TwinPhase.LEVEL and wait_s > 10_000:
                return
            self.pass_time(max(0.0, min(wait_s, 4000.0)))
        raise AssertionError("no end: it asks or sends for ever")


def event_of(packet: Publish) -> TwinEvent:
    if result := RESULT.fullmatch(packet.topic):
        version = int(result[3]) if result[3] else None
        return TwinResponse(result[2], int(result[1]), json_or_none(packet.payload), version)
    change = DESIRED_PATCH.fullmatch(packet.topic)
    assert change is not None
    return DesiredPatch(int(change[1]), json_or_none(packet.payload), len(packet.payload))


def json_or_none(text: bytes) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def report(shell: Shell) -> None:
    section, name, value = shell.rng.choice("ab"), shell.rng.choice("xyz"), shell.rng.randint(0, 9)
    mode, path, reported = shell.rng.choice(
        [
            (ReportMode.SET, (section, name), value),
            (ReportMode.SET, (section,), {name: value}),
            (ReportMode.PATCH, (section,), {name: value, shell.rng.choice("xyz"): None}),
            (ReportMode.REMOVE, (section, name), None),
            (ReportMode.REMOVE, (section,), None),
        ]
    )
    shell.on_event(ReportMade("program", mode, path, reported))


def desire(shell: Shell) -> None:
    patch = {shell.rng.choice("ab"): {shell.rng.choice("xyz"): shell.rng.choice([None, 1, 2])}}
    shell.hub.call(lambda: shell.hub.cloud.patch_desired(DEVICE, patch, time.time()))


def misbehave(shell: Shell) -> None:
    shell.hub.faults(**shell.rng.choice(FAULTS))


def recreate(shell: Shell) -> None:
    shell.hub.call(lambda: shell.hub.cloud.recreate("dev-1", time.time()))


STEPS = [
    *[report] * 5,
    *[Shell.pump] * 5,
    *[desire] * 2,
    *[misbehave] * 2,
    *[lambda shell: shell.pass_time(shell.rng.choice([0.3, 1.0, 1.0, 31.0, 700.0]))] * 4,
    *[Shell.connect] * 3,
    Shell.disconnect,
    Shell.restart,
    recreate,
]


@pytest.mark.parametrize("seed", range(5))
def test_both_sides_end_equal_whatever_the_hub_did_wrong(hub: HubInThread, seed: int) -> None:
    shell = Shell(hub, random.Random(seed))
    shell.connect()
    for _ in range(60):
        shell.rng.choice(STEPS)(shell)
    hub.faults()
    shell.settle()
    shell.pass_time(100_000)  # the daily look, which also tries again what was refused
    shell.settle()
    twin = hub.call(lambda: hub.cloud.twins.get(DEVICE))
    assert same(shell.disk.desired, {k: v for k, v in twin["desired"].items() if k != "$version"})
    assert same(shell.disk.wanted, {k: v for k, v in twin["reported"].items() if k != "$version"})
    requests = hub.rows("twin_requests")
    assert {row["request"] for row in requests} == {"GET", "PATCH"}
    assert {row["flaw"] for row in requests} == {""}, "it removed what was not there"
    shell.disconnect()


@pytest.mark.parametrize("rule", [WRONG_RULES[0], WRONG_RULES[2]], ids=str)
def test_a_wrong_rule_of_the_design_is_found_out_here_too(
    hub: HubInThread, rule: WrongRule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rule.module, rule.name, rule.instead)
    with pytest.raises(AssertionError):
        test_both_sides_end_equal_whatever_the_hub_did_wrong(hub, seed=0)
