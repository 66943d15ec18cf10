"""Commands from the cloud: kept, handed to programs under a lease, and ended in exactly one final state.

Theory of operation

    comes -> [commit] -> PUBACK      attempts used up -> DEAD
                |                      |
                v    receive [commit]  |      complete -> DONE
              QUEUED ------------->  LEASED --fail-----> FAILED
                | ^                    |  |
                | +-- interrupted, or -+  +-- interrupted, and must not happen twice -> UNCERTAIN
                v     failed for now
              EXPIRED

A lease is interrupted where its time is over or its process has ended. Commands of one name and leaf form a
lane: one of a lane is leased at a time, the oldest first. Names that run in parallel have no lanes.

Invariants:

1. A command is acknowledged after the commit that holds it; a repeat is acknowledged and changes nothing.
2. A command is handed over after the commit of its lease. `attempts` numbers the leases; the number is the
   token, and only the word of the last one counts.
3. A final state never changes. It is committed before the program is told, and before its result is sent.
4. A command that must not happen twice is handed over once: whatever interrupts it makes it uncertain.
5. What has no room is not acknowledged: the hub keeps it, and its feedback to the sender stays true.

Considered and left: an acknowledgement when the command is done (the hub's lock of 60 s would repeat it while
it runs); expiry by the wall clock (a device without one would drop what is valid); heartbeats of a holder
(the kernel says when a process ends).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from runtime.core.management.codes import ManagementCode
from runtime.core.management.command_record import (
    Acknowledge,
    AskerGone,
    CommandAction,
    CommandCompleted,
    CommandEvent,
    CommandFailed,
    CommandReceived,
    CommandRow,
    CommandState,
    CountLostResult,
    DropAsked,
    HolderGone,
    Instant,
    LeaseExtended,
    LeaveAtHub,
    ReceiveAsked,
    RequeueAsked,
    ResultStored,
    Retry,
    SaveCommand,
    SendResult,
    ShowProgress,
    digest_of,
)
from runtime.core.management.command_steps import (
    REBOOT_S,
    CommandPolicy,
    OpenCommands,
    Step,
    due,
    ended,
    handed_over,
    interrupted,
    moved,
)
from runtime.core.management.names import matches_any
from runtime.core.management.replies import (
    AnswerProgram,
    Kept,
    ManagementRefusal,
)

DEDUP_S = 2 * 86_400.0
"""The longest that the hub keeps a command: a repeat without an id is known for so long."""


def started(
    policy: CommandPolicy,
    open_: Iterable[CommandRow],
    unsent: Iterable[CommandRow],
    next_seq: int,
    now: Instant,
    *,
    restored: bool = False,
) -> Step:
    """The queue of a new process, from the rows on disk, and what is still to be done.

    `unsent` are final commands whose results `ingest` has not acknowledged. `next_seq` must be above every
    seq that was ever given, or the word of a program could end another command. With `restored` the database
    is an older copy of itself: what it calls open may have ended since, so it is uncertain. What the copy has
    never held is new to it, where the hub sends it again.
    """
    rows = {command.seq: command for command in sorted(open_, key=lambda command: command.seq)}
    queue = OpenCommands(policy, next_seq, rows)
    actions: list[CommandAction] = [SendResult(command) for command in unsent]
    if restored:
        for command in rows.values():
            queue, more = ended(queue, command, CommandState.UNCERTAIN, now, "the database is an older copy")
            actions += more
    queue, more = due(queue, now)
    return queue, [*actions, *more]


def after(queue: OpenCommands, event: CommandEvent, now: Instant) -> Step:
    """The queue after an event, and the actions due, in order."""
    queue, actions = _handled(queue, event, now)
    queue, more = due(queue, now)
    return queue, [*actions, *more]


def wait_s(queue: OpenCommands, now: Instant) -> float:
    """Seconds until a tick is due, if no event comes."""
    waits = [queue.waiting.wait_s(now.moment)]
    for command in queue.open.values():
        if command.lease:
            limit_s = REBOOT_S if command.reboot else command.lease.lease_s
            waits.append(command.lease._replace(lease_s=limit_s).left_s(now))
        elif command.retry:
            waits.append(command.retry.left_s(now))
        age_s = now.since(command.received)
        if not command.lease and command.life_s is not None and age_s is not None:
            waits.append(command.life_s - age_s)
    return min((wait for wait in waits if wait > 0.0), default=math.inf)


# --- events ---


def _handled(queue: OpenCommands, event: CommandEvent, now: Instant) -> Step:
    match event:
        case CommandReceived():
            return _received(queue, event, now)
        case ReceiveAsked():
            return _asked(queue, event, now)
        case CommandCompleted() | CommandFailed() | LeaseExtended():
            return _word(queue, event, now)
        case HolderGone(holder):
            return _gone(queue, holder, now)
        case AskerGone(asker):
            return replace(queue, waiting=queue.waiting.without(asker)), []
        case ResultStored(known, refused):
            stored = [SaveCommand(replace(known, result_stored=True))]
            return queue, [*stored, CountLostResult(known, refused)] if refused else list(stored)
        case RequeueAsked():
            return _requeue(queue, event, now)
        case DropAsked():
            return queue, _dropped(event)
        case _:
            return queue, []


def _known(queue: OpenCommands, event: CommandReceived, now: Instant) -> CommandRow | None:
    """The command that this is a repeat of."""
    known = event.known
    if event.id is not None or known is None:
        return known
    age_s = now.since(known.received)
    return known if event.dup and (age_s is None or age_s <= DEDUP_S) else None


def _received(queue: OpenCommands, event: CommandReceived, now: Instant) -> Step:
    if known := _known(queue, event, now):
        return queue, [Acknowledge(event.owed, known.seq)]
    open_bytes = sum(len(command.payload) for command in queue.open.values())
    policy = queue.policy
    if len(queue.open) >= policy.max_open or open_bytes + len(event.payload) > policy.max_open_bytes:
        return queue, [LeaveAtHub(event.owed)]
    seq = queue.next_seq
    digest = "" if event.id is not None else digest_of(event.topic, event.payload)
    command = CommandRow(
        seq,
        event.id if event.id is not None else (f"{digest}~{seq}" if event.known else digest),
        event.name,
        event.payload,
        now.moment,
        leaf=event.leaf,
        properties=event.properties,
        digest=digest,
        life_s=_life_s(event, now),
        once=matches_any(policy.once, event.name),
        reboot=event.reboot,
    )
    # On disk, and only then acknowledged.
    return queue.changed(command), [SaveCommand(command), Acknowledge(event.owed, seq)]


def _life_s(event: CommandReceived, now: Instant) -> float | None:
    """Seconds from now until it expires. The hub delivers nothing expired: a clock that says so is wrong."""
    lives = [] if event.ttl_s is None else [event.ttl_s]
    if event.expires_wall_s is not None and now.wall_believed:
        left_s = event.expires_wall_s - now.moment.wall_s
        lives += [min(left_s, DEDUP_S)] if left_s > 0 else []
    return min(lives, default=None)


def _asked(queue: OpenCommands, event: ReceiveAsked, now: Instant) -> Step:
    for command in queue.open.values():
        lease = command.lease
        if lease and event.poll and (lease.holder, lease.poll) == (event.holder, event.poll):
            return queue, [handed_over(event.asker, command, now)]  # the reply was lost
    waiting = queue.waiting.plus(event, event.holder, now.moment)
    if waiting is None:
        words = "too many requests of this program, or of all, wait already"
        refusal = ManagementRefusal(ManagementCode.TOO_MANY_WAITING, words, retry_after_ms=1_000)
        return queue, [AnswerProgram(event.asker, refusal)]
    return replace(queue, waiting=waiting), []


def _valid(command: CommandRow, token: int) -> bool:
    """True if this is the word of the program that has the command now."""
    return command.state is CommandState.LEASED and command.attempts == token


def _repeats(command: CommandRow, event: CommandCompleted | CommandFailed | LeaseExtended) -> bool:
    """True if the program has said the same before, and the answer was lost."""
    if isinstance(event, CommandCompleted):
        return command.ended_token == event.token and command.state is CommandState.DONE
    if isinstance(event, CommandFailed):
        retried = event.retry_after_s is not None and command.retry and command.retry.token == event.token
        return bool(retried) or (
            command.ended_token == event.token and command.state is not CommandState.DONE
        )
    return False


def _word(queue: OpenCommands, event: CommandCompleted | CommandFailed | LeaseExtended, now: Instant) -> Step:
    """A program says how far it is with a command."""
    command = queue.open.get(event.command) or event.known
    if command is None:
        words = f"command {event.command} is not known: it was never received, or is forgotten by now"
        return queue, [AnswerProgram(event.asker, ManagementRefusal(ManagementCode.UNKNOWN_COMMAND, words))]
    if _valid(command, event.token):
        return _taken(queue, command, event, now)
    if _repeats(command, event):
        return queue, [AnswerProgram(event.asker, Kept())]
    words = f"command {command.seq} is {command.state} by now, and token {event.token} counts no more"
    return queue, [AnswerProgram(event.asker, ManagementRefusal(ManagementCode.LEASE_LOST, words))]


def _taken(
    queue: OpenCommands,
    command: CommandRow,
    event: CommandCompleted | CommandFailed | LeaseExtended,
    now: Instant,
) -> Step:
    kept = AnswerProgram(event.asker, Kept())
    assert command.lease is not None
    if isinstance(event, LeaseExtended):
        lease_s = min(event.lease_s, queue.policy.max_lease_s)
        command = replace(command, lease=command.lease._replace(since=now.moment, lease_s=lease_s))
        progress = ShowProgress(command.id, event.percent, event.message)
        return queue.changed(command), [SaveCommand(command), kept, progress]
    if isinstance(event, CommandFailed) and event.retry_after_s is not None:
        if command.attempts < queue.policy.max_attempts:
            retry = Retry(event.token, now.moment, event.retry_after_s)
            command = moved(command, CommandState.QUEUED, lease=None, retry=retry, reason=event.reason)
            return queue.changed(command), [SaveCommand(command), kept]
        state, reason = CommandState.DEAD, event.reason
    elif isinstance(event, CommandFailed):
        state, reason = CommandState.FAILED, event.reason
    else:
        state, reason = CommandState.DONE, ""
    command = replace(command, status=event.status, result=event.result, ended_token=event.token)
    queue, (save, *rest) = ended(queue, command, state, now, reason)
    return queue, [save, kept, *rest]


def _gone(queue: OpenCommands, holder: str, now: Instant) -> Step:
    actions: list[CommandAction] = []
    queue = replace(queue, waiting=queue.waiting.without_holder(holder))
    for command in queue.open.values():
        if command.state is CommandState.LEASED and command.lease and command.lease.holder == holder:
            queue, more = interrupted(queue, command, now, "the program ended")
            actions += more
    return queue, actions


def _requeue(queue: OpenCommands, event: RequeueAsked, now: Instant) -> Step:
    """The old one keeps its final state; the new one has an id that no hub gives."""
    old, seq = event.known, queue.next_seq
    if old.state not in (CommandState.DEAD, CommandState.UNCERTAIN):
        return queue, [_not_for_operators(event.asker, old, "requeued")]
    new = CommandRow(
        seq,
        f"{old.id}~{seq}",
        old.name,
        old.payload,
        now.moment,
        leaf=old.leaf,
        properties=old.properties,
        once=matches_any(queue.policy.once, old.name),
        reboot=old.reboot,
    )
    return queue.changed(new), [SaveCommand(new), AnswerProgram(event.asker, Kept(seq))]


def _dropped(event: DropAsked) -> list[CommandAction]:
    """The row stays for a while, as of others that ended: a repeat from the hub must find it."""
    old = event.known
    if old.state not in (CommandState.DEAD, CommandState.UNCERTAIN):
        return [_not_for_operators(event.asker, old, "dropped")]
    return [SaveCommand(replace(old, dropped=True)), AnswerProgram(event.asker, Kept())]


def _not_for_operators(asker: object, command: CommandRow, verb: str) -> AnswerProgram:
    words = f"command {command.seq} is {command.state}: only dead and uncertain ones are {verb}"
    return AnswerProgram(asker, ManagementRefusal(ManagementCode.BAD_FIELD, words))
