"""What a program asks of management, made an event of the turn, or answered at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runtime.core.management import grants
from runtime.core.management.call_record import OPERATOR_CLIENT, CallAnswered, CallReceived, ServeAsked
from runtime.core.management.calls import call_id_of
from runtime.core.management.codes import ManagementCode, RequestRefused
from runtime.core.management.command_record import (
    CommandCompleted,
    CommandFailed,
    CommandRow,
    DropAsked,
    LeaseExtended,
    ReceiveAsked,
    RequeueAsked,
)
from runtime.core.management.grants import ProgramGrant
from runtime.core.management.names import common, matches_any
from runtime.core.management.protocol import MANAGEMENT_VERSION
from runtime.core.management.replies import Alive, Identified, LeafList, ManagementRefusal, TwinValue
from runtime.core.management.requests import (
    AnswerRequest,
    AppliedRequest,
    CallRequest,
    CompleteRequest,
    DropRequest,
    ExtendRequest,
    FailRequest,
    LeavesRequest,
    ManagementRequest,
    PingRequest,
    ReceiveRequest,
    ReportRequest,
    RequeueRequest,
    ServeRequest,
    TwinPart,
    TwinRequest,
    WatchRequest,
    WhoAmIRequest,
)
from runtime.core.management.twin import value_at
from runtime.core.management.twin_record import ChangeApplied, ReportMade
from runtime.core.management.twin_rules import pointer
from runtime.core.management.watchers import WatchAsked
from runtime.core.moment import Moment
from runtime.workers.management_turn import ConfirmationAsker, ManagementTurn, ProgramAsker


@dataclass(frozen=True, slots=True)
class AskingProgram:
    """Who asks, and what of the hub the answer depends on."""

    asker: ProgramAsker
    grant: ProgramGrant
    uid: int | None
    twin_state: str
    """How far the twin is: level, asking, away or muted."""
    twin_received: Moment | None
    """When the hub last told of the twin."""
    acknowledges: bool
    """An applied change is reported as IoT Plug and Play defines it."""


def handle(turn: ManagementTurn, program: AskingProgram, request: ManagementRequest) -> None:
    """One request; a refusal is its answer."""
    try:
        _handle(turn, program, request)
    except RequestRefused as refused:
        turn.answer(program.asker, ManagementRefusal.of(refused))


def _handle(turn: ManagementTurn, program: AskingProgram, request: ManagementRequest) -> None:
    asker = program.asker
    match request:
        case PingRequest():
            turn.answer(asker, Alive(MANAGEMENT_VERSION))
        case WhoAmIRequest():
            turn.answer(asker, Identified(program.grant.name, program.uid, program.grant.shown()))
        case LeavesRequest():
            turn.answer(asker, LeafList({}))
        case TwinRequest() | ReportRequest() | WatchRequest() | AppliedRequest():
            _twin(turn, program, request)
        case ServeRequest(methods, wait_s, poll):
            served = grants.method_names(program.grant, methods)
            turn.calls(ServeAsked(asker, asker.holder, served, wait_s, poll))
        case AnswerRequest(call, status, payload):
            turn.calls(CallAnswered(asker, asker.holder, call, status, payload))
        case ReceiveRequest() | ExtendRequest() | CompleteRequest() | FailRequest():
            _command(turn, program, request)


def _twin(
    turn: ManagementTurn,
    program: AskingProgram,
    request: TwinRequest | ReportRequest | WatchRequest | AppliedRequest,
) -> None:
    asker, grant = program.asker, program.grant
    match request:
        case TwinRequest():
            turn.answer(asker, _value(turn, program, request))
        case ReportRequest(mode, path, if_change, wait_s, value):
            grants.check_report(grant, path, value)
            waits = ConfirmationAsker(asker, path, wait_s) if wait_s > 0 else asker
            turn.twin(ReportMade(waits, mode, path, value, if_change))
        case WatchRequest(path, after, wait_s):
            grants.check_desired(grant, path)
            turn.watch(WatchAsked(asker, path, after, wait_s), asker.holder)
        case AppliedRequest(change, path, status, message):
            grants.check_desired(grant, path)
            turn.twin(ChangeApplied(asker, path, change, status, message, program.acknowledges))


def _value(turn: ManagementTurn, program: AskingProgram, request: TwinRequest) -> TwinValue:
    record, path = turn.state.twin.record, request.path
    version, change = record.reported_version, record.wanted_change(path)
    match request.half:
        case TwinPart.DESIRED:
            grants.check_desired(program.grant, path)
            document, version, change = record.desired, record.desired_version, record.desired_change(path)
        case TwinPart.REPORTED:
            document = record.confirmed
        case TwinPart.WANTED:
            document = record.wanted
    value = value_at(document, path)
    if value is None:
        raise RequestRefused(
            ManagementCode.NO_SUCH_PATH, f"nothing stands at {pointer(path)} of {request.half}"
        )
    age_s = turn.now.since(program.twin_received) if program.twin_received else None
    return TwinValue(value, version, change, age_s, program.twin_state)


def _command(
    turn: ManagementTurn,
    program: AskingProgram,
    request: ReceiveRequest | ExtendRequest | CompleteRequest | FailRequest,
) -> None:
    asker, grant = program.asker, program.grant
    match request:
        case ReceiveRequest(names, leaf, lease_s, wait_s, poll):
            granted = grants.command_names(grant, names)
            leaves = _leaves(grant, leaf)
            turn.commands(ReceiveAsked(asker, asker.holder, granted, leaves, lease_s, wait_s, poll))
        case ExtendRequest(command, token, lease_s, percent, message):
            known = _known(turn, grant, command)
            turn.commands(LeaseExtended(asker, command, token, lease_s, percent, message, known))
        case CompleteRequest(command, token, status, result):
            known = _known(turn, grant, command)
            turn.commands(CommandCompleted(asker, command, token, status, result, known))
        case FailRequest(command, token, status, reason, retry_after_s, result):
            known = _known(turn, grant, command)
            turn.commands(CommandFailed(asker, command, token, status, reason, retry_after_s, result, known))


def _known(turn: ManagementTurn, grant: ProgramGrant, seq: int) -> CommandRow | None:
    """The command as it is, where this program may have it at all. Raises RequestRefused."""
    command = turn.state.commands.open.get(seq) or turn.database.command(seq)
    if command is not None and not matches_any(grant.commands, command.name):
        raise RequestRefused(ManagementCode.NOT_GRANTED, f"command {seq} is not for this program")
    return command


def operate(turn: ManagementTurn, asker: ProgramAsker, request: ManagementRequest, rid: str) -> bool:
    """One request of an operator; True for a call, which is answered under `rid`. Raises RequestRefused."""
    match request:
        case RequeueRequest(command):
            turn.commands(RequeueAsked(asker, _ended(turn, command)))
        case DropRequest(command):
            turn.commands(DropAsked(asker, _ended(turn, command)))
        case CallRequest(method, _, payload):
            call_id = call_id_of(payload)
            known = turn.database.answer(method, call_id) if call_id else None
            turn.calls(CallReceived(OPERATOR_CLIENT, rid, method, payload, known=known))
            return True
    return False


def _ended(turn: ManagementTurn, seq: int) -> CommandRow:
    command = turn.database.command(seq)
    if command is None:
        raise RequestRefused(ManagementCode.UNKNOWN_COMMAND, f"command {seq} is not known")
    return command


def _leaves(grant: ProgramGrant, asked: str) -> Sequence[str]:
    """The leaves whose commands it asks for and may have; "" stands for the device itself."""
    granted = common([asked], grant.leaves)
    if asked == "*":
        return ["", *granted]
    if not granted:
        raise RequestRefused(ManagementCode.NOT_GRANTED, f"leaf {asked} is not granted to this program")
    return granted
