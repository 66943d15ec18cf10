"""The items of a pack in `cbor-seq`: each message with its id, its own properties and when it was stored.

The payload is a CBOR sequence of arrays `[id, payload, {"m": message id, "p": properties, "t": stored}]`.
`m` is the message id that its producer gave, `p` has the properties in which the members of the pack differ
(those that all have in common are the pack's own), `t` is Unix time in milliseconds; each is left out where
there is none. Properties to which the platform gives a meaning are the same in all members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runtime.core.delivery.cbor_seq import NotCbor, Value, decode, encode, head_bytes, text_bytes
from runtime.core.delivery.envelope import Telemetry
from runtime.core.delivery.pack_names import NotAPack
from runtime.core.ingest.message_fields import RESERVED_PROPERTIES

CBOR_SEQUENCE = "application/cbor-seq"
_MESSAGE_ID = "message-id"
_OF_ALL = RESERVED_PROPERTIES - {_MESSAGE_ID}
"""Properties to which the platform gives a meaning: those of the pack count for all its members."""
_KEY_BYTES = 2
_STORED_BYTES = _KEY_BYTES + 9


def platform_properties(telemetry: Telemetry) -> list[tuple[str, str]]:
    """The properties that the members of a pack must have in common."""
    return [entry for entry in telemetry.properties if entry[0] in _OF_ALL]


def common(messages: Sequence[Telemetry]) -> dict[str, str]:
    """The properties that all of these messages have, but for their message ids."""
    shared = dict(messages[0].properties)
    shared.pop(_MESSAGE_ID, None)
    for message in messages[1:]:
        if len(shared) and message.properties != messages[0].properties:
            shared = dict(shared.items() & set(message.properties))
    return shared


def items(messages: Sequence[Telemetry], shared: Mapping[str, str]) -> bytes:
    """The payload of a pack of these messages, of which `shared` is said of all."""
    return b"".join(encode(_item(message, shared)) for message in messages)


def _item(message: Telemetry, shared: Mapping[str, str]) -> Value:
    own = {name: text for name, text in message.properties if shared.get(name) != text}
    about: dict[str, Value] = {}
    if (message_id := own.pop(_MESSAGE_ID, None)) is not None:
        about["m"] = message_id
    if own:
        about["p"] = own
    if message.stored_ms is not None:
        about["t"] = message.stored_ms
    return [message.mid, message.payload, about]


def members_of(pack: Telemetry, shared: Mapping[str, str]) -> list[Telemetry]:
    """The messages in a pack's payload, with what `shared` says of all. Raises NotAPack."""
    try:
        return [_member(pack, item, shared) for item in decode(pack.payload)]
    except NotCbor as exc:
        raise NotAPack(f"the payload of {pack.mid!r} is no CBOR sequence: {exc}") from None


def _member(pack: Telemetry, item: Value, shared: Mapping[str, str]) -> Telemetry:
    match item:
        case [str(id), bytes(payload), dict(about)]:
            message_id, own, stored_ms = about.get("m"), about.get("p", {}), about.get("t")
        case _:
            raise NotAPack(f"an item of {pack.mid!r} is not [id, payload, map]")
    if not (isinstance(own, dict) and all(isinstance(text, str) for text in own.values())):
        raise NotAPack(f"the properties of {id!r} are not texts")
    if not (isinstance(message_id, str | None) and isinstance(stored_ms, int | None)):
        raise NotAPack(f"the message id or the time of {id!r} is none")
    named = {} if message_id is None else {_MESSAGE_ID: message_id}
    properties = tuple(sorted({**shared, **own, **named}.items()))
    return Telemetry(id, payload, properties, pack.content_type, pack.passed, stored_ms=stored_ms)


class ItemSizes:
    """The size of a pack of the first message, the first two, and so on."""

    def __init__(self, first: Telemetry, fixed_bytes: int) -> None:
        """`fixed_bytes`: all of the pack but its payload, while `first` is all of it."""
        self.fixed_bytes = fixed_bytes
        self._shared = common([first])
        self._count = 1
        self.raw_bytes = self._item_bytes(first)

    def add(self, message: Telemetry) -> None:
        """Count one more; a property that it does not share moves into the items of the others."""
        for name, text in self._shared.items() - set(message.properties):
            del self._shared[name]
            self.fixed_bytes -= len(name) + len(text)
            self.raw_bytes += self._count * (_KEY_BYTES + 1 + text_bytes(name) + text_bytes(text))
        self._count += 1
        self.raw_bytes += self._item_bytes(message)

    def _item_bytes(self, message: Telemetry) -> int:
        size_bytes = 2 + text_bytes(message.mid) + head_bytes(len(message.payload)) + len(message.payload)
        own_bytes = 0
        for name, text in message.properties:
            if name == _MESSAGE_ID:
                size_bytes += _KEY_BYTES + text_bytes(text)
            elif self._shared.get(name) != text:
                own_bytes += text_bytes(name) + text_bytes(text)
        if own_bytes:
            size_bytes += _KEY_BYTES + 2 + own_bytes
        return size_bytes + (_STORED_BYTES if message.stored_ms is not None else 0)
