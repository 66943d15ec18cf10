"""`python -m tests.machine.emulated`: the package of each architecture, unpacked and run, if need be by qemu.

    python -m tests.machine.emulated [--arch armhf] [--release 12] [--source 'deb URL bookworm main']

Needs root, mmdebstrap, qemu-user-static and binfmt-support; a minute or two for each. The root is extracted,
none of its packages' scripts runs, and it is kept in build/. The time from the package to the first
acknowledged message is measured; then a hundred messages are delivered to the stand-in cloud, and SIGTERM has
to end all of it in order.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploy.packaging import deb
from deploy.packaging.container import compile_modules
from deploy.packaging.debian_root import mmdebstrap
from deploy.packaging.lock import TOP
from deploy.packaging.targets import ARCHITECTURES, RELEASES, Target
from deploy.packaging.tree import PREFIX, find_origin
from tests.support.harness import Cloud, Process, eventually, kill_tree

HOME = "var/lib/edge-runtime"
USER, GROUP = 999, 998
MESSAGES = 100
REACH_S = {"amd64": 6.0, "arm64": 60.0, "armhf": 40.0}
"""From the package to the first acknowledged message, on a quiet machine; foreign processors are emulated."""
PATIENCE_S = 180
BUS = "import zmq; print(f'pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}, CURVE {zmq.has(\"curve\")}')"


def packages_of(target: Target) -> list[str]:
    """Debian's packages in the root: what the package depends on, without what only its scripts need."""
    named = [name.split(" ")[0] for name in target.depends()]
    return [*(name for name in named if name not in ("systemd", "libc6")), "dash", "coreutils", "netbase"]


def extracted_root(target: Target, source: str | None) -> Path:
    """The archive of a root for the target; made once."""
    archive = TOP / "build" / f"extracted-{target.arch}-{target.release}.tar"
    if not archive.exists():
        archive.parent.mkdir(exist_ok=True)
        fresh = archive.with_suffix(".new.tar")
        options = ["--variant=extract", f"--architectures={target.arch}"]
        include = f"--include={','.join(packages_of(target))}"
        sources = [source] if source else []
        with tempfile.TemporaryDirectory(prefix="edge-extracted-") as folder:
            mmdebstrap(*options, include, target.codename, folder, *sources)
            for modules in (f"usr/lib/python{target.python}", "usr/lib/python3"):
                compile_modules(Path(folder), target, modules)
            subprocess.run(["tar", "-C", folder, "-cf", str(fresh), "."], check=True)
        fresh.rename(archive)
    return archive


@contextlib.contextmanager
def machine(target: Target, source: str | None) -> Iterator[Path]:
    """A fresh root, with /proc and /dev."""
    archive = extracted_root(target, source)
    with tempfile.TemporaryDirectory(prefix="edge-emulated-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        subprocess.run(["tar", "-C", folder, "-xf", str(archive)], check=True)
        for name in ("proc", "dev", "tmp", "etc/edge-runtime"):
            (root / name).mkdir(parents=True, exist_ok=True)
        (root / "etc/passwd").write_text(f"edge-runtime:x:{USER}:{USER}::/{HOME}:/bin/false\n")
        (root / "etc/group").write_text(f"edge-producers:x:{GROUP}:\nedge-runtime:x:{USER}:\n")
        subprocess.run(["mount", "-t", "proc", "proc", str(root / "proc")], check=True)
        subprocess.run(["mount", "--bind", "/dev", str(root / "dev")], check=True)
        try:
            yield root
        finally:
            for name in ("proc", "dev"):
                subprocess.run(["umount", "--lazy", str(root / name)], check=False)


class Service:
    """The runtime in a root, as its own user."""

    def __init__(self, root: Path, cloud: Cloud) -> None:
        shutil.copy(cloud.facts["ca_file"], root / "etc/edge-runtime/ca.pem")
        (root / "etc/edge-runtime/ca.pem").chmod(0o644)
        self._settings: dict[str, Any] = {
            "EDGE_HOME": f"/{HOME}",
            "EDGE_PLATFORM_INSTANCE": cloud.facts["instance"],
            "EDGE_PLATFORM_CA_FILE": "/etc/edge-runtime/ca.pem",
            "EDGE_PLATFORM_PROVISIONING_TOKEN": cloud.facts["provisioning_token"],
            "EDGE_PROVISIONING_POLL_S": "1",
            "EDGE_UPLOAD_HTTPS_PORT": str(cloud.facts["https_port"]),
        }
        self._root = root
        self._chroot = ["/usr/sbin/chroot", f"--userspec={USER}:{GROUP}", f"--groups={USER}", str(root)]
        self._up = Process(
            *self._chroot, f"{PREFIX}/bin/edgectl", "up", log=root / "tmp/up.log", **self._settings
        )

    def run(self, *command: str, given: str = "") -> str:
        environment = {"PATH": f"{PREFIX}/bin:/usr/bin:/bin", **self._settings}
        done = subprocess.run(
            [*self._chroot, *command], input=given, capture_output=True, text=True, env=environment,
            timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}\n{self._up.said()}"
        return done.stdout

    def wait_for_socket(self) -> None:
        socket = self._root / HOME / "ingest.sock"
        eventually(lambda: socket.exists() or not self._up.running(), PATIENCE_S, "it listens to producers")
        assert self._up.running(), self._up.said()

    def cpu_s(self) -> float:
        """Seconds of CPU that the root's processes, and those that ended in it, have used."""
        ticks = 0
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended
                if (process / "root").readlink() == self._root:
                    fields = (process / "stat").read_text().rpartition(")")[2].split()
                    ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        assert self._up.terminate(60) == 0, self._up.said()

    def kill(self) -> None:
        if self._up.running():
            kill_tree(self._up.pid)


def unpack(package: Path, root: Path, target: Target) -> None:
    """As an installation does it; the bytecode is made here, for it is the same on every processor."""
    subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)
    home = root / HOME
    home.mkdir(parents=True, exist_ok=True)
    os.chown(home, USER, GROUP)
    home.chmod(0o711)
    os.chown(root / "etc/edge-runtime/edge.toml", 0, USER)
    compile_modules(root, target, str(PREFIX.relative_to("/") / "lib"))


def check(target: Target, package: Path, source: str | None, *, strict: bool) -> None:
    """One package from unpacking to its orderly end. With `strict` the first message has to come in time."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="edge-cloud-"))
        root = stack.enter_context(machine(target, source))
        cloud = stack.enter_context(contextlib.closing(Cloud(Path(folder) / "cloud")))
        began_s = time.monotonic()
        unpack(package, root, target)
        service = Service(root, cloud)
        stack.callback(service.kill)
        service.wait_for_socket()
        service.run("edgectl", "send", "--stream", "s", "--retry-for", "60", "first")
        first_s, used_s = time.monotonic() - began_s, service.cpu_s()
        print(f"{target.arch}: first message acknowledged after {first_s:.1f} s")
        print(f"{target.arch}: the service had used {used_s:.1f} s of CPU by then")
        bus = service.run("python", "-c", BUS).strip()
        print(f"{target.arch}: {bus}", flush=True)
        eventually(cloud.approve_all, PATIENCE_S, "the device asks for approval")
        lines = "".join(f"{number}\n" for number in range(MESSAGES - 1))
        service.run("edgectl", "send", "--stream", "s", "--lines", given=lines)
        eventually(lambda: cloud.message_count() == MESSAGES, PATIENCE_S, "all arrive")
        print(f"{target.arch}: {MESSAGES} delivered after {time.monotonic() - began_s:.1f} s", flush=True)
        ending_s = time.monotonic()
        service.stop()
        print(f"{target.arch}: ended in order within {time.monotonic() - ending_s:.1f} s", flush=True)
        assert not strict or first_s <= REACH_S[target.arch], (
            f"{first_s:.1f} s, {REACH_S[target.arch]:g} asked"
        )


def main(words: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--arch", choices=ARCHITECTURES, help="default: all three")
    arguments.add_argument("--release", choices=RELEASES, default=RELEASES[0], help="of Debian")
    arguments.add_argument(
        "--package", type=Path, metavar="FILE", help="run this one instead of building one"
    )
    arguments.add_argument("--source", metavar="LINE", help="of sources.list, instead of mmdebstrap's own")
    arguments.add_argument("--strict", action="store_true", help="fail where the first message comes late")
    asked = arguments.parse_args(words)
    if os.geteuid() != 0:
        print("error: must be run as root", file=sys.stderr)
        return 2
    origin = find_origin()
    for arch in (asked.arch,) if asked.arch else ARCHITECTURES:
        target = Target(arch, asked.release)
        package = asked.package or deb.build_runtime(target, origin, TOP / "dist")
        check(target, package, asked.source, strict=asked.strict)
    return 0


if __name__ == "__main__":
    sys.exit(main())
