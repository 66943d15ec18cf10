"""The plug is pulled with packs on their way: the note of them may be old, torn or gone, and nothing is lost.

upload's half that faces the store works over a real store; its note is written as always, and each cut leaves
of it what a disk may leave (tests/support/power.py). The rows themselves are synced by ingest.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from runtime.core.delivery.events import Acked
from runtime.core.delivery.packing import unpack
from runtime.layout import Layout
from tests.support.power import Disk, Fate, Sync, Write
from tests.support.upload_source_world import Device

ROUNDS, EACH = 12, 40


class Plug:
    """What of upload's note is on the disk, and what of it is left when the power is cut."""

    def __init__(self, device_folder: Path, fate: Fate) -> None:
        self.fate = fate
        self.chance = random.Random(11)
        self._path = Layout(device_folder).under_way
        self._disk, self._written = Disk(), b""

    def look(self) -> None:
        """Take in a write, if there was one; the kernel writes it to the disk by itself, now and then."""
        if self._path.exists() and (line := self._path.read_bytes()) != self._written:
            self._written = line
            self._disk.take(Write("under-way", 0, line))
            if self.chance.random() < 0.05:
                self._disk.take(Sync("under-way"))

    def pull(self) -> None:
        image = self._disk.after_a_cut(self.fate, self.chance).get("under-way", b"")
        self._path.write_bytes(image)
        self._disk, self._written = Disk(), image
        self._disk.take(Write("under-way", 0, image))
        self._disk.take(Sync("under-way"))


class Platform:
    """What arrived: by the name of what was sent, the messages in it."""

    def __init__(self) -> None:
        self.arrived: dict[str, dict[str, bytes]] = {}

    def take_in(self, device: Device) -> None:
        for telemetry in device.telemetry:
            members = unpack(telemetry) if "#" in telemetry.mid else [telemetry]
            content = {one.mid: one.payload for one in members}
            assert self.arrived.setdefault(telemetry.mid, content) == content, "one name, other members"
        device.telemetry.clear()


def work(device: Device, plug: Plug, platform: Platform) -> None:
    """Some turns, in which the hub acknowledges some of what is sent."""
    device.answers = False
    for _ in range(plug.chance.randrange(2, 5)):
        device.turn()
        platform.take_in(device)
        plug.look()
        for _ in range(plug.chance.randrange(2)):
            if device.in_flight:
                tag = device.in_flight.pop(0)
                device.delivery.on_event(Acked(device.client, tag), device.clock.boot, 0.5)
        device.settle(device.delivery.drain_settled())
    device.close()


@pytest.mark.parametrize("fate", ["kept", "torn", "dropped"])
def test_no_cut_of_power_loses_a_message_and_every_repeat_is_known_by_its_id(
    tmp_path: Path, fate: Fate
) -> None:
    toml = '[stream.s]\npack = "lines"\npack_units = {}\n'
    plug, platform, stored = Plug(tmp_path, fate), Platform(), list[bytes]()
    for attempt in range(ROUNDS):
        device = Device(tmp_path, toml.format(1 + attempt % 3), window=3)
        device.clock.boots = attempt
        payloads = [b"%d." % (len(stored) + n) * plug.chance.randrange(1, 200) for n in range(EACH)]
        device.put("s", *payloads, producer="p", first=len(stored) + 1)
        stored += payloads
        work(device, plug, platform)
        plug.pull()

    device = Device(tmp_path, toml.format(2))
    while device.backlog():
        device.turn()
        platform.take_in(device)
    device.close()
    times = Counter(id for members in platform.arrived.values() for id in members)
    payloads_of = {id: payload for members in platform.arrived.values() for id, payload in members.items()}
    assert sorted(payloads_of.values()) == sorted(stored), "lost, or two messages under one id"
    twice = sum(count > 1 for count in times.values())
    if fate != "torn":  # half of its notes are whole
        assert (twice == 0) == (fate == "kept"), f"{twice} of {len(stored)} came under two names"
