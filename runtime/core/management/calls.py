"""Method calls from the cloud: given to a program that serves the method, and answered in time.

Theory of operation

    comes --built-in----------------> the worker itself
      |  --durable------------------> a command, answered 202 when it is on disk
      |  --known call id------------> the kept answer, again
      |  --no program serves it-----> 404          too many wait: 429       not allowed: 403
      v
    waits --a program polls--> handed out --answered--> the answer, first kept if it has a call id
      |                             |
      +--time over: 504             +--time over: 504; its process ended: 503

A call waits in memory only: its caller is there, and is told in time. What must survive is `durable`, or has
a call id.

Invariants:

1. Each caller is answered once, before the time is over after which the hub gives up.
2. A call is handed to one program.
3. An answer under a call id is on disk before it is said; it is said to each caller that repeats the call.

Considered and left: silence where no program serves the method (the caller waits for nothing); handing a call
to a second program after the first one died (it may have done it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from runtime.core.management.call_record import (
    CallAction,
    CallAnswered,
    Caller,
    CallEvent,
    CallLinkDown,
    CallReceived,
    KeptAnswer,
    OpenCall,
    QueueDurable,
    RespondToCall,
    RunBuiltIn,
    SaveAnswer,
    ServeAsked,
)
from runtime.core.management.codes import ManagementCode, RequestRefused
from runtime.core.management.command_record import AskerGone, HolderGone
from runtime.core.management.grants import BUILT_IN_METHODS
from runtime.core.management.names import matches_any
from runtime.core.management.replies import (
    AnswerProgram,
    AnswerTaken,
    CallHandedOver,
    ManagementRefusal,
    NoCall,
)
from runtime.core.management.strict_json import decode_json, encode_json
from runtime.core.management.waiting import LongPolls
from runtime.core.moment import Moment

MAX_OPEN_CALLS = 64
MAX_ANSWER_BYTES = 131_072
"""The hub's limit of 128 KiB for a method's payload."""
MAX_CALL_ID_CHARACTERS = 128
MIN_TIMEOUT_S, MAX_TIMEOUT_S = 5.0, 300.0
"""The hub's bounds for a caller's time-out."""
TIMEOUT_SHARE = 25.0 / 30.0
"""The answer leaves after this share of the caller's time-out: the way back takes time, too."""
ANSWER_KEPT_S = 86_400.0
SERVER_IDLE_S = 360.0
"""A program that polled last so long ago serves no more: the longest poll, and a minute."""
WITHOUT_CALLER_S = 3_600.0
"""A call with a call id waits so long for its answer when its callers have given up."""
REMEMBERED = 256
"""Answered calls that are remembered, for a program whose reply was lost."""


@dataclass(frozen=True, slots=True)
class CallPolicy:
    """The settings of method calls."""

    timeout_s: float = 25.0
    built_in: tuple[str, ...] = ("ping", "status")
    durable: tuple[str, ...] = ()
    """Patterns of methods that are always taken on as commands."""


class Server(NamedTuple):
    """A process that serves methods."""

    methods: tuple[str, ...]
    seen: Moment


@dataclass(frozen=True, slots=True)
class Calls:
    """The open calls, the programs that serve, and those that wait for a call."""

    policy: CallPolicy = CallPolicy()
    next_number: int = 1
    open: Mapping[int, OpenCall] = field(default_factory=dict)
    servers: Mapping[str, Server] = field(default_factory=dict)
    polls: LongPolls[ServeAsked] = field(default_factory=LongPolls)
    answered: tuple[tuple[str, int], ...] = ()
    """(holder, number) of the last calls whose answer was delivered."""

    def changed(self, call: OpenCall) -> Calls:
        return replace(
            self, open={**self.open, call.number: call}, next_number=max(self.next_number, call.number + 1)
        )

    def without(self, number: int) -> Calls:
        return replace(self, open={key: call for key, call in self.open.items() if key != number})


class CallOptions(NamedTuple):
    """Those of its fields that the payload of a call has for the runtime."""

    timeout_s: float | None = None
    call_id: str = ""
    durable: bool = False


Step = tuple[Calls, list[CallAction]]


def after(calls: Calls, event: CallEvent, now: Moment) -> Step:
    """The calls after an event, and the actions due, in order."""
    calls, actions = _handled(_without_idle_servers(calls, now), event, now)
    for step in (_callers_over, _handed_out, _polls_over):
        calls, more = step(calls, now)
        actions = [*actions, *more]
    return calls, actions


def wait_s(calls: Calls, now: Moment) -> float:
    """Seconds until a tick is due, if no event comes."""
    callers = (_left_s(caller, now) for call in calls.open.values() for caller in call.callers)
    return max(0.0, min([calls.polls.wait_s(now), *callers], default=math.inf))


def call_id_of(payload: bytes) -> str:
    """The call id that a payload names: the shell looks up the kept answer by it. Empty for none."""
    try:
        return _options(payload).call_id
    except RequestRefused:
        return ""


def _options(payload: bytes) -> CallOptions:
    """Raises RequestRefused where a field that is meant for the runtime has a bad value."""
    try:
        fields = decode_json(payload) if payload else None
    except ValueError:
        fields = None  # the program's own matter
    if not isinstance(fields, dict):
        return CallOptions()
    timeout_s, call_id = fields.get("timeout_s"), fields.get("call_id", "")
    durable = fields.get("durable", False)
    if timeout_s is not None and not (
        type(timeout_s) in (int, float) and MIN_TIMEOUT_S <= timeout_s <= MAX_TIMEOUT_S
    ):
        raise _bad(f"timeout_s must be a number from {MIN_TIMEOUT_S:g} to {MAX_TIMEOUT_S:g}")
    if not isinstance(call_id, str) or len(call_id) > MAX_CALL_ID_CHARACTERS or not call_id.isprintable():
        raise _bad(f"call_id must be text of at most {MAX_CALL_ID_CHARACTERS} printable characters")
    if not isinstance(durable, bool):
        raise _bad("durable must be true or false")
    return CallOptions(timeout_s, call_id, durable)


def _bad(words: str) -> RequestRefused:
    return RequestRefused(ManagementCode.BAD_FIELD, words)


# --- events ---


def _handled(calls: Calls, event: CallEvent, now: Moment) -> Step:
    match event:
        case CallReceived():
            return _received(calls, event, now)
        case ServeAsked():
            return _offered(calls, event, now)
        case CallAnswered():
            return _answered(calls, event, now)
        case HolderGone(holder):
            return _gone(calls, holder)
        case AskerGone(asker):
            return replace(calls, polls=calls.polls.without(asker)), []
        case CallLinkDown(client):
            return _link_down(calls, client), []
        case _:
            return calls, []


def _said(caller: Caller, status: int, words: str) -> RespondToCall:
    return RespondToCall(caller.client, caller.rid, status, encode_json({"error": words}))


def _received(calls: Calls, event: CallReceived, now: Moment) -> Step:
    try:
        options = _options(event.payload)
    except RequestRefused as refused:
        return calls, [_said(Caller(event.client, event.rid, now, 0.0), 400, str(refused))]
    limit_s = calls.policy.timeout_s if options.timeout_s is None else options.timeout_s * TIMEOUT_SHARE
    caller = Caller(event.client, event.rid, now, limit_s)
    known = event.known
    if options.call_id and known and not _outlived(known, now):
        return calls, [RespondToCall(event.client, event.rid, known.status, known.payload)]
    if options.call_id and (call := _same_call(calls, event, options.call_id)):
        return calls.changed(replace(call, callers=(*call.callers, caller))), []
    return _new_call(calls, event, caller, options, now)


def _outlived(known: KeptAnswer, now: Moment) -> bool:
    age_s = now.since(known.kept)
    return age_s is not None and age_s > ANSWER_KEPT_S


def _same_call(calls: Calls, event: CallReceived, call_id: str) -> OpenCall | None:
    key = (event.method, call_id)
    return next((call for call in calls.open.values() if (call.method, call.call_id) == key), None)


def _new_call(calls: Calls, event: CallReceived, caller: Caller, options: CallOptions, now: Moment) -> Step:
    own = event.method in BUILT_IN_METHODS
    if own and event.method not in calls.policy.built_in:
        return calls, [_said(caller, 403, f"{event.method} is not among management.built_in")]
    if options.durable or event.method == "reboot" or matches_any(calls.policy.durable, event.method):
        id = f"call~{event.method}~{options.call_id}" if options.call_id else None
        reboot = event.method == "reboot"
        return calls, [QueueDurable(caller, event.method, event.payload, id, event.leaf, reboot)]
    if not own and not _served(calls, event.method):
        return calls, [_said(caller, 404, f"no program serves {event.method}")]
    if len(calls.open) >= MAX_OPEN_CALLS:
        return calls, [_said(caller, 429, f"{MAX_OPEN_CALLS} calls wait already")]
    call = OpenCall(
        calls.next_number,
        event.method,
        event.payload,
        now,
        (caller,),
        options.call_id,
        event.leaf,
        holder="" if own else None,
    )
    return calls.changed(call), [RunBuiltIn(call.number, call.method, call.payload)] if own else []


def _served(calls: Calls, method: str) -> bool:
    return any(matches_any(server.methods, method) for server in calls.servers.values())


def _offered(calls: Calls, event: ServeAsked, now: Moment) -> Step:
    servers = {**calls.servers, event.holder: Server(tuple(event.methods), now)}
    calls = replace(calls, servers=servers)
    for call in calls.open.values():
        if event.poll and (call.holder, call.poll) == (event.holder, event.poll):
            return calls, [_handed_over(event.asker, call, now)]  # the reply was lost
    polls = calls.polls.plus(event, event.holder, now)
    if polls is None:
        words = "too many requests of this program, or of all, wait already"
        refusal = ManagementRefusal(ManagementCode.TOO_MANY_WAITING, words, retry_after_ms=1_000)
        return calls, [AnswerProgram(event.asker, refusal)]
    return replace(calls, polls=polls), []


def _answered(calls: Calls, event: CallAnswered, now: Moment) -> Step:
    call = calls.open.get(event.call)
    if call is None or call.holder != event.holder:
        return calls, [AnswerProgram(event.asker, _too_late(calls, event))]
    try:
        _check_answer(event.payload)
    except RequestRefused as refused:
        return calls, [AnswerProgram(event.asker, ManagementRefusal.of(refused))]
    actions: list[CallAction] = []
    if call.call_id:
        kept = KeptAnswer(call.method, call.call_id, event.status, event.payload, now)
        actions.append(SaveAnswer(kept))  # on disk, and only then said
    actions += [RespondToCall(c.client, c.rid, event.status, event.payload) for c in call.callers]
    answered = (*calls.answered, (event.holder, event.call))[-REMEMBERED:] if call.callers else calls.answered
    taken = AnswerProgram(event.asker, AnswerTaken(bool(call.callers)))
    return replace(calls.without(event.call), answered=answered), [*actions, taken]


def _too_late(calls: Calls, event: CallAnswered) -> AnswerTaken | ManagementRefusal:
    if event.call in calls.open or event.call >= calls.next_number:
        words = f"call {event.call} was never handed to this program"
        return ManagementRefusal(ManagementCode.UNKNOWN_CALL, words)
    return AnswerTaken((event.holder, event.call) in calls.answered)


def _check_answer(payload: bytes) -> None:
    if len(payload) > MAX_ANSWER_BYTES:
        words = f"the answer has {len(payload)} bytes of at most {MAX_ANSWER_BYTES}"
        raise RequestRefused(ManagementCode.PAYLOAD_TOO_LARGE, words)
    try:
        decode_json(payload or b"null")
    except ValueError:
        raise RequestRefused(ManagementCode.BAD_VALUE, "the answer must be JSON, or empty") from None


def _gone(calls: Calls, holder: str) -> Step:
    """A process ended: what it had may be done or not; what waits for it alone waits for nothing."""
    servers = {name: server for name, server in calls.servers.items() if name != holder}
    calls = replace(calls, servers=servers, polls=calls.polls.without_holder(holder))
    actions: list[CallAction] = []
    for call in calls.open.values():
        if call.holder == holder or (call.holder is None and not _served(calls, call.method)):
            actions += [_said(caller, 503, "the program that serves it ended") for caller in call.callers]
            calls = calls.without(call.number)
    return calls, actions


def _link_down(calls: Calls, client: int) -> Calls:
    for call in calls.open.values():
        left = tuple(caller for caller in call.callers if caller.client != client)
        calls = _with_callers(calls, call, left)
    return calls


def _with_callers(calls: Calls, call: OpenCall, callers: tuple[Caller, ...]) -> Calls:
    """A call that was handed out under a call id is still worth its answer."""
    if callers or (call.holder and call.call_id):
        return calls.changed(replace(call, callers=callers))
    return calls.without(call.number)


# --- what time and waiting programs bring about ---


def _left_s(caller: Caller, now: Moment) -> float:
    passed_s = now.since(caller.since)
    return 0.0 if passed_s is None else caller.limit_s - passed_s


def _callers_over(calls: Calls, now: Moment) -> Step:
    actions: list[CallAction] = []
    for call in calls.open.values():
        over = [caller for caller in call.callers if _left_s(caller, now) <= 0.0]
        actions += [_said(caller, 504, "no answer came in time") for caller in over]
        if over:
            calls = _with_callers(calls, call, tuple(c for c in call.callers if c not in over))
        elif not call.callers and (now.since(call.since) or 0.0) > WITHOUT_CALLER_S:
            calls = calls.without(call.number)
    return calls, actions


def _without_idle_servers(calls: Calls, now: Moment) -> Calls:
    busy = {call.holder for call in calls.open.values()}
    kept = {
        holder: server
        for holder, server in calls.servers.items()
        if holder in busy or (now.since(server.seen) or 0.0) < SERVER_IDLE_S
    }
    return calls if len(kept) == len(calls.servers) else replace(calls, servers=kept)


def _handed_out(calls: Calls, now: Moment) -> Step:
    actions: list[CallAction] = []
    for call in calls.open.values():
        asked = None if call.holder is not None else _poll_for(calls, call)
        if asked:
            call = replace(call, holder=asked.holder, poll=asked.poll)
            calls = replace(calls.changed(call), polls=calls.polls.without(asked.asker))
            actions.append(_handed_over(asked.asker, call, now))
    return calls, actions


def _poll_for(calls: Calls, call: OpenCall) -> ServeAsked | None:
    return next((one for one in calls.polls.requests() if matches_any(one.methods, call.method)), None)


def _handed_over(asker: Any, call: OpenCall, now: Moment) -> AnswerProgram:
    left_s = max((_left_s(caller, now) for caller in call.callers), default=0.0)
    return AnswerProgram(asker, CallHandedOver(call.number, call.method, left_s, call.payload, call.leaf))


def _polls_over(calls: Calls, now: Moment) -> Step:
    polls, over = calls.polls.over(now)
    return replace(calls, polls=polls), [AnswerProgram(asked.asker, NoCall()) for asked in over]
