"""The process itself: stopping by signal, one of a kind by flock, never outliving its supervisor."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import faulthandler
import fcntl
import os
import resource
import select
import shlex
import signal
import socket
import time
from pathlib import Path

from runtime.adapters.process.home_owner import user_name
from runtime.errors import UsageError

DUMP_SIGNAL = signal.SIGUSR1
"""A worker answers it with the stacks of its threads in its log."""
MOST_FILES = 65_536
"""Open files that we claim if we may: an ordinary limit of 1,024 is for programs without peers."""
KEPT_FD = 3
"""supervisord closes everything from 5 on when it reloads, and everything from 3 on in its children."""
WAITS_FOR_DISK = "waiting for a disk"
"""A process state (D): no signal counts before the disk answers, SIGKILL neither."""
SUPERVISOR_PID = "SUPERVISOR_PID"
"""In the environment of a supervised process: the supervisor's pid (see `adapters/supervisor/plugin.py`)."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LOCK_PATIENCE_S = 1.0


class Stop:
    """Tells a loop that SIGTERM or SIGINT asked it to end; `fileno()` becomes readable, to wake a poll."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._asked = False

    def listen(self) -> None:
        """Take over SIGTERM and SIGINT of this process."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.ask())

    def ask(self) -> None:
        """Ask the loop to end; safe in a signal handler and from any thread."""
        self._asked = True
        with contextlib.suppress(BlockingIOError):  # a wake-up is already waiting there
            self._writer.send(b"x")

    def requested(self) -> bool:
        return self._asked

    def wait(self, timeout_s: float) -> bool:
        """Sleep until asked to stop, or for `timeout_s`. True if asked to stop."""
        if not self._asked:
            select.select([self._reader], [], [], max(0.0, timeout_s))
        return self._asked

    def fileno(self) -> int:
        return self._reader.fileno()


class AlreadyRuns(UsageError):
    """Another process holds the lock."""


class Lock:
    """One process of a kind per home: an flock the kernel releases whatever kills us."""

    def __init__(self, path: Path, *, ours: Path | None = None) -> None:
        """Take the lock. `ours` is the folder that is the runtime's as a whole. Raises UsageError."""
        self._fd = _open_lock(path, ours)
        if not self._taken():
            holder = _pid_in(self._fd)
            os.close(self._fd)
            raise AlreadyRuns(
                f"{path.stem} already runs here (process {holder or 'unknown'} holds {path}); stop it first"
            )
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only its name is missing
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def _taken(self) -> bool:
        """Try to take the lock, for a while: `lock_holder` and a dying predecessor hold it for an
        instant. True if we got it.
        """
        deadline_s = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    return False
                time.sleep(0.05)

    def keep_over_exec(self) -> None:
        """Let the program that this process becomes hold the lock on."""
        os.dup2(self._fd, KEPT_FD)
        os.set_inheritable(KEPT_FD, True)  # dup2 onto the same number changes nothing
        if self._fd != KEPT_FD:
            os.close(self._fd)
            self._fd = KEPT_FD

    def release(self) -> None:
        os.close(self._fd)


def _open_lock(path: Path, ours: Path | None) -> int:
    """On a disk that is read-only now, the file of an earlier start will do: an flock writes nothing.

    Never open the target of a link in its place: the holder's number is written there, over all it holds.
    """
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except PermissionError as exc:
        user = os.geteuid()
        whole = "-R --no-dereference " if ours else ""
        if ours and (owner := ours.stat().st_uid) != user:
            raise UsageError(
                f"{path} may not be opened by user {user}; the home belongs to {user_name(owner)}: "
                "run the command as that user, or choose another home with --home"
            ) from exc
        raise UsageError(
            f"{path} may not be opened by user {user}: another user ran it here, perhaps root; "
            f"as root: chown {whole}{user} {shlex.quote(str(ours or path))}"
        ) from exc
    except OSError as exc:
        if exc.errno == errno.EROFS and path.exists():
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        if exc.errno == errno.ELOOP:
            raise UsageError(f"{path} is a link, and nothing of ours: remove it") from exc
        raise UsageError(f"{path} cannot be opened: {exc.strerror}") from exc


def kept_lock_is_lost(path: Path) -> bool:
    """True if we kept the lock over an exec, and its file is no longer the one at `path`."""
    try:
        kept, name = os.fstat(KEPT_FD), Path(f"/proc/self/fd/{KEPT_FD}").readlink().name
    except OSError:  # supervisord was not started by `edgectl up`
        return False
    if name.removesuffix(" (deleted)") != path.name:
        return False
    try:
        return not os.path.samestat(kept, path.stat())
    except FileNotFoundError:
        return True


def lock_holder(path: Path) -> int | None:
    """The process that holds the lock at `path`, 0 where it left no
    number, None where no process holds it.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _pid_in(fd)
    else:
        return None
    finally:
        os.close(fd)


def lock_is_free(path: Path) -> bool:
    """True if certainly no process holds the lock at `path`; one that we may not open says nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        return isinstance(exc, FileNotFoundError)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(fd)


def has_open(pid: int, path: Path) -> bool:
    """True if that process has that very file open, or locked where we may not see its open files."""
    try:
        return any(path.samefile(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.exists())
    except PermissionError:  # it is in a user namespace of its own (PrivateUsers=)
        return has_locked(pid, path)
    except OSError:
        return False


def has_locked(pid: int, path: Path) -> bool:
    """True if the kernel's list, which all may read, has it locked: number, kind, mode, access,
    process, device and inode.
    """
    with contextlib.suppress(OSError):
        found = path.stat()
        file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        locks = Path("/proc/locks").read_text().splitlines()
        return any(fields[4:6] == [str(pid), file] for fields in map(str.split, locks))
    return False


WAL_READ_LOCKS = range(123, 128)
"""Bytes in the index of a WAL that SQLite's readers keep locked while they read from it."""


def wal_readers(index: Path) -> list[str]:
    """Processes, other than this one, that are reading from the WAL with this index, by the kernel's list of
    locks.

    It names none in another PID namespace.
    """
    return _lockers(index, WAL_READ_LOCKS, ("READ",))


DATABASE_LOCKS = range(0x4000_0000, 0x4000_0200)
"""Bytes in a database with a rollback journal that SQLite keeps locked during a transaction."""


def database_users(path: Path) -> list[str]:
    """Processes, other than this one, with an open transaction in the database at `path`, by
    the kernel's list of locks.
    """
    return _lockers(path, DATABASE_LOCKS, ("READ", "WRITE"))


def _lockers(path: Path, span: range, kinds: tuple[str, ...]) -> list[str]:
    with contextlib.suppress(OSError):
        inode = str(path.stat().st_ino)
        locks = map(str.split, Path("/proc/locks").read_text().splitlines())
        matching = [lock for lock in locks if len(lock) == 8 and lock[3] in kinds]
        pids = {int(lock[4]) for lock in matching if _lies_in(lock, inode, span)}
        return [f"process {pid} ({_called(pid)})" for pid in sorted(pids - {os.getpid()}) if pid > 0]
    return []


def _lies_in(lock: list[str], inode: str, span: range) -> bool:
    """True for a line of /proc/locks in that range: number, kind, mode, access, process, device
    and inode, range of bytes.
    """
    *_, file, first, last = lock
    same = file.rpartition(":")[2] == inode and last.isdigit()
    return same and int(first) < span.stop and int(last) >= span.start


def _called(pid: int) -> str:
    try:
        return ascii(Path(f"/proc/{pid}/comm").read_text(errors="replace").strip())[1:-1]
    except OSError:
        return "gone"


def _pid_in(fd: int) -> int:
    text = os.pread(fd, 32, 0).strip()
    return int(text) if text.isdigit() else 0


def die_with_parent(parent: str | None = None) -> None:
    """Have the kernel kill us when our parent dies, so that two of us never run side by side.

    `parent`: the process that started us, by its own word; by default the supervisor, where there is one. A
    child of a worker inherits the name of the supervisor, which is not its parent.

    Where it is not our parent, it died before we could ask, and no process would ever end us. Its pid file is
    not used: where supervisord writes none, or writes it elsewhere, that of an earlier run would turn every
    worker away.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    known = parent or (os.environ.get(SUPERVISOR_PID, "") if supervised() else "")
    if known not in ("", str(os.getppid())):
        os._exit(1)


def dump_stacks_on_signal() -> None:
    """Write every thread's Python stack to the log on SIGUSR1, and on a crash inside C code."""
    faulthandler.enable()
    faulthandler.register(DUMP_SIGNAL, all_threads=True)


def leave_no_core() -> None:
    """Have the kernel write no core file of us, nor of our children: it would hold every token, and payloads.

    systemd-coredump heeds it, too. Not PR_SET_DUMPABLE: it would hide our open files from `edgectl`.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def open_standard_streams() -> None:
    """Where one of the first three descriptors was closed /dev/null takes its place, before our files do."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:  # open() takes the lowest that is free: this one, for those below are open by now
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def allow_files() -> int:
    """Raise our limit of open files as far as we may, and return the limit then. Children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft


def supervised() -> bool:
    """True if supervisord started us."""
    return bool(os.environ.get("SUPERVISOR_ENABLED"))


def process_state(pid: int) -> str:
    """The state that the kernel gives for a process: running, sleeping, waiting for a disk, stopped, ..."""
    names = {"R": "running", "S": "sleeping", "D": WAITS_FOR_DISK, "T": "stopped", "Z": "dead"}
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"
    return names.get(letter, letter)


def open_descriptors(pid: int) -> tuple[int, int] | None:
    """The number of descriptors a process has open, and its limit; None where it is
    gone, or not ours to inspect.
    """
    try:
        soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        count = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None
    return count, MOST_FILES if soft == resource.RLIM_INFINITY else soft


def process_work(pid: int) -> object:
    """A value that differs between two looks if the process used the CPU, or waits for a
    disk; None where it is gone.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return time.monotonic() if fields[0] == "D" else int(fields[11]) + int(fields[12])


def written_bytes(pid: int) -> int | None:
    """The bytes that a process has handed to a disk, its children's excluded; None where that is not told."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path(f"/proc/{pid}/io").read_text()
        return int(text.split("\nwrite_bytes:")[1].split()[0])
    return None


def process_age_s(pid: int) -> float | None:
    """Seconds since a process started, by the clock that does not jump."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"), 1)


def memory_bytes(pid: int) -> int | None:
    """Resident memory of a process."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return None


def notify_service_manager(state: str) -> None:
    """Send a message to systemd (sd_notify): READY=1, WATCHDOG=1, STATUS=... Does
    nothing where there is none.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # abstract namespace
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        with contextlib.suppress(OSError):  # systemd restarts too; the next message will reach it
            out.settimeout(1.0)
            out.sendto(state.encode(), address)
