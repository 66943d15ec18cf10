"""The service that is updated, and versions of the program, as processes.

A new version is signed, not yet proven: it may crash, hang or fill the memory. So each call of it has an end,
a limit of memory, and a process group that is killed as a whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import NeedsHuman, Retryable

RESTART_S = 180.0
"""systemd stops the service within 40 s and waits 90 s for its start."""
COUNT_S = 10.0
MEMORY_BYTES = 1 << 30
"""Data of a call of a new version; it needs a tenth of it."""
MOST_TEXT = 400
"""Characters of a reason that are kept."""


@dataclass(frozen=True, slots=True)
class Called:
    """How a call of a version ended."""

    ok: bool
    text: str
    crash_loop: bool = False
    """The version says that one of its workers crashes again and again."""


@dataclass(frozen=True)
class UpdatedService:
    """The programs that restart the service, start the watch, and count the manager's restarts."""

    restart_command: tuple[str, ...]
    watch_command: tuple[str, ...]
    count_command: tuple[str, ...] = ()

    def restart(self) -> None:
        """Restart the service. A version that does not start is no error: the watch sees it.

        Raises Retryable where the program for it is not there.
        """
        try:
            _run(self.restart_command, RESTART_S)
        except OSError as exc:
            raise Retryable(f"the service cannot be restarted: {self.restart_command[0]}: {exc}") from exc

    def start_watch(self) -> bool:
        """Start the watch apart from the service; False: nothing does, the caller has to."""
        if not self.watch_command:
            return False
        try:
            return _run(self.watch_command, RESTART_S).ok
        except OSError:
            return False

    def restarts(self) -> int | None:
        """How often the service manager has restarted the service by itself; None: it does not say."""
        if not self.count_command:
            return None
        try:
            counted = _run(self.count_command, COUNT_S)
        except OSError:
            return None
        return int(counted.text) if counted.ok and counted.text.isdecimal() else None


def call(version: Path, arguments: Sequence[str], time_s: float) -> Called:
    """Call `edgectl` of a version: its last line of output, and if it ended well in time."""
    edgectl = version / "bin" / "edgectl"
    try:
        return _run((str(edgectl), *arguments), time_s, limited=True)
    except OSError as exc:
        return Called(False, f"{edgectl} cannot be started: {exc.strerror}")


def compile_tree(unfinished: Path, final: Path, time_s: float = 300.0) -> None:
    """Make the bytecode of a version: the service itself may not write there. It starts without, too."""
    python = unfinished / "bin" / "python"
    if not python.exists():
        return
    command = [
        str(python), "-I", "-m", "compileall", "-q", "-f", "--invalidation-mode", "unchecked-hash",
        "-s", str(unfinished), "-p", str(final), str(unfinished / "lib"),
    ]  # fmt: skip
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=time_s, check=False)


def check_owner(path: Path) -> None:
    """As root: refuse a file or folder that another user could change, and so choose what root does."""
    if os.geteuid() != 0 or not path.exists():
        return
    status = path.stat()
    if status.st_uid != 0 or status.st_mode & 0o022:
        raise NeedsHuman(
            f"{path} may be changed by others than root, and an update is done as root by what it says",
            hint=f"chown root {path}; chmod go-w {path}",
        )


def _run(command: Sequence[str], time_s: float, *, limited: bool = False) -> Called:
    """Run a program to its end; where it takes longer its whole process group is killed. Raises OSError."""
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True, preexec_fn=_limit if limited else None,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=time_s)
    except subprocess.TimeoutExpired:
        _kill(process)
        return Called(False, f"{Path(command[0]).name} gave no answer within {time_s:.0f} s")
    except BaseException:
        _kill(process)
        raise
    if process.returncode < 0:
        return Called(False, f"ended by {signal.Signals(-process.returncode).name}")
    reason, crash_loop = _answer(output)
    return Called(process.returncode == 0, reason or f"exit status {process.returncode}", crash_loop)


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.communicate(timeout=5)


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _answer(output: str) -> tuple[str, bool]:
    """The last line, or the reason in it where it is JSON; and if that speaks of a crash loop."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    last, crash_loop = lines[-1] if lines else "", False
    with contextlib.suppress(ValueError):
        record = json.loads(last)
        if isinstance(record, dict):
            last, crash_loop = str(record.get("reason", "")), record.get("crash_loop") is True
    return last[:MOST_TEXT], crash_loop
