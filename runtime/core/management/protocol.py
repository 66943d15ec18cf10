"""The wire protocol between programs and the management worker, version 1: it is defined here only.

A REQ socket sends a request: one JSON header frame, and a payload frame where the operation has a payload. A
reply is built alike. The envelope in front of them is that of the producer protocol.

    >> {"operation":"report","path":"/press"}  {"speed":3}
    << {"ok":true,"kept":true,"change":41}

    >> {"operation":"receive","names":["recipe"],"wait_s":60,"poll":"7"}
    << {"ok":true,"command":7,"token":1,"id":"9f","name":"recipe","attempt":1,"age_s":0.4}  <payload>

Invariants:

1. Any bytes at all decode to a request or raise RequestRefused; no other exception escapes.
2. A request and a reply come back from their frames as they were.
3. An error with `retry_after_ms` may succeed unchanged later; one without never will.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from enum import StrEnum
from typing import Any

from runtime.core.management.codes import ManagementCode, RequestRefused
from runtime.core.management.replies import (
    Alive,
    AnswerTaken,
    CallHandedOver,
    CommandHandedOver,
    Identified,
    Kept,
    LeafList,
    ManagementRefusal,
    ManagementReply,
    NoCall,
    NoCommand,
    OperatorAnswer,
    TwinValue,
    Watched,
)
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
from runtime.core.management.strict_json import decode_json, encode_json
from runtime.core.management.twin import ReportMode
from runtime.core.management.twin_rules import parse_pointer, pointer_text
from runtime.core.management.waiting import MAX_WAIT_S

MANAGEMENT_VERSION = 1
MAX_HEADER_BYTES = 65_536
MAX_PAYLOAD_BYTES = 262_144
"""A whole half of the twin is at most 32 KiB, a method's answer 128 KiB: with every character escaped."""
MAX_NAMES = 64
MAX_NAME_CHARACTERS = 128
MAX_WORDS_CHARACTERS = 1_024
MAX_LEASE_S = 3_600.0
MAX_RETRY_AFTER_S = 86_400.0
MAX_NUMBER = 2**53


class ManagementOperation(StrEnum):
    """The operations that a program can request; the last group is for operators."""

    PING = "ping"
    WHOAMI = "whoami"
    TWIN = "twin"
    REPORT = "report"
    WATCH = "watch"
    APPLIED = "applied"
    RECEIVE = "receive"
    EXTEND = "extend"
    COMPLETE = "complete"
    FAIL = "fail"
    SERVE = "serve"
    ANSWER = "answer"
    LEAVES = "leaves"

    REQUEUE = "requeue"
    DROP = "drop"
    CALL = "call"


_KINDS: Mapping[ManagementOperation, type[ManagementRequest]] = {
    ManagementOperation.PING: PingRequest,
    ManagementOperation.WHOAMI: WhoAmIRequest,
    ManagementOperation.TWIN: TwinRequest,
    ManagementOperation.REPORT: ReportRequest,
    ManagementOperation.WATCH: WatchRequest,
    ManagementOperation.APPLIED: AppliedRequest,
    ManagementOperation.RECEIVE: ReceiveRequest,
    ManagementOperation.EXTEND: ExtendRequest,
    ManagementOperation.COMPLETE: CompleteRequest,
    ManagementOperation.FAIL: FailRequest,
    ManagementOperation.SERVE: ServeRequest,
    ManagementOperation.ANSWER: AnswerRequest,
    ManagementOperation.LEAVES: LeavesRequest,
    ManagementOperation.REQUEUE: RequeueRequest,
    ManagementOperation.DROP: DropRequest,
    ManagementOperation.CALL: CallRequest,
}
_OPERATIONS = {kind: operation for operation, kind in _KINDS.items()}
PAYLOADS = ("value", "result", "payload")
"""Fields that travel in a frame of their own; `value` as JSON."""

# --- fields of a header ---

_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")
_POLL = re.compile(r"[A-Za-z0-9_.-]{1,48}")
_LEAF = re.compile(r"[A-Za-z0-9_.-]{4,90}|[A-Za-z0-9_.-]{0,89}\*")
_SHOW = reprlib.Repr()
_SHOW.maxlevel = 2


def _shown(value: Any) -> str:
    """A value for an error: short, in ASCII, whatever it is."""
    text = _SHOW.repr(value) if isinstance(value, list | dict) else ascii(value)
    return text.encode("ascii", "backslashreplace").decode()[:60]


def _bad(name: str, rule: str, value: Any) -> RequestRefused:
    return RequestRefused(ManagementCode.BAD_FIELD, f"{name} must be {rule}, not {_shown(value)}")


def _number(least: float, most: float) -> Callable[[str, Any], float]:
    def parse(name: str, value: Any) -> float:
        if type(value) in (int, float) and least <= value <= most:
            return float(value)
        raise _bad(name, f"a number from {least:g} to {most:g}", value)

    return parse


def _whole(least: int, most: int) -> Callable[[str, Any], int]:
    def parse(name: str, value: Any) -> int:
        if type(value) is int and least <= value <= most:
            return value
        raise _bad(name, f"a whole number from {least} to {most}", value)

    return parse


def _text(most: int) -> Callable[[str, Any], str]:
    def parse(name: str, value: Any) -> str:
        if isinstance(value, str) and len(value) <= most and (not value or _NAME.fullmatch(value)):
            return value
        raise _bad(name, f"text of at most {most} characters without control characters", value)

    return parse


def _matching(pattern: re.Pattern[str], rule: str) -> Callable[[str, Any], str]:
    def parse(name: str, value: Any) -> str:
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        raise _bad(name, rule, value)

    return parse


def _names(name: str, value: Any) -> tuple[str, ...]:
    good = isinstance(value, list) and 1 <= len(value) <= MAX_NAMES
    if good and all(
        isinstance(one, str) and len(one) <= MAX_NAME_CHARACTERS and (not one or _NAME.fullmatch(one))
        for one in value
    ):
        return tuple(value)
    raise _bad(name, f"a list of 1 to {MAX_NAMES} names of at most {MAX_NAME_CHARACTERS} characters", value)


def _method(name: str, value: Any) -> str:
    return _names(name, [value])[0]


def _path(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, str):
        raise _bad(name, "a JSON pointer such as /press/speed", value)
    return parse_pointer(value)


def _one_of(kind: type[StrEnum]) -> Callable[[str, Any], StrEnum]:
    def parse(name: str, value: Any) -> StrEnum:
        if isinstance(value, str) and value in list(kind):
            return kind(value)
        raise _bad(name, f"one of {', '.join(kind)}", value)

    return parse


_PARSERS: Mapping[str, Callable[[str, Any], Any]] = {
    "half": _one_of(TwinPart),
    "mode": _one_of(ReportMode),
    "path": _path,
    "if_change": _whole(0, MAX_NUMBER),
    "after": _whole(0, MAX_NUMBER),
    "change": _whole(0, MAX_NUMBER),
    "command": _whole(1, MAX_NUMBER),
    "token": _whole(1, MAX_NUMBER),
    "call": _whole(1, MAX_NUMBER),
    "status": _whole(200, 599),
    "wait_s": _number(0.0, MAX_WAIT_S),
    "lease_s": _number(1.0, MAX_LEASE_S),
    "retry_after_s": _number(0.0, MAX_RETRY_AFTER_S),
    "percent": _number(0.0, 100.0),
    "message": _text(MAX_WORDS_CHARACTERS),
    "reason": _text(MAX_WORDS_CHARACTERS),
    "names": _names,
    "methods": _names,
    "method": _method,
    "leaf": _matching(_LEAF, "4 to 90 of A-Z a-z 0-9 _ . and -, or a beginning of it with * behind"),
    "poll": _matching(_POLL, "1 to 48 of A-Z a-z 0-9 _ . and -"),
}

# --- requests ---


def decode_request(frames: Sequence[bytes]) -> ManagementRequest:
    """Read the frames of one request, without its envelope. Raises RequestRefused."""
    _check_frames(frames)
    header = _header(frames[0])
    kind = _kind(header.pop("operation", None))
    own = {field.name: field for field in fields(kind)}
    if unknown := header.keys() - own.keys() | header.keys() & {*PAYLOADS}:
        names = _shown(", ".join(sorted(unknown)))
        raise RequestRefused(ManagementCode.UNKNOWN_FIELD, f"the header has unknown fields: {names}")
    if missing := [name for name, field in own.items() if is_required(field) and name not in header]:
        raise RequestRefused(ManagementCode.BAD_FIELD, f"{_OPERATIONS[kind]} needs the field {missing[0]}")
    values = {name: _PARSERS[name](name, value) for name, value in header.items()}
    payload = next((name for name in PAYLOADS if name in own), None)
    if payload == "value":
        values |= _value(frames[1:], values.get("mode", ReportMode.SET))
    elif payload:
        values |= {payload: frames[1]} if len(frames) == 2 else {}
    elif len(frames) > 1:
        raise _wrong_payloads(f"{_OPERATIONS[kind]} carries no payload")
    request: ManagementRequest = kind(**values)
    return request


def is_required(field: Field[Any]) -> bool:
    """True if a request without the field is refused."""
    return field.default is MISSING and field.default_factory is MISSING


def _check_frames(frames: Sequence[bytes]) -> None:
    if not frames:
        raise RequestRefused(ManagementCode.BAD_ENVELOPE, "a request needs a JSON header frame")
    if len(frames) > 2:
        raise _wrong_payloads(f"a request has one payload at most, not {len(frames) - 1}")
    if len(frames[0]) > MAX_HEADER_BYTES:
        words = f"the header has {len(frames[0])} bytes of at most {MAX_HEADER_BYTES}"
        raise RequestRefused(ManagementCode.HEADER_TOO_LARGE, words)
    if len(frames) == 2 and len(frames[1]) > MAX_PAYLOAD_BYTES:
        words = f"the payload has {len(frames[1])} bytes of at most {MAX_PAYLOAD_BYTES}"
        raise RequestRefused(ManagementCode.PAYLOAD_TOO_LARGE, words)


def _wrong_payloads(words: str) -> RequestRefused:
    return RequestRefused(ManagementCode.WRONG_PAYLOADS, words)


def _header(frame: bytes) -> dict[str, Any]:
    try:
        header = decode_json(frame)
    except ValueError as exc:
        words = f"the header is not JSON in UTF-8: {_shown(str(exc))}"
        raise RequestRefused(ManagementCode.BAD_HEADER, words) from None
    if not isinstance(header, dict):
        raise RequestRefused(ManagementCode.BAD_HEADER, "the header must be a JSON object")
    version = header.pop("version", MANAGEMENT_VERSION)
    if type(version) is not int or version != MANAGEMENT_VERSION:
        words = f"version {_shown(version)} is not spoken here; this is {MANAGEMENT_VERSION}"
        raise RequestRefused(ManagementCode.BAD_VERSION, words)
    return header


def _kind(operation: Any) -> type[ManagementRequest]:
    if isinstance(operation, str) and operation in list(ManagementOperation):
        return _KINDS[ManagementOperation(operation)]
    words = f"operation must be one of {', '.join(ManagementOperation)}, not {_shown(operation)}"
    raise RequestRefused(ManagementCode.UNKNOWN_OPERATION, words)


def _value(payloads: Sequence[bytes], mode: ReportMode) -> dict[str, Any]:
    if mode is ReportMode.REMOVE:
        if payloads:
            raise _wrong_payloads("a removal carries no payload")
        return {}
    if not payloads:
        raise _wrong_payloads(f"{mode} needs a payload frame with a JSON value")
    try:
        return {"value": decode_json(payloads[0])}
    except ValueError as exc:
        words = f"the payload is not JSON in UTF-8: {_shown(str(exc))}"
        raise RequestRefused(ManagementCode.BAD_VALUE, words) from None


def encode_request(request: ManagementRequest) -> list[bytes]:
    """The frames of a request; fields that are as by default are left out."""
    header: dict[str, Any] = {"operation": _OPERATIONS[type(request)]}
    frames: list[bytes] = []
    for field in fields(request):
        value = getattr(request, field.name)
        if field.name == "value":
            removal = isinstance(request, ReportRequest) and request.mode is ReportMode.REMOVE
            frames += [] if removal else [encode_json(value)]
        elif field.name in PAYLOADS:
            frames += [value] if value else []
        elif value != field.default:
            header[field.name] = pointer_text(value) if field.name == "path" else value
    return [encode_json(header), *frames]


# --- replies ---


def encode_reply(reply: ManagementReply) -> list[bytes]:
    """The frames of a reply."""
    match reply:
        case ManagementRefusal(code, message, pause_ms):
            pause = {} if pause_ms is None else {"retry_after_ms": pause_ms}
            return [encode_json({"ok": False, "error": {"code": code, "message": message, **pause}})]
        case NoCommand():
            return [encode_json({"ok": True, "command": None})]
        case NoCall():
            return [encode_json({"ok": True, "call": None})]
        case Watched(change, _, unchanged=True):
            return [encode_json({"ok": True, "change": change, "unchanged": True})]
    header: dict[str, Any] = {"ok": True, **({"kept": True} if isinstance(reply, Kept) else {})}
    frames: list[bytes] = []
    for field in fields(reply):
        value = getattr(reply, field.name)
        if field.name in PAYLOADS:
            frames.append(encode_json(value) if field.name == "value" else value)
        elif is_required(field) or value != _default(field):
            header[field.name] = value
    return [encode_json(header), *frames]


def _default(field: Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


REPLIES: Mapping[type[ManagementRequest], tuple[type[Any], type[Any] | None]] = {
    PingRequest: (Alive, None),
    WhoAmIRequest: (Identified, None),
    TwinRequest: (TwinValue, None),
    ReportRequest: (Kept, None),
    WatchRequest: (Watched, None),
    AppliedRequest: (Kept, None),
    ReceiveRequest: (CommandHandedOver, NoCommand),
    ExtendRequest: (Kept, None),
    CompleteRequest: (Kept, None),
    FailRequest: (Kept, None),
    ServeRequest: (CallHandedOver, NoCall),
    AnswerRequest: (AnswerTaken, None),
    LeavesRequest: (LeafList, None),
    RequeueRequest: (Kept, None),
    DropRequest: (Kept, None),
    CallRequest: (OperatorAnswer, None),
}
"""What answers a request, beside a refusal, and what says that nothing came."""


def decode_reply(request: ManagementRequest, frames: Sequence[bytes]) -> ManagementReply:
    """Read the reply to `request`. Raises RequestRefused where it is none. Unknown fields are passed over."""
    try:
        header = decode_json(frames[0])
        if not header["ok"]:
            error = header["error"]
            pause_ms = error.get("retry_after_ms")
            if pause_ms is not None and (type(pause_ms) is not int or pause_ms < 0):
                raise ValueError(f"no pause is {pause_ms!r} ms")
            return ManagementRefusal(str(error["code"]), str(error["message"]), pause_ms)
        kind, nothing = REPLIES[type(request)]
        if nothing and header[next(iter(fields(kind))).name] is None:
            empty: ManagementReply = nothing()
            return empty
        values = {field.name: header[field.name] for field in fields(kind) if field.name in header}
        for name in PAYLOADS:
            if name in {field.name for field in fields(kind)} and "unchanged" not in values:
                values[name] = decode_json(frames[1]) if name == "value" else bytes(frames[1])
        reply: ManagementReply = kind(**values)
        return reply
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
        words = f"not a reply of this protocol: {_shown(repr(exc))}"
        raise RequestRefused(ManagementCode.BAD_HEADER, words) from None
