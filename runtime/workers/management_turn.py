"""One turn of management: events go to the decisions of `core/management`, what they save into one commit.

Invariants:

1. What a decision saves is saved in the open transaction, in order; a look-up sees it.
2. What a decision does otherwise waits in `later` until the commit is through. Where it fails the state is
   that from before the turn, and nothing of `later` happens.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runtime.adapters.management.database import ManagementDatabase
from runtime.core.management import call_record, calls, command_queue, twin_sync, watchers
from runtime.core.management.call_record import (
    CallAction,
    Caller,
    CallEvent,
    QueueDurable,
    RespondToCall,
    SaveAnswer,
)
from runtime.core.management.calls import Calls
from runtime.core.management.command_record import (
    Acknowledge,
    CommandAction,
    CommandEvent,
    CommandReceived,
    CommandTick,
    CountLostResult,
    Instant,
    LeaveAtHub,
    SaveCommand,
    SendResult,
    ShowProgress,
)
from runtime.core.management.command_steps import OpenCommands
from runtime.core.management.replies import AnswerProgram, Kept, ManagementReply
from runtime.core.management.strict_json import encode_json
from runtime.core.management.twin import ReportMode
from runtime.core.management.twin_record import (
    ReportMade,
    SaveTwin,
    TwinAction,
    TwinEvent,
    TwinRecord,
    TwinTick,
    WakeWatchers,
)
from runtime.core.management.twin_rules import Path
from runtime.core.management.twin_sync import TwinSync
from runtime.core.management.watchers import ConfirmationAsked, TwinPoll, Watchers

_NOT_IN_A_NAME = re.compile(r"[.$\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")
MAX_PROGRESS_NAME = 128


@dataclass(frozen=True, slots=True)
class ManagementState:
    """All that the worker knows beyond the disk."""

    twin: TwinSync
    commands: OpenCommands
    calls: Calls
    watchers: Watchers


@dataclass(frozen=True, eq=False, slots=True)
class ProgramAsker:
    """A request of a program that is owed one reply."""

    route: Sequence[bytes]
    holder: str


@dataclass(frozen=True, eq=False, slots=True)
class ConfirmationAsker:
    """A report whose reply waits for the hub, once it is on disk."""

    program: ProgramAsker
    path: Path
    wait_s: float


@dataclass(frozen=True, eq=False, slots=True)
class OwnAsker:
    """The worker itself asks; `done` gets the reply after the commit."""

    done: Callable[[ManagementReply], None] = lambda reply: None


@dataclass(frozen=True, slots=True)
class HubOwed:
    """The PUBACK of a command."""

    number: int


Later = TwinAction | CommandAction | CallAction


class ManagementTurn:
    """The turn under way."""

    def __init__(
        self, state: ManagementState, database: ManagementDatabase, now: Instant, draw: float
    ) -> None:
        self.state = state
        self.database = database
        self.now = now
        self.later: list[Later] = []
        self.has_results = False
        """A command ended whose result is to be sent."""
        self.left: list[object] = []
        """What is owed for commands that the hub keeps, for want of room."""
        self._draw = draw
        self._save: TwinRecord | None = None
        self._woken = False

    # --- events ---

    def twin(self, event: TwinEvent) -> None:
        sync, actions = twin_sync.after(self.state.twin, event, self.now.moment.boot_s, self._draw)
        self.state = replace(self.state, twin=sync)
        for action in actions:
            self._on_twin(action)

    def commands(self, event: CommandEvent) -> None:
        queue, actions = command_queue.after(self.state.commands, event, self.now)
        self.state = replace(self.state, commands=queue)
        self.on_commands(actions)

    def calls(self, event: CallEvent) -> None:
        state, actions = calls.after(self.state.calls, event, self.now.moment)
        self.state = replace(self.state, calls=state)
        for action in actions:
            self._on_call(action)

    def watch(self, poll: TwinPoll, holder: str) -> None:
        """A program waits for the twin."""
        record, moment = self.state.twin.record, self.now.moment
        self._watchers(watchers.asked(self.state.watchers, poll, holder, record, moment))

    def tick(self) -> None:
        """Time has passed: what is due in each of them."""
        self.twin(TwinTick())
        self.commands(CommandTick())
        self.calls(call_record.CallTick())
        self._watchers(watchers.ticked(self.state.watchers, self.state.twin.record, self.now.moment))

    def answer(self, asker: object, reply: ManagementReply) -> None:
        self.later.append(AnswerProgram(asker, reply))

    # --- actions ---

    def _on_twin(self, action: TwinAction) -> None:
        match action:
            case SaveTwin(record):
                self._save = record
            case WakeWatchers():
                self._woken = True
            case AnswerProgram(ConfirmationAsker() as asker, Kept(change)):
                holder = asker.program.holder
                self.watch(ConfirmationAsked(asker.program, asker.path, change, asker.wait_s), holder)
            case AnswerProgram(ConfirmationAsker() as asker, reply):
                self.answer(asker.program, reply)
            case _:
                self.later.append(action)

    def on_commands(self, actions: Sequence[CommandAction]) -> None:
        """Carry out what the command queue decided."""
        for action in actions:
            self._on_command(action)

    def _on_command(self, action: CommandAction) -> None:
        match action:
            case SaveCommand(command):
                self.database.save_command(command)
            case SendResult():
                self.has_results = True
            case CountLostResult(command, reason):
                self.database.count_loss(reason)
                self.later.append(action)
            case ShowProgress():
                self._show(action)
            case Acknowledge(Caller() as caller, seq):
                self.later.append(_respond(caller, 202, {"command": seq}))
            case LeaveAtHub(Caller() as caller):
                self.later.append(_respond(caller, 429, {"error": "too many commands wait already"}))
            case LeaveAtHub(owed):
                self.left.append(owed)
            case _:
                self.later.append(action)

    def _show(self, progress: ShowProgress) -> None:
        """Report how far a command is; the twin's rules for names are stricter than those for ids."""
        path = ("commands", _NOT_IN_A_NAME.sub("_", progress.id)[:MAX_PROGRESS_NAME] or "_")
        shown = {"percent": progress.percent, "message": progress.message}
        value = {name: one for name, one in shown.items() if one not in (None, "")}
        mode = ReportMode.SET if value else ReportMode.REMOVE
        self.twin(ReportMade(OwnAsker(), mode, path, value or None))

    def _on_call(self, action: CallAction) -> None:
        match action:
            case SaveAnswer(answer):
                self.database.save_answer(answer)
            case QueueDurable(caller, method, payload, id, leaf, reboot):
                known = self.database.command_of(id) if id is not None else None
                received = CommandReceived(
                    caller, id, f"method:{method}", method, payload, leaf=leaf, reboot=reboot, known=known
                )
                self.commands(received)
            case _:
                self.later.append(action)

    def _watchers(self, step: watchers.Step) -> None:
        waiting, answers = step
        self.state = replace(self.state, watchers=waiting)
        self.later += answers

    # --- the end ---

    def commit(self) -> None:
        """Make the turn durable. Raises StoreError; the state of the turn counts for nothing then."""
        if self._woken:
            self._watchers(watchers.woken(self.state.watchers, self.state.twin.record))
        if self._save is not None:
            self.database.save_twin(self._save)
        self.database.commit()


def _respond(caller: Caller, status: int, value: Any) -> RespondToCall:
    return RespondToCall(caller.client, caller.rid, status, encode_json(value))
