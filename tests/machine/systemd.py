"""The shipped unit and the installer under a live systemd, in a machine of their own that is a process here.

Debian's package `user-mode-linux` boots a kernel as a process. Its root is this machine's, read-only, under
an overlay on a disk of its own; systemd is its first process. In it systemd_guest.sh installs, starts, kills,
hangs, reloads and restarts the service, and removes it; the machine is booted twice, for what must
outlive that. Three to four minutes. It found what no test of a part had found: a system call filter under
which no worker lived.

    python -m tests.machine.systemd   (root, user-mode-linux, systemd, mkfs.ext4, /usr/bin/python3 with venv)
    python -m tests.machine.systemd --packages BEFORE.deb NOW.deb

With `--packages` package_guest.sh takes two packages of this machine's own Debian through their life instead:
what their scripts ask of systemd is asked of a live one. It wants the versions 0.0.9 and 0.1.0, both made by
`python -m deploy.packaging --version VERSION --out DIR deb`; six to twelve minutes. Two updates of the second
one are made of it here, signed by minisign: one that works, and one whose ingest dies at every start.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

from deploy.packaging.targets import Target
from deploy.packaging.tree import PREFIX, Origin
from deploy.packaging.update import bundle_of_tree
from tests.machine import plug
from tests.support.harness import short_folder

TOP = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"  # not one in somebody's home, which the unit hides
TOOLS = ("linux.uml", "mkfs.ext4", PYTHON, "/lib/systemd/systemd")
TOOLS_OF_PACKAGES = ("dpkg-deb", "minisign")
BOOT_S = 1800.0
MASKED = ("systemd-tmpfiles-setup.service", "systemd-tmpfiles-clean.timer")  # they read this machine's /tmp

INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
for module in /usr/lib/uml/modules/*/kernel/fs/overlayfs/overlay.ko; do
    {python} -c "import ctypes, os, sys; ctypes.CDLL(None).syscall(
        {finit_module}, os.open(sys.argv[1], 0), b'', 0)" $module
done
umount /proc
mount -t ext4 /dev/ubda /mnt
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
cd /mnt/root
[ -e /mnt/begun ] || rm -rf etc/systemd/system/*.wants
touch /mnt/begun
mkdir -p old
pivot_root . old
exec chroot . /lib/systemd/systemd --unit=trial.target
"""
FINIT_MODULE = {"x86_64": 313, "aarch64": 273}

TARGET = """[Unit]
Requires=basic.target trial.service
After=basic.target
AllowIsolate=yes
"""
SERVICE = """[Unit]
After=basic.target

[Service]
Type=oneshot
ExecStart=/bin/sh /old{guest} /old{top}
StandardOutput=tty
StandardError=tty
TTYPath=/dev/console
TimeoutStartSec=1780
ExecStopPost=/usr/bin/systemctl poweroff --force
"""


def make_disk(folder: Path, packages: tuple[Path, ...] = ()) -> None:
    """What lies over this machine's root: what is tried, and the service that tries it."""
    upper = folder / "disk/upper"
    for name in ("upper/etc/systemd/system", "upper/srv", "work", "root"):
        (folder / "disk" / name).mkdir(parents=True)
    (upper / "etc/fstab").write_text("")
    (upper / "etc/systemd/system/trial.target").write_text(TARGET)
    guest = TOP / "tests/machine" / ("package_guest.sh" if packages else "systemd_guest.sh")
    (upper / "etc/systemd/system/trial.service").write_text(SERVICE.format(guest=guest, top=TOP))
    for package, name in zip(packages, ("before.deb", "now.deb"), strict=bool(packages)):
        shutil.copy(package, upper / "srv" / name)
    if packages:
        allow_starts(upper / "usr/sbin/policy-rc.d")
        make_updates(packages[1], upper / "srv", folder / "updates")
    else:
        make_environment(upper / "srv/venv")
    with (folder / "disk.img").open("wb") as image:
        image.truncate(1 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-d", str(folder / "disk"), str(folder / "disk.img")], check=True)
    shutil.rmtree(folder / "disk")
    init = folder / "init"
    init.write_text(INIT.format(python=PYTHON, finit_module=FINIT_MODULE[os.uname().machine]))
    init.chmod(0o755)


def allow_starts(policy: Path) -> None:
    """Over the policy of this machine: that of a container's image forbids packages to start a service."""
    policy.parent.mkdir(parents=True)
    policy.write_text("#!/bin/sh\nexit 0\n")
    policy.chmod(0o755)


def make_updates(package: Path, place: Path, work: Path) -> None:
    """In `place` good.update, bad.update and update.pub: the package's own tree as signed updates."""
    root = work / "root"
    work.mkdir()
    subprocess.run(["dpkg-deb", "-x", str(package), str(root)], check=True)
    key = work / "key"
    keys = ["-s", str(key), "-p", str(place / "update.pub")]
    subprocess.run(["minisign", "-G", "-W", *keys], check=True, capture_output=True)
    os.environ["EDGE_UPDATE_KEY"] = str(key)
    named = re.fullmatch(r".*~deb(\d+)_(\w+)\.deb", package.name)
    assert named, f"{package.name} is no name of a package that was made here"
    target = Target(named[2], named[1])
    site = root / PREFIX.relative_to("/") / f"lib/python{target.python}/site-packages/runtime"
    for name, version in (("good", "0.2.0"), ("bad", "0.3.0")):
        origin = Origin(version, "unknown", 0, "a trial")
        (site / "build.json").write_text(origin.record(target))
        if name == "bad":
            with (site / "workers/ingest.py").open("a") as module:  # it is imported before its trial
                module.write("\n\ndef run(*_):\n    raise RuntimeError('a bad update')\n")
        bundle_of_tree(root, target, origin, work).rename(place / f"{name}.update")
    shutil.rmtree(work)


def make_environment(venv: Path) -> None:
    """The runtime as pip installs it, at /srv/venv of the guest."""
    subprocess.run([PYTHON, "-m", "venv", str(venv)], check=True)
    pip = [str(venv / "bin/python"), "-m", "pip", "-qq", "--disable-pip-version-check", "install"]
    subprocess.run([*pip, "-c", "constraints.txt", "."], cwd=TOP, check=True)
    for script in (venv / "bin").iterdir():
        if script.is_file() and (text := script.read_bytes()).startswith(b"#!"):
            script.write_bytes(text.replace(bytes(venv), b"/srv/venv", 1))


def boot(folder: Path) -> tuple[int, int]:
    """Once from power on to power off, its verdicts shown. How many trials were fine, and how many not."""
    machine = plug.power_on(
        "linux.uml", folder, "mem=640M", "ro", f"init={folder / 'init'}", f"ubd0={folder / 'disk.img'}",
        "systemd.show_status=0", *(f"systemd.mask={unit}" for unit in MASKED),
    )  # fmt: skip
    overdue = threading.Timer(BOOT_S, plug.pull, [machine])
    overdue.start()
    fine = failed = 0
    assert machine.stdout is not None
    for line in machine.stdout:
        told = re.match(r"(fine|FAILED|\|) +\S.*", line.strip())
        fine += told is not None and told[1] == "fine"
        failed += told is not None and told[1] == "FAILED"
        if told:
            print(told[0].rstrip(), flush=True)
    overdue.cancel()
    plug.pull(machine)
    machine.wait()
    return fine, failed


def main(words: list[str] | None = None) -> int:
    """Exit status 0 if every trial was fine, 2 where it cannot be tried here."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--packages", nargs=2, type=Path, metavar=("BEFORE", "NOW"), default=())
    asked = arguments.parse_args(words)
    tools = (*TOOLS, *TOOLS_OF_PACKAGES) if asked.packages else TOOLS
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing or os.geteuid() != 0 or os.uname().machine not in FINIT_MODULE:
        print(f"cannot be tried here: needs root and {', '.join(missing or tools)}", file=sys.stderr)
        return 2
    if not plug.starts("linux.uml"):
        print(f"cannot be tried here: user-mode-linux {plug.STARTS_NOT}", file=sys.stderr)
        return 2
    with short_folder() as folder:
        make_disk(folder, tuple(asked.packages))
        boots = [boot(folder) for _ in range(2)]
    fine, failed = (sum(boot[index] for boot in boots) for index in (0, 1))
    print(f"{fine} of {fine + failed} trials under a live systemd were fine")
    return 0 if failed == 0 and all(boot[0] > 0 for boot in boots) else 1


if __name__ == "__main__":
    sys.exit(main())
