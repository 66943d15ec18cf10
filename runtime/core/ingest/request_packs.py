"""Request packs: the requests into which `put_many` cuts a stream of messages, and its progress.

Invariants: a pack holds copies, for a source may reuse the objects that it gives. The messages that a source
gave before it raised are in a pack. An error that ends the work says what is stored and what is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypedDict, cast

from runtime.core.ingest.exchange import NotStored, TooLarge

PACK_MESSAGES = 500
PACK_BYTES = 524_288
"""The bytes that `put_many` puts into one request: about one commit."""


class Fields(TypedDict, total=False):
    """The fields of a message; each may be left out."""

    stream_group: str | None
    stream: str | None
    batch_id: str | None
    batch_slice_id: str | None
    message_id: str | None
    chunk_id: str | None
    content_type: str | None
    properties: Mapping[str, str] | None
    priority: int | None
    ttl_s: float | None
    file: str | None
    leaf: str | None
    via: Sequence[str] | None


Payload = bytes | bytearray | memoryview | str
Described = Payload | tuple[Payload, Fields]
"""A payload, or a payload with fields of its own."""


class RequestPack(NamedTuple):
    """The messages of one request."""

    payloads: list[bytes]
    each: list[Fields]
    source_error: Exception | None = None
    """The error that the source raised behind these messages; there is no further pack then."""


class Progress:
    """The progress of one `put_many`, so that an error can say what is stored and what is left."""

    def __init__(self) -> None:
        self.ids: list[int | None] = []
        self._pack = RequestPack([], [])
        self._pack_at = 0

    def begin(self, pack: RequestPack) -> None:
        """The messages of `pack` are taken from the source, and are next."""
        self._pack, self._pack_at = pack, len(self.ids)

    def stored(self, ids: Sequence[int | None]) -> None:
        """The next messages of the pack are stored."""
        self.ids += ids

    def end(self) -> None:
        """The pack is stored. Raises what its source raised behind it."""
        if self._pack.source_error is not None:
            raise self._pack.source_error

    @contextmanager
    def explained(self) -> Iterator[None]:
        """A context in which any error that ends the work says how far it came."""
        try:
            yield
        except NotStored as error:
            done = len(self.ids) - self._pack_at
            error.ids = list(self.ids)
            error.remaining = list(zip(self._pack.payloads, self._pack.each, strict=True))[done:]
            source_error = self._pack.source_error
            if source_error is None or source_error is error:  # the source may put by itself, and fail so
                raise
            raise error from source_error
        except Exception as error:
            error.add_note(f"put_many: the first {len(self.ids)} messages are stored")
            raise


def packs(messages: Iterable[Described]) -> Iterator[RequestPack]:
    """As few packs as the bounds of a commit allow. They hold copies: a source may reuse its objects.

    Where the source raises, the messages it gave before come first, and its error with them.
    """
    pack, size, source = RequestPack([], []), 0, iter(messages)
    while True:
        try:
            payload, own = described(next(source))
        except StopIteration:
            break
        except Exception as error:
            if not pack.payloads:
                raise
            pack = pack._replace(source_error=error)
            break
        if pack.payloads and (len(pack.payloads) >= PACK_MESSAGES or size + len(payload) > PACK_BYTES):
            yield pack
            pack, size = RequestPack([], []), 0
        pack.payloads.append(payload)
        pack.each.append(own)
        size += len(payload)
    if pack.payloads:
        yield pack


def described(message: Described) -> tuple[bytes, Fields]:
    """A message's payload and its own fields, copied; a field that is None counts as left out."""
    payload, own = message if isinstance(message, tuple) else (message, Fields())
    stated = {name: value for name, value in own.items() if value is not None}
    if "properties" in stated:
        stated["properties"] = dict(own["properties"] or {})
    if "via" in stated:
        stated["via"] = list(own["via"] or ())
    return encoded(payload), cast(Fields, stated)


def halves(pack: RequestPack, refused: TooLarge) -> tuple[RequestPack, RequestPack]:
    """Halve a pack: its parts may be taken. Raises `refused` for one message, or if a copy may be stored."""
    middle = len(pack.payloads) // 2
    if not middle or refused.request is not None:
        raise refused
    return RequestPack(pack.payloads[:middle], pack.each[:middle]), RequestPack(
        pack.payloads[middle:], pack.each[middle:]
    )


def encoded(payload: Payload) -> bytes:
    """The bytes of a payload, as they are now. Raises TypeError for what is neither bytes nor text."""
    if isinstance(payload, str):
        return payload.encode()
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    raise TypeError(f"a payload must be bytes or str, not {type(payload).__name__}")
