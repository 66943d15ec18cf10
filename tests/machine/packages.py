"""`make packages`: every package built; the one for this machine through its whole life in a Debian root.

    python -m tests.machine.packages [--only-life]

Needs root, mmdebstrap and lintian; about five minutes, of which two make the root (kept in build/ for the
next time). In the root a script stands for systemctl and notes what it is asked; a live systemd is asked by
`python -m tests.machine.systemd --packages`. The device in it is enrolled at the stand-in cloud, gets a
backlog, is upgraded, downgraded, installed again, removed and purged; nothing that it acknowledged may be
missing at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.packaging import deb
from deploy.packaging.__main__ import main as packaging
from deploy.packaging.debian_root import mmdebstrap
from deploy.packaging.lock import TOP
from deploy.packaging.targets import RELEASES, Target
from deploy.packaging.tree import find_origin
from tests.support.harness import Cloud, Process, eventually, kill_tree

TARGET = Target("amd64", RELEASES[0])
INCLUDE = "python3,ca-certificates,systemd,libstdc++6"
HOME = "var/lib/edge-runtime"
CHANGED = "# changed by hand\n"
MESSAGES = 50


ASKED = "tmp/systemctl.log"
SYSTEMCTL = f"""#!/bin/sh
case "$*" in
*is-enabled*)
    if [ -L /etc/systemd/system/multi-user.target.wants/edge-runtime.service ]; then echo enabled; exit 0; fi
    echo disabled
    exit 1
    ;;
*is-active*) exit 3 ;;
*--root=*) exec /usr/bin/systemctl.real "$@" ;;
*) echo "$*" >>/{ASKED} ;;
esac
"""
"""Stands in the root for systemctl, and notes what the packages' scripts ask of a running systemd; what they
ask about files (`--root`) goes to the real one."""
STARTED = ["daemon-reload", "start edge-runtime.service"]
RESTARTED = ["daemon-reload", "restart edge-runtime.service"]
STOPPED = ["stop edge-runtime.service", "daemon-reload"]


class Device:
    """A Debian root in which packages are installed and a runtime runs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._up: Process | None = None

    def run(self, *command: str, fails: bool = False, **environment: str) -> str:
        """Run a command inside; `fails`: its failure is wanted."""
        plain = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "DEBIAN_FRONTEND": "noninteractive",
            "LANG": "C.UTF-8",
        }
        done = subprocess.run(
            ["chroot", str(self.root), *command], capture_output=True, text=True, timeout=240,
            env={**plain, **environment}, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def install(self, package: Path) -> str:
        shutil.copy(package, self.root / "tmp/package.deb")
        return self.run("dpkg", "-i", "/tmp/package.deb")

    def asked(self) -> list[str]:
        """What was asked of systemd since the last time, without options."""
        file = self.root / ASKED
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [" ".join(word for word in line.split() if not word.startswith("-")) for line in lines]

    def start(self) -> None:
        """`edgectl up` as the unit starts it: its user, its main group, its home."""
        log, home = self.root / "tmp/up.log", f"/{HOME}"
        self.run(
            "install", "-d", "-m", "711", "-o", "edge-runtime", "-g", "edge-producers", home
        )  # as StateDirectory
        command = [
            "chroot",
            "--userspec=edge-runtime:edge-producers",
            "--groups=edge-runtime",
            str(self.root),
        ]
        shutil.rmtree(self.root / HOME / "run", ignore_errors=True)  # as at a boot: no figures of before
        settings: dict[str, Any] = {"EDGE_HOME": home, "EDGE_CONFIG": "/etc/edge-runtime/edge.toml"}
        self._up = Process(*command, "/usr/bin/edgectl", "up", log=log, **settings)
        try:
            self.run("edgectl", "health", "--wait", "60")
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self._up.said()}") from exc

    def stop(self) -> None:
        """SIGTERM, as systemd stops it; it has to end in order."""
        assert self._up is not None
        assert self._up.terminate(40) == 0, self._up.said()
        self._up = None

    def kill(self) -> None:
        if self._up is not None:
            kill_tree(self._up.pid)

    def send(self, count: int) -> None:
        """Send that many messages, each acknowledged."""
        subprocess.run(
            ["chroot", str(self.root), "edgectl", "send", "--stream", "s", "--lines"], check=True, timeout=60,
            input="".join(f"{number}\n" for number in range(count)), text=True, capture_output=True,
        )  # fmt: skip

    def backlog(self) -> int:
        done = subprocess.run(
            ["chroot", str(self.root), "edgectl", "status", "--json"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        return int(json.loads(done.stdout)["backlog"]["messages"])

    def device_id(self) -> str:
        return str(json.loads(self.run("edgectl", "identity", "--json"))["device_id"])


@contextlib.contextmanager
def debian() -> Iterator[Device]:
    """A fresh root; what it was made of is kept."""
    archive = TOP / "build" / f"debian-{TARGET.release}.tar"
    if not archive.exists():
        archive.parent.mkdir(exist_ok=True)
        print("making a Debian root, once", flush=True)
        fresh = archive.with_suffix(".new.tar")
        mmdebstrap("--variant=minbase", f"--include={INCLUDE}", TARGET.codename, str(fresh))
        fresh.rename(archive)
    with tempfile.TemporaryDirectory(prefix="edge-root-") as folder:
        root = Path(folder)
        subprocess.run(["tar", "-C", folder, "-xf", str(archive)], check=True)
        device = Device(root)
        systemctl = root / "usr/bin/systemctl"
        systemctl.rename(systemctl.with_suffix(".real"))
        systemctl.write_text(SYSTEMCTL)
        systemctl.chmod(0o755)
        (root / "run/systemd/system").mkdir(parents=True)
        subprocess.run(["mount", "-t", "proc", "proc", str(root / "proc")], check=True)
        subprocess.run(["mount", "--bind", "/dev", str(root / "dev")], check=True)
        try:
            yield device
        finally:
            device.kill()
            for name in ("proc", "dev"):
                subprocess.run(["umount", "--lazy", str(root / name)], check=False)


def life(before: Path, now: Path) -> None:
    """Install, upgrade, downgrade, install again, remove, purge: with a backlog, tokens, a changed file."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-cloud-"))
        device = stack.enter_context(debian())
        cloud = stack.enter_context(contextlib.closing(Cloud(Path(folder))))
        step("install", device.install(before))
        assert device.asked() == STARTED
        configure(device, cloud)
        device.start()
        eventually(cloud.approve_all, 60, "the device asks for approval")
        device.send(MESSAGES)
        eventually(lambda: cloud.message_count() == MESSAGES, 60, "they arrive")
        known_as = device.device_id()
        cloud.hub(up=False)
        device.send(MESSAGES)
        device.stop()
        for name, package in (
            ("upgrade", now),
            ("downgrade", before),
            ("again", now),
            ("the same again", now),
        ):
            step(name, device.install(package))
            assert device.asked() == RESTARTED
            check_kept(device, known_as, MESSAGES)
            device.start()
            device.stop()
        device.run("dpkg", "--verify", "edge-runtime")
        (device.root / "etc/systemd/system/multi-user.target.wants/edge-runtime.service").unlink()
        step("again, where an operator disabled it", device.install(now))
        assert device.asked() == ["daemon-reload"], "it stays as it is"
        device.run("systemctl", "--root=/", "enable", "edge-runtime.service")
        step("remove", device.run("dpkg", "--remove", "edge-runtime"))
        assert device.asked() == STOPPED
        assert not (device.root / "usr/lib/edge-runtime").exists(), "bytecode stayed"
        said = step("purge", device.run("dpkg", "--purge", "edge-runtime"))
        assert "not be delivered" in said and (device.root / HOME / "state/messages.db").exists()
        device.asked()
        step("install after purge", device.install(now))
        assert device.asked() == STARTED
        configure(device, cloud)
        cloud.hub(up=True)
        device.start()
        eventually(lambda: cloud.message_count() == 2 * MESSAGES, 60, "the backlog arrives after all of it")
        eventually(lambda: device.backlog() == 0, 30, "and is gone")
        assert device.device_id() == known_as
        device.stop()
        step("purge when all is delivered", device.run("dpkg", "--purge", "edge-runtime"))
        assert not (device.root / HOME).exists() and not (device.root / "etc/edge-runtime/edge.toml").exists()
        device.install(now)
        (device.root / HOME / "state").mkdir(parents=True)
        (device.root / HOME / "state/messages.db").write_bytes(b"unreadable")
        device.run("dpkg", "--purge", "edge-runtime", EDGE_PURGE="all")
        assert not (device.root / HOME).exists(), "told to delete all"


def step(name: str, said: str) -> str:
    print(f"{name}: done", flush=True)
    return said


def configure(device: Device, cloud: Cloud) -> None:
    """The operator's own edge.toml."""
    file = device.root / "etc/edge-runtime/edge.toml"
    text = cloud.config_toml(ingest='group = "edge-producers"')
    for path in (Path(cloud.facts["ca_file"]), cloud.folder / "device-provisioning-token"):
        copy = file.with_name(path.name)
        shutil.copy(path, copy)
        copy.chmod(0o644)
        text = text.replace(str(path), f"/etc/edge-runtime/{path.name}")
    file.write_text(CHANGED + text)


def check_kept(device: Device, known_as: str, backlog: int) -> None:
    assert (device.root / "etc/edge-runtime/edge.toml").read_text().startswith(CHANGED)
    assert not [*(device.root / "etc/edge-runtime").glob("*.dpkg-*")], "nothing was asked"
    assert device.device_id() == known_as
    assert device.backlog() == backlog


def main(words: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--only-life", action="store_true", help="do not build for the other devices")
    asked = arguments.parse_args(words)
    if os.geteuid() != 0:
        print("error: must be run as root", file=sys.stderr)
        return 2
    origin = find_origin()
    same = ["--version", origin.version]  # also where the checkout changes meanwhile
    if not asked.only_life:
        status = packaging([*same, "deb", "--arch", "all", "--release", "all"])
        if status:
            return status
        for package in sorted((TOP / "dist").glob(f"*{origin.version}*.deb")):
            subprocess.run(
                ["lintian", "--tag-display-limit", "0", "--fail-on", "error", str(package)], check=True
            )
        if status := packaging([*same, "bundle"]):
            return status
    with tempfile.TemporaryDirectory(prefix="edge-packages-") as folder:
        out = Path(folder)
        life(*(deb.build_runtime(TARGET, find_origin(version), out) for version in ("0.0.9", origin.version)))
    print("packages: all in order")
    return 0


if __name__ == "__main__":
    sys.exit(main())
