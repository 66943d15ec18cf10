"""Methods that the runtime itself answers: those that are quick at once, the others in a thread of their own.

`management.built_in` says which of them the cloud may call at all. A reboot is no call but a command: it is
on disk before the machine goes down, and done when another boot id shows that it came back.
"""

from __future__ import annotations

import contextlib
import queue
import re
import socket
import subprocess
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from loguru import logger

from runtime import __version__
from runtime.adapters.hub.usage_file import UsageFile
from runtime.adapters.management.result_line import KeyedMessages, ResultLine
from runtime.adapters.process import log_files
from runtime.adapters.process.clock import Clock, SystemClock, read_moment
from runtime.adapters.process.status_file import last_record
from runtime.adapters.process.threads import start_thread
from runtime.adapters.update.journal_file import journal_facts
from runtime.config import Config
from runtime.core.ingest.protocol import Stored
from runtime.core.log_events import LogEvent
from runtime.core.management.call_record import CallAnswered
from runtime.core.management.command_record import CommandRow
from runtime.core.management.strict_json import decode_json, encode_json
from runtime.core.management.twin import ReportMode
from runtime.core.management.twin_record import ReportMade
from runtime.errors import EdgeError, Rejected, Retryable
from runtime.layout import OPTIONAL_WORKERS, PROGRAMS, WORKERS

if TYPE_CHECKING:
    from runtime.adapters.supervisor.rpc import Supervisor

MOST_ALARM = 300
"""Characters of an alarm in the reported properties."""
FRESH_S = 30.0
"""A worker that beat so long ago is said to be down."""
LOG_LINES, MOST_LOG_LINES = 200, 5_000
LOG_STREAM = "device-logs"
INGEST_S = 15.0
"""The time that ingest has to take the lines over: within the caller's time-out."""
MOST_LISTED = 50
MOST_LINK_OFF_S = 86_400.0
AFTER_ANSWER_S = 1.0
"""A worker by which the answer goes is restarted so much later."""
BY_WAY_OF = ("upload", "management")

Answer = tuple[int, Any]


class BuiltInMethods:
    """Runs them, and has their answers; readable where there is one."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config, self._clock = config, clock
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._came: queue.SimpleQueue[CallAnswered] = queue.SimpleQueue()
        self._answers: list[CallAnswered] = []
        self._usage = UsageFile(config.layout)
        self.refresh_asked = False
        """The twin is to be read again."""
        self._slow: Mapping[str, Callable[[Any], Answer]] = {
            "status": self._status,
            "restart": self._restart,
            "logs": self._logs,
            "quarantine": self._quarantine,
        }

    def fileno(self) -> int:
        return self._reader.fileno()

    def run(self, call: int, method: str, payload: bytes, facts: Mapping[str, Any]) -> None:
        """Carry one out; its answer comes from `answers`."""
        try:
            asked = decode_json(payload) if payload else None
        except ValueError:
            asked = None
        fields = asked if isinstance(asked, dict) else {}
        if slow := self._slow.get(method):
            try:
                start_thread(self._answered, f"method {method}", call, slow, fields)
            except OSError as exc:
                self._tell(call, (503, {"error": str(exc)}))
            return
        self._answered(call, lambda given: self._quick(method, given, facts), fields)

    def _answered(self, call: int, method: Callable[[Any], Answer], fields: Mapping[str, Any]) -> None:
        try:
            answer = method(fields)
        except Rejected as exc:
            answer = 400, {"error": str(exc)}
        except (EdgeError, OSError) as exc:
            answer = 503, {"error": str(exc)}
        self._tell(call, answer)

    def _tell(self, call: int, answer: Answer) -> None:
        status, value = answer
        self._came.put(CallAnswered(None, "", call, status, encode_json(value)))
        with contextlib.suppress(BlockingIOError):  # a wake-up waits there already
            self._writer.send(b"x")

    def answers(self) -> list[CallAnswered]:
        """The answers that came, given again until `taken`."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4_096)
        while not self._came.empty():
            self._answers.append(self._came.get())
        return self._answers

    def taken(self) -> None:
        self._answers = []

    # --- quick ones ---

    def _quick(self, method: str, fields: Mapping[str, Any], facts: Mapping[str, Any]) -> Answer:
        match method:
            case "ping":
                boot = {"boot_id": self._clock.boot_id(), "boot_s": round(self._clock.boot_s(), 1)}
                return 200, {"version": __version__, "time": self._clock.wall_s(), **boot}
            case "twin-refresh":
                self.refresh_asked = True
                return 200, {"twin": facts["twin"], "desired_version": facts["desired_version"]}
            case "commands":
                rows: list[CommandRow] = facts["open_commands"]
                return 200, {"open": len(rows), "commands": [_told(row) for row in rows[:MOST_LISTED]]}
            case "link":
                return self._link(fields)
        return 404, {"error": f"{method} is no method of this runtime"}

    def _link(self, fields: Mapping[str, Any]) -> Answer:
        """Switch the link off for a while: what switches it on again is here, not in the cloud."""
        minutes = fields.get("minutes")
        if not isinstance(minutes, int | float) or minutes is True or not 0 < minutes * 60 <= MOST_LINK_OFF_S:
            raise Rejected(f"minutes must be a number above 0, and at most {MOST_LINK_OFF_S / 60:g}")
        off_at_s = self._clock.boot_s() + AFTER_ANSWER_S
        self._usage.switch_off_for(minutes * 60, read_moment(self._clock))
        return 200, {"off_for_minutes": minutes, "from_boot_s": off_at_s}

    def end_link_off(self) -> None:
        """Switch the link on where the time of `link` is over."""
        if self._usage.switch_on_if_over(read_moment(self._clock)):
            logger.info("the link is switched on again: its time is over")

    # --- those that wait for something ---

    def _status(self, fields: Mapping[str, Any]) -> Answer:
        from runtime.operations import overview  # late: it would take memory that is seldom needed

        found = overview.observe(self._config.layout, SystemClock(), settings=self._config.settings)
        names = ("verdict", "reasons", "version", "workers", "backlog", "hub", "identity", "disk", "runway")
        return 200, {name: found[name] for name in names if name in found}

    def _restart(self, fields: Mapping[str, Any]) -> Answer:
        worker = fields.get("worker")
        if worker not in (*WORKERS, *OPTIONAL_WORKERS):
            raise Rejected(f"worker must be one of {', '.join((*WORKERS, *OPTIONAL_WORKERS))}")
        from runtime.adapters.supervisor.rpc import Supervisor  # late: it would take 2 MB

        supervisor = Supervisor(self._config.layout.supervisor_socket)
        if worker in BY_WAY_OF:
            supervisor.programs()  # raises where it does not answer
            start_thread(_later, f"restart {worker}", supervisor, worker)
        else:
            supervisor.signal(worker, "TERM")
        return 200, {"restarted": worker}

    def _logs(self, fields: Mapping[str, Any]) -> Answer:
        """Hand the last lines of a worker to ingest; they go to the cloud as a message."""
        worker, most = fields.get("worker"), fields.get("lines", LOG_LINES)
        if worker not in (*WORKERS, *OPTIONAL_WORKERS, "sentinel"):
            raise Rejected("worker must name one of the workers")
        if type(most) is not int or not 1 <= most <= MOST_LOG_LINES:
            raise Rejected(f"lines must be 1 to {MOST_LOG_LINES}")
        lines = deque(log_files.lines(self._config.layout.log, worker), maxlen=most)
        boot = uuid.uuid4().hex
        text = "\n".join(lines).encode()
        messages = KeyedMessages("device-logs", boot, 1, [text], LOG_STREAM, [{"worker": worker}])
        self._put(messages)
        return 200, {
            "lines": len(lines),
            "bytes": len(text),
            "stream": LOG_STREAM,
            "key": f"device-logs/{boot}/1",
        }

    def _put(self, messages: KeyedMessages) -> None:
        line, until_s = ResultLine(self._config.producer_endpoint()), self._clock.boot_s() + INGEST_S
        try:
            line.send(messages, self._clock.boot_s())
            while (now_s := self._clock.boot_s()) < until_s:
                line.socket.poll(200)
                reply = line.outcome(now_s)
                if isinstance(reply, Stored):
                    return
                if reply is not None:
                    raise Rejected(f"ingest refuses it: {reply}")
        finally:
            line.close()
        raise Retryable("ingest does not answer")

    def _quarantine(self, fields: Mapping[str, Any]) -> Answer:
        from runtime.adapters.bus.sockets import DeliveryReporter
        from runtime.adapters.store.reader import StoreReader
        from runtime.core.settlement import Settled

        reader = StoreReader(self._config.layout.messages_db)
        try:
            found = reader.quarantine(0, MOST_LISTED)
        finally:
            reader.close()
        known = [aside.message.id for aside in found]
        ids = fields.get("requeue")
        if ids is None:
            return 200, {"quarantined": [{"id": a.message.id, "reason": a.reason} for a in found]}
        if not isinstance(ids, list) or not set(ids) <= set(known):
            raise Rejected("requeue must be a list of ids that are in quarantine")
        reporter = DeliveryReporter(self._config.layout)
        try:
            reporter.report(Settled(requeued=ids))
            waiting, until_s = set(ids), self._clock.boot_s() + INGEST_S
            while waiting and self._clock.boot_s() < until_s:
                reporter.socket.poll(200)
                waiting -= reporter.confirmed()
        finally:
            reporter.close()
        if waiting:
            raise Retryable("ingest does not answer")
        return 200, {"requeued": ids}

    # --- the machine, and the section of the twin that is the runtime's own ---

    def reboot(self) -> None:
        """Have the machine reboot; that it did is seen by the next boot id, not here."""
        command = self._config.settings.management.reboot_command
        try:
            subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        except OSError as exc:
            logger.bind(event=LogEvent.REBOOT_FAILED).error("{} cannot be started: {}", command[0], exc)

    def alarms(self) -> dict[str, str]:
        """The alarms that stand, by worker, without the figures that change from look to look."""
        layout, boot_id = self._config.layout, self._clock.boot_id()
        records = {name: last_record(layout.status_file(name), boot_id) for name in PROGRAMS}
        own = [(name, text) for name, record in records.items() if (text := record.text("alarm"))]
        judged = [(str(a.get("worker")), str(a.get("text"))) for a in records["sentinel"].parts("alarms")]
        found: dict[str, list[str]] = {}
        for name, text in (*judged, *own):
            found.setdefault(name, []).append(re.sub(r"\d+(\.\d+)?", "N", text)[:MOST_ALARM])
        return {name: "; ".join(texts) for name, texts in found.items() if name in PROGRAMS}

    def section(self, asker: object, config_trial: dict[str, Any], alarms: Mapping[str, str]) -> ReportMade:
        """The section `runtime` of the reported properties: nothing that changes by itself."""
        layout, now_s, boot_id = self._config.layout, self._clock.boot_s(), self._clock.boot_id()
        workers = {}
        for name in (*WORKERS, "sentinel"):
            age_s = last_record(layout.status_file(name), boot_id).age_s("progress_boot_s", now_s)
            workers[name] = "up" if age_s is not None and age_s < FRESH_S else "down"
        value: dict[str, Any] = {
            "version": __version__,
            "boot": boot_id,
            "workers": workers,
            "config": config_trial,
        }
        if alarms:
            value["alarms"] = dict(alarms)
        update = journal_facts(self._config.settings.update.journal_folder)
        if update["last"]:
            value["update"] = {name: update["last"][name] for name in ("version", "result", "reason")}
        return ReportMade(asker, ReportMode.SET, ("runtime",), value)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


def _later(supervisor: Supervisor, worker: str) -> None:
    time.sleep(AFTER_ANSWER_S)
    try:
        supervisor.signal(worker, "TERM")
    except EdgeError as exc:
        logger.bind(event=LogEvent.WORKER_NOT_STARTED).warning("{} cannot be restarted: {}", worker, exc)


def _told(row: CommandRow) -> dict[str, Any]:
    return {
        "command": row.seq,
        "id": row.id,
        "name": row.name,
        "state": str(row.state),
        "attempts": row.attempts,
    }
