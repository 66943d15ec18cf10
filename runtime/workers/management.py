"""management: what the cloud says to the device arrives, is done once, and is answered. Off by default.

One thread, one loop: events of programs, of the hub and of the clock go into a turn (`management_turn.py`),
the turn into one commit, and only then the hub is acknowledged and programs are answered.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol, TypeVar

from loguru import logger

from runtime import wiring_management
from runtime.adapters.bus.sockets import wait_readable
from runtime.adapters.management.database import ManagementDatabase, open_ids, set_aside
from runtime.adapters.management.program_socket import ProgramRequest, ProgramSocket
from runtime.adapters.management.program_watch import ProgramWatch
from runtime.adapters.management.rows import moment_from_json, moment_to_json
from runtime.adapters.process.clock import Clock, SystemClock, read_moment
from runtime.adapters.process.config_watch import ConfigWatch
from runtime.adapters.process.process import Stop
from runtime.adapters.store.errors import StoreDamaged, StoreError, StoreFull, StoreNewer, StoreReplaced
from runtime.config import Config
from runtime.core.log_events import LogEvent
from runtime.core.log_throttle import LogThrottle
from runtime.core.management import calls, command_queue, grants, twin_sync
from runtime.core.management.call_record import OPERATOR_CLIENT, RespondToCall, RunBuiltIn
from runtime.core.management.codes import ManagementCode, RequestRefused
from runtime.core.management.command_record import (
    Acknowledge,
    CountLostResult,
    HolderGone,
    Instant,
    RebootMachine,
)
from runtime.core.management.grants import ProgramPeer
from runtime.core.management.protocol import decode_request, encode_reply
from runtime.core.management.replies import AnswerProgram, ManagementRefusal, ManagementReply, OperatorAnswer
from runtime.core.management.requests import OPERATOR_REQUESTS, ManagementRequest
from runtime.core.management.twin_record import AskTwin, SendReported, TwinRefreshAsked
from runtime.core.management.twin_sync import TwinLimits, TwinSync
from runtime.core.management.waiting import LongPolls
from runtime.core.timer import Timer
from runtime.errors import NeedsHuman, UsageError
from runtime.workers.built_in_methods import BuiltInMethods
from runtime.workers.config_trials import ConfigTrials
from runtime.workers.heartbeat import Heartbeat
from runtime.workers.management_figures import figures_of
from runtime.workers.management_hub import HubSide
from runtime.workers.management_requests import AskingProgram, handle, operate
from runtime.workers.management_results import ResultSender
from runtime.workers.management_turn import Later, ManagementState, ManagementTurn, OwnAsker, ProgramAsker

NAME = "management"
IDLE_S = 1.0
MOST_REQUESTS = 200
"""Most requests of programs in one turn, and so in one commit."""
RETRY_S = 1.0
"""Pause of what the disk did not take."""
FORGET_EVERY_S = 600.0
WATERMARK_EVERY_S = 1.0
LOG_EVERY_S = 60.0
SECTION_EVERY_S = 900.0
"""The section `runtime` of the reported properties is looked at so often."""
ALARMS_EVERY_S = 15.0
"""Alarms are looked for so often; a change of theirs goes into that section."""


def run(config: Config, stop: Stop) -> None:
    """Serve programs until asked to stop; what the database or a setting lacks is waited for."""
    clock = SystemClock()
    heart = Heartbeat(config.layout, NAME, clock, stop)
    watch = ConfigWatch(config, NAME, clock)
    while not stop.requested():
        watch.changed()  # its own settings count from its next start on
        try:
            _serve(config, heart, watch, clock, stop)
        except StoreDamaged as exc:
            _set_aside(config, str(exc))
        except StoreReplaced as exc:
            logger.bind(event=LogEvent.STORE_REPLACED).error("{}; opened again", exc)
        except StoreError as exc:
            heart.wait_out(StoreFull(str(exc)))
        except UsageError as exc:
            heart.wait_out(NeedsHuman(str(exc), hint="correct it in edge.toml, then edgectl reload"))


def _serve(config: Config, heart: Heartbeat, watch: ConfigWatch, clock: Clock, stop: Stop) -> None:
    database = opened(config, heart, stop)
    if database is None:
        return
    management = ManagementLoop(config, database, clock)
    try:
        while not stop.requested():
            watch.changed()
            heart.publish(management.figures)
            management.turn([stop])
    finally:
        management.close()


def opened(config: Config, heart: Heartbeat, stop: Stop) -> ManagementDatabase | None:
    """The open database; what is damaged is set aside. None where it was asked to stop meanwhile."""
    while not stop.requested():
        try:
            return ManagementDatabase(config.layout)
        except StoreDamaged as exc:
            _set_aside(config, str(exc))
        except StoreNewer as exc:
            heart.wait_out(exc)
        except StoreError as exc:
            heart.wait_out(StoreFull(str(exc)))
    return None


def _set_aside(config: Config, reason: str) -> None:
    """Move the damaged database away; name the commands that were open in it, as far as it can be read."""
    path = config.layout.management_db
    ids, count = open_ids(path)
    target = set_aside(path)
    logger.bind(event=LogEvent.MANAGEMENT_DAMAGED, ids=ids[:100], open=count).error(
        "{} is damaged ({}) and is set aside as {}: {} open commands are lost with it",
        path,
        reason,
        target.name,
        "some" if count is None else count,
    )


class _Closable(Protocol):
    def close(self) -> None: ...


Resource = TypeVar("Resource", bound=_Closable)


class ManagementLoop:
    """The worker's loop, one turn at a time."""

    def __init__(self, config: Config, database: ManagementDatabase, clock: Clock) -> None:
        self._clock, self._config = clock, config
        self._database = database
        self._resources = ExitStack()
        self._resources.callback(database.close)
        try:
            self._open(config, clock)
            self._state = self._started()
        except BaseException:
            self.close()
            raise

    def _open(self, config: Config, clock: Clock) -> None:
        """Open the sockets. Raises UsageError for grants that contradict each other, and ConfigError."""
        self._grants = wiring_management.program_grants(config.settings)
        self._acknowledges = config.settings.management.acknowledge == "pnp"
        table = config.settings.management
        self._programs = self._closed_at_the_end(ProgramSocket(config.layout.management_socket, table.group))
        self._processes = self._closed_at_the_end(ProgramWatch())
        self._hub = self._closed_at_the_end(HubSide(config.layout))
        sender = ResultSender(config.producer_endpoint(), table.results_stream)
        self._results = self._closed_at_the_end(sender)
        self._built_in = self._closed_at_the_end(BuiltInMethods(config, clock))
        self._trials = self._closed_at_the_end(ConfigTrials(config, clock))
        self._operators: dict[str, ProgramAsker] = {}
        """Operators whose calls are open, by the rid of the call."""
        self._gone: list[HolderGone] = []
        """Processes that ended, which no commit has recorded yet."""
        self._refresh = False
        """A commit failed: the twin is read again."""
        self._retry_s = -math.inf
        self._trouble = ""
        self._throttle = LogThrottle(LOG_EVERY_S)
        self._forgotten: int | None = 0
        """The end up to which it has been looked for what may be forgotten; None: as far as there is any."""
        self._forget, self._watermark = Timer(FORGET_EVERY_S), Timer(WATERMARK_EVERY_S)
        self._section, self._alarm_look = Timer(SECTION_EVERY_S), Timer(ALARMS_EVERY_S)
        self._alarms: dict[str, str] = {}
        self._trial: dict[str, Any] = {}
        """What the section `runtime` says of them."""
        self._twin_received = moment_from_json(self._database.twin_received())

    def _closed_at_the_end(self, resource: Resource) -> Resource:
        self._resources.callback(resource.close)
        return resource

    def _started(self) -> ManagementState:
        """The state from disk; what follows from it at once is committed. Raises StoreError."""
        settings = self._config.settings.management
        now, database = self._now(), self._database
        open_ = database.open_commands()
        if database.restored:
            logger.bind(event=LogEvent.MANAGEMENT_RESTORED, open=len(open_)).error(
                "{} is an older copy of itself: what it calls open may have ended since, and is uncertain",
                database.path,
            )
        limits = TwinLimits(report_every_s=settings.report_every_s)
        queue, actions = command_queue.started(
            wiring_management.command_policy(self._config.settings),
            open_,
            (),
            database.next_seq,
            now,
            restored=database.restored,
        )
        state = ManagementState(
            TwinSync(database.twin(), os.urandom(4).hex(), limits),
            queue,
            calls.Calls(wiring_management.call_policy(self._config.settings)),
            LongPolls(),
        )
        turn = ManagementTurn(state, database, now, random.random())
        turn.on_commands(actions)
        for command in open_:
            holder = command.lease.holder if command.lease else ""
            if holder and not self._processes.watch(holder):
                turn.commands(HolderGone(holder))
        turn.commit()
        for action in turn.later:
            self._perform(action)
        return turn.state

    # --- a turn ---

    def turn(self, also: Sequence[object] = ()) -> None:
        """Wait, take what came, decide, one commit, and only then acknowledge and answer."""
        self._programs.ensure_bound()
        self._hub.ensure_bound()
        ready = wait_readable(
            [
                self._programs.socket,
                self._hub.line.socket,
                self._results.line.socket,
                self._built_in,
                *self._processes.descriptors(),
                *also,
            ],
            self._patience_s(),
        )
        now = self._now()
        turn = ManagementTurn(self._state, self._database, now, random.random())
        askers: list[ProgramAsker] = []
        try:
            self._collect(turn, ready, askers)
            self._keep(turn)
        except (StoreDamaged, StoreReplaced):
            raise
        except StoreError as exc:
            self._failed(exc, askers)
        else:
            self._committed(turn)
        self._hub.send(now.moment.boot_s)
        self._results.send(self._database, now.moment.boot_s)
        if self._watermark.restart_if_due(now.moment.boot_s):
            self._database.save_watermark()
            self._built_in.end_link_off()

    def _collect(self, turn: ManagementTurn, ready: list[object], askers: list[ProgramAsker]) -> None:
        now_s = turn.now.moment.boot_s
        if self._refresh:
            turn.twin(TwinRefreshAsked())
        self._gone += [HolderGone(holder) for holder in self._processes.ended(ready)]
        for gone in self._gone:
            turn.commands(gone)
            turn.calls(gone)
        self._hub.receive(turn, now_s)
        for request in self._received():
            self._take(turn, request, askers)
        for answered in self._built_in.answers():
            turn.calls(answered)
        for stored in self._results.outcomes(self._database, now_s):
            turn.commands(stored)
        if self._alarm_look.restart_if_due(now_s) and (alarms := self._built_in.alarms()) != self._alarms:
            self._alarms = alarms
            self._section.expire()
        if self._trials.section() != self._trial:
            self._section.expire()
        if self._section.due(now_s):
            self._trial = self._trials.section()
            turn.twin(self._built_in.section(OwnAsker(), self._trial, self._alarms))
        turn.tick()

    def _keep(self, turn: ManagementTurn) -> None:
        """One commit for the turn. Raises StoreError."""
        if self._hub.twin_received:
            self._database.save_twin_received(moment_to_json(turn.now.moment))
        if self._forget.due(turn.now.moment.boot_s):
            self._forgotten = self._database.forget(turn.now, self._forgotten or 0)
        turn.commit()

    def _committed(self, turn: ManagementTurn) -> None:
        now_s = turn.now.moment.boot_s
        before, self._state = self._state, turn.state
        self._gone, self._refresh = [], self._trials.committed(before.twin, turn.state.twin)
        if self._built_in.refresh_asked:
            self._built_in.refresh_asked, self._refresh = False, True
        self._hub.committed()
        self._results.taken()
        self._built_in.taken()
        if self._forgotten is None:  # else there may be more, in the next turn
            self._forget.restart_if_due(now_s)
        self._section.restart_if_due(now_s)
        if self._hub.twin_received:
            self._twin_received = turn.now.moment
        if turn.has_results:
            self._results.wake()
        if self._trouble:
            logger.info("over: {}", self._trouble)
        self._trouble = ""
        for action in turn.later:
            self._perform(action)

    def _failed(self, error: StoreError, askers: Sequence[ProgramAsker]) -> None:
        """Nothing of the turn counts: the hub keeps its commands, and programs are asked to come again."""
        self._database.rollback()
        self._hub.failed()
        self._refresh, self._trouble = True, str(error)
        self._retry_s = self._clock.boot_s() + RETRY_S
        if times := self._throttle.times(type(error).__name__, self._clock.boot_s()):
            logger.bind(event=LogEvent.MANAGEMENT_NOT_KEPT, times=times).error("nothing is kept: {}", error)
        full = isinstance(error, StoreFull)
        code = ManagementCode.DISK_FULL if full else ManagementCode.STORE_UNAVAILABLE
        self._operators = {rid: asker for rid, asker in self._operators.items() if asker not in askers}
        for asker in askers:
            self._answer(asker, ManagementRefusal(code, str(error), retry_after_ms=1_000))

    def _received(self) -> list[ProgramRequest]:
        requests: list[ProgramRequest] = []
        for request in self._programs.receive():
            requests.append(request)
            if len(requests) >= MOST_REQUESTS:
                break
        return requests

    def _take(self, turn: ManagementTurn, request: ProgramRequest, askers: list[ProgramAsker]) -> None:
        """One request of a program: an event, or its refusal."""
        peer = request.peer
        try:
            holder = self._processes.holder(peer.pid, peer.uid)
        except ProcessLookupError:
            return  # it has ended: no answer would be read, and no command be done
        asker = ProgramAsker(request.route, holder or "")
        askers.append(asker)
        try:
            if holder is None:
                raise RequestRefused(ManagementCode.TOO_MANY_WAITING, "too many processes are connected")
            if request.frames is None:
                raise RequestRefused(
                    ManagementCode.BAD_ENVELOPE, "use a REQ socket, or send an empty frame first"
                )
            self._decided(turn, asker, ProgramPeer(peer.uid, peer.gid), decode_request(request.frames))
        except RequestRefused as refused:
            turn.answer(asker, ManagementRefusal.of(refused))

    def _decided(
        self, turn: ManagementTurn, asker: ProgramAsker, peer: ProgramPeer, request: ManagementRequest
    ) -> None:
        if isinstance(request, OPERATOR_REQUESTS):
            grants.check_operator(peer, os.geteuid())
            rid = f"operator-{os.urandom(8).hex()}"
            if operate(turn, asker, request, rid):
                self._operators[rid] = asker
            return
        sync = self._state.twin
        program = AskingProgram(
            asker,
            grants.grant_of(self._grants, peer),
            peer.uid,
            "muted" if self._hub.muted else sync.phase.value,
            self._twin_received,
            self._acknowledges,
        )
        handle(turn, program, request)

    # --- what is done after the commit ---

    def _perform(self, action: Later) -> None:
        match action:
            case AnswerProgram(asker, reply):
                self._answer(asker, reply)
            case RespondToCall(client=client) if client == OPERATOR_CLIENT:
                if asker := self._operators.pop(action.rid, None):
                    self._answer(asker, OperatorAnswer(action.status, action.payload))
            case AskTwin() | SendReported() | RespondToCall():
                self._hub.publish(action)
            case RunBuiltIn(call, method, payload):
                self._built_in.run(call, method, payload, self._facts())
            case CountLostResult(command, reason):
                logger.bind(event=LogEvent.RESULT_LOST, command=command.seq, id=command.id).error(
                    "the result of command {} will not reach the cloud: {}", command.seq, reason
                )
            case RebootMachine():
                self._built_in.reboot()
            case Acknowledge():
                pass  # `HubSide.committed` acknowledges, in order

    def _answer(self, asker: object, reply: ManagementReply) -> None:
        if isinstance(asker, ProgramAsker):
            self._programs.answer(asker.route, encode_reply(reply))
        elif isinstance(asker, OwnAsker):
            asker.done(reply)

    # --- time and figures ---

    def _now(self) -> Instant:
        return Instant(read_moment(self._clock), self._clock.synchronised())

    def _patience_s(self) -> float:
        """Seconds until something is due."""
        now, state = self._now(), self._state
        now_s = now.moment.boot_s
        if now_s < self._retry_s:
            return self._retry_s - now_s
        waits = (
            IDLE_S,
            twin_sync.due_s(state.twin) - now_s,
            command_queue.wait_s(state.commands, now),
            calls.wait_s(state.calls, now.moment),
            state.watchers.wait_s(now.moment),
            self._hub.wait_s(now_s),
            self._results.wait_s(now_s),
            self._trials.wait_s(),
        )
        return max(0.0, min(waits))

    def _facts(self) -> dict[str, Any]:
        """What built-in methods tell of the worker itself."""
        return {**self.figures(), "open_commands": list(self._state.commands.open.values())}

    def figures(self) -> dict[str, Any]:
        """The figures of the status file."""
        waiting, losses = self._hub.waiting_commands, self._database.losses()
        return figures_of(self._state, self._hub.state, waiting, losses, self._trouble)

    def close(self) -> None:
        self._resources.close()
