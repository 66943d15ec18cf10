"""The envelope: a stored message on the wire, as telemetry in one piece or in chunks, a file, or not at all.

Invariants:

1. The same message gives the same pieces with the same message ids, whenever and however often it is sealed
   (compression apart): a repeat is recognisable by its `$.mid`. That comes from the message's key, or from
   its id and the name of the store's life that assigned it: on a copy of the store no other message has it.
2. No piece is larger on the wire than the hub allows: topic, properties and payload, after compression.
3. A message that can never be sent comes back as `Unsendable` with the reason. No function here raises.

`topic()` builds the same topic as azure-iot-device does; a test holds the two against each other.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote

from runtime.core.delivery.metering import UNIT_BYTES, metered_bytes, units
from runtime.core.ingest.message_fields import RESERVED_PROPERTIES
from runtime.core.leaf import GATEWAY_PATH, LEAF_PROPERTIES, SOURCE_DEVICE, path_through
from runtime.core.message import Kind, StoredMessage

LIMIT_BYTES = 262_144
"""Largest device-to-cloud message, properties included (docs/protocol.md)."""
TOPIC_LIMIT_BYTES = 65_535
"""MQTT writes the length of a topic in 16 bits."""
LONGEST_DEVICE_ID = "d" * 128
"""A device id of as many characters as the hub allows; the platform uses fewer."""
_MOST_LATE_UNITS = 4
"""A larger message gains little in a pack."""
_PACKET_BYTES = 9
"""A PUBLISH besides topic and payload: type, remaining length (up to 4), topic length, packet id."""
_REMAINING_LENGTHS = (1 << 7, 1 << 14, 1 << 21)
"""From each of these sizes on, the remaining length takes a byte more."""
_MID_LIMIT_CHARACTERS = 120
"""The hub allows 128; a chunk adds its number."""
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.\-/]{1,120}")
"""A key that needs no encoding, as nearly all; at most `_MID_LIMIT_CHARACTERS` long."""
_NEARLY_UNRESERVED = re.compile(r"[A-Za-z0-9_.\-~:]*").fullmatch
"""Text of which a colon alone needs encoding."""
_MID = quote("$.mid", safe="")
_TOPIC_FRAME_BYTES = len("devices//messages/events/")
_YEAR_10000_S = 253_402_300_800
"""Unix time of its beginning: a time of storing beyond it is a damaged one."""
_MOST_DESCRIPTIONS = 32
"""So many are kept: those of streams that are sent at a time, a topic's length each at most."""
_MID_PUNCTUATION = "-._+*?!(),=@;$'"
"""The characters that the hub allows in a message id besides letters and digits, but for our own `:#%`."""


class Compression(Enum):
    """The strength of compression; the value is brotli's quality."""

    NONE = 0
    FASTEST = 1
    SMALLEST = 11


@dataclass(frozen=True, slots=True)
class Packing:
    """The packing of the messages of one stream."""

    compression: Compression = Compression.NONE
    chunk_bytes: int = 0
    """Payloads larger than this go as chunks; 0: never."""
    file_from_units: int = 0
    """Messages of at least so many 4 KiB units go as a file, which is cheaper; 0: only what does not fit."""
    site_id: str | None = None
    packs: bool = False
    """Messages may go in packs (see `packs`)."""


class _Description(NamedTuple):
    """The part of a property bag that the messages of a stream mostly have in common."""

    bag: str
    """It follows the name of the message, percent-encoded."""
    metered_bytes: int
    """Its documented size."""


@lru_cache(maxsize=_MOST_DESCRIPTIONS)
def _description(content_type: str | None, properties: tuple[tuple[str, str], ...]) -> _Description:
    system = (("$.ct", content_type),) if content_type else ()
    bag = "".join(f"&{_encoded(name)}={_encoded(value)}" for name, value in (*system, *properties))
    return _Description(bag, metered_bytes(0, (content_type or "",), properties))


def _encoded(text: str) -> str:
    """Percent-encode all but the unreserved characters, as `quote` does; names and ids need a look only."""
    return text.replace(":", "%3A") if _NEARLY_UNRESERVED(text) else quote(text, safe="")


@dataclass(frozen=True, slots=True)
class Telemetry:
    """One PUBLISH to the hub."""

    mid: str
    """`$.mid`, the same in every repeat."""
    payload: bytes
    properties: tuple[tuple[str, str], ...] = ()
    """Application properties, sorted by name."""
    content_type: str | None = None
    passed: str | None = None
    """The path of gateways that a leaf's message has passed before this one; None: it is no leaf's."""
    saved_bytes: int = field(default=0, repr=False, compare=False)
    """What compression took off its documented size."""
    stored_ms: int | None = field(default=None, repr=False, compare=False)
    """Unix time of its storing, where that is known; said only in packs that have room for it."""
    _bag: str | None = field(default=None, init=False, repr=False, compare=False)
    """The property bag, percent-encoded: built when it is first read, for a message in a pack needs none."""

    @property
    def bag(self) -> str:
        """The property bag, percent-encoded."""
        if self._bag is not None:
            return self._bag
        bag = f"{_MID}={_encoded(self.mid)}{_description(self.content_type, self.properties).bag}"
        object.__setattr__(self, "_bag", bag)
        return bag

    def topic(self, device_id: str) -> str:
        """The topic it is published to, which holds everything but the payload."""
        topic = f"devices/{device_id}/messages/events/{self.bag}"
        if self.passed is None:
            return topic
        return f"{topic}&{GATEWAY_PATH}={_encoded(path_through(self.passed, device_id))}"

    def _topic_bytes(self, device_id: str) -> int:
        """The length of that topic, for most messages without building it."""
        if self.passed is None:
            return _TOPIC_FRAME_BYTES + len(device_id) + len(self.bag)
        return len(self.topic(device_id))

    def properties_from(self, device_id: str) -> dict[str, str]:
        """The application properties with which this device sends it."""
        if self.passed is None:
            return dict(self.properties)
        return {**dict(self.properties), GATEWAY_PATH: path_through(self.passed, device_id)}

    def metered_bytes(self, device_id: str) -> int:
        """Its documented size when this device sends it, by which the hub meters it."""
        if self.passed is None:
            described_bytes = _description(self.content_type, self.properties).metered_bytes
            return metered_bytes(len(self.payload) + described_bytes, (self.mid,), ())
        system = (self.mid, self.content_type or "")
        return metered_bytes(len(self.payload), system, self.properties_from(device_id).items())

    @property
    def topic_bytes(self) -> int:
        """The length of its topic under the longest device id: a message goes under the id in force then."""
        return self._topic_bytes(LONGEST_DEVICE_ID)

    @property
    def wire_bytes(self) -> int:
        """Its size on the wire under the longest device id, without TLS: the hub's limit applies to this."""
        return self.topic_bytes + len(self.payload) + _PACKET_BYTES

    def packet_bytes(self, device_id: str) -> int:
        """The length of its PUBLISH, which the link budget is charged for it."""
        rest = self._topic_bytes(device_id) + len(self.payload) + 4  # topic length, packet id
        return 2 + sum(rest >= more for more in _REMAINING_LENGTHS) + rest


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message that goes as telemetry, in one piece or in several that follow each other."""

    pieces: int
    wire_bytes: int
    """The size of all pieces together, about."""
    open: Callable[[int], Telemetry]
    """Returns the piece with this number, from 0. Pieces are cut when they are sent, so that a large message
    is not in memory twice."""
    chunk_bytes: int = 0
    """Bytes of the payload in each piece but the last ones, where it goes in chunks."""
    raw: Telemetry | None = None
    """The only piece before compression, where it is compressed when it is opened."""


@dataclass(frozen=True, slots=True)
class FileParcel:
    """A message whose payload goes as a file, and the telemetry that then links to it."""

    blob_name: str
    payload: bytes
    file: str | None
    """The file's name in the spool, where the payload is there instead."""
    notice: Telemetry
    """The telemetry that is sent then, without the name under which the payload is found."""

    @property
    def pieces(self) -> int:
        return 1

    @property
    def wire_bytes(self) -> int:
        """The size of the notice: the file takes another route."""
        return self.notice.wire_bytes

    def fingerprint(self) -> str:
        """The fingerprint of the payload here: a message may be compressed in one run and not in the next."""
        return hashlib.sha256(self.payload).hexdigest()[:16]

    def link(self, uploaded_as: str) -> Telemetry:
        """The telemetry that says where the payload is."""
        return replace(self.notice, payload=json.dumps({"link": uploaded_as}).encode())


@dataclass(frozen=True, slots=True)
class Unsendable:
    """A message that no hub would take."""

    reason: str


Sealed = Parcel | FileParcel | Unsendable


def mid(key: str) -> str:
    """The `$.mid` of a message with this key: readable, of the characters the hub allows, and unambiguous."""
    if _PLAIN_KEY.fullmatch(key):
        return key.replace("/", ":")
    text = quote(key, safe="/" + _MID_PUNCTUATION).replace("/", ":").replace("~", "%7E")
    if len(text) <= _MID_LIMIT_CHARACTERS:
        return text
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def blob_name(key: str) -> str:
    """The name under which a message's payload is uploaded: the same in every attempt."""
    readable = re.sub(r"[^0-9A-Za-z._-]+", "-", key)[:80]
    return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def seal(message: StoredMessage, packing: Packing, *, late: bool = False) -> Sealed:
    """Seal `message`: decide how it goes on the wire.

    `late`: what fits into one piece as it is will be compressed when it is opened, for it may go in a pack.
    """
    wrong = _invalid(message)
    if wrong:
        return Unsendable(wrong)
    properties = _properties(message, packing)
    if message.kind is not Kind.MESSAGE:
        return _whole(_completion(message, properties))
    if message.file is not None:
        return _by_file(message, properties, message.payload)
    if packing.chunk_bytes and len(message.payload) > packing.chunk_bytes and message.chunk_id is None:
        return _in_chunks(message, properties, packing)
    raw = _telemetry(message, properties, message.payload)
    if late and (parcel := _opened_late(raw, packing)) is not None:
        return parcel
    piece = compressed(raw, packing.compression)
    if _worth_a_file(piece, packing):
        return _by_file(message, dict(piece.properties), piece.payload)
    return _whole(piece)


@dataclass(slots=True)
class _OpenedLate:
    """The only piece of a message, compressed when it is opened. A closure takes six times the memory."""

    raw: Telemetry
    compression: Compression

    def __call__(self, number: int) -> Telemetry:
        return compressed(self.raw, self.compression)


def _opened_late(raw: Telemetry, packing: Packing) -> Parcel | None:
    """The parcel of a small message whose form is decided when it is sent; None where it is none."""
    size_bytes = raw.metered_bytes(LONGEST_DEVICE_ID)
    most_units = packing.file_from_units or _MOST_LATE_UNITS
    if size_bytes > _MOST_LATE_UNITS * UNIT_BYTES or units(size_bytes) >= most_units:
        return None
    described_bytes = size_bytes - len(raw.payload)
    wire_bytes = len(raw.payload) + 3 * described_bytes + len(LONGEST_DEVICE_ID)  # encoded, at most
    return Parcel(1, wire_bytes, _OpenedLate(raw, packing.compression), raw=raw)


def _worth_a_file(piece: Telemetry, packing: Packing) -> bool:
    """True if it does not fit into a message, or costs so much that a file is cheaper."""
    if piece.wire_bytes > LIMIT_BYTES:
        return True
    return bool(packing.file_from_units) and units(piece.metered_bytes(LONGEST_DEVICE_ID)) >= (
        packing.file_from_units
    )


def probe(name: str) -> Telemetry:
    """A message without content, which tests whether the hub takes any at all."""
    return Telemetry(f"probe:{name}", b"", (("ignore-payload", "true"),))


def _invalid(message: StoredMessage) -> str | None:
    for name, value in message.properties.items():
        if not name or name.startswith("$"):
            return f"invalid property name {name!r}"
        if name in RESERVED_PROPERTIES and name not in LEAF_PROPERTIES:
            return f"property {name!r} belongs to the platform"
        if not (_is_text(name) and _is_text(value)):
            return f"property {name!r} is not valid text"
    names = (message.stream_group, message.stream, message.batch_id, message.batch_slice_id)
    stated = (*names, message.message_id, message.chunk_id, message.content_type, message.key)
    wrong = [given for given in stated if given is not None and not _is_text(given)]
    return f"name {wrong[0]!r} is not valid text" if wrong else None


def _is_text(value: object) -> bool:
    """True if MQTT can carry it: UTF-8 without a NUL."""
    if not isinstance(value, str) or "\0" in value:
        return False
    return value.isascii() or not any("\ud800" <= c <= "\udfff" for c in value)


def _properties(message: StoredMessage, packing: Packing) -> dict[str, str]:
    of_stream = _stream_properties(message.stream_group, message.stream, packing.site_id)
    own = {
        "batch-id": message.batch_id,
        "batch-slice-id": message.batch_slice_id,
        "message-id": message.message_id,
        "chunk-id": message.chunk_id,
    }
    return {
        **message.properties,
        **of_stream,
        **{name: value for name, value in own.items() if value is not None},
    }


@lru_cache(maxsize=_MOST_DESCRIPTIONS)
def _stream_properties(group: str | None, stream: str | None, site_id: str | None) -> Mapping[str, str]:
    """The properties that all messages of a stream have."""
    named = {"stream-group-name": group, "stream-name": stream, "site-id": site_id}
    return {name: value for name, value in named.items() if value is not None}


def _telemetry(
    message: StoredMessage, properties: Mapping[str, str], payload: bytes, suffix: str = ""
) -> Telemetry:
    passed = None
    if SOURCE_DEVICE in properties:
        properties = dict(properties)
        passed = properties.pop(GATEWAY_PATH, "")
    stored_s = message.stored_wall_s
    return Telemetry(
        mid(message.key) + suffix,
        payload,
        _by_name(tuple(properties.items())),
        message.content_type,
        passed,
        stored_ms=int(stored_s * 1000) if stored_s is not None and 0 <= stored_s < _YEAR_10000_S else None,
    )


@lru_cache(maxsize=_MOST_DESCRIPTIONS)
def _by_name(properties: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Properties sorted by name; one tuple for all messages of a stream that have the same."""
    return tuple(sorted(properties))


def _completion(message: StoredMessage, properties: dict[str, str]) -> Telemetry:
    what = "complete-batch" if message.kind is Kind.COMPLETE_BATCH else "complete-message"
    return _telemetry(message, {**properties, what: "true", "ignore-payload": "true"}, b"")


def _whole(piece: Telemetry) -> Sealed:
    topic_bytes = piece.topic_bytes
    if topic_bytes > TOPIC_LIMIT_BYTES:
        return Unsendable(_too_long(topic_bytes))
    return Parcel(1, topic_bytes + len(piece.payload) + _PACKET_BYTES, lambda _: piece)


def _too_long(topic_bytes: int) -> str:
    return f"its properties need a topic of {topic_bytes} bytes; MQTT has room for {TOPIC_LIMIT_BYTES}"


def _by_file(message: StoredMessage, properties: Mapping[str, str], payload: bytes) -> Sealed:
    notice = _telemetry(message, {**properties, "has-externalized-payload": "true"}, b"")
    if notice.topic_bytes > TOPIC_LIMIT_BYTES:
        return Unsendable(_too_long(notice.topic_bytes))
    return FileParcel(blob_name(message.key), payload, message.file, notice)


def _in_chunks(message: StoredMessage, properties: dict[str, str], packing: Packing) -> Sealed:
    """Chunks numbered from 0, then the completion of the message. Each chunk is compressed by itself."""
    named = {**properties, "message-id": message.message_id or mid(message.key)}
    largest = {**named, "chunk-id": "0" * 10, "content-encoding": "br"}
    empty = _telemetry(message, largest, b"", "#" + "0" * 10)
    if empty.topic_bytes > TOPIC_LIMIT_BYTES:
        return Unsendable(_too_long(empty.topic_bytes))
    step_bytes = min(packing.chunk_bytes, LIMIT_BYTES - empty.wire_bytes)
    chunks = -(-len(message.payload) // step_bytes)

    def piece(number: int) -> Telemetry:
        if number == chunks:
            done = {**named, "complete-message": "true", "ignore-payload": "true"}
            return _telemetry(message, done, b"", "#done")
        part = message.payload[number * step_bytes : (number + 1) * step_bytes]
        chunk = _telemetry(message, {**named, "chunk-id": str(number)}, part, f"#{number}")
        return compressed(chunk, packing.compression)

    return Parcel(chunks + 1, len(message.payload) + (chunks + 1) * empty.wire_bytes, piece, step_bytes)


def compressed(piece: Telemetry, compression: Compression) -> Telemetry:
    """`piece` with a brotli payload where that makes it smaller on the wire, else as it is."""
    if compression is Compression.NONE or not piece.payload or not has_brotli():
        return piece
    import brotli  # late and optional: most devices never compress

    small = brotli.compress(piece.payload, quality=compression.value)
    if len(small) + len("&content-encoding=br") >= len(piece.payload):
        return piece
    properties = tuple(sorted((*piece.properties, ("content-encoding", "br"))))
    saved_bytes = len(piece.payload) - len(small) - len("content-encodingbr")
    return replace(piece, payload=small, properties=properties, saved_bytes=saved_bytes)


def decompressed(payload: bytes) -> bytes:
    """A brotli payload as it was before. Raises ValueError where it is none."""
    import brotli  # late and optional

    try:
        return bytes(brotli.decompress(payload))
    except brotli.error as exc:
        raise ValueError(f"not brotli: {exc}") from None


def has_brotli() -> bool:
    """True if the extra [compress] is installed."""
    try:
        import brotli  # noqa: F401  # only whether it is there
    except ImportError:
        return False
    return True
