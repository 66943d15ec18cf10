"""THE wire protocol between producers and ingest, version 1: types, encode, decode. The only place.

A request is what a REQ socket sends: one JSON header frame, then one frame for each payload. A reply is one
JSON frame.

    >> {"stream": "weather"}  21.5
    << {"ok": true, "stored": 1, "ids": [17]}

    >> {"producer": "p", "boot": "b", "sequence": 7, "messages": [{}, {"priority": 9}]}  21.5  22.0
    << {"ok": false, "error": {"code": "store_full", "message": "...", "retry_after_ms": 1000}}

Invariants:

1. Any bytes at all decode to a request or raise BadRequest; nothing else escapes.
2. A request is taken as a whole or refused as a whole.
3. What could break the hub connection later is refused here: names and properties are bounded so that,
   percent-encoded in the worst way, they fit into an MQTT topic (65,535 bytes), and carry no control
   characters.
4. An error with `retry_after_ms` may succeed unchanged later; one without never will.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

from runtime.core.message import Kind, StreamName
from runtime.errors import Rejected

VERSION = 1
MAX_HEADER_BYTES = 262_144
MAX_MESSAGES = 1_000
"""Most messages in one request."""
MAX_NAME_CHARACTERS = 128
MAX_PROPERTIES = 64
MAX_PROPERTIES_BYTES = 8_192
"""All names and values of one message as UTF-8; three times that when every byte is percent-encoded."""
MAX_SEQUENCE = 2**62
MAX_TTL_S = 100 * 366 * 86_400.0
DEFAULT_PRIORITY = 4

RESERVED_PROPERTIES = frozenset(
    (
        *(
            "stream-group-name",
            "stream-name",
            "site-id",
            "batch-id",
            "batch-slice-id",
            "message-id",
            "chunk-id",
        ),
        *(
            "content-encoding",
            "complete-batch",
            "complete-message",
            "ignore-payload",
            "has-externalized-payload",
        ),
    )
)
"""Names the platform gives a meaning to (platform contract, section 2)."""


class Code(StrEnum):
    """Why a request was refused. Producers branch on these words: never change one."""

    BAD_ENVELOPE = "bad_envelope"
    BAD_HEADER = "bad_header"
    BAD_VERSION = "bad_version"
    UNKNOWN_OPERATION = "unknown_operation"
    UNKNOWN_FIELD = "unknown_field"
    BAD_FIELD = "bad_field"
    BAD_PROPERTY = "bad_property"
    BAD_KEY = "bad_key"
    WRONG_PAYLOADS = "wrong_payloads"
    HEADER_TOO_LARGE = "header_too_large"
    MESSAGE_TOO_LARGE = "message_too_large"
    REQUEST_TOO_LARGE = "request_too_large"
    SEQUENCE_FORGOTTEN = "sequence_forgotten"
    EXCEEDS_LIMIT = "exceeds_limit"
    TOO_MANY_STREAMS = "too_many_streams"
    TOO_MANY_PRODUCERS = "too_many_producers"
    STREAM_FULL = "stream_full"
    STORE_FULL = "store_full"
    DISK_FULL = "disk_full"
    STORE_UNAVAILABLE = "store_unavailable"
    INTERNAL = "internal"


class Operation(StrEnum):
    """What a producer can ask for."""

    PUT = "put"
    COMPLETE_BATCH = "complete_batch"
    COMPLETE_MESSAGE = "complete_message"
    PING = "ping"


class BadRequest(Rejected):
    """The request breaks the protocol. `code` is one of Code."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message, code=code)


class ProducerKey(NamedTuple):
    """Under whose numbering a sequence counts."""

    producer: str
    boot: str


@dataclass(frozen=True, slots=True)
class Description:
    """Everything about a message but its payload. Many messages of a request may share one."""

    stream_group: str | None = None
    stream: str | None = None
    batch_id: str | None = None
    batch_slice_id: str | None = None
    message_id: str | None = None
    chunk_id: str | None = None
    content_type: str | None = None
    properties: str | None = None
    """A JSON object in text, as it is stored; None for no properties."""
    priority: int = DEFAULT_PRIORITY
    ttl_s: float | None = None

    @property
    def name(self) -> StreamName:
        return StreamName(self.stream_group, self.stream)

    @property
    def text_bytes(self) -> int:
        """About what the texts take on disk."""
        texts = (self.batch_id, self.batch_slice_id, self.message_id, self.chunk_id, self.content_type)
        return sum(map(len, filter(None, (*texts, self.properties))))


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes that the configuration sets."""

    message_bytes: int
    request_bytes: int


@dataclass(frozen=True, slots=True)
class Put:
    """Store these messages. Payload i has the sequence `first_sequence + i`."""

    kind: Kind
    descriptions: Sequence[Description]
    payloads: Sequence[bytes]
    producer: ProducerKey | None
    first_sequence: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there?"""


Request = Put | Ping


@dataclass(frozen=True, slots=True)
class Stored:
    """Every message of the request is on disk: the acknowledgement."""

    ids: Sequence[int | None]
    """None for a repeat so old that its id is forgotten."""
    repeated: int = 0
    """How many of them an earlier copy of this request had already stored."""
    warnings: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing of the request is stored."""

    code: Code
    message: str
    retry_after_ms: int | None = None


Reply = Stored | Pong | Refused

WARNING_GAP = "sequence_gap"
WARNING_BACKWARDS = "sequence_backwards"

# --- decoding requests ---

_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")  # no controls; no halves of surrogate pairs
_PROPERTY_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_KEY_PART = re.compile(r"[A-Za-z0-9_.-]{1,48}")  # with a sequence still a valid hub message id (128)
_TEXT_FIELDS = (
    "stream_group",
    "stream",
    "batch_id",
    "batch_slice_id",
    "message_id",
    "chunk_id",
    "content_type",
)
_MESSAGE_FIELDS = frozenset((*_TEXT_FIELDS, "properties", "priority", "ttl_s"))
_HEADER_FIELDS = _MESSAGE_FIELDS | {"version", "operation", "producer", "boot", "sequence", "messages"}
_PLAIN = Description()


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def decode_request(frames: Sequence[bytes], limits: Limits) -> Request:
    """Read the frames of one request, without its envelope. Raises BadRequest."""
    _check_sizes(frames, limits)
    header = _header(frames[0])
    try:
        operation = Operation(header.get("operation", Operation.PUT))
    except ValueError:
        raise BadRequest(
            Code.UNKNOWN_OPERATION,
            f"operation must be one of {', '.join(Operation)}, not {_shown(header['operation'])}",
        ) from None
    if operation is Operation.PING:
        return Ping()
    payloads = frames[1:]
    if operation is not Operation.PUT:
        payloads = _no_payload(payloads, operation)
    elif not payloads:
        raise BadRequest(Code.WRONG_PAYLOADS, "put needs at least one payload frame behind the header")
    descriptions = _descriptions(header, len(payloads))
    kind = _KINDS[operation]
    for description in {id(d): d for d in descriptions}.values():
        _check_kind(kind, description)
    producer, sequence = _key(header)
    return Put(kind, descriptions, payloads, producer, sequence)


_KINDS = {
    Operation.PUT: Kind.MESSAGE,
    Operation.COMPLETE_BATCH: Kind.COMPLETE_BATCH,
    Operation.COMPLETE_MESSAGE: Kind.COMPLETE_MESSAGE,
}


def _check_sizes(frames: Sequence[bytes], limits: Limits) -> None:
    if not frames:
        raise BadRequest(Code.BAD_ENVELOPE, "a request needs a JSON header frame")
    sizes = [len(frame) for frame in frames]
    if sizes[0] > MAX_HEADER_BYTES:
        raise BadRequest(
            Code.HEADER_TOO_LARGE, f"the header has {sizes[0]} bytes of at most {MAX_HEADER_BYTES}"
        )
    if len(sizes) - 1 > MAX_MESSAGES:
        raise BadRequest(
            Code.REQUEST_TOO_LARGE, f"the request has {len(sizes) - 1} payloads of at most {MAX_MESSAGES}"
        )
    if max(sizes[1:], default=0) > limits.message_bytes:
        raise BadRequest(
            Code.MESSAGE_TOO_LARGE, f"a payload has {max(sizes[1:])} bytes of at most {limits.message_bytes}"
        )
    if sum(sizes) > limits.request_bytes:
        raise BadRequest(
            Code.REQUEST_TOO_LARGE, f"the request has {sum(sizes)} bytes of at most {limits.request_bytes}"
        )


def _header(frame: bytes) -> dict[str, Any]:
    try:
        header = _DECODER.decode(frame.decode())
    except (ValueError, RecursionError) as exc:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        reason = "too deeply nested" if isinstance(exc, RecursionError) else str(exc)[:120]
        raise BadRequest(Code.BAD_HEADER, f"the header is not JSON in UTF-8: {reason}") from None
    if not isinstance(header, dict):
        raise BadRequest(Code.BAD_HEADER, "the header must be a JSON object")
    version = header.get("version", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise BadRequest(Code.BAD_VERSION, f"version {_shown(version)} is not spoken here; this is {VERSION}")
    if not header.keys() <= _HEADER_FIELDS:
        _unknown_field(header.keys() - _HEADER_FIELDS, "the header")
    return header


def _no_payload(payloads: Sequence[bytes], operation: Operation) -> Sequence[bytes]:
    if len(payloads) > 1 or (payloads and payloads[0]):
        raise BadRequest(Code.WRONG_PAYLOADS, f"{operation} carries no payload")
    return (b"",)


def _descriptions(header: Mapping[str, Any], count: int) -> Sequence[Description]:
    shared = _description(header, _PLAIN)
    each = header.get("messages")
    if each is None:
        return (shared,) * count
    if not isinstance(each, list) or not all(isinstance(one, dict) for one in each):
        raise BadRequest(Code.BAD_FIELD, "messages must be a list of objects, one for each payload")
    if len(each) != count:
        raise BadRequest(Code.WRONG_PAYLOADS, f"messages describes {len(each)} payloads, {count} came")
    for one in each:
        if not one.keys() <= _MESSAGE_FIELDS:
            _unknown_field(one.keys() - _MESSAGE_FIELDS, "messages")
    return [_description(one, shared) if one else shared for one in each]


def _description(fields: Mapping[str, Any], base: Description) -> Description:
    """What `fields` say, and `base` where they say nothing."""
    changes: dict[str, Any] = {}
    for name in _TEXT_FIELDS:
        if name in fields:
            changes[name] = _text(name, fields[name])
    if "properties" in fields:
        changes["properties"] = _properties(fields["properties"])
    if "priority" in fields:
        priority = fields["priority"]
        if type(priority) is not int or not 0 <= priority <= 9:
            raise BadRequest(Code.BAD_FIELD, f"priority must be 0 to 9, not {_shown(priority)}")
        changes["priority"] = priority
    if "ttl_s" in fields:
        ttl_s = fields["ttl_s"]
        if ttl_s is not None and (type(ttl_s) not in (int, float) or not 0 < ttl_s <= MAX_TTL_S):
            raise BadRequest(Code.BAD_FIELD, f"ttl_s must be seconds above 0, not {_shown(ttl_s)}")
        changes["ttl_s"] = ttl_s
    return replace(base, **changes) if changes else base


def _text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or len(value) > MAX_NAME_CHARACTERS:
        raise BadRequest(
            Code.BAD_FIELD,
            f"{name} must be text of 1 to {MAX_NAME_CHARACTERS} characters, not {_shown(value)}",
        )
    if not _NAME.fullmatch(value):
        raise BadRequest(Code.BAD_FIELD, f"{name} has control characters or broken Unicode: {_shown(value)}")
    return value


def _properties(found: Any) -> str | None:
    if not found and (found is None or isinstance(found, dict)):
        return None
    if not isinstance(found, dict) or len(found) > MAX_PROPERTIES:
        raise BadRequest(Code.BAD_PROPERTY, f"properties must be an object of at most {MAX_PROPERTIES} texts")
    total_bytes = 0
    for name, value in found.items():
        if not _PROPERTY_NAME.fullmatch(name) or len(name) > MAX_NAME_CHARACTERS:
            raise BadRequest(
                Code.BAD_PROPERTY, f"property name {_shown(name)} must be of A-Z a-z 0-9 _ . and -"
            )
        if name.lower() in RESERVED_PROPERTIES:
            raise BadRequest(
                Code.BAD_PROPERTY, f"property {name} is the platform's own; use the header field"
            )
        if not isinstance(value, str) or (value and not _NAME.fullmatch(value)):
            raise BadRequest(Code.BAD_PROPERTY, f"property {name} must be text without control characters")
        total_bytes += len(name) + len(value.encode())
    if total_bytes > MAX_PROPERTIES_BYTES:
        raise BadRequest(
            Code.BAD_PROPERTY, f"the properties have {total_bytes} bytes of at most {MAX_PROPERTIES_BYTES}"
        )
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def _check_kind(kind: Kind, description: Description) -> None:
    if kind is Kind.COMPLETE_BATCH and description.batch_id is None:
        raise BadRequest(Code.BAD_FIELD, "complete_batch needs a batch_id")
    if kind is Kind.COMPLETE_MESSAGE and description.message_id is None:
        raise BadRequest(Code.BAD_FIELD, "complete_message needs a message_id")


def _key(header: Mapping[str, Any]) -> tuple[ProducerKey | None, int]:
    parts = [header.get(name) for name in ("producer", "boot", "sequence")]
    if parts == [None, None, None]:
        return None, 0
    producer, boot, sequence = parts
    for name, part in (("producer", producer), ("boot", boot)):
        if not isinstance(part, str) or not _KEY_PART.fullmatch(part):
            raise BadRequest(
                Code.BAD_KEY, f"{name} must be 1 to 48 of A-Z a-z 0-9 _ . and -, not {_shown(part)}"
            )
    if type(sequence) is not int or not 0 <= sequence <= MAX_SEQUENCE:
        raise BadRequest(
            Code.BAD_KEY, f"sequence must be a whole number from 0 to 2^62, not {_shown(sequence)}"
        )
    return ProducerKey(str(producer), str(boot)), sequence


def _unknown_field(names: set[str], where: str) -> None:
    raise BadRequest(Code.UNKNOWN_FIELD, f"{where} has unknown fields: {_shown(', '.join(sorted(names)))}")


def _shown(value: Any) -> str:
    """`value` for an error message: short, in ASCII, whatever a stranger sent."""
    return ascii(value)[:60]


# --- encoding requests: the producer's side ---


def encode_request(header: Mapping[str, Any], payloads: Sequence[bytes]) -> list[bytes]:
    """The frames of one request; fields that are None are left out."""
    said = {name: value for name, value in header.items() if value is not None}
    return [json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode(), *payloads]


# --- replies ---


def encode_reply(reply: Reply) -> bytes:
    """The one frame of a reply."""
    match reply:
        case Stored(ids=ids, repeated=0, warnings=()):
            listed = ",".join(map(str, ids))
            return f'{{"ok":true,"stored":{len(ids)},"ids":[{listed}]}}'.encode()  # the hot path
        case Stored(ids=ids, repeated=repeated, warnings=warnings):
            said: dict[str, Any] = {"ok": True, "stored": len(ids), "ids": list(ids)}
            if repeated:
                said["repeated"] = repeated
            if warnings:
                said["warnings"] = [{"code": code, "message": text} for code, text in warnings]
            return _json(said)
        case Pong():
            return _json({"ok": True, "version": VERSION})
        case Refused(code=code, message=message, retry_after_ms=retry_after_ms):
            error: dict[str, Any] = {"code": code, "message": message}
            if retry_after_ms is not None:
                error["retry_after_ms"] = retry_after_ms
            return _json({"ok": False, "error": error})


def _json(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode()


def decode_reply(frames: Sequence[bytes]) -> Reply:
    """Read a reply. Raises BadRequest where it is not one."""
    try:
        (frame,) = frames
        said = json.loads(frame)
        if not said["ok"]:
            error = said["error"]
            return Refused(Code(error["code"]), str(error["message"]), error.get("retry_after_ms"))
        if "ids" not in said:
            return Pong()
        warnings = tuple((w["code"], w["message"]) for w in said.get("warnings", ()))
        return Stored(said["ids"], said.get("repeated", 0), warnings)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadRequest(Code.BAD_HEADER, f"not a reply of this protocol: {exc!r}") from None
