"""`make container`: the image built and run as a container platform runs it, by podman and runc.

    python -m tests.machine.container [--image FILE]

Needs root, mmdebstrap, podman and runc; a minute or two. The container is an ordinary user without
capabilities on a read-only root, told by its environment alone. It is enrolled at the stand-in cloud and
delivers a hundred messages; its first process reaps what others leave behind and ends in order at SIGTERM.
A second one is root on a root that takes writes, and still has to write nowhere but in its home. The compose
file and the Kubernetes example are checked by their schemas where the checkers (docker-compose,
kubernetes-validate) are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deploy.packaging.__main__ import main as packaging
from deploy.packaging.container import GROUP, HOME, USER
from deploy.packaging.lock import TOP
from tests.support.harness import Cloud, eventually

PODMAN = ["podman", "--runtime", "/usr/sbin/runc", "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs"]
"""What works inside another container, too: crun fails on hybrid cgroups, overlay on overlay."""
MESSAGES = 100
LARGEST_BYTES = 30_000_000
EXAMPLES = TOP / "deploy" / "container"


CONFINED = ("--read-only", "--read-only-tmpfs=false", "--cap-drop=all", "--security-opt=no-new-privileges")
ALLOWED_EVERYTHING = ("--user=0:0",)
"""Root on a root that takes writes: whatever is written shows in `podman diff`."""


class Container:
    """One container of the image, removed at the end."""

    def __init__(self, image: str, home: Path, *options: str, limits: tuple[str, ...] = CONFINED) -> None:
        ulimits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"]
        mounts = ["--network=host", f"--volume={home}:/{HOME}"]
        self.id = podman("run", "--detach", *limits, *ulimits, *mounts, *options, image)

    def run(self, *command: str, given: str = "") -> str:
        return podman("exec", "--interactive", self.id, *command, given=given)

    def python(self, code: str) -> str:
        return self.run("/usr/lib/edge-runtime/bin/python", "-I", "-c", code)

    def cpu_s(self) -> float:
        """Seconds of CPU that its processes, and those that ended in it, have used."""
        code = (
            "import glob, os\n"
            "ticks = 0\n"
            "for file in glob.glob('/proc/[0-9]*/stat'):\n"
            "    fields = open(file).read().rsplit(')', 1)[1].split()\n"
            "    ticks += sum(map(int, fields[11:15]))\n"
            "print(ticks / os.sysconf('SC_CLK_TCK'))\n"
        )
        return float(self.python(code))

    def changes(self) -> set[str]:
        """What differs from the image, beside volumes and memory."""
        return set(podman("diff", self.id).splitlines())

    def inspect(self, what: str) -> str:
        return podman("inspect", "--format", what, self.id)

    def remove(self) -> None:
        podman("rm", "--force", "--time=0", self.id)


def podman(*words: str, given: str = "") -> str:
    done = subprocess.run(
        [*PODMAN, *words], input=given, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, f"podman {words}: {done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def check(image: str) -> None:
    """One container from its start to its end."""
    with tempfile.TemporaryDirectory(prefix="edge-container-") as folder:
        cloud, home = Cloud(Path(folder) / "cloud"), Path(folder) / "home"
        home.mkdir()
        os.chown(home, USER, GROUP)
        home.chmod(0o711)
        began_s = time.monotonic()
        container = Container(image, home, *told_by_environment(cloud))
        try:
            at_start = container.changes()  # the mount points that podman made
            container.run("edgectl", "health", "--wait", "60")
            container.run("edgectl", "send", "--stream", "s", "first")
            took_s = time.monotonic() - began_s
            print(f"first message acknowledged after {took_s:.1f} s, {container.cpu_s():.1f} s of CPU")
            eventually(cloud.approve_all, 60, "the device asks for approval")
            lines = "".join(f"{number}\n" for number in range(MESSAGES - 1))
            container.run("edgectl", "send", "--stream", "s", "--lines", given=lines)
            eventually(lambda: cloud.message_count() == MESSAGES, 60, "all arrive")
            print(f"{MESSAGES} messages delivered after {time.monotonic() - began_s:.1f} s")
            check_confinement(container)
            check_reaping(container)
            began_s = time.monotonic()
            podman("stop", "--time=40", container.id)
            print(f"stopped in order within {time.monotonic() - began_s:.1f} s")
            assert container.inspect("{{.State.ExitCode}}") == "0"
            assert not (written := container.changes() - at_start), f"it wrote beside its home: {written}"
        finally:
            container.remove()
            cloud.close()


def check_writes(image: str) -> None:
    """Not even where it could does it write beside its home: root, with a root that takes writes."""
    with tempfile.TemporaryDirectory(prefix="edge-container-") as folder:
        cloud, home = Cloud(Path(folder) / "cloud"), Path(folder) / "home"
        home.mkdir(mode=0o711)
        options = [*told_by_environment(cloud), "--env=EDGE_INGEST_GROUP="]
        container = Container(image, home, *options, limits=ALLOWED_EVERYTHING)
        try:
            at_start = container.changes()
            container.run("edgectl", "health", "--wait", "60")
            eventually(cloud.approve_all, 60, "the device asks for approval")
            container.run("edgectl", "send", "--stream", "s", "first")
            eventually(lambda: cloud.message_count() == 1, 60, "it arrives")
            for command in ("status", "doctor", "identity"):
                podman("exec", container.id, "/usr/lib/edge-runtime/bin/python", "-c", READ.format(command))
            memory = container.python("import os; print(*os.listdir('/dev/shm'))").split()
            podman("stop", "--time=40", container.id)
            assert not (written := container.changes() - at_start), f"it wrote beside its home: {written}"
            assert all(name.startswith("edge-runtime") for name in memory), memory
        finally:
            container.remove()
            cloud.close()


READ = "import subprocess; subprocess.run(['edgectl', '{}'], stdout=subprocess.DEVNULL)"
"""Run a command whatever its exit status says."""


def told_by_environment(cloud: Cloud) -> list[str]:
    """Options that say all of the configuration; there is no file."""
    settings = {
        "EDGE_PLATFORM_INSTANCE": cloud.facts["instance"],
        "EDGE_PLATFORM_CA_FILE": "/ca.pem",
        "EDGE_PLATFORM_PROVISIONING_TOKEN": cloud.facts["provisioning_token"],
        "EDGE_PROVISIONING_POLL_S": "0.2",
        "EDGE_UPLOAD_HTTPS_PORT": str(cloud.facts["https_port"]),
    }
    return [
        f"--volume={cloud.facts['ca_file']}:/ca.pem:ro",
        *(f"--env={key}={text}" for key, text in settings.items()),
    ]


def check_confinement(container: Container) -> None:
    """An ordinary user, no capability, and no folder to write into but the home."""
    status = container.python("print(open('/proc/1/status').read())")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split() == [str(USER)] * 4 and facts["NoNewPrivs"] == "1"
    assert {facts[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    code = (
        "import os\n"
        "skip = ('/proc', '/sys', '/dev')\n"
        "for folder, inner, _ in os.walk('/'):\n"
        "    inner[:] = [name for name in inner if not os.path.join(folder, name).startswith(skip)]\n"
        "    try: os.close(os.open(os.path.join(folder, '.probe'), os.O_CREAT | os.O_WRONLY))\n"
        "    except OSError: continue\n"
        "    os.unlink(os.path.join(folder, '.probe')); print(folder)\n"
    )
    writable = container.python(code).split()
    assert writable and all(folder.startswith(f"/{HOME}") for folder in writable), writable
    assert "sh" not in container.python("import os; print(*os.listdir('/usr/bin'))").split()


def check_reaping(container: Container) -> None:
    """A process whose parent is gone becomes the first process's, which has to take its end."""
    container.python(
        "import os\nif os.fork() == 0:\n    if os.fork() == 0: os._exit(0)\n    os._exit(0)\nos.wait()"
    )
    zombies = (
        "import glob\n"
        "for file in glob.glob('/proc/[0-9]*/stat'):\n"
        "    try: text = open(file).read()\n"
        "    except OSError: continue\n"
        "    if text.rsplit(')', 1)[1].split()[0] == 'Z': print(text)\n"
    )
    eventually(lambda: not container.python(zombies), 15, "no zombie stays")


def check_examples() -> None:
    """The compose file and the Kubernetes example by the schemas of their platforms."""
    with tempfile.TemporaryDirectory() as folder:
        for file in ("compose.yaml", "kubernetes.yaml"):
            shutil.copy(EXAMPLES / file, folder)
        (Path(folder) / "provisioning-token").touch()
        checkers = {
            "docker-compose": ["-f", "compose.yaml", "config", "--quiet"],
            "kubernetes-validate": ["--strict", "kubernetes.yaml"],
        }
        for tool, words in checkers.items():
            found = shutil.which(tool)
            if not found:
                print(f"not checked: {tool} is not installed")
                continue
            environment = {**os.environ, "EDGE_PLATFORM_INSTANCE": "x"}
            subprocess.run([found, *words], cwd=folder, env=environment, check=True, timeout=120)


def main(words: list[str] | None = None) -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--image", type=Path, metavar="FILE", help="run this one instead of building one")
    asked = arguments.parse_args(words)
    if os.geteuid() != 0:
        print("error: must be run as root", file=sys.stderr)
        return 2
    check_examples()
    file = asked.image
    if file is None:
        if status := packaging(["container"]):
            return status
        file = max((TOP / "dist").glob("*_amd64.oci.tar"), key=lambda path: path.stat().st_mtime)
    assert file.stat().st_size <= LARGEST_BYTES, f"{file.stat().st_size / 1e6:.1f} MB"
    loaded = podman("load", "--input", str(file)).split()[-1]
    check(loaded)
    check_writes(loaded)
    print(json.dumps({"image": loaded, "bytes": file.stat().st_size}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
