"""Requests of programs that wait for something: bounded, each with an end, each answered."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Generic, NamedTuple, Protocol, TypeVar

from runtime.core.moment import Moment

MAX_WAITING = 1_000
MAX_WAITING_OF_ONE = 16
MAX_WAIT_S = 300.0


class LongPoll(Protocol):
    """A request that waits."""

    @property
    def asker(self) -> object: ...

    @property
    def wait_s(self) -> float: ...

    @property
    def poll(self) -> str: ...


Poll = TypeVar("Poll", bound=LongPoll)


class _Waiter(NamedTuple, Generic[Poll]):
    request: Poll
    holder: str
    since: Moment


@dataclass(frozen=True, slots=True)
class LongPolls(Generic[Poll]):
    """The requests that wait, the oldest first."""

    waiters: tuple[_Waiter[Poll], ...] = ()

    def plus(self, request: Poll, holder: str, now: Moment) -> LongPolls[Poll] | None:
        """With one more, or None where too many wait. It takes the place of the request that it repeats."""
        others = tuple(
            one
            for one in self.waiters
            if not (request.poll and (one.holder, one.request.poll) == (holder, request.poll))
        )
        of_one = sum(one.holder == holder for one in others)
        if len(others) >= MAX_WAITING or of_one >= MAX_WAITING_OF_ONE:
            return None
        return replace(self, waiters=(*others, _Waiter(request, holder, now)))

    def requests(self) -> Iterator[Poll]:
        return (one.request for one in self.waiters)

    def without(self, asker: object) -> LongPolls[Poll]:
        return replace(self, waiters=tuple(one for one in self.waiters if one.request.asker != asker))

    def without_holder(self, holder: str) -> LongPolls[Poll]:
        return replace(self, waiters=tuple(one for one in self.waiters if one.holder != holder))

    def over(self, now: Moment) -> tuple[LongPolls[Poll], list[Poll]]:
        """Without those whose time is over, and these."""
        over = [one.request for one in self.waiters if _left_s(one, now) <= 0.0]
        if not over:
            return self, []
        left = tuple(one for one in self.waiters if _left_s(one, now) > 0.0)
        return replace(self, waiters=left), over

    def wait_s(self, now: Moment) -> float:
        """Seconds until the next one's time is over."""
        return min((_left_s(one, now) for one in self.waiters), default=math.inf)


def _left_s(waiter: _Waiter[Poll], now: Moment) -> float:
    passed_s = now.since(waiter.since)
    wait_s = min(waiter.request.wait_s, MAX_WAIT_S)
    return 0.0 if passed_s is None else wait_s - passed_s
