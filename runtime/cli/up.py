"""`edgectl up`, `down`: the whole runtime, in the foreground, under supervisord."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cli import Commands, announce, load_config
from runtime.cli.reload import eventually
from runtime.cli.terminal import write_error, write_lines
from runtime.cli.workers import load_or_last_accepted

if TYPE_CHECKING:
    from runtime.config import Config
    from runtime.layout import Layout

LOCK = "supervisor"
STOP_TIMEOUT_S = 30.0
SILENT_STOP_TIMEOUT_S = 5.0


def register(commands: Commands) -> None:
    up = commands.add_parser("up", help="run the whole runtime in the foreground until Ctrl-C or SIGTERM")
    up.set_defaults(run=_up)
    down = commands.add_parser("down", help="stop the runtime and wait until it is gone")
    down.set_defaults(run=_down)


def _up(arguments: argparse.Namespace) -> int:
    """Become supervisord: no process stays between the service manager and it."""
    from runtime.adapters.process.home_mount import check_mounts
    from runtime.adapters.process.process import allow_files, leave_no_core, open_standard_streams
    from runtime.config_file import find_home

    open_standard_streams()
    _refuse_odd_home(find_home(os.environ, arguments.home))
    config = load_or_last_accepted(arguments, alone=bool(os.environ.get("NOTIFY_SOCKET")))
    layout = config.layout
    refuse_unrehearsed(config)
    check_mounts(layout.home)
    layout.create()
    refuse_read_only(layout)
    _hold_lock(layout)
    _notice_move(layout)
    _prepare_run(layout)
    link_configuration(layout.supervisord_conf)
    os.environ.update(_environment(config))
    _refuse_own_configuration(layout.supervisord_conf)
    # Nothing here is for other users; ingest opens its own socket to producers. supervisord's own setting of
    # this name counts only for one that becomes a daemon.
    os.umask(0o077)
    leave_no_core()  # supervisord's environment may hold tokens
    allow_files()  # each worker inherits it
    # -P: modules in the current folder must not be imported instead of the installed ones
    command = [
        sys.executable,
        "-P",
        "-m",
        "runtime.adapters.supervisor.main",
        "-c",
        str(layout.supervisord_conf),
    ]
    if sys.stdout is not None:
        sys.stdout.flush()
    announce.begin(layout)
    os.chdir(layout.home)  # the folder in which we were called must not stay busy
    os.execv(sys.executable, command)  # noqa: S606 an argument list of our own


def _environment(config: Config) -> dict[str, str]:
    """The environment of supervisord and the workers: this interpreter's `edgectl` first, and the same
    file.
    """
    from runtime.adapters.process.last_good_config import accepted_file
    from runtime.settings import keys, value_of

    environment = dict(os.environ)
    programs = str(Path(sys.executable).parent)
    environment["PATH"] = f"{programs}:{environment.get('PATH') or os.defpath}"
    environment["EDGE_HOME"] = str(config.layout.home)
    if config.file not in (None, accepted_file(config.layout)):
        environment["EDGE_CONFIG"] = str(config.file)
    for key in keys():  # relative paths depend on our current folder, wherever a worker starts
        value = value_of(config.settings, key)
        if isinstance(value, Path) and config.origins[key.dotted].source == key.variable:
            environment[key.variable] = str(value)
    return environment


def _hold_lock(layout: Layout) -> None:
    from runtime.adapters.process.process import Lock, lock_holder
    from runtime.errors import UsageError

    try:
        lock = Lock(layout.lock(LOCK), ours=layout.home)
    except UsageError as exc:
        holder = lock_holder(layout.lock(LOCK))
        if holder is None:
            raise
        raise UsageError(
            f"a runtime already runs in {layout.home} (process {holder or 'unknown'}); "
            f"`edgectl --home {shlex.quote(str(layout.home))} down` ends it"
        ) from exc
    lock.keep_over_exec()


def _notice_move(layout: Layout) -> None:
    """Report a home that another machine ran before, and have its databases named apart from the first's."""
    import time

    from runtime.adapters.process.machine_names import notice_move, read_names
    from runtime.core.operations.machine_identity import COPIED_WORDS, REINSTALLED_WORDS, Move

    try:
        move = notice_move(layout, read_names(layout.state), time.time())
    except OSError:  # a full or read-only disk: the next start compares again
        return
    if move is Move.COPIED:
        write_error(f"warning: {COPIED_WORDS}")
    elif move is Move.REINSTALLED:
        write_error(REINSTALLED_WORDS)


def _prepare_run(layout: Layout) -> None:
    """Have an empty run/ on a tmpfs; where there is none it is a folder, and each status file a write."""
    from runtime.adapters.process.run_folder import prepare
    from runtime.errors import UsageError

    try:
        reason = prepare(layout.run)
    except OSError as exc:
        raise UsageError(f"cannot make {exc.filename}: {exc.strerror}") from exc
    if reason:
        write_error(f"warning: {layout.run} is on the disk, and each status file wears it: {reason}")


def refuse_unrehearsed(config: Config) -> None:
    """In a slot with a one-way update on trial: leave the store alone until it is rehearsed."""
    if config.settings.update.boot_dir is None:
        return
    from runtime.adapters.update.two_slots import TwoSlots
    from runtime.core.update.progress import waits_for_rehearsal
    from runtime.errors import Retryable

    slots = TwoSlots(config.settings.update.boot_dir)
    record = slots.record()
    if record.one_way and waits_for_rehearsal(record, slots.booted()):
        raise Retryable(f"version {record.version} is one way and not rehearsed yet: edgectl update confirm")


def _refuse_odd_home(home: Path) -> None:
    """Refuse a home with odd characters: supervisord expands `%`, and splits at quotes,
    in paths below its folder.
    """
    from runtime.errors import UsageError

    if str(home) != str(home).encode(errors="replace").decode():
        raise UsageError(f"home {str(home)!r} is no UTF-8, as databases and logs have to name it")
    odd = sorted(set(str(home)) & set("%\"';\n"))
    if odd:
        shown = " ".join(map(ascii, odd))
        raise UsageError(
            f"home {str(home)!r} contains {shown}, which supervisord cannot take; choose another"
        )


def refuse_read_only(layout: Layout) -> None:
    """Refuse a read-only home: supervisord cannot start without its log and its socket.

    The state may be read-only. A run/ that leads nowhere is made again later: after a restart of the machine
    the tmpfs is empty. Raises UsageError.
    """
    from runtime.errors import UsageError

    if layout.supervisor_socket.is_dir():
        raise UsageError(
            f"{layout.supervisor_socket} is a folder, and supervisord has to listen there; remove it"
        )
    for folder in (layout.run, layout.log):
        if folder.is_symlink() and not folder.exists():
            continue
        if not os.access(folder, os.W_OK | os.X_OK):
            raise UsageError(
                f"{folder} may not be written by user {os.geteuid()}, or lies on a disk that is mounted "
                "read-only; `edgectl doctor` says which, and what helps"
            )


def link_configuration(target: Path) -> None:
    """Link the shipped supervisord.conf into the home. A file of the operator's own stays as it is."""
    shipped = shipped_configuration()
    if target.is_symlink() and target.readlink() == shipped:  # nothing to write, perhaps on a full disk
        return
    if target.exists() and not target.is_symlink():
        if not target.samefile(shipped):
            write_error(f"using {target} instead of the shipped one")
        return
    fresh = target.with_name(f".{target.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(shipped)
    fresh.replace(target)


def _refuse_own_configuration(file: Path) -> None:
    """Refuse, in one sentence, an operator's file with which supervisord would not
    start, or not run for long.
    """
    from runtime.adapters.supervisor.internals import wrong_configuration
    from runtime.adapters.supervisor.main import needs_no_temporary_folder
    from runtime.errors import UsageError

    needs_no_temporary_folder(file.parent / "run")
    if not file.is_symlink() and (wrong := wrong_configuration(["-c", str(file)])):
        raise UsageError(f"{file}: {wrong}")


def shipped_configuration() -> Path:
    """The supervisord.conf of this installation: inside the package, or at the top of a checkout."""
    from runtime.errors import UsageError

    package = Path(__file__).resolve().parent.parent
    for path in (package / "supervisord.conf", package.parent / "supervisord.conf"):
        if path.is_file():
            return path
    raise UsageError(f"supervisord.conf is missing from {package}; install the runtime again")


def _down(arguments: argparse.Namespace) -> int:
    from runtime.adapters.process.process import lock_holder
    from runtime.adapters.supervisor.rpc import Supervisor
    from runtime.errors import Rejected, Retryable, UsageError

    layout = load_config(arguments).layout
    lock = layout.lock(LOCK)
    if layout.state.exists() and not os.access(layout.state, os.R_OK | os.X_OK):
        raise UsageError(f"{layout.state} may not be read by this user; be root or the runtime's user")
    if lock_holder(lock) is None:
        write_lines(f"nothing runs in {layout.home}")
        return 0
    patience_s = STOP_TIMEOUT_S
    try:
        Supervisor(layout.supervisor_socket).shutdown()
    except Rejected:
        pass  # supervisord is shutting down already
    except Retryable as exc:
        write_error(f"{exc}; sending it SIGTERM")
        signal_process(lock, "SIGTERM")
        patience_s = SILENT_STOP_TIMEOUT_S
    if _gone(lock, patience_s):
        return 0
    write_error(f"still there after {patience_s:g} s; sending it SIGKILL")
    signal_process(lock, "SIGKILL")  # the kernel ends the workers with it
    return 0 if _gone(lock, 5.0) else 1


def signal_process(lock: Path, name: str) -> None:
    """Signal the process that holds the lock, and no other: a container's process numbers are not ours."""
    import contextlib
    import signal

    from runtime.adapters.process.process import has_open, lock_holder

    pid = lock_holder(lock)
    if pid and has_open(pid, lock):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.Signals[name])


def _gone(lock: Path, timeout_s: float) -> bool:
    """Wait until no process holds the lock."""
    from runtime.adapters.process.process import lock_holder

    return eventually(lambda: lock_holder(lock) is None, timeout_s)
