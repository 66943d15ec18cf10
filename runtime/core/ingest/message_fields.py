"""Message fields: a producer's description of a message, the valid values, and the codes of refusals.

Part of the wire protocol; `protocol.py` has the rest.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, NamedTuple

from runtime.core.message import StreamName
from runtime.errors import Rejected

MAX_NAME_CHARACTERS = 128
MAX_PROPERTIES = 64
MAX_PROPERTIES_BYTES = 8_192
"""Most bytes of all names and values of one message in UTF-8; three times that when percent-encoded."""
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

_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")  # no controls; no halves of surrogate pairs
_PROPERTY_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_TEXT_FIELDS = (
    "stream_group",
    "stream",
    "batch_id",
    "batch_slice_id",
    "message_id",
    "chunk_id",
    "content_type",
    "file",
)
MESSAGE_FIELDS = frozenset((*_TEXT_FIELDS, "properties", "priority", "ttl_s"))
_DETAIL_FIELDS = MESSAGE_FIELDS.difference(("stream_group", "stream", "priority"))


class Code(StrEnum):
    """The reason why a request was refused. Producers branch on these words: never change one."""

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
    NOT_ALLOWED = "not_allowed"
    SEQUENCE_FORGOTTEN = "sequence_forgotten"
    EXCEEDS_LIMIT = "exceeds_limit"
    TOO_MANY_STREAMS = "too_many_streams"
    TOO_MANY_PRODUCERS = "too_many_producers"
    STREAM_FULL = "stream_full"
    STORE_FULL = "store_full"
    DISK_FULL = "disk_full"
    STORE_UNAVAILABLE = "store_unavailable"
    INTERNAL = "internal"


class BadRequest(Rejected):
    """The request breaks the protocol. `code` is one of Code."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message, code=code)


class Details(NamedTuple):
    """The fields that few messages have. Their order is that of the last columns of a stored row."""

    ttl_s: float | None = None
    batch_id: str | None = None
    batch_slice_id: str | None = None
    message_id: str | None = None
    chunk_id: str | None = None
    content_type: str | None = None
    properties: str | None = None
    """A JSON object in text, as it is stored; None for no properties."""
    file: str | None = None
    """The name of a file that holds the payload."""


NO_DETAILS = Details()
NO_NAME = StreamName(None, None)


@dataclass(frozen=True, slots=True)
class Description:
    """Everything about a message but its payload. Many messages of a request may share one."""

    name: StreamName = NO_NAME
    priority: int = DEFAULT_PRIORITY
    details: Details = NO_DETAILS
    """The details, with the file's name in the drop folder."""
    text_bytes: int = field(init=False, compare=False)
    """The bytes that the texts take on disk, about."""

    def __post_init__(self) -> None:
        if self.details == NO_DETAILS:  # one and the same: it is asked for with `is`
            object.__setattr__(self, "details", NO_DETAILS)
        texts = (text for text in self.details[1:-1] if text)
        object.__setattr__(self, "text_bytes", sum(map(len, texts)))


PLAIN = Description()
"""The description of a message without fields."""


def describe(fields: Mapping[str, Any], base: Description) -> Description:
    """The description by `fields`, and by `base` where they leave a field out."""
    if base is not PLAIN or not _DETAIL_FIELDS.isdisjoint(fields):
        return _described(fields, base)
    said = fields.get
    try:
        return _plainly(said("stream_group"), said("stream"), said("priority"), "priority" in fields)
    except TypeError:  # not hashable, so neither a name nor a number: refused
        return _described(fields, base)


@lru_cache(maxsize=1_024, typed=True)  # typed: true is not 1
def _plainly(group: Any, stream: Any, priority: Any, has_priority: bool) -> Description:
    """The description of most messages, which have only these fields, many with the same values."""
    said = {"stream_group": group, "stream": stream, **({"priority": priority} if has_priority else {})}
    return _described(said, PLAIN)


def _described(fields: Mapping[str, Any], base: Description) -> Description:
    said: dict[str, Any] = {name: _text(name, fields[name]) for name in _TEXT_FIELDS if name in fields}
    if (said.get("file") or "").startswith(".") or "/" in (said.get("file") or ""):
        raise BadRequest(Code.BAD_FIELD, f"file must be a plain name, not {shown(fields['file'])}")
    if "properties" in fields:
        said["properties"] = _properties(fields["properties"])
    if "ttl_s" in fields:
        said["ttl_s"] = _ttl_s(fields["ttl_s"])
    priority = _priority(fields["priority"]) if "priority" in fields else base.priority
    name = StreamName(said.pop("stream_group", base.name.group), said.pop("stream", base.name.stream))
    return Description(name, priority, base.details._replace(**said))


def _priority(found: Any) -> int:
    if type(found) is int and 0 <= found <= 9:
        return found
    raise BadRequest(Code.BAD_FIELD, f"priority must be 0 to 9, not {shown(found)}")


def _ttl_s(found: Any) -> float | None:
    if found is None or (type(found) in (int, float) and 0 < found <= MAX_TTL_S):
        return None if found is None else float(found)
    raise BadRequest(Code.BAD_FIELD, f"ttl_s must be seconds above 0, not {shown(found)}")


def _text(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value or len(value) > MAX_NAME_CHARACTERS:
        raise BadRequest(
            Code.BAD_FIELD,
            f"{name} must be text of 1 to {MAX_NAME_CHARACTERS} characters, not {shown(value)}",
        )
    if not _NAME.fullmatch(value):
        raise BadRequest(Code.BAD_FIELD, f"{name} has control characters or broken Unicode: {shown(value)}")
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
                Code.BAD_PROPERTY, f"property name {shown(name)} must be of A-Z a-z 0-9 _ . and -"
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


_OUTLINE = reprlib.Repr()
_OUTLINE.maxlevel = 3


def shown(value: Any) -> str:
    """`value` for an error message: short, in ASCII, whatever a foreign client sent, however deep it is."""
    text = _OUTLINE.repr(value) if isinstance(value, list | dict) else ascii(value)
    return text.encode("ascii", "backslashreplace").decode()[:60]
