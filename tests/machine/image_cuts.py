"""Power cuts during updates of the image: after each one a slot starts, and nothing that counts is missing.

    python -m tests.machine.image_cuts --image STEM [--cuts N] [--seed N]

A device that updates again and again: in each start it confirms the slot that is on trial, writes a bundle
into the other slot, and begins its trial, while a producer sends. The plug is pulled at a random moment
between power on and a while after the end; every third slot is never confirmed, and has to come back. At each
start every acknowledged message is on disk, the database is in order, and the device is the same. Of systemd
and the other workers nothing runs, so that a cut takes 15 s instead of a minute.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from deploy.packaging.lock import TOP
from tests.machine import plug
from tests.machine.board import Device, end_in_order, signed_bundle
from tests.support.harness import short_folder

BOOT_S = 240.0
Words = tuple[str, ...]
RUNNING: Words = ("CONFIRMED", "TRIAL")
MOMENTS: tuple[Words, ...] = ((), RUNNING, ("APPLIED", "TRIAL"))
SHARES = (3, 4, 3)
"""Of the cuts: at the start of the machine, while an update runs, when the next start will be a trial."""
A_BOOT = 1_000_000
"""Numbers of one start's messages lie apart from those of the next."""


@dataclass
class Start:
    """What the console showed from power on to the cut."""

    slot: str = ""
    identity: str = ""
    integrity: str = ""
    stored: list[tuple[int, int]] | None = None
    acknowledged: list[int] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)
    at_s: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def read(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        if word == "ACK" and rest.isdigit():
            self.acknowledged.append(int(rest))
        elif word == "STORED":
            self.stored = [(first, last) for first, last in json.loads(rest)]
        elif word in ("SLOT", "IDENTITY", "INTEGRITY"):
            setattr(self, word.lower(), rest)
        elif word in ("READY", "TRIAL", "CONFIRMED", "LAST", "APPLIED", "FAILED"):
            self.words[word] = rest
            self.at_s[word] = time.monotonic()
        self.lines.append(line.rstrip())


class CutDevice:
    """A device on a board, and all that it ever acknowledged."""

    def __init__(self, device: Device, bundle: Path) -> None:
        self.device, self.bundle = device, bundle
        self.acknowledged: set[int] = set()
        self.identity = ""
        self.missing: set[int] = set()
        self.faults: list[str] = []
        self.lasts: set[str] = set()
        self.applied = 0
        self.apply_s = 0.0
        """How long the last update took that was not cut."""
        self.bad = False
        """The slot on trial is never confirmed."""

    def start(
        self, number: int, cut_s: float, *, after: Words = (), look: bool = False, until: str = ""
    ) -> Start:
        """From power on to the cut, or to a word. The time counts from power on, or from one of the words."""
        start = Start()
        arguments = [
            f"edge.next=/run/host{TOP}/tests/machine/image_cut_guest.py", "EDGE_UPDATE_BOOT_DIR=/boot",
            f"CUT_BASE={number * A_BOOT}", f"CUT_LOOK={'yes' if look else 'no'}",
            f"CUT_CONFIRM={'no' if self.bad else 'yes'}", f"CUT_BUNDLE={self.bundle}",
        ]  # fmt: skip
        with self.device.powered(*arguments) as machine:
            overdue = threading.Timer(BOOT_S if after else cut_s, plug.pull, [machine])
            cut = threading.Timer(cut_s, plug.pull, [machine])
            overdue.start()
            assert machine.stdout is not None
            for line in machine.stdout:
                start.read(line)
                if cut.ident is None and start.words.keys() & set(after):
                    cut.start()
                if until in start.words or "FAILED" in start.words or (look and "READY" in start.words):
                    break
            plug.pull(machine)
            for line in machine.stdout:  # what the console had shown before the cut was shown
                start.read(line)
            overdue.cancel()
            cut.cancel()
        self._compare(start)
        return start

    def _compare(self, start: Start) -> None:
        if start.stored is not None:
            missing = {n for n in self.acknowledged if not any(a <= n <= b for a, b in start.stored)}
            self.missing |= missing
            self.acknowledged -= missing
        if start.integrity not in ("", "ok"):
            self.faults.append(f"integrity {start.integrity}")
        if start.identity and self.identity and start.identity != self.identity:
            self.faults.append(f"another identity: {start.identity}")
        self.identity = self.identity or start.identity
        if "FAILED" in start.words:
            self.faults.append(start.words["FAILED"])
        self.acknowledged |= set(start.acknowledged)
        if last := start.words.get("LAST"):
            self.bad = False
            self.lasts.add(last)
        if "APPLIED" in start.words:
            self.apply_s = start.at_s["APPLIED"] - start.at_s["CONFIRMED"]
            self.applied += 1
            self.bad = self.applied % 3 == 0


def run(image: Path, cuts: int, seed: int, folder: Path) -> int:
    """The number of things that went wrong."""
    chance = random.Random(seed)
    device = Device(folder, "cuts", image)
    bundle, key = signed_bundle(folder, image)
    device.configure({"edge.toml": f'[update]\nkeys = ["{key}"]\n[ingest]\ngroup = "edge-producers"\n'})
    cut_device = CutDevice(device, bundle)
    began_s = time.monotonic()
    start = cut_device.start(1, BOOT_S, until="APPLIED")
    if "APPLIED" not in start.words:
        print("\n".join(start.lines[-40:]))
        return 1
    boot_s = start.at_s["CONFIRMED"] - began_s
    print(f"without a cut: {boot_s:.1f} s to start, {cut_device.apply_s:.1f} s to update", flush=True)
    for number in range(2, cuts + 2):
        after = chance.choices(MOMENTS, SHARES)[0]
        longest_s = {(): boot_s, RUNNING: cut_device.apply_s}.get(after, 0.3)
        cut_s = chance.uniform(0, 1.3 * longest_s)
        start = cut_device.start(number, cut_s, after=after)
        if after == RUNNING and "APPLIED" not in start.words and cut_s > 0.8 * cut_device.apply_s:
            cut_device.apply_s *= 1.3  # the machine is busier than before
        words = ("FAILED", "APPLIED", "CONFIRMED", "TRIAL", "READY")
        reached = next((word for word in words if word in start.words), "-")
        when = f"{cut_s:5.1f} s after {after[0] if after else 'power on'}"
        missing = f"{len(cut_device.missing)} of {len(cut_device.acknowledged)} messages missing"
        print(
            f"cut {number - 1:3} {when}: slot {start.slot or '?'}, {reached}; {missing}, {cut_device.faults}",
            flush=True,
        )
    for _ in range(cuts // 5):
        cut_device.faults += cut_first_start(Device(folder, "new", image), chance.uniform(0.5, boot_s))
    start = cut_device.start(cuts + 2, BOOT_S, look=True)
    if "READY" not in start.words:
        cut_device.faults.append("it does not start any more")
        print("\n".join(start.lines[-40:]))
    ends = [last.split()[0] for last in cut_device.lasts]
    print(
        f"{cuts} cuts: {len(cut_device.missing)} of {len(cut_device.acknowledged)} messages missing, "
        f"{ends.count('confirmed')} slots confirmed, {ends.count('came-back')} came back, "
        f"faults: {cut_device.faults or 'none'}"
    )
    return len(cut_device.missing) + len(cut_device.faults)


def cut_first_start(device: Device, cut_s: float) -> list[str]:
    """A new device whose first start is cut, which formats, grows and names: the next one has to be whole."""
    cut_device = CutDevice(device, Path("/none"))
    cut_device.start(1, cut_s, look=True)
    start = cut_device.start(2, BOOT_S, look=True)
    print(f"first start cut at {cut_s:4.1f} s: {'starts' if 'READY' in start.words else start.lines[-20:]}")
    return cut_device.faults + ([] if "READY" in start.words else ["a first start that was cut"])


def main(words: list[str] | None = None) -> int:
    """Exit status 0 if every cut was survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.machine.image_cuts", description=__doc__)
    parser.add_argument("--image", type=Path, required=True, metavar="STEM", help="dist/edge-image_...")
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(words)
    end_in_order()
    with short_folder() as folder:
        return 1 if run(arguments.image.absolute(), arguments.cuts, arguments.seed, folder) else 0


if __name__ == "__main__":
    sys.exit(main())
