"""A one-way update of a real version before: the last one that wrote the first schema of the store.

    python -m tests.machine.update_one_way [--before COMMIT] [--backlog N]

The version before is taken out of the history, and runs with its own code: it registers at a stand-in cloud,
delivers, and collects a backlog while the hub is away. Then its own `edgectl update` looks at the present
version, refuses it without `--one-way`, and applies it with. Every acknowledged message has to arrive, in
the order of the acknowledgements, whatever version stored it. Afterwards the way back is tried, by
`rollback` and by hand. It takes two minutes, and needs Debian's Python 3.11 and the whole history.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.machine.update import FIRST, Trouble, check
from tests.support.harness import Cloud, eventually, short_folder
from tests.support.update_device import INTERPRETER, PACKAGE, Load, UpdateDevice

BEFORE = "28d7171c428fe2bcfb117fced812423cd8dbd1a1"
"""The last commit whose store has schema 1."""
NEW = "2.0.0"
PATIENCE_S = 300.0


def version_before(commit: str, folder: Path) -> Path:
    """The package of an older version, out of the history. Raises CalledProcessError without it."""
    command = ["git", "-C", str(PACKAGE.parent), "archive", commit, "runtime", "supervisord.conf"]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder / "runtime"


def said_by(device: UpdateDevice, *words: str, status: int) -> str:
    """The output of `edgectl update` of the version in use; it has to end with this status."""
    process = device.edgectl("update", *words)
    output, _ = process.communicate(timeout=PATIENCE_S)
    check(process.returncode == status, f"{words}: status {process.returncode}: {output}")
    print(f"{device.in_use.readlink().name}: edgectl update {words[0]}: {output.strip()}", flush=True)
    return output


def check_health(device: UpdateDevice, text: str) -> None:
    health = device.edgectl("health", "--wait", "90")
    output, _ = health.communicate(timeout=120)
    check(health.returncode == 0, f"{text}: {output}")


def arrived(cloud: Cloud) -> list[int]:
    """The numbers of the messages of the load, in the order of their arrival."""
    return [int(each.payload) for each in cloud.messages() if each.payload.isdigit()]


def collect(device: UpdateDevice, cloud: Cloud, backlog: int) -> Load:
    """Deliver some messages by the version before, then collect a backlog while the hub is away."""
    check_health(device, "the version before does not start")
    eventually(cloud.approve_all, PATIENCE_S, "the version before asks for approval")
    load = Load(device, pause_s=0.001)
    eventually(lambda: len(arrived(cloud)) > 200, PATIENCE_S, "the version before delivers")
    cloud.hub(up=False)
    sent = len(load.acknowledged)
    eventually(lambda: len(load.acknowledged) > sent + backlog, PATIENCE_S, "a backlog grows")
    return load


def try_ways_back(device: UpdateDevice) -> None:
    """`rollback` refuses; the version before, started by hand, does so, too, and changes nothing."""
    text = said_by(device, "rollback", status=1)
    check(f"there is no way back to {FIRST}: it cannot open" in text, f"rollback says {text}")
    check(device.in_use.readlink().name == NEW, "rollback changed the version in use")
    check_health(device, "rollback did something to the service")
    device.power_cut()
    link = device.in_use
    link.unlink()
    link.symlink_to(f"{device.folder.name}/{FIRST}")
    device.power_on(watch=False)  # it would remove a version that it does not know
    log = device.home / "log/ingest.log"
    eventually(
        lambda: "newer" in log.read_text(errors="replace"), PATIENCE_S, "the version before refuses the store"
    )
    refusal = [line for line in log.read_text(errors="replace").splitlines() if "newer" in line][-1]
    print(f"{FIRST}, started by hand: {refusal}", flush=True)
    device.power_cut()
    link.unlink()
    link.symlink_to(f"{device.folder.name}/{NEW}")
    device.power_on()
    check_health(device, "the present version does not start again")


def compare(load: Load, cloud: Cloud) -> str:
    """Every acknowledged message arrived, and in its order."""
    eventually(lambda: load.acknowledged <= set(arrived(cloud)), PATIENCE_S, "every message arrives")
    numbers = arrived(cloud)
    first = list(dict.fromkeys(numbers))
    check(first == sorted(first), "messages arrived out of order")
    twice = len(numbers) - len(first)
    return f"{len(load.acknowledged)} messages acknowledged, all arrived, in order; {twice} twice"


def run(commit: str, backlog: int, base: Path) -> None:
    """One device, from the version before to the present one. Raises Trouble."""
    package = version_before(commit, base / "before")
    cloud = Cloud(base / "cloud")
    device = UpdateDevice(
        base / "d", FIRST, confirm_s=90.0, package=package, counted=False, toml=cloud.config_toml()
    )
    try:
        device.power_on()
        load = collect(device, cloud, backlog)
        bundle = device.bundle(NEW)
        check("ONE WAY" in said_by(device, "inspect", str(bundle), status=0), "inspect does not say ONE WAY")
        text = said_by(device, "apply", str(bundle), status=1)
        check("is one way" in text and "--one-way" in text, f"apply says {text}")
        said_by(device, "apply", "--one-way", str(bundle), status=0)
        check(device.in_use.readlink().name == NEW, "the new version is not in use")
        check_health(device, "the new version does not run")
        check(json.loads(said_by(device, "status", "--json", status=0))["no_way_back"], "it knows a way back")
        after = len(load.acknowledged)
        eventually(lambda: len(load.acknowledged) > after + 100, PATIENCE_S, "the new version stores")
        try_ways_back(device)
        load.stop()
        cloud.hub(up=True)
        print(f"one way from {commit[:9]}: {compare(load, cloud)}", flush=True)
    finally:
        device.close()
        cloud.close()


def main(words: list[str] | None = None) -> int:
    """Exit status 0 if nothing is missing, 2 where it cannot be tried here."""
    parser = argparse.ArgumentParser(prog="python -m tests.machine.update_one_way", description=__doc__)
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT")
    parser.add_argument("--backlog", type=int, default=2000)
    arguments = parser.parse_args(words)
    known = subprocess.run(
        ["git", "-C", str(PACKAGE.parent), "cat-file", "-e", arguments.before], capture_output=True
    )
    if known.returncode or not Path(INTERPRETER).exists():
        print(
            f"cannot be tried here: needs {INTERPRETER}, and {arguments.before} in the history",
            file=sys.stderr,
        )
        return 2
    with short_folder() as base:
        try:
            run(arguments.before, arguments.backlog, base)
        except Trouble as trouble:
            print(trouble, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
