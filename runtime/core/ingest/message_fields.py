"""Message fields: a producer's description of a message, the valid values, the row that is stored of it, and
the codes of refusals.

Part of the wire protocol; `protocol.py` has the rest. The optional fields are those of `OptionalFields`, and
of `MessageRow` the columns that every message has.
"""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias, get_type_hints

from runtime.core.leaf import DEVICE_ID_PATTERN, DEVICE_ID_RULE, LEAF_PROPERTIES, MOST_GATEWAYS, with_leaf
from runtime.core.message import OptionalFields, StreamName
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
        *LEAF_PROPERTIES,
    )
)
"""Names to which the platform gives a meaning (docs/protocol.md, "What the cloud sees")."""

_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]+")  # no controls; no halves of surrogate pairs
_PROPERTY_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_DEVICE_ID = re.compile(DEVICE_ID_PATTERN)
_NAME_FIELDS = ("stream_group", "stream")
_LEAF_FIELDS = ("leaf", "via")


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
    TOO_MANY_LEAVES = "too_many_leaves"
    UNKNOWN_LEAF = "unknown_leaf"
    LOOP = "loop"
    LEAF_FULL = "leaf_full"
    STREAM_FULL = "stream_full"
    STORE_FULL = "store_full"
    DISK_FULL = "disk_full"
    STORE_UNAVAILABLE = "store_unavailable"
    INTERNAL = "internal"


class BadRequest(Rejected):
    """The request breaks the protocol. `code` is one of Code."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message, code=code)


@dataclass(frozen=True, slots=True, kw_only=True)
class Details(OptionalFields):
    """The optional fields as they are stored."""

    properties: str | None = None
    """A JSON object in text; None for no properties."""


DETAIL_COLUMNS = tuple(column.name for column in fields(Details))
detail_values: Callable[[Details], tuple[Any, ...]] = attrgetter(*DETAIL_COLUMNS)
"""The values of these columns."""
MESSAGE_FIELDS = frozenset((*_NAME_FIELDS, "priority", *_LEAF_FIELDS, *DETAIL_COLUMNS))
"""The fields that a producer may state of a message."""
_RARELY_STATED = frozenset((*_LEAF_FIELDS, *DETAIL_COLUMNS))
_COUNTED_TEXTS: Callable[[Details], tuple[str | None, ...]] = attrgetter(
    *(name for name, kind in get_type_hints(Details).items() if kind == str | None and name != "file")
)
NO_DETAILS = Details()
NO_NAME = StreamName(None, None)


@dataclass(frozen=True, slots=True)
class Description:
    """Everything about a message but its payload. Many messages of a request may share one."""

    name: StreamName = NO_NAME
    priority: int = DEFAULT_PRIORITY
    details: Details = NO_DETAILS
    """The details, with the file's name in the drop folder."""
    via: tuple[str, ...] = ()
    """The gateways that the message has passed, the nearest to its leaf first."""
    stored: Details = field(init=False, compare=False)
    """The details that are stored: a leaf's id and path stand among the properties."""
    text_bytes: int = field(init=False, compare=False)
    """The bytes that the texts take on disk, about."""

    def __post_init__(self) -> None:
        stored, leaf = self.details, self.name.leaf
        if leaf is not None:
            stored = replace(stored, properties=with_leaf(stored.properties, leaf, self.via))
        elif stored == NO_DETAILS:  # one and the same: it is asked for with `is`
            object.__setattr__(self, "details", NO_DETAILS)
            object.__setattr__(self, "stored", NO_DETAILS)
            object.__setattr__(self, "text_bytes", 0)
            return
        object.__setattr__(self, "stored", stored)
        object.__setattr__(self, "text_bytes", sum(len(text) for text in _COUNTED_TEXTS(stored) if text))


PLAIN = Description()
"""The description of a message without fields."""


def describe(stated: Mapping[str, Any], base: Description) -> Description:
    """The description by the stated fields, and by `base` where they leave a field out."""
    if base is not PLAIN or not stated.keys().isdisjoint(_RARELY_STATED):
        return _described(stated, base)
    get = stated.get
    try:
        return _plainly(get("stream_group"), get("stream"), get("priority"), "priority" in stated)
    except TypeError:  # not hashable, so neither a name nor a number: refused
        return _described(stated, base)


@lru_cache(maxsize=1_024, typed=True)  # typed: true is not 1
def _plainly(group: Any, stream: Any, priority: Any, has_priority: bool) -> Description:
    """The description of most messages, which have only these fields, many with the same values."""
    stated = {"stream_group": group, "stream": stream, **({"priority": priority} if has_priority else {})}
    return _described(stated, PLAIN)


def _described(stated: Mapping[str, Any], base: Description) -> Description:
    names = {name: _text(name, stated[name]) for name in _NAME_FIELDS if name in stated}
    details = {name: _RULES[name](name, stated[name]) for name in DETAIL_COLUMNS if name in stated}
    priority = _priority(stated["priority"]) if "priority" in stated else base.priority
    leaf = _leaf(stated["leaf"]) if "leaf" in stated else base.name.leaf
    via = _via(stated["via"]) if "via" in stated else base.via
    name = StreamName(names.get("stream_group", base.name.group), names.get("stream", base.name.stream), leaf)
    return Description(name, priority, replace(base.details, **details) if details else base.details, via)


def _priority(value: Any) -> int:
    if type(value) is int and 0 <= value <= 9:
        return value
    raise BadRequest(Code.BAD_FIELD, f"priority must be 0 to 9, not {shown(value)}")


def _ttl_s(name: str, value: Any) -> float | None:
    if value is None or (type(value) in (int, float) and 0 < value <= MAX_TTL_S):
        return None if value is None else float(value)
    raise BadRequest(Code.BAD_FIELD, f"{name} must be seconds above 0, not {shown(value)}")


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


def _leaf(value: Any) -> str | None:
    return None if value is None else _device_id("leaf", value)


def _via(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadRequest(Code.BAD_FIELD, f"via must be a list of device ids, not {shown(value)}")
    if len(value) > MOST_GATEWAYS:
        raise BadRequest(Code.LOOP, f"via names {len(value)} gateways of at most {MOST_GATEWAYS}")
    return tuple(_device_id("an id in via", each) for each in value)


def _device_id(what: str, value: Any) -> str:
    if isinstance(value, str) and _DEVICE_ID.fullmatch(value):
        return value
    raise BadRequest(Code.BAD_FIELD, f"{what} {DEVICE_ID_RULE}, not {shown(value)}")


def _file(name: str, value: Any) -> str | None:
    file = _text(name, value)
    if file is not None and (file.startswith(".") or "/" in file):
        raise BadRequest(Code.BAD_FIELD, f"{name} must be a plain name, not {shown(value)}")
    return file


def _properties(field: str, value: Any) -> str | None:
    if value is None or value == {}:
        return None
    if not isinstance(value, dict) or len(value) > MAX_PROPERTIES:
        raise BadRequest(Code.BAD_PROPERTY, f"{field} must be an object of at most {MAX_PROPERTIES} texts")
    total_bytes = 0
    for name, text in value.items():
        if not _PROPERTY_NAME.fullmatch(name) or len(name) > MAX_NAME_CHARACTERS:
            raise BadRequest(
                Code.BAD_PROPERTY, f"property name {shown(name)} must be of A-Z a-z 0-9 _ . and -"
            )
        if name.lower() in RESERVED_PROPERTIES:
            raise BadRequest(
                Code.BAD_PROPERTY, f"property {name} is the platform's own; use the header field"
            )
        if not isinstance(text, str) or (text and not _NAME.fullmatch(text)):
            raise BadRequest(Code.BAD_PROPERTY, f"property {name} must be text without control characters")
        total_bytes += len(name) + len(text.encode())
    if total_bytes > MAX_PROPERTIES_BYTES:
        raise BadRequest(
            Code.BAD_PROPERTY, f"the {field} have {total_bytes} bytes of at most {MAX_PROPERTIES_BYTES}"
        )
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_RULES: Mapping[str, Callable[[str, Any], Any]] = {
    **dict.fromkeys(DETAIL_COLUMNS, _text),
    "ttl_s": _ttl_s,
    "file": _file,
    "properties": _properties,
}
"""The rule of each optional field: it returns the value to store, or raises BadRequest."""

_OUTLINE = reprlib.Repr()
_OUTLINE.maxlevel = 3


def shown(value: Any) -> str:
    """`value` for an error message: short, in ASCII, whatever a foreign client sent, however deep it is."""
    text = _OUTLINE.repr(value) if isinstance(value, list | dict) else ascii(value)
    return text.encode("ascii", "backslashreplace").decode()[:60]


# --- the row of a message ---

Payload: TypeAlias = bytes  # under another name: `MessageRow` has a column called bytes


class MessageRow(NamedTuple):
    """The columns that every message has: each of the others that is left out saves time."""

    id: int
    stream: int
    kind: int
    priority: int
    stored_wall_s: float | None
    stored_boot_s: float
    boot: int
    key: str | None
    bytes: int
    payload: Payload
    request: int | None
    """Of the last row of a request with a key: see `unfolded_rows.py`."""


Values: TypeAlias = tuple[int, int, int, int, float | None, float, int, str | None, int, Payload, int | None]
"""A `MessageRow` without its names: Python's sqlite3 takes twice the time to bind any other tuple."""
