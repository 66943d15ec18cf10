"""Fork server: starts `edgectl` without a new interpreter, out of a process that has imported all of it.

An interpreter and its imports take 0.1 to 0.5 s of a core, and the tests start some thousand. A child has the
environment, the folder and the files that it is given, a process id of its own, and ends as any interpreter
does; its parent is the process of the tests, which may wait for it and kill it. What a fork cannot show is
tested with `python -m runtime`: what is imported, its memory, its command line, and anything that an
environment does to the interpreter itself. Under supervisord workers start that way, too.

    python -m tests.support.fork_server DESCRIPTOR         (of the socket that the requests come by)
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
START_TIMEOUT_S = 60.0
OF_THE_INTERPRETER = ("PYTHON", "LD_", "LC_", "LANG", "TZ", "FAKETIME", "MALLOC", "OPENSSL", "SSL_")
"""Variables that are read when an interpreter, its C library or OpenSSL starts."""
MOST_REQUEST_BYTES = 1 << 20


class ForkedProcess:
    """A child, with the part of `subprocess.Popen` that tests use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status, or None where it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, when it has ended. Raises TimeoutExpired."""
        if self.poll() is None:
            handle = os.pidfd_open(self.pid)
            try:
                select.select([handle], [], [], timeout)
            finally:
                os.close(handle)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    arguments: Sequence[str],
    environment: dict[str, str],
    *,
    stdin: int,
    stdout: int,
    stderr: int,
    folder: Path | None = None,
    user: int = 0,
) -> ForkedProcess | subprocess.Popen[bytes]:
    """Run `edgectl` with these arguments. A `user` other than 0 is changed to before it begins.

    Where the environment says something to the interpreter itself, a new interpreter is started.
    """
    server = _server()
    if server.of_interpreter != _of_interpreter(environment):
        assert not user, "only a fork changes to another user"
        command = [sys.executable, "-m", "runtime", *arguments]
        return subprocess.Popen(
            command, env=environment, cwd=folder, stdin=stdin, stdout=stdout, stderr=stderr
        )
    request = {
        "arguments": list(arguments),
        "environment": environment,
        "folder": str(folder or Path.cwd()),
        "user": user,
    }
    with _subreaper():
        socket.send_fds(server.requests, [json.dumps(request).encode()], [stdin, stdout, stderr])
        answer = server.requests.recv(64)
    assert answer, "the fork server has ended"
    return ForkedProcess(int(answer))


def run(
    arguments: Sequence[str],
    environment: dict[str, str],
    *,
    stdin: str | None = None,
    timeout_s: float = 30.0,
    folder: Path | None = None,
    user: int = 0,
) -> subprocess.CompletedProcess[str]:
    """As `subprocess.run` of `edgectl`, with its output. Without `stdin` there is nothing to read."""
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        source.write((stdin or "").encode())
        source.seek(0)
        files = {"stdin": source.fileno(), "stdout": out.fileno(), "stderr": err.fileno()}
        process = start(arguments, environment, **files, folder=folder, user=user)
        try:
            status = process.wait(timeout_s)
        finally:
            process.kill()
            process.wait(10)
        texts = [os.pread(file.fileno(), 1 << 26, 0).decode() for file in (out, err)]
    return subprocess.CompletedProcess(["edgectl", *arguments], status, *texts)


class _subreaper:
    """While it is on, a descendant whose parent dies becomes a child of this process."""

    def __enter__(self) -> None:
        self._set(1)

    def __exit__(self, *_: object) -> None:
        self._set(0)

    def _set(self, value: int) -> None:
        assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, value, 0, 0, 0) == 0


@dataclass(frozen=True)
class _Server:
    requests: socket.socket
    of_interpreter: dict[str, str]


def _of_interpreter(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(OF_THE_INTERPRETER)}


@cache
def _server() -> _Server:
    """The server of this process of the tests; it ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = dict(os.environ)
    subprocess.Popen(
        [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment,
        cwd=Path(__file__).parents[2], pass_fds=[theirs.fileno()],
    )  # fmt: skip
    theirs.close()
    ours.settimeout(START_TIMEOUT_S)
    return _Server(ours, _of_interpreter(environment))


def _import_everything() -> None:
    for layer in ("adapters", "cli", "devcloud", "operations", "workers"):
        package = f"runtime.{layer}"
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if "supervisor." not in module.name:  # what is for supervisord changes it
                importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)


LATE = (
    "azure.iot.device", "encodings.idna", "encodings.utf_8_sig", "runtime.adapters.supervisor.rpc", "segno",
    "sqlite_utils", "supervisor.options", "supervisor.rpcinterface",
)  # fmt: skip
"""What is imported when it is first needed."""


def _serve(requests: socket.socket) -> list[str]:
    """Answer requests for ever. Returns in each child, with the arguments of its command."""
    while True:
        message, files, _, _ = socket.recv_fds(requests, MOST_REQUEST_BYTES, 3)
        if not message:
            os._exit(0)
        assert threading.active_count() == 1, "a fork would lose the other threads"
        pids, gate = os.pipe(), os.pipe()
        middle = os.fork()
        if middle == 0:
            if child := os.fork():
                os.write(pids[1], str(child).encode())
                os._exit(0)
            os.close(gate[1])
            os.read(gate[0], 1)  # until its parent is the process of the tests
            for descriptor in (*pids, gate[0], requests.detach()):
                os.close(descriptor)
            return _become(json.loads(message), files)
        pid = os.read(pids[0], 64)
        os.waitpid(middle, 0)
        for descriptor in (*pids, *gate, *files):
            os.close(descriptor)
        requests.send(pid)


def _become(request: dict[str, Any], files: Sequence[int]) -> list[str]:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    if request["user"]:
        os.setgroups([])
        os.setgid(request["user"])
        os.setuid(request["user"])
    return list(request["arguments"])


if __name__ == "__main__":
    from runtime.__main__ import main

    _import_everything()
    gc.freeze()
    arguments = _serve(socket.socket(fileno=int(sys.argv[1])))
    sys.argv[1:] = arguments
    sys.exit(main())
