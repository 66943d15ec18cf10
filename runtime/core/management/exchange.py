"""The exchange of a program with the management worker: what it asks again, and what its refusals mean.

`runtime.core.retry_plan` has the times. A request stays the same through all repeats. Each is harmless: a
report said twice is the same state, an end of a command carries its token, and a request that waits for work
carries the name of its poll, by which the worker gives the same answer again.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.core.management.codes import ManagementCode, RequestRefused
from runtime.core.management.protocol import decode_reply, encode_request
from runtime.core.management.replies import ManagementRefusal, ManagementReply
from runtime.core.management.requests import ManagementRequest
from runtime.core.retry_plan import Ask, Pause, RetryPlan
from runtime.errors import EdgeError, Rejected, Retryable

POLL_S = 2.0
"""A longer wait is asked for in parts of this length: one that the worker's end cut short is noticed then."""


class DeviceError(EdgeError):
    """The management worker did not do what it was asked."""

    repeated = False
    """True if the request was sent more than once: an earlier copy may have taken effect."""


class Unanswered(DeviceError, Retryable):
    """No answer came in time. It is unknown whether the request took effect; the same again is safe."""


class NotNow(DeviceError, Retryable):
    """It cannot be done now: the disk is full, or too many requests wait."""


class NotGranted(DeviceError, Rejected):
    """The settings do not grant this to the program."""


class BadValue(DeviceError, Rejected):
    """The twin cannot hold this value; the error names the place and the rule."""


class UnknownPath(DeviceError, Rejected):
    """Nothing is at this path of the twin."""


class ChangeMoved(DeviceError, Rejected):
    """The part was changed meanwhile: read it again, and decide again."""


class LeaseLost(DeviceError, Rejected):
    """The command is no longer this program's: it ended, or another program has it now."""


class NotUnderstood(DeviceError, Rejected):
    """The request breaks the protocol: a mistake in the program."""


_MEANING: dict[str, type[DeviceError]] = {
    ManagementCode.DISK_FULL: NotNow,
    ManagementCode.STORE_UNAVAILABLE: NotNow,
    ManagementCode.INTERNAL: NotNow,
    ManagementCode.TOO_MANY_WAITING: NotNow,
    ManagementCode.NOT_GRANTED: NotGranted,
    ManagementCode.BAD_VALUE: BadValue,
    ManagementCode.TWIN_TOO_LARGE: BadValue,
    ManagementCode.PAYLOAD_TOO_LARGE: BadValue,
    ManagementCode.NO_SUCH_PATH: UnknownPath,
    ManagementCode.CHANGE_MOVED: ChangeMoved,
    ManagementCode.LEASE_LOST: LeaseLost,
    ManagementCode.UNKNOWN_COMMAND: LeaseLost,
    ManagementCode.UNKNOWN_CALL: LeaseLost,
    ManagementCode.TOO_LATE: LeaseLost,
}


def refusal_meaning(refused: ManagementRefusal) -> DeviceError:
    """The error for a refusal. Of an unknown code of a newer worker only this is known: whether to wait."""
    unknown = NotNow if refused.retry_after_ms is not None else NotUnderstood
    kind = _MEANING.get(refused.code, unknown)
    text = f"{refused.message} ({refused.code})"
    if issubclass(kind, Retryable):
        return kind(text, retry_after_s=(refused.retry_after_ms or 0) / 1000)
    assert issubclass(kind, Rejected)
    return kind(text, code=refused.code)


class DeviceExchange:
    """One request until it is answered, finally refused, or out of time."""

    def __init__(
        self, request: ManagementRequest, *, retry_for_s: float | None, timeout_s: float, wait_s: float = 0.0
    ) -> None:
        """The worker itself may take `wait_s` to answer: a request that waits for something says so."""
        self.request = request
        self.frames = encode_request(request)
        self._wait_s = wait_s
        self._plan = RetryPlan(retry_for_s=retry_for_s, timeout_s=timeout_s)

    def begin(self, now_s: float) -> Ask:
        return self._waiting(self._plan.begin(now_s))

    def paused(self, now_s: float) -> Ask:
        """The pause is over: ask again."""
        return self._waiting(self._plan.ask(now_s))

    def silence(self, now_s: float) -> Ask | Pause:
        """No answer came, or none that can be read. Raises Unanswered when the time is over."""
        step = self._plan.silence(now_s)
        if step is None:
            raise Unanswered(f"no answer within {self._plan.retry_for_s:g} s; is the management worker on?")
        return self._waiting(step) if isinstance(step, Ask) else step

    def answered(self, frames: Sequence[bytes], now_s: float) -> Ask | Pause | ManagementReply:
        """An answer came. Raises DeviceError where it is a final refusal."""
        try:
            reply = decode_reply(self.request, frames)
        except RequestRefused:
            return self.silence(now_s)
        if not isinstance(reply, ManagementRefusal):
            return reply
        error = refusal_meaning(reply)
        error.repeated = self._plan.asked > 1
        pause = self._plan.refused(error.retry_after_s, now_s) if isinstance(error, Retryable) else None
        if pause is None:
            raise error
        return pause

    def _waiting(self, step: Ask) -> Ask:
        return Ask(step.timeout_s + self._wait_s)
