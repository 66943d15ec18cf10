"""`edgectl reload`: have every worker read the configuration now, and print what each of them took.

The configuration is checked here first: a bad one changes nothing. Then every worker is asked (see
`adapters/process/reload_request.py`), takes what it can while it runs, and answers. A worker that needs a
restart for the rest is ended, and supervisord starts it again: where this command is killed in between, no
worker stays stopped. A worker that hangs or is busy is not waited for beyond the time limit.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from runtime.cli import Commands, load_config, seconds
from runtime.cli.terminal import write_json, write_lines
from runtime.layout import OPTIONAL_WORKERS, PROGRAMS

if TYPE_CHECKING:
    from runtime.adapters.process.reload_request import ReloadAnswer
    from runtime.adapters.supervisor.rpc import Program, Supervisor
    from runtime.layout import Layout

LOCK = "reload"
TIMEOUT_S = 15.0
"""More than one call to the platform takes (platform.timeout_s), in which a worker answers nothing."""
POLL_S = 0.1
FLUSH_TIMEOUT_S = 8.0
"""As stopwaitsecs in supervisord.conf."""


class Result(StrEnum):
    """The outcome of a reload for one worker."""

    TAKEN = "taken"
    UNCHANGED = "unchanged"
    RESTARTED = "restarted"
    REFUSED = "refused"
    STARTED = "started"
    STARTING = "starting"
    STOPPED = "stopped"
    NO_ANSWER = "no answer"


FAILURES = {Result.REFUSED, Result.NO_ANSWER}


@dataclass(frozen=True)
class WorkerResult:
    """One worker's line."""

    result: Result
    changes: tuple[tuple[str, str, str], ...] = ()
    """Settings that it took while it runs, with their old and new values."""
    restart: tuple[tuple[str, str, str], ...] = ()
    """Settings for which it was restarted."""
    reason: str = ""


def register(commands: Commands) -> None:
    reload = commands.add_parser(
        "reload",
        help="read the configuration again: a bad one is refused, and nothing changes",
        description="have every worker read the configuration now, and print what each of them took; "
        "a bad configuration is refused, and nothing changes",
    )
    reload.add_argument("--json", action="store_true", help="for a program")
    reload.add_argument(
        "--timeout",
        type=seconds,
        default=TIMEOUT_S,
        metavar="S",
        help=f"longest wait for the workers' answers, in seconds ({TIMEOUT_S:g})",
    )
    reload.set_defaults(run=_reload)


def _reload(arguments: argparse.Namespace) -> int:
    from runtime import wiring
    from runtime.adapters.bus.preflight import check_listeners
    from runtime.adapters.process.process import Lock
    from runtime.adapters.supervisor.rpc import Supervisor
    from runtime.settings import enabled_workers

    config = load_config(arguments)
    check_listeners(wiring.listeners(config), config.layout)
    supervisor = Supervisor(config.layout.supervisor_socket)
    results: dict[str, WorkerResult] = {}
    off = set(OPTIONAL_WORKERS) - enabled_workers(config.settings)
    programs = {name: p for name, p in supervisor.programs().items() if name in PROGRAMS and name not in off}
    lock = Lock(config.layout.lock(LOCK))  # the answers are to one request
    try:
        for name, result in _results(config.layout, supervisor, programs, arguments.timeout):
            results[name] = result
            if not arguments.json:
                write_lines(f"{name:<{max(map(len, programs))}}  {_sentence(name, result)}")
    finally:
        lock.release()
    if arguments.json:
        write_json({"workers": {name: asdict(result) for name, result in results.items()}})
    return int(any(result.result in FAILURES for result in results.values()))


def _results(
    layout: Layout, supervisor: Supervisor, programs: dict[str, Program], timeout_s: float
) -> Iterator[tuple[str, WorkerResult]]:
    """Each worker with its result, as soon as that is known."""
    import secrets

    from runtime.adapters.process.reload_request import read_answer, write_request

    request = secrets.token_hex(8)
    write_request(layout, request)
    deadline_s = time.monotonic() + timeout_s
    waiting: list[str] = []
    for name, program in programs.items():
        if (known := _not_running(supervisor, program)) is not None:
            yield name, known
        else:
            waiting.append(name)
    while waiting:
        late = time.monotonic() > deadline_s  # before the last look: who answered meanwhile has answered
        for name in list(waiting):
            if (answer := read_answer(layout, name, request)) is not None:
                waiting.remove(name)
                yield name, _carried_out(layout, supervisor, name, answer)
        if late:
            break
        time.sleep(POLL_S if waiting else 0)
    for name in waiting:
        yield name, WorkerResult(Result.NO_ANSWER, reason=f"within {timeout_s:g} s")


def _not_running(supervisor: Supervisor, program: Program) -> WorkerResult | None:
    """The result of a worker without a process; None where it has one."""
    from runtime.errors import Rejected

    if program.state == "STOPPED":  # a person stopped it; reading settings is no reason to start it
        return WorkerResult(Result.STOPPED)
    if program.pid:
        return None
    if program.state in ("FATAL", "EXITED"):
        with contextlib.suppress(Rejected):  # it is being started
            supervisor.start(program.name)
        return WorkerResult(Result.STARTED, reason=f"it was {program.state}")
    return WorkerResult(Result.STARTING)


def _carried_out(layout: Layout, supervisor: Supervisor, name: str, answer: ReloadAnswer) -> WorkerResult:
    """Restart the worker where its answer says that it needs that."""
    from runtime.adapters.process.status_file import note_asked_to_end

    if not answer.restart:
        return WorkerResult(Result(answer.outcome.value), answer.changes, (), answer.reason)
    note_asked_to_end(layout.run, name, supervisor.programs()[name].pid)
    _restart(supervisor, name)
    return WorkerResult(Result.RESTARTED, answer.changes, answer.restart)


def _restart(supervisor: Supervisor, name: str) -> None:
    """End it, so that supervisord starts it again: if we are killed in between, no worker stays stopped."""
    from runtime.errors import Rejected

    before = supervisor.programs()[name].pid
    with contextlib.suppress(Rejected):  # it just died, or is being started
        if not before:
            supervisor.start(name)
            return
        supervisor.signal(name, "TERM")
        if not eventually(lambda: supervisor.programs()[name].pid != before, FLUSH_TIMEOUT_S):
            supervisor.signal(name, "KILL")


def _sentence(name: str, result: WorkerResult) -> str:
    match result.result:
        case Result.TAKEN:
            return f"taken: {_listed(result.changes)}"
        case Result.RESTARTED:
            live = f"; taken before: {_listed(result.changes)}" if result.changes else ""
            return f"restarted for: {_listed(result.restart)}{live}"
        case Result.REFUSED:
            return f"refused: {result.reason}; the configuration before it stays in force"
        case Result.STOPPED:
            return f"stopped, and stays so; supervisorctl -c supervisord.conf start {name}"
        case Result.STARTED:
            return f"started: {result.reason}"
        case Result.STARTING:
            return "not running: it is being started, and reads the configuration then"
        case Result.NO_ANSWER:
            return f"no answer {result.reason}: busy or hung; it reads the configuration when it goes on"
        case Result.UNCHANGED:
            return "unchanged"


def _listed(changes: tuple[tuple[str, str, str], ...]) -> str:
    from runtime.config_changes import SettingChange

    return ", ".join(str(SettingChange(*change)) for change in changes)


def eventually(fact: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for a fact; true if it came true."""
    deadline_s = time.monotonic() + timeout_s
    while not fact():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True
