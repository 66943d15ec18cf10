"""The exchange of a producer with ingest: when to ask, how long to wait for the answer, when to give up.

`runtime.core.retry_plan` has the times. The request stays the same through all of it, with its key: that
makes the repeats harmless.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.core.ingest.protocol import Code, Pong, Refusal, Reply, Stored, encode_request
from runtime.core.retry_plan import Ask, Pause, RetryPlan
from runtime.errors import EdgeError, Rejected, Retryable


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request under one key, complete: sending it again is always safe."""

    header: Mapping[str, Any]
    payloads: Sequence[bytes]

    def frames(self) -> list[bytes]:
        return encode_request(self.header, self.payloads)


class NotStored(EdgeError):
    """The message was not acknowledged."""

    request: KeyedRequest | None = None
    """Set where it may be stored all the same: `Producer.resend(error.request)` stores it for sure, and once.
    None: no message of it is stored, nor will be."""
    ids: Sequence[int | None] = ()
    """For `put_many`: the ids of the messages that are stored, which are the first of those given."""
    remaining: Sequence[Any] = ()
    """For `put_many`: the messages that were taken from the source and are not known to be stored, in order,
    as (payload, fields). Where `request` is set it holds the first `len(request.payloads)` of them: resend
    that, and put the rest."""


class NoAnswer(NotStored, Retryable):
    """No answer came in time, so it is unknown whether the request is stored; `Producer.resend` is safe."""

    def __init__(self, message: str | None = None, request: KeyedRequest | None = None) -> None:
        super().__init__(message)
        self.request = request


class Full(NotStored, Retryable):
    """There is no room for it now; nothing of the request is stored."""


class Unavailable(NotStored, Retryable):
    """The store cannot be used now; a commit that failed may yet be found on the disk."""


class Invalid(NotStored, Rejected):
    """The request breaks the protocol: a mistake in the program."""


class TooLarge(NotStored, Rejected):
    """Larger than will ever be taken here."""


class Forgotten(NotStored, Rejected):
    """So far behind that ingest cannot tell whether it is stored."""


_MEANING: dict[str, type[NotStored]] = {
    Code.STREAM_FULL: Full,
    Code.STORE_FULL: Full,
    Code.DISK_FULL: Full,
    Code.TOO_MANY_STREAMS: Full,
    Code.TOO_MANY_PRODUCERS: Full,
    Code.STORE_UNAVAILABLE: Unavailable,
    Code.NOT_ALLOWED: Unavailable,
    Code.INTERNAL: Unavailable,
    Code.HEADER_TOO_LARGE: TooLarge,
    Code.MESSAGE_TOO_LARGE: TooLarge,
    Code.REQUEST_TOO_LARGE: TooLarge,
    Code.EXCEEDS_LIMIT: TooLarge,
    Code.SEQUENCE_FORGOTTEN: Forgotten,
}


def refusal_error(refused: Refusal) -> NotStored:
    """The error for a refusal. Of an unknown code of a newer ingest only this is known: whether to wait."""
    unknown = Unavailable if refused.retry_after_ms is not None and not _known(refused) else Invalid
    meaning = _MEANING.get(refused.code, unknown)
    text = f"{refused.message} ({refused.code})"
    if issubclass(meaning, Retryable):
        return meaning(text, retry_after_s=(refused.retry_after_ms or 0) / 1000)
    assert issubclass(meaning, Rejected)
    return meaning(text, code=refused.code)


def _known(refused: Refusal) -> bool:
    return refused.code in set(Code)


Step = Ask | Pause | Stored | Pong


class Exchange:
    """One request until it is answered, finally refused, or out of time."""

    def __init__(
        self, request: KeyedRequest, *, retry_for_s: float | None, timeout_s: float, sent_before: bool = False
    ) -> None:
        self.request = request
        self._plan = RetryPlan(retry_for_s=retry_for_s, timeout_s=timeout_s)
        self._open_questions = int(sent_before)
        """Copies sent, less those refused in a way that leaves nothing behind. A copy of an earlier exchange
        may still wait in a queue, whatever is answered to this one."""

    @property
    def left_no_trace(self) -> bool:
        """True if certainly nothing of it is stored, nor will be: its key may name another message."""
        return self._open_questions == 0

    def meets_used_numbers(self, reply: Stored) -> bool:
        """True if ingest takes a request sent only once for a repeat: its numbers stand for other messages.

        That happens where the producer was reset to a snapshot of itself, and numbers as it did before.
        """
        return bool(reply.repeated) and self._open_questions == 1

    def begin(self, now_s: float) -> Step:
        self._open_questions += 1
        return self._plan.begin(now_s)

    def paused(self, now_s: float) -> Step:
        """The pause is over: ask again."""
        self._open_questions += 1
        return self._plan.ask(now_s)

    def silence(self, now_s: float) -> Step:
        """No answer came, or none that can be read. Raises NoAnswer when the time is over."""
        step = self._plan.silence(now_s)
        if step is None:
            raise NoAnswer(f"no answer within {self._plan.retry_for_s:g} s", self.request)
        self._open_questions += isinstance(step, Ask)
        return step

    def answered(self, reply: Reply, now_s: float) -> Step:
        """An answer came. Raises NotStored where it is a final refusal."""
        if not isinstance(reply, Refusal):
            return reply
        error = refusal_error(reply)
        if not isinstance(error, Unavailable) and _known(reply):
            self._open_questions -= 1
        error.request = None if self.left_no_trace else self.request
        if not isinstance(error, Retryable):
            raise error
        pause = self._plan.refused(error.retry_after_s, now_s)
        if pause is None:
            raise error
        return pause
