"""A device that is updated by real processes: versions side by side, a service manager, and no power.

A version is a copy of the package in an environment of the system's Python; its libraries are those of the
tests. The service manager is a thread here: it starts what the unit would start, again and again.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import lzma
import os
import shutil
import signal
import sqlite3
import subprocess
import tarfile
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import runtime
from runtime.adapters.update.bundle_file import MANIFEST, SIGNATURE
from runtime.config import load
from runtime.core.update.manifest import Manifest
from runtime.errors import EdgeError
from runtime.operations.updates import SCHEMAS, installed
from runtime.producer import Producer
from tests.support.minisign import SigningKey
from tests.support.update_world import manifest_of

INTERPRETER = "/usr/bin/python3.11"
PACKAGE = Path(runtime.__file__).parent
LIBRARIES = PACKAGE.parents[0] / ".venv/lib/python3.11/site-packages"
SITE = "lib/python3.11/site-packages"
_LEFT_OUT = {"devcloud", "bench", "demo", "__pycache__"}
_RESTART = """
old=$(cat {pid}); kill -TERM $old 2>/dev/null
for i in $(seq 400); do
    [ "$(cat {pid})" != "$old" ] && exit 0
    [ $i = 300 ] && kill -KILL -$old
    sleep 0.1
done
exit 1
"""
_EDGECTL = """#!/bin/sh
'''exec' "$(/usr/bin/dirname -- "$(/usr/bin/realpath -- "$0")")/python" "$0" "$@"
' '''
import sys
from runtime.__main__ import main
sys.exit(main())
"""


def tree_of(
    version: str, changes: Mapping[str, str] | None = None, package: Path = PACKAGE
) -> dict[str, bytes]:
    """The files of a version; `changes`: lines put in front of a module, by its name below runtime/."""
    files = {f"{SITE}/libraries.pth": f"{LIBRARIES}\n".encode(), "bin/edgectl": _EDGECTL.encode()}
    files["pyvenv.cfg"] = b"home = /usr/bin\ninclude-system-site-packages = false\n"
    for path in sorted(package.rglob("*")):
        name = path.relative_to(package)
        if path.is_file() and not set(name.parts) & _LEFT_OUT:
            files[f"{SITE}/runtime/{name}"] = path.read_bytes()
    files[f"{SITE}/runtime/supervisord.conf"] = (package.parent / "supervisord.conf").read_bytes()
    build = {"package": version, "architecture": installed(load({}).settings.update).architecture}
    files[f"{SITE}/runtime/build.json"] = json.dumps(build).encode()
    for changed, lines in (changes or {}).items():
        module = f"{SITE}/runtime/{changed}"
        text = files[module].decode()
        future = "from __future__ import annotations\n"
        files[module] = (text.replace(future, future + lines, 1) if future in text else lines + text).encode()
    return files


def packed(files: Mapping[str, bytes]) -> bytes:
    """The part of a bundle."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        folders = {str(folder) for name in files for folder in Path(name).parents} - {"."}
        for folder in sorted(folders):
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            archive.addfile(info)
        link = tarfile.TarInfo("bin/python")
        link.type, link.linkname = tarfile.SYMTYPE, INTERPRETER
        archive.addfile(link)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755 if name.startswith("bin/") else 0o644
            archive.addfile(info, io.BytesIO(content))
    return lzma.compress(out.getvalue(), preset=0)


class UpdateDevice:
    """One device in a folder, with a version in use."""

    def __init__(
        self,
        base: Path,
        version: str = "1.0.0",
        confirm_s: float = 25.0,
        package: Path = PACKAGE,
        counted: bool = True,
        toml: str = "",
    ) -> None:
        """`counted`: the version knows the setting restart_count. `toml`: more tables of edge.toml."""
        base.mkdir(exist_ok=True)
        self.base, self.key = base, SigningKey()
        self.folder, self.in_use = base / "versions.d", base / "versions"
        self.home, self.config = base / "home", base / "edge.toml"
        self.pid_file, self.log = base / "up.pid", base / "log"
        self.restarts = base / "restarts"
        restart = ["sh", "-c", _RESTART.format(pid=self.pid_file)]
        count = f"restart_count = {json.dumps(['cat', str(self.restarts)])}\n" if counted else ""
        self.config.write_text(
            f'[update]\nkeys = ["{self.key.public}"]\nfolder = "{self.folder}"\nconfirm_s = {confirm_s}\n'
            f"restart = {json.dumps(restart)}\nwatch = []\nhold_max_s = 0\n{count}{toml}"
        )
        self.config.chmod(0o644)
        self.folder.mkdir(mode=0o755)
        with tarfile.open(
            fileobj=io.BytesIO(packed(tree_of(version, None, package))), mode="r:xz"
        ) as archive:
            archive.extractall(self.folder / version)
        self.in_use.symlink_to(f"{self.folder.name}/{version}")
        self.pid_file.write_text("0\n")
        self._off = threading.Event()
        self._manager: threading.Thread | None = None

    # bundles

    def bundle(
        self,
        version: str,
        changes: Mapping[str, str] | None = None,
        key: SigningKey | None = None,
        filler_bytes: int = 0,
        **manifest_changes: Any,
    ) -> Path:
        """A signed bundle of this very package under another version."""
        part = packed({**tree_of(version, changes), "lib/filler": bytes(filler_bytes)})
        here = installed(load({}).settings.update)
        manifest = manifest_of(version, part, architecture=here.architecture, schemas=SCHEMAS,
                               unpacked_bytes=4_000_000)  # fmt: skip
        return self.packed_bundle(replace(manifest, **manifest_changes), part, key or self.key)

    def packed_bundle(self, manifest: Manifest, part: bytes, key: SigningKey) -> Path:
        file = self.base / f"{manifest.version}.update"
        content = manifest.text().encode()
        members = {MANIFEST: content, SIGNATURE: key.sign(content).encode(), manifest.part.name: part}
        assert hashlib.sha256(part).hexdigest() == manifest.part.sha256
        with tarfile.open(file, "w") as archive:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return file

    # processes

    def environment(self) -> dict[str, str]:
        plain = {
            name: value for name, value in os.environ.items() if not name.startswith(("EDGE_", "PYTHON"))
        }
        return {**plain, "EDGE_HOME": str(self.home), "EDGE_CONFIG": str(self.config)}

    def edgectl(self, *words: str) -> subprocess.Popen[str]:
        """`edgectl` of the version in use."""
        command = [str(self.in_use / "bin/edgectl"), *words]
        return subprocess.Popen(command, env=self.environment(), stdin=subprocess.DEVNULL, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def status(self) -> dict[str, Any]:
        text, _ = self.edgectl("update", "status", "--json").communicate(timeout=60)
        return dict(json.loads(text))

    def power_on(self, *, watch: bool = True) -> None:
        """Start what the units would start: the service, and the watch of an update that is under way."""
        self._off.clear()
        self._manager = threading.Thread(target=self._manage, daemon=True)
        self._manager.start()
        if watch:
            self.edgectl("update", "watch").communicate(timeout=300)

    def power_cut(self) -> None:
        """Kill every process of the device."""
        self._off.set()
        for _ in range(3):
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self._manager is not None:
            self._manager.join(30)

    def pids(self) -> list[int]:
        """The processes that were started out of this device's folder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if str(self.base).encode() in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found

    def _manage(self) -> None:
        for number in itertools.count():
            if self._off.is_set():
                return
            fresh = self.restarts.with_suffix(".new")
            fresh.write_text(f"{number}\n")
            fresh.replace(self.restarts)
            places = (self.folder / ".trial", self.in_use)
            edgectl = next((p / "bin/edgectl" for p in places if (p / "bin/edgectl").exists()), None)
            assert edgectl is not None, "no version would start"
            with self.log.open("ab") as log, contextlib.suppress(FileNotFoundError):  # the trial just ended
                self._start(edgectl, log)
            self._off.wait(0.5)

    def _start(self, edgectl: Path, log: IO[bytes]) -> None:
        """Start the service and wait for its end. Raises FileNotFoundError."""
        up = subprocess.Popen([str(edgectl), "up"], env=self.environment(), stdin=subprocess.DEVNULL,
                              stdout=log, stderr=log, start_new_session=True)  # fmt: skip
        fresh = self.pid_file.with_suffix(".new")
        fresh.write_text(f"{up.pid}\n")
        fresh.replace(self.pid_file)
        up.wait()

    def running_version(self) -> str:
        """The version of the service's process."""
        try:
            words = Path(f"/proc/{int(self.pid_file.read_text())}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return ""
        path = Path(words[0].decode())
        return path.parent.parent.name if path.name.startswith("python") else ""

    def close(self) -> None:
        self.power_cut()
        shutil.rmtree(self.base, ignore_errors=True)


class Load:
    """A producer that never stops, and remembers what was acknowledged."""

    def __init__(self, device: UpdateDevice, pause_s: float = 0.02) -> None:
        self._device, self._pause_s = device, pause_s
        self.acknowledged: set[int] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        endpoint = f"ipc://{self._device.home / 'ingest.sock'}"
        with Producer(endpoint, name="load", retry_for_s=5.0) as producer:
            while not self._end.is_set():
                try:
                    producer.put(str(number).encode(), stream="load")
                    self.acknowledged.add(number)
                except EdgeError:
                    pass
                number += 1
                time.sleep(self._pause_s)

    def stop(self) -> None:
        self._end.set()
        self._thread.join(30)

    def missing(self) -> set[int]:
        """What was acknowledged and is not in the store; nothing is delivered, for there is no cloud."""
        acknowledged = set(self.acknowledged)  # before the store is read: it may go on
        with contextlib.closing(sqlite3.connect(self._device.home / "state/messages.db")) as db:
            rows = db.execute("SELECT payload FROM messages").fetchall()
        stored = {int(payload) for (payload,) in rows if bytes(payload).isdigit()}
        return acknowledged - stored
