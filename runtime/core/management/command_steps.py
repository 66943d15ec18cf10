"""The queue of open commands, and the steps that time and waiting programs bring about.

`command_queue.py` has the theory of operation and the events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from runtime.core.management.command_record import (
    COMMAND_TRANSITIONS,
    CommandAction,
    CommandRow,
    CommandState,
    Instant,
    Lease,
    RebootMachine,
    ReceiveAsked,
    SaveCommand,
    SendResult,
    ShowProgress,
)
from runtime.core.management.names import matches_any
from runtime.core.management.replies import (
    AnswerProgram,
    CommandHandedOver,
    NoCommand,
)
from runtime.core.management.waiting import LongPolls

REBOOT_S = 600.0
"""A machine that was told to reboot and runs on for so long did not."""


@dataclass(frozen=True, slots=True)
class CommandPolicy:
    """The settings of commands; the last three are patterns of names."""

    max_attempts: int = 5
    max_lease_s: float = 3_600.0
    max_open: int = 1_000
    max_open_bytes: int = 8 * 1024 * 1024
    once: tuple[str, ...] = ()
    """Must not happen twice."""
    parallel: tuple[str, ...] = ()
    drop_stale: tuple[str, ...] = ()
    """Dropped where no clock can tell their age; others are delivered all the same."""


@dataclass(frozen=True, slots=True)
class OpenCommands:
    """The open commands, and the programs that wait for one. Final ones are on disk only."""

    policy: CommandPolicy = CommandPolicy()
    next_seq: int = 1
    open: Mapping[int, CommandRow] = field(default_factory=dict)
    """By seq, in order."""
    waiting: LongPolls[ReceiveAsked] = field(default_factory=LongPolls)

    def changed(self, command: CommandRow) -> OpenCommands:
        """The queue with this command as it is now."""
        rest = dict(self.open)
        rest[command.seq] = command
        if command.state.final:
            del rest[command.seq]
        return replace(self, open=rest, next_seq=max(self.next_seq, command.seq + 1))


Step = tuple[OpenCommands, list[CommandAction]]


# --- endings ---


def moved(command: CommandRow, state: CommandState, **changes: object) -> CommandRow:
    assert state in COMMAND_TRANSITIONS[command.state], f"no way from {command.state} to {state}"
    return replace(command, state=state, **changes)  # type: ignore[arg-type]


def ended(queue: OpenCommands, command: CommandRow, state: CommandState, now: Instant, reason: str) -> Step:
    shown = command.attempts > 0  # its progress may be reported
    command = moved(command, state, lease=None, retry=None, reason=reason, ended=now.moment)
    actions: list[CommandAction] = [SaveCommand(command), SendResult(command)]
    return queue.changed(command), [*actions, ShowProgress(command.id)] if shown else actions


def interrupted(queue: OpenCommands, command: CommandRow, now: Instant, why: str) -> Step:
    """A lease ended without a word of its program."""
    if command.once:
        return ended(queue, command, CommandState.UNCERTAIN, now, why)
    if command.attempts >= queue.policy.max_attempts:
        return ended(queue, command, CommandState.DEAD, now, f"{why}, {command.attempts} attempts in all")
    command = moved(command, CommandState.QUEUED, lease=None, retry=None, reason=why)
    return queue.changed(command), [SaveCommand(command)]


# --- what time and waiting programs bring about ---


def due(queue: OpenCommands, now: Instant) -> Step:
    actions: list[CommandAction] = []
    for step in (_leases_over, _expired, _reboots, _handed_out, _waits_over):
        queue, more = step(queue, now)
        actions += more
    return queue, actions


def _leases_over(queue: OpenCommands, now: Instant) -> Step:
    actions: list[CommandAction] = []
    for command in queue.open.values():
        if command.state is CommandState.LEASED and command.lease and not command.lease.left_s(now):
            queue, more = interrupted(queue, command, now, "the lease ran out")
            actions += more
    return queue, actions


def _expiry(queue: OpenCommands, command: CommandRow, now: Instant) -> str:
    """The reason why a queued command expires now; empty where it does not."""
    if command.life_s is None and command.received.boot_id == now.moment.boot_id:
        return ""
    age_s = now.since(command.received)
    if age_s is None:
        return "no clock can tell its age" if matches_any(queue.policy.drop_stale, command.name) else ""
    return "" if command.life_s is None or age_s < command.life_s else f"after {command.life_s:g} s"


def _expired(queue: OpenCommands, now: Instant) -> Step:
    actions: list[CommandAction] = []
    for command in queue.open.values():
        if command.state is CommandState.QUEUED and (reason := _expiry(queue, command, now)):
            queue, more = ended(queue, command, CommandState.EXPIRED, now, reason)
            actions += more
    return queue, actions


def _reboots(queue: OpenCommands, now: Instant) -> Step:
    """A reboot is asked for once; another boot id shows that it happened."""
    actions: list[CommandAction] = []
    for command in queue.open.values():
        more: list[CommandAction] = []
        if command.reboot and command.state is CommandState.QUEUED:
            lease = Lease("", "", now.moment, REBOOT_S)
            command = moved(command, CommandState.REBOOTING, lease=lease, attempts=command.attempts + 1)
            queue, more = queue.changed(command), [SaveCommand(command), RebootMachine(command.seq)]
        elif command.state is CommandState.REBOOTING and command.lease:
            if command.lease.since.boot_id != now.moment.boot_id:
                queue, more = ended(queue, command, CommandState.DONE, now, "")
            elif not command.lease.left_s(now):
                queue, more = ended(queue, command, CommandState.FAILED, now, "the machine did not reboot")
        actions += more
    return queue, actions


def _lane(queue: OpenCommands, command: CommandRow) -> tuple[str, ...]:
    parallel = matches_any(queue.policy.parallel, command.name)
    return (command.name, command.leaf, str(command.seq) if parallel else "")


def _next(queue: OpenCommands, asked: ReceiveAsked, now: Instant) -> CommandRow | None:
    """The oldest command that this program may have now."""
    busy = {_lane(queue, one) for one in queue.open.values() if one.state is not CommandState.QUEUED}
    for command in queue.open.values():
        lane = _lane(queue, command)
        if lane in busy or command.reboot:
            continue
        busy.add(lane)
        waits = command.retry is not None and command.retry.left_s(now) > 0
        if not waits and matches_any(asked.names, command.name) and matches_any(asked.leaves, command.leaf):
            return command
    return None


def _handed_out(queue: OpenCommands, now: Instant) -> Step:
    actions: list[CommandAction] = []
    for asked in queue.waiting.requests() if queue.open else ():
        if command := _next(queue, asked, now):
            lease = Lease(asked.holder, asked.poll, now.moment, min(asked.lease_s, queue.policy.max_lease_s))
            token = command.attempts + 1
            command = moved(command, CommandState.LEASED, lease=lease, attempts=token, retry=None)
            queue = replace(queue.changed(command), waiting=queue.waiting.without(asked.asker))
            # The lease is on disk, and only then the program has the command.
            actions += [SaveCommand(command), handed_over(asked.asker, command, now)]
    return queue, actions


def handed_over(asker: object, command: CommandRow, now: Instant) -> AnswerProgram:
    return AnswerProgram(
        asker,
        CommandHandedOver(
            command.seq,
            command.attempts,
            command.id,
            command.name,
            command.attempts,
            now.since(command.received),
            command.payload,
            command.leaf,
            command.properties,
        ),
    )


def _waits_over(queue: OpenCommands, now: Instant) -> Step:
    waiting, over = queue.waiting.over(now.moment)
    return replace(queue, waiting=waiting), [AnswerProgram(asked.asker, NoCommand()) for asked in over]
