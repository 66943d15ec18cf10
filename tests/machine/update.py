"""Updates by real processes: killed at random moments, and bundles that are bad in every way.

    python -m tests.machine.update [--kills 100] [--bad 50] [--seed N]

A whole device in a folder: versions side by side, the service, the watch, and a producer that never stops.
At a random moment of an update every process is killed; what then starts has to be a whole version, the
update has to end, and no acknowledged message may be missing. What a disk does not keep at a power cut is
tried change by change in tests/unit/test_update_power_cuts.py. Needs Debian's Python 3.11; half a minute for
each kill, and for each bad version that gets as far as its trial.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from runtime.adapters.update.journal_file import read_journal
from runtime.core.update.manifest import BundleKind, SchemaRange
from runtime.core.update.progress import UpdatePhase
from runtime.operations.updates import SCHEMAS
from tests.support.harness import mount_ext4, short_folder
from tests.support.minisign import SigningKey
from tests.support.update_device import INTERPRETER, Load, UpdateDevice

FIRST = "1.0.0"
IN_SERVICE = "if 'imports' not in __import__('sys').argv: "
"""Not where `apply` has a version import itself: workers are forked of a process that imported them."""
ON_TRIAL = {
    "ingest crashes": {"workers/ingest.py": f"{IN_SERVICE}raise RuntimeError('bad')\n"},
    "a worker hangs": {"workers/upload.py": f"{IN_SERVICE}__import__('time').sleep(1e6)\n"},
    "the sentinel hangs": {"workers/sentinel.py": f"{IN_SERVICE}__import__('time').sleep(1e6)\n"},
    "up crashes": {"cli/up.py": "raise RuntimeError('bad')\n"},
    "up hangs": {"cli/up.py": "__import__('time').sleep(1e6)\n"},
    "up ends at once": {"cli/up.py": "raise SystemExit(0)\n"},
    "the store cannot be opened": {
        "adapters/store/opening.py": "import sqlite3\n\ndef _no(*_): raise sqlite3.OperationalError('no')\n"
        "sqlite3.connect = _no if 'imports' not in __import__('sys').argv else sqlite3.connect\n"
    },
    "it fills the memory": {
        "workers/ingest.py": f"{IN_SERVICE}\n    import resource\n    "
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))\n    hog = bytearray(1 << 30)\n"
    },
    "it fills the memory of its probe": {"operations/update_probe.py": "hog = bytearray(1 << 32)\n"},
    "its probe hangs": {"operations/update_probe.py": "__import__('time').sleep(1e6)\n"},
}


class Trouble(AssertionError):
    """Something that must not happen."""


def check(condition: object, text: str) -> None:
    if not condition:
        raise Trouble(text)


def rest(device: UpdateDevice, allowed: set[str], uuid: str) -> str:
    """The version in service, after everything came to rest; raises Trouble."""
    status = device.status()
    check(status["phase"] == "none", f"the update has not ended: {status}")
    in_use = device.in_use.readlink().name
    check(in_use in allowed, f"{in_use} is in use, of {allowed}")
    check(not (device.folder / ".trial").is_symlink(), "the trial's link is still there")
    health = device.edgectl("health", "--wait", "180")  # of a busy machine
    check(health.wait(210) == 0, f"not healthy: {health.stdout and health.stdout.read()}")
    check(device.running_version() == in_use, f"{device.running_version()} runs, in use is {in_use}")
    check(store_uuid(device) == uuid, "the store is another")
    return in_use


def store_uuid(device: UpdateDevice) -> str:
    with contextlib.closing(sqlite3.connect(device.home / "state/messages.db", timeout=30)) as db:
        return str(db.execute("SELECT uuid FROM store").fetchone()[0])


def killed(device: UpdateDevice, kills: int, late: float, chance: random.Random, uuid: str) -> Counter[str]:
    """Updates that are killed at random moments, of which the share `late` is counted from the trial on."""
    outcomes: Counter[str] = Counter()
    usual_s = 14.0
    for number in range(1, kills + 1):
        old, new = device.in_use.readlink().name, f"1.0.{number}"
        file = device.bundle(new)
        began_s = time.monotonic()
        apply = device.edgectl("update", "apply", str(file))
        if chance.random() < late:
            wait_for_trial(device, apply)
        with contextlib.suppress(Exception):
            apply.wait(chance.uniform(0.2, usual_s))
        took_s = time.monotonic() - began_s
        if apply.poll() is not None:
            usual_s = max(6.0, took_s)
        phase = device.status()["phase"] if chance.random() < 0.5 else "?"
        device.power_cut()
        if chance.random() < 0.3:  # and again, while it goes on
            cut_again(device, chance.uniform(0.2, 6.0))
        device.power_on()
        now = rest(device, {old, new}, uuid)
        outcome = "went on to the new version" if now == new else "stayed at the old one"
        outcomes[outcome] += 1
        file.unlink()
        print(f"kill {number}: after {took_s:.1f} s, {phase}: {outcome}", flush=True)
    return outcomes


def wait_for_trial(device: UpdateDevice, apply: subprocess.Popen[str]) -> None:
    while apply.poll() is None and read_journal(device.folder).phase is not UpdatePhase.TRIAL:
        time.sleep(0.02)


def cut_again(device: UpdateDevice, after_s: float) -> None:
    timer = threading.Timer(after_s, device.power_cut)
    timer.start()
    with contextlib.suppress(Exception):
        device.power_on()
    timer.join()


def refusals(device: UpdateDevice) -> Iterator[tuple[str, Callable[[str], Path]]]:
    """Bundles of which nothing may be written, and how each is made."""
    yield "signed by another key", lambda v: device.bundle(v, key=SigningKey(b"stranger"))
    yield "signed by a key that calls itself ours", lambda v: device.bundle(v, key=SigningKey())
    yield "cut off", lambda v: changed(device.bundle(v), lambda content: content[: len(content) // 2])
    yield "cut off in its head", lambda v: changed(device.bundle(v), lambda content: content[:700])
    yield "empty", lambda v: changed(device.bundle(v), lambda _: b"")
    yield "a flipped bit in the part", lambda v: changed(device.bundle(v), flip(-200_000))
    yield "a flipped bit in the manifest", lambda v: changed(device.bundle(v), flip(600))
    yield "for another architecture", lambda v: device.bundle(v, architecture="riscv64")
    yield "for another Python", lambda v: device.bundle(v, python="3.99")
    yield "for a slot", lambda v: device.bundle(v, kind=BundleKind.IMAGE)
    yield "needs a newer version before", lambda v: device.bundle(v, minimum_version="77.0")
    yield (
        "opens a newer schema only",
        lambda v: device.bundle(v, schemas={**SCHEMAS, "messages.db": SchemaRange(98, 99)}),
    )
    yield (
        "one way, and the command did not say so",
        lambda v: device.bundle(v, schemas={**SCHEMAS, "messages.db": SchemaRange(1, 99)}),
    )
    yield "larger than any disk", lambda v: device.bundle(v, unpacked_bytes=1 << 40)
    yield (
        "cannot be imported",
        lambda v: device.bundle(v, {"workers/ingest.py": "raise ImportError('bad')\n"}),
    )
    yield "no Python at all", lambda v: device.bundle(v, {"__main__.py": "this is no Python\n"})
    yield (
        "hangs when it is imported",
        lambda v: device.bundle(v, {"workers/refresh.py": "import time; time.sleep(1e6)\n"}),
    )


def changed(file: Path, change: Callable[[bytes], bytes]) -> Path:
    file.write_bytes(change(file.read_bytes()))
    return file


def flip(at: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        copy = bytearray(content)
        copy[at] ^= 4
        return bytes(copy)

    return change


def bad(device: UpdateDevice, count: int, on_trial: int, uuid: str) -> Counter[str]:
    """Bundles that must not come into use."""
    outcomes: Counter[str] = Counter()
    refused = list(refusals(device))
    trials = list(ON_TRIAL.items())
    for number in range(count):
        old, version = device.in_use.readlink().name, f"2.0.{number}"
        if number < on_trial:
            name, changes = trials[number % len(trials)]
            file = device.bundle(version, changes)
        else:
            name, make = refused[number % len(refused)]
            file = make(version)
        apply = device.edgectl("update", "apply", str(file))
        said, _ = apply.communicate(timeout=400)
        check(apply.returncode == 1, f"{name}: status {apply.returncode}: {said}")
        rest(device, {old}, uuid)
        last = device.status()["last"]
        outcome = "came back" if last and last["version"] == version else "refused"
        outcomes[outcome] += 1
        check(not (device.folder / version).exists(), f"{name}: it is still on the disk")
        print(f"bad {number}: {name}: {outcome}: {said.strip().splitlines()[-1][:160]}", flush=True)
        file.unlink()
    return outcomes


def full_disk() -> None:
    """A disk that is full in the midst of unpacking: nothing is left of it. For root."""
    with short_folder() as place:
        mount_ext4(place.with_suffix(".img"), place, 24 << 20)
        try:
            device = UpdateDevice(place / "d")
            file = device.bundle("1.0.1", filler_bytes=16 << 20, unpacked_bytes=0)
            (place / "filler").write_bytes(bytes(shutil.disk_usage(place).free - (6 << 20)))
            apply = device.edgectl("update", "apply", str(file))
            said, _ = apply.communicate(timeout=200)
            check(apply.returncode == 1, f"full disk: {apply.returncode}: {said}")
            check(
                {p.name for p in device.folder.iterdir()} <= {FIRST, ".lock", "update.json"}, "rests are left"
            )
            print(f"full disk: {said.strip().splitlines()[-1][:160]}")
        finally:
            subprocess.run(["umount", str(place)], check=True)
            place.with_suffix(".img").unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Updates that are killed, and bad ones.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--late", type=float, default=0.5, help="share of the kills on trial (%(default)s)")
    parser.add_argument("--bad", type=int, default=50)
    parser.add_argument("--on-trial", type=int, default=20, help="of the bad ones get so far (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    arguments = parser.parse_args()
    if not Path(INTERPRETER).exists():
        print(f"cannot be tried here: {INTERPRETER} is missing", file=sys.stderr)
        return 2
    print(f"--seed {arguments.seed}", flush=True)
    full_disk()
    with short_folder() as base:
        device = UpdateDevice(base, FIRST, confirm_s=40.0)
        try:
            device.power_on()
            check(
                device.edgectl("health", "--wait", "180").wait(210) == 0, "the first version does not start"
            )
            uuid = store_uuid(device)
            load = Load(device)
            outcomes = killed(device, arguments.kills, arguments.late, random.Random(arguments.seed), uuid)
            turned_bad = bad(device, arguments.bad, arguments.on_trial, uuid)
            load.stop()
            device.power_cut()
            lost = load.missing()
        finally:
            device.close()
    print(f"{arguments.kills} updates killed at random: {dict(outcomes)}, 0 bricked")
    print(f"{arguments.bad} bad ones: {dict(turned_bad)}, none in use")
    print(f"{len(load.acknowledged)} messages acknowledged, {len(lost)} lost")
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
