"""Everything that reaches inside supervisor, behind one guard.

supervisor has one hook for a plugin, and no interface for what a runtime needs in its loop. So this module,
alone, names its parts: `RELIES_ON` lists for each feature of ours what it calls, replaces or takes for
granted, most of it with a fingerprint of the source in the version that we test with. A part that has changed
switches off the features that rely on it; one sentence in supervisord's log says which, and what to do; and
supervisord runs on. None of the features keeps the promise: that is the disk's part, and survives
`kill -9` of everything.

A callback of ours that raises is logged once and called again: supervisord would end over it, and all the
workers with it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import inspect
import linecache
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

TESTED_WITH = "4.3.0"
TRY_AGAIN_S = 30
"""Longest pause before supervisord tries again to start a program."""


class Feature(Enum):
    """A feature of ours inside supervisord, as the log names it where it is off."""

    PROMPT_RESTARTS = "restarts at once"
    BOUNDED_PAUSES = "a next try after 30 s at most"
    SIGNALS_TO_CHILDREN = "signals to a child that is just starting"
    CHECKED_RELOAD = "the check of supervisord.conf before it is used"
    RELIABLE_LOGS = "logs that survive a full disk"
    LOOP_WATCHDOG = "an end to a supervisord that hangs"
    SENTINEL_WATCH = "an end to a sentinel that hangs"
    SOCKET_WATCH = "a socket that comes back"
    LOG_WATCH = "a log folder that comes back"
    LOCK_WATCH = "a lock that comes back"
    STOPS_ON_REQUEST = "stops on request that count as no crash"
    PARENT = "workers that end where it died during their start"
    SHARED_MEMORY = "workers that share its memory"


_EVENTS = {"events:subscribe": "1c0bf1f8", "events:notify": "24a0f9f8"}
_LOOP = {"supervisord:Supervisor.runforever": "ffedef70", "states:SupervisorStates": "400311f3"}
_TICK = {"supervisord:Supervisor.tick": "f7df4989", "events:Tick5Event": ""}
_SERVERS = {
    "options:ServerOptions.openhttpservers": "caf56070",
    "options:ServerOptions.close_httpservers": "913d2d9c",
}

RELIES_ON: dict[Feature, Mapping[str, str]] = {
    Feature.PROMPT_RESTARTS: {
        **_EVENTS, **_LOOP, **_SERVERS,
        "options:ServerOptions.get_socket_map": "91b502fb",
        "events:ProcessStateExitedEvent": "",
        "events:ProcessStateStoppedEvent": "",
        "events:SupervisorRunningEvent": "",
    },
    Feature.BOUNDED_PAUSES: {
        **_EVENTS,
        "process:Subprocess.change_state": "5b97b476",
        "process:Subprocess.transition": "9c60e926",
        "events:ProcessStateBackoffEvent": "",
    },
    Feature.SIGNALS_TO_CHILDREN: {
        **_EVENTS,
        "options:ServerOptions.setsignals": "8139f975",
        "process:Subprocess.spawn": "15d7c6f8",
        "process:Subprocess.kill": "cc31cc4b",
        "events:ProcessStateStoppingEvent": "",
    },
    Feature.CHECKED_RELOAD: {
        **_LOOP,
        "supervisord:Supervisor.handle_signal": "5bc634a7",
        "rpcinterface:SupervisorNamespaceRPCInterface.restart": "c43c13a2",
        "options:ServerOptions.realize": "6c10ae96",
        "options:Options.realize": "f2e23604",
        "options:ServerOptions.server_configs_from_parser": "5d2817d2",
        "xmlrpc:RPCError": "18cae99f",
        "xmlrpc:Faults.CANT_REREAD": "",
    },
    Feature.RELIABLE_LOGS: {
        "loggers:RotatingFileHandler.doRollover": "fdd73899",
        "loggers:Handler.handleError": "76d14021",
    },
    Feature.LOOP_WATCHDOG: {
        **_EVENTS, **_SERVERS, **_TICK,
        "events:SupervisorRunningEvent": "",
    },
    Feature.SENTINEL_WATCH: {
        **_EVENTS, **_TICK,
        "supervisord:Supervisor.add_process_group": "8acc7ce9",
        "process:ProcessGroupBase.__init__": "e32477e7",
    },
    Feature.SOCKET_WATCH: {
        **_EVENTS, **_SERVERS, **_TICK,
        "http:supervisor_af_unix_http_server.__init__": "13b48637",
        "medusa.asyncore_25:dispatcher.set_socket": "30d1d144",
        "medusa.asyncore_25:dispatcher.listen": "c527230e",
        "options:ServerOptions.write_pidfile": "a97084f6",
        "events:SupervisorRunningEvent": "",
    },
    Feature.LOG_WATCH: {
        **_EVENTS, **_TICK,
        "supervisord:Supervisor.add_process_group": "8acc7ce9",
        "options:ServerOptions.reopenlogs": "9bc3326e",
        "process:ProcessGroupBase.reopenlogs": "b71774ea",
    },
    Feature.LOCK_WATCH: {**_EVENTS, **_LOOP, **_TICK},
    Feature.STOPS_ON_REQUEST: {
        **_EVENTS,
        "process:Subprocess.kill": "cc31cc4b",
        "events:ProcessStateStoppingEvent": "",
    },
    Feature.PARENT: {**_EVENTS, "events:SupervisorRunningEvent": ""},
    Feature.SHARED_MEMORY: {
        **_EVENTS,
        "process:Subprocess.spawn": "15d7c6f8",
        "process:Subprocess._spawn_as_child": "179c1d01",
        "process:Subprocess._prepare_child_fds": "d60f6a0c",
        "process:Subprocess.get_execv_args": "26c2b517",
        "options:ServerOptions.fork": "17029b15",
        "options:ServerOptions.execve": "4be26e8e",
        "events:ProcessStateStartingEvent": "",
    },
}  # fmt: skip
"""By feature, `module:name` of each part of supervisor that it relies on, with the fingerprint of its
source; an empty one where it only has to be there.
"""


@functools.cache
def fingerprint(part: str) -> str | None:
    """The first digits of a hash of a part's source without comments and indentation; None where there is no
    such part. Of a part that has no source (a value, an installation without .py files) it is empty.
    """
    module, _, name = part.partition(":")
    try:
        present: Any = importlib.import_module(f"supervisor.{module}")
        for attribute in name.split("."):
            present = getattr(present, attribute)
    except (ImportError, AttributeError):
        return None
    try:
        lines = (line.strip() for line in inspect.getsource(present).splitlines())
    except (OSError, TypeError):
        return ""
    source = "\n".join(line for line in lines if line and not line.startswith("#"))
    return hashlib.sha256(source.encode()).hexdigest()[:8]


@functools.cache
def changed_parts(feature: Feature) -> tuple[str, ...]:
    """The parts that `feature` relies on and that are not as we know them."""
    return tuple(
        part
        for part, expected in RELIES_ON[feature].items()
        if (present := fingerprint(part)) is None or (expected and present and present != expected)
    )


def difference() -> str:
    """One sentence for the operator where supervisor is not as this runtime knows it; empty where it is."""
    version = installed_version()
    off = [feature for feature in Feature if changed_parts(feature)]
    linecache.clearcache()  # holds the source of whole modules, which nothing asks for again
    if off:
        parts = sorted({part.replace(":", ".") for feature in off for part in changed_parts(feature)})
        return (
            f"supervisor {version} differs in {', '.join(parts)} from {TESTED_WITH}, which is known here: "
            f"supervisord works without {', '.join(feature.value for feature in off)}, "
            f"until supervisor {TESTED_WITH} or a newer runtime is installed"
        )
    if version != TESTED_WITH:
        return (
            f"supervisor {version} is not {TESTED_WITH}, with which this runtime is tested, "
            "but all that it relies on is unchanged: nothing is switched off"
        )
    return ""


def installed_version() -> str:
    """The version that the installed supervisor states."""
    from supervisor.options import VERSION

    return str(VERSION)


class ChildEvent(NamedTuple):
    """A change of state of one supervised process."""

    program: str
    pid: int
    start_s: int
    """`startsecs`: it counts as started after so long."""


class RunningSupervisord:
    """The supervisord that this process is, as far as features need it."""

    def __init__(self, supervisord: Any) -> None:
        self._supervisord = supervisord
        self._options = supervisord.options
        self.home = Path(supervisord.options.here)

    def warn(self, sentence: str) -> None:
        self._options.logger.warn(sentence)

    def critical(self, sentence: str) -> None:
        self._options.logger.critical(sentence)

    # -- features and their callbacks --------------------------------------------------------------------

    def install(self, feature: Feature, action: Callable[[], object]) -> None:
        """Have a feature installed by `action`, unless a part that it relies on has changed."""
        if not changed_parts(feature):
            self._guarded(feature, action)()

    def subscribe(self, feature: Feature, event: str, callback: Callable[[Any], object]) -> None:
        """Call `callback` with each event of a class of `supervisor.events`, named without its `Event`."""
        from supervisor import events

        if not changed_parts(feature):
            events.subscribe(getattr(events, f"{event}Event"), self._guarded(feature, callback))

    def subscribe_child(self, feature: Feature, event: str, callback: Callable[[ChildEvent], object]) -> None:
        """Call `callback` with each event of a supervised process."""

        def convert(event: Any) -> None:
            process = event.process
            callback(ChildEvent(process.config.name, process.pid, process.config.startsecs))

        self.subscribe(feature, event, convert)

    def _guarded(self, feature: Feature, action: Callable[..., object]) -> Callable[..., None]:
        failures = 0

        def call(*arguments: object) -> None:
            nonlocal failures
            try:
                action(*arguments)
            except Exception as exc:  # any exception would end supervisord, and the workers with it
                failures += 1
                if failures == 1:
                    self.critical(
                        f"supervisord is without {feature.value}, for it failed: {type(exc).__name__}: {exc}"
                    )

        return call

    # -- what features do with it ------------------------------------------------------------------------

    def pid(self, program: str) -> int:
        """The process of a program that is a group of its own; 0: none."""
        group = self._supervisord.process_groups.get(program)
        process = group.processes.get(program) if group else None
        return int(process.pid) if process else 0

    def poll(self, descriptor: int, dispatcher: object) -> None:
        """Have the loop poll a descriptor, and call `dispatcher` as it does its own."""
        self._options.get_socket_map()[descriptor] = dispatcher

    def unpoll(self, descriptor: int) -> None:
        self._options.get_socket_map().pop(descriptor, None)

    def close_at_end(self, closer: object) -> None:
        """Call `closer.close()` at the end of this run, where it closes its servers; at a reload another run
        begins.
        """
        self._options.httpservers.append(({"family": None}, closer))

    def servers(self) -> Iterator[tuple[Path, int, Any]]:
        """Path, mode and server of each unix socket that it listens at."""
        for config, server in self._options.httpservers:
            if "file" in config:
                yield Path(config["file"]), config["chmod"], server

    def listen_on(self, server: Any, listening: object, waiting_calls: int) -> None:
        """Give a server another socket; it stays, with all its state. The pid file is written as well."""
        server.close()
        server.set_socket(listening)
        server.listen(waiting_calls)
        self._options.write_pidfile()

    def reopen_logs(self) -> None:
        """Open every log again, its own and the programs'."""
        self._options.reopenlogs()
        for group in self._supervisord.process_groups.values():
            group.reopenlogs()

    def run_before_exec(self, run: Callable[[str, list[str], dict[str, str]], object]) -> None:
        """Have a child call `run`, with what it is about to execute, before it calls execve."""
        execve = self._options.execve

        def run_or_execute(filename: str, argv: list[str], environment: dict[str, str]) -> None:
            run(filename, argv, environment)
            execve(filename, argv, environment)

        self._options.execve = run_or_execute

    def shut_down(self) -> None:
        """Stop every program, then supervisord."""
        from supervisor.states import SupervisorStates

        self._options.mood = SupervisorStates.SHUTDOWN

    def check_reloads(self) -> None:
        """Read the file before a reload: one that supervisord would reject is refused, and no program stops.

        Each way to ask for a reload, SIGHUP, `supervisorctl reload` or the sentinel, sets supervisord's mood;
        it looks at that in its next round, and `handle_signal` is the end of this one.
        """
        from supervisor.states import SupervisorStates

        handle_signal, options = self._supervisord.handle_signal, self._options

        def handle_signal_and_check() -> None:
            handle_signal()
            if options.mood != SupervisorStates.RESTARTING or self._supervisord.stopping:
                return
            if _refusal(options.logger):
                options.mood = SupervisorStates.RUNNING

        self._supervisord.handle_signal = handle_signal_and_check
        _answer_refused_reloads()


def bound_pause(failed: Any) -> None:
    """Bound the pause before a restart: 1, 2, 3, ... 30 s and no more. From outside the program could only be
    stopped and started: by the time the stop arrives it may be up, and then it would stay stopped.
    """
    process = failed.process
    process.backoff = min(process.backoff, TRY_AGAIN_S)
    process.delay = min(process.delay, time.time() + TRY_AGAIN_S)


HANDLED_SIGNALS = frozenset(
    {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR2}
)
"""The signals that supervisord has handlers for (`ServerOptions.setsignals`)."""


@functools.cache
def _answer_refused_reloads() -> None:
    """Answer a refused reload with the reason. supervisord answers before it acts, so by itself
    `supervisorctl reload` prints Restarted in any case.
    """
    from supervisor.rpcinterface import SupervisorNamespaceRPCInterface as Calls
    from supervisor.xmlrpc import Faults, RPCError

    restart = Calls.restart

    @functools.wraps(restart)  # supervisord shows its docstring as help
    def restart_if_valid(calls: Any) -> Any:
        if reason := _refusal(calls.supervisord.options.logger):
            raise RPCError(Faults.CANT_REREAD, reason)
        return restart(calls)

    Calls.restart = restart_if_valid


def _refusal(log: Any) -> str:
    """The reason to refuse a reload, logged; empty where it may go on."""
    if reason := wrong_configuration():
        log.critical(f"reload refused, everything goes on as before: {reason}")
    return reason


def wrong_configuration(arguments: list[str] | None = None) -> str:
    """The reason why supervisord would end over its file, or be ended, in one line; empty where it would not,
    and where this supervisor cannot be asked.

    `arguments`: its command line; None: of this process, which is supervisord.
    """
    from supervisor.options import ServerOptions

    if changed_parts(Feature.CHECKED_RELOAD):
        return ""

    def refuse(reason: object) -> None:
        raise ValueError(reason)

    options = ServerOptions()
    options.usage = refuse  # supervisord's own prints to stderr, and ends the process
    try:
        options.realize(arguments)
    except Exception as exc:  # any exception would end supervisord
        return " ".join(str(exc).split()) or type(exc).__name__
    sockets = [config.get("file") for config in options.server_configs]
    if str(Path(options.here) / "run" / "supervisor.sock") in sockets:
        return ""
    # with another path the sentinel saw a hang, and killed supervisord every 20 s
    return "[unix_http_server] must say file=%(here)s/run/supervisor.sock: the sentinel and edgectl ask there"


@functools.cache
def make_logs_reliable() -> None:
    """Have logs survive a full disk. A log that could not roll over, or a message about it that found no
    room on stderr, raised wherever code logged: in supervisord's loop, which ended, or where it reads
    from a worker, to which it then listened no more. And the log stayed closed. Now a line is lost, and
    the next one tries again.
    """
    from supervisor.loggers import Handler, RotatingFileHandler

    roll_over, handle_error = RotatingFileHandler.doRollover, Handler.handleError

    def roll_over_or_continue(handler: Any) -> None:
        try:
            roll_over(handler)
        except (OSError, ValueError):  # ValueError: the last attempt has closed it
            with contextlib.suppress(OSError):
                handler.stream = Path(handler.baseFilename).open("ab")  # noqa: SIM115

    def handle_error_if_possible(handler: Any) -> None:
        with contextlib.suppress(OSError, ValueError):
            handle_error(handler)

    RotatingFileHandler.doRollover, Handler.handleError = roll_over_or_continue, handle_error_if_possible
