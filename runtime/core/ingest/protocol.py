"""The wire protocol between producers and ingest, version 1: types, encode, decode. It is defined here only.

A REQ socket sends a request: one JSON header frame, then one frame for each payload. A reply is one JSON
frame. `docs/protocol.md` describes it for authors of clients.

    >> {"stream": "weather"}  21.5
    << {"ok": true, "stored": 1, "ids": [17]}

    >> {"producer": "p", "boot": "b", "sequence": 7, "messages": [{}, {"priority": 9}]}  21.5  22.0
    << {"ok": false, "error": {"code": "store_full", "message": "...", "retry_after_ms": 1000}}

Invariants:

1. Any bytes at all decode to a request or raise BadRequest; no other exception escapes. The frames in front
   of them are read by `reply_route.py`.
2. A request is taken as a whole or refused as a whole.
3. A value that could break the hub connection later is refused here: names and properties are bounded so
   that, percent-encoded in the worst way, they fit into an MQTT topic (65,535 bytes), and carry no control
   characters.
4. An error with `retry_after_ms` may succeed unchanged later; one without never will.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from runtime.core.ingest.message_fields import (
    MESSAGE_FIELDS,
    PLAIN,
    RESERVED_PROPERTIES,
    BadRequest,
    Code,
    Description,
    describe,
    shown,
)
from runtime.core.message import Kind

__all__ = [  # with the names of message_fields.py: every user of the protocol imports them from here
    "MAX_MESSAGES",
    "RESERVED_PROPERTIES",
    "VERSION",
    "WARNING_BACKWARDS",
    "WARNING_GAP",
    "WARNING_REUSED",
    "BadRequest",
    "Code",
    "Description",
    "Operation",
    "Ping",
    "Pong",
    "ProducerKey",
    "Put",
    "Refusal",
    "Reply",
    "Request",
    "SizeLimits",
    "Stored",
    "decode_reply",
    "decode_request",
    "encode_reply",
    "encode_request",
]


VERSION = 1
MAX_HEADER_BYTES = 262_144
MAX_MESSAGES = 1_000
"""Most messages in one request."""
MAX_SEQUENCE = 2**62
MAX_NESTING = 8
"""Twice what a header can need: the header, its messages, one of them, its properties."""


class Operation(StrEnum):
    """The operations that a producer can request."""

    PUT = "put"
    COMPLETE_BATCH = "complete_batch"
    COMPLETE_MESSAGE = "complete_message"
    PING = "ping"


class ProducerKey(NamedTuple):
    """The numbering that a sequence belongs to."""

    producer: str
    boot: str
    owner: str = ""
    """The owner of the connection: never stated by a producer, but found out by the producer socket (see
    `adapters/bus/producer_socket.py`). Empty: unknown."""


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """Sizes that the configuration sets."""

    message_bytes: int
    request_bytes: int


class Put(NamedTuple):
    """Store these messages. Payload i has the sequence `first_sequence + i`."""

    kind: Kind
    descriptions: Sequence[Description]
    payloads: Sequence[bytes]
    producer: ProducerKey | None
    first_sequence: int
    owner: str = ""
    """The owner that sent the request."""


@dataclass(frozen=True, slots=True)
class Ping:
    """The question whether ingest answers."""


Request = Put | Ping


class Stored(NamedTuple):
    """Every message of the request is on disk: the acknowledgement."""

    ids: Sequence[int | None]
    """None for a repeat so old that its id is forgotten."""
    repeated: int = 0
    """The number of them that an earlier copy of this request had already stored."""
    warnings: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The refusal of a request: nothing of it is stored."""

    code: str
    """One of Code; at a client that is older than ingest, any text."""
    message: str
    retry_after_ms: int | None = None


Reply = Stored | Pong | Refusal

LONGEST_PAUSE_MS = 86_400_000
WARNING_GAP = "sequence_gap"
WARNING_BACKWARDS = "sequence_backwards"
WARNING_REUSED = "key_reused"

# --- decoding requests ---

_KEY_PART = re.compile(r"[A-Za-z0-9_.-]{1,48}")  # with a sequence still a valid hub message id (128)
_SEQUENCE_TEXT = re.compile(r"[1-9][0-9]{0,18}")
_KEY_FIELDS = frozenset(("producer", "boot", "sequence"))
HEADER_FIELDS = MESSAGE_FIELDS | {"version", "operation", "producer", "boot", "sequence", "messages"}


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return members


_DECODER = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_no_repeats)
_JSON_SPACE = " \t\n\r"


def decode_request(frames: Sequence[bytes], limits: SizeLimits, owner: str = "") -> Request:
    """Read the frames of one request of `owner`, without its envelope. Raises BadRequest."""
    _check_sizes(frames, limits)
    header = _header(frames[0])
    operation = _operation(header["operation"]) if "operation" in header else Operation.PUT
    if operation is Operation.PING:
        return Ping()
    payloads = frames[1:]
    if operation is not Operation.PUT:
        payloads = _no_payload(payloads, operation)
    elif not payloads:
        raise BadRequest(Code.WRONG_PAYLOADS, "put needs at least one payload frame behind the header")
    descriptions = _descriptions(header, len(payloads))
    kind = _KINDS[operation]
    if kind is not Kind.MESSAGE:
        _check_completion(kind, descriptions[0])
    producer, sequence = _key(header, owner)
    return Put(kind, descriptions, payloads, producer, sequence, owner)


def _operation(value: Any) -> Operation:
    try:
        return Operation(value)
    except ValueError:
        raise BadRequest(
            Code.UNKNOWN_OPERATION, f"operation must be one of {', '.join(Operation)}, not {shown(value)}"
        ) from None


_KINDS = {
    Operation.PUT: Kind.MESSAGE,
    Operation.COMPLETE_BATCH: Kind.COMPLETE_BATCH,
    Operation.COMPLETE_MESSAGE: Kind.COMPLETE_MESSAGE,
}


def _check_sizes(frames: Sequence[bytes], limits: SizeLimits) -> None:
    if not frames:
        raise BadRequest(Code.BAD_ENVELOPE, "a request needs a JSON header frame")
    header_bytes, *sizes = map(len, frames)
    total_bytes = header_bytes + sum(sizes)
    if header_bytes > MAX_HEADER_BYTES:
        raise BadRequest(
            Code.HEADER_TOO_LARGE, f"the header has {header_bytes} bytes of at most {MAX_HEADER_BYTES}"
        )
    if len(sizes) > MAX_MESSAGES:
        raise BadRequest(
            Code.REQUEST_TOO_LARGE, f"the request has {len(sizes)} payloads of at most {MAX_MESSAGES}"
        )
    if sizes and max(sizes) > limits.message_bytes:
        raise BadRequest(
            Code.MESSAGE_TOO_LARGE, f"a payload has {max(sizes)} bytes of at most {limits.message_bytes}"
        )
    if total_bytes > limits.request_bytes:
        raise BadRequest(
            Code.REQUEST_TOO_LARGE, f"the request has {total_bytes} bytes of at most {limits.request_bytes}"
        )


def _header(frame: bytes) -> dict[str, Any]:
    try:
        header = _json_value(frame.decode())
    except (ValueError, RecursionError) as exc:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        if isinstance(exc, RecursionError):
            raise _too_deep() from None
        raise BadRequest(Code.BAD_HEADER, f"the header is not JSON in UTF-8: {str(exc)[:120]}") from None
    if not isinstance(header, dict):
        raise BadRequest(Code.BAD_HEADER, "the header must be a JSON object")
    if frame.count(b"[") + frame.count(b"{") > MAX_NESTING:  # else it cannot be
        _check_nesting(header)
    version = header.get("version", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise BadRequest(Code.BAD_VERSION, f"version {shown(version)} is not spoken here; this is {VERSION}")
    if not header.keys() <= HEADER_FIELDS:
        _unknown_field(header.keys() - HEADER_FIELDS, "the header")
    return header


def _json_value(text: str) -> Any:
    """As `JSONDecoder.decode`, in half the time: that one skips white space with a regular expression."""
    text = text.strip(_JSON_SPACE)
    value, end = _DECODER.raw_decode(text)
    if end != len(text):
        raise ValueError(f"something follows at {end}")
    return value


def _check_nesting(header: dict[str, Any]) -> None:
    """Refuse deep nesting: code that walks through a value later, to show it, must not run out of stack."""
    level: list[Any] = [header]
    for _ in range(MAX_NESTING):
        values = (value for each in level for value in (each.values() if type(each) is dict else each))
        level = [value for value in values if type(value) is dict or type(value) is list]
        if not level:
            return
    raise _too_deep()


def _too_deep() -> BadRequest:
    return BadRequest(Code.BAD_HEADER, f"the header is nested deeper than {MAX_NESTING} levels")


def _no_payload(payloads: Sequence[bytes], operation: Operation) -> Sequence[bytes]:
    if len(payloads) > 1 or (payloads and payloads[0]):
        raise BadRequest(Code.WRONG_PAYLOADS, f"{operation} carries no payload")
    return (b"",)


def _descriptions(header: Mapping[str, Any], count: int) -> Sequence[Description]:
    shared = describe(header, PLAIN)
    if "messages" not in header:
        return (shared,) * count
    each = header["messages"]
    if not isinstance(each, list) or not all(isinstance(one, dict) for one in each):
        raise BadRequest(Code.BAD_FIELD, "messages must be a list of objects, one for each payload")
    if len(each) != count:
        raise BadRequest(Code.WRONG_PAYLOADS, f"messages describes {len(each)} payloads, {count} came")
    for one in each:
        if not one.keys() <= MESSAGE_FIELDS:
            _unknown_field(one.keys() - MESSAGE_FIELDS, "messages")
    return [describe(one, shared) if one else shared for one in each]


def _check_completion(kind: Kind, description: Description) -> None:
    if kind is Kind.COMPLETE_BATCH and description.details.batch_id is None:
        raise BadRequest(Code.BAD_FIELD, "complete_batch needs a batch_id")
    if kind is Kind.COMPLETE_MESSAGE and description.details.message_id is None:
        raise BadRequest(Code.BAD_FIELD, "complete_message needs a message_id")


def _key(header: Mapping[str, Any], owner: str) -> tuple[ProducerKey | None, int]:
    get = header.get
    producer, boot, sequence = get("producer"), get("boot"), get("sequence")
    if sequence is None and header.keys().isdisjoint(_KEY_FIELDS):
        return None, 0
    if type(sequence) is not int or not 1 <= sequence <= MAX_SEQUENCE:
        sequence = _sequence(sequence)
    if not isinstance(producer, str) or not isinstance(boot, str):
        producer, boot = _key_part("producer", producer), _key_part("boot", boot)
    return _producer_key(producer, boot, owner), sequence


def _sequence(value: Any) -> int:
    """A sequence as a number or as digits in text: JavaScript has no whole numbers beyond 2^53."""
    if type(value) is str and _SEQUENCE_TEXT.fullmatch(value) and int(value) <= MAX_SEQUENCE:
        return int(value)
    raise BadRequest(Code.BAD_KEY, f"sequence must be a whole number from 1 to 2^62, not {shown(value)}")


@lru_cache(maxsize=4_096)
def _producer_key(producer: str, boot: str, owner: str) -> ProducerKey:
    return ProducerKey(_key_part("producer", producer), _key_part("boot", boot), owner)


def _key_part(name: str, part: Any) -> str:
    if not isinstance(part, str) or not _KEY_PART.fullmatch(part):
        raise BadRequest(Code.BAD_KEY, f"{name} must be 1 to 48 of A-Z a-z 0-9 _ . and -, not {shown(part)}")
    return part


def _unknown_field(names: set[str], where: str) -> None:
    raise BadRequest(Code.UNKNOWN_FIELD, f"{where} has unknown fields: {shown(', '.join(sorted(names)))}")


# --- encoding requests: the producer's side ---


def encode_request(header: Mapping[str, Any], payloads: Sequence[bytes]) -> list[bytes]:
    """The frames of one request; fields that are None are left out."""
    stated = {name: value for name, value in header.items() if value is not None}
    text = json.dumps(stated, ensure_ascii=False, separators=(",", ":"))
    return [text.encode(errors="surrogatepass"), *payloads]  # broken Unicode is refused, with the reason


# --- replies ---


def encode_reply(reply: Reply) -> bytes:
    """The one frame of a reply."""
    match reply:
        case Stored(ids=ids, repeated=0, warnings=()):
            listed = ",".join(map(str, ids))
            return f'{{"ok":true,"stored":{len(ids)},"ids":[{listed}]}}'.encode()  # the hot path
        case Stored(ids=ids, repeated=repeated, warnings=warnings):
            acknowledgement: dict[str, Any] = {"ok": True, "stored": len(ids), "ids": list(ids)}
            if repeated:
                acknowledgement["repeated"] = repeated
            if warnings:
                acknowledgement["warnings"] = [{"code": code, "message": text} for code, text in warnings]
            return _json(acknowledgement)
        case Pong():
            return _json({"ok": True, "version": VERSION})
        case Refusal(code=code, message=message, retry_after_ms=retry_after_ms):
            error: dict[str, Any] = {"code": code, "message": message}
            if retry_after_ms is not None:
                error["retry_after_ms"] = retry_after_ms
            return _json({"ok": False, "error": error})


def _pause_ms(error: Mapping[str, Any]) -> int | None:
    pause_ms = error.get("retry_after_ms")
    if pause_ms is None or (type(pause_ms) is int and 0 <= pause_ms <= LONGEST_PAUSE_MS):
        return pause_ms
    raise ValueError(f"no pause is {pause_ms!r} ms")


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def decode_reply(frames: Sequence[bytes]) -> Reply:
    """Read a reply. Raises BadRequest where it is not one."""
    try:
        (frame,) = frames
        reply = json.loads(frame)
        if not reply["ok"]:
            error = reply["error"]
            return Refusal(str(error["code"]), str(error["message"]), _pause_ms(error))
        if "ids" not in reply:
            return Pong()
        warnings = tuple((w["code"], w["message"]) for w in reply.get("warnings", ()))
        return Stored(reply["ids"], reply.get("repeated", 0), warnings)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadRequest(Code.BAD_HEADER, f"not a reply of this protocol: {exc!r}") from None
