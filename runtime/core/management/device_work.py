"""What a program has in hand from the cloud: a command under its lease, or a call to answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from runtime.core.management.codes import RequestRefused
from runtime.core.management.exchange import NotUnderstood
from runtime.core.management.names import matches
from runtime.core.management.protocol import MAX_WORDS_CHARACTERS
from runtime.core.management.replies import CallHandedOver, CommandHandedOver
from runtime.core.management.requests import AnswerRequest, CompleteRequest, ExtendRequest, FailRequest
from runtime.core.management.strict_json import encode_json
from runtime.core.management.twin_rules import Path, parse_pointer

EXTEND_SHARE = 1 / 3
"""A lease is extended after this share of it: two attempts may fail."""
EXTEND_FOR_S = 3_600.0
"""A program that hangs holds its command no longer than this without a word of its own."""


class TwinChange(NamedTuple):
    """A part of the desired properties after a change, which `applied` refers to by its number."""

    number: int
    value: Any


class MethodError(Exception):
    """Raised by a handler: the call is answered with this status and value."""

    def __init__(self, status: int, value: Any = None) -> None:
        super().__init__(status, value)
        self.status = status
        self.value = value


def as_path(text: str) -> Path:
    """A JSON pointer as a path. Raises NotUnderstood."""
    try:
        return parse_pointer(text)
    except RequestRefused as refused:
        raise NotUnderstood(str(refused), code=refused.code) from None


def encoded_result(value: Any) -> bytes:
    """A result as bytes: bytes as they are, text in UTF-8, None as nothing, everything else as JSON."""
    if value is None:
        return b""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return value.encode() if isinstance(value, str) else encode_json(value)


def described_error(error: BaseException) -> str:
    """The reason that an exception of the program gives, in printable text."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return "".join(one if one.isprintable() else " " for one in text)[:MAX_WORDS_CHARACTERS]


class CommandInHand:
    """A command that this program has under a lease.

    `result` is what `complete` sends at the end of a `with`; bytes, text, or a value that JSON knows.
    """

    def __init__(self, handed: CommandHandedOver, lease_s: float) -> None:
        self.number = handed.command
        self.token = handed.token
        self.id = handed.id
        self.name = handed.name
        self.leaf = handed.leaf
        self.payload = handed.payload
        self.properties: Mapping[str, str] = handed.properties
        self.attempt = handed.attempt
        self.age_s = handed.age_s
        self.lease_s = lease_s
        self.result: Any = None
        self.lost = False
        """True once the lease is known to be lost: another program may have the command by now."""
        self.ended = False

    def json(self) -> Any:
        """The payload as JSON. Raises ValueError."""
        return json.loads(self.payload)

    def extension(self, percent: float | None = None, message: str = "") -> ExtendRequest:
        return ExtendRequest(self.number, self.token, self.lease_s, percent, message[:MAX_WORDS_CHARACTERS])

    def completion(self, result: Any, status: int) -> CompleteRequest:
        return CompleteRequest(self.number, self.token, status, encoded_result(result))

    def failure(self, reason: str, status: int, retry_after_s: float | None, result: Any) -> FailRequest:
        reason = reason[:MAX_WORDS_CHARACTERS]
        return FailRequest(self.number, self.token, status, reason, retry_after_s, encoded_result(result))


class DeviceCall:
    """A method call that waits for the program's answer."""

    def __init__(self, handed: CallHandedOver) -> None:
        self.number = handed.call
        self.method = handed.method
        self.leaf = handed.leaf
        self.payload = handed.payload
        self.left_s = handed.left_s
        """Seconds until the caller is told that nothing answered, counted from the hand-over."""

    def json(self) -> Any:
        """The payload as JSON. Raises ValueError."""
        return json.loads(self.payload)

    def answer(self, value: Any = None, status: int = 200) -> AnswerRequest:
        """The answer, which is JSON. Raises TypeError where the value is none."""
        return AnswerRequest(self.number, status, b"" if value is None else encode_json(value))

    def error_answer(self, error: Exception) -> AnswerRequest:
        """The answer for an exception that a handler raised."""
        if isinstance(error, MethodError):
            return self.answer(error.value, error.status)
        return self.answer({"error": described_error(error)}, 500)


def handler_for(handlers: Mapping[str, Any], method: str) -> Any:
    """The handler of a method: the one of its name, else the one with the longest pattern that fits."""
    fitting = [name for name in handlers if matches(name, method)]
    return handlers[max(fitting, key=lambda name: (name == method, len(name)))]
