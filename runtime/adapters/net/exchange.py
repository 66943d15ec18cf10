"""One deadline for all of an exchange with a server: name, connection, handshake, headers, body.

A time-out of a socket bounds each read only, and a resolver knows none: a peer that sends one byte in nine
seconds holds its caller for ever. So an exchange runs in a thread of its own; the caller waits no longer than
it wants to (and keeps its heartbeat meanwhile), and what is overdue is cut.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from runtime.adapters.net.cuttable import Cutter
from runtime.adapters.net.tls_options import SLICE_S, Waiting
from runtime.adapters.process.threads import start_thread
from runtime.core.identity.platform_answer import Outcome

Result = TypeVar("Result")


class NoResult(Exception):
    """An exchange gave no result by the end of its deadline, or before."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


class BoundedExchanges:
    """Exchanges over the connections of one cutter, one at a time, each of which ends."""

    def __init__(self, cutter: Cutter) -> None:
        self._cutter = cutter
        self._idle = threading.Event()
        self._idle.set()

    def run(
        self, timeout_s: float, exchange: Callable[[], Result], waiting: Waiting = lambda: False
    ) -> Result:
        """Call `exchange` in a thread of its own, and return its result within `timeout_s`.

        `waiting` is called every now and then, and ends it sooner where it returns True. Where the exchange
        goes on without us its connections are cut, and the next one begins once it is over. Raises NoResult,
        at the latest when the time is up. `exchange` returns its own failures: one that it raises is a bug.
        """
        deadline_s = time.monotonic() + timeout_s
        results: list[Result] = []

        def work() -> None:
            try:
                results.append(exchange())
            finally:
                self._idle.set()

        self._wait(deadline_s, timeout_s, waiting)  # an earlier one that was cut may not be over yet
        self._cutter.overdue = False
        self._idle.clear()
        try:
            start_thread(work, "https")
        except BlockingIOError as exc:
            self._idle.set()
            raise NoResult(Outcome.UNREACHABLE, str(exc.strerror)) from exc
        self._wait(deadline_s, timeout_s, waiting)
        if not results:
            raise NoResult(Outcome.CUT, "the request ended without an answer")
        return results[0]

    def _wait(self, deadline_s: float, timeout_s: float, waiting: Waiting) -> None:
        """Return once no exchange is under way; cut the one that is where this does not come in time."""
        try:
            while not self._idle.wait(min(SLICE_S, max(0.0, deadline_s - time.monotonic()))):
                if waiting():
                    raise NoResult(Outcome.ABANDONED, "asked to stop")
                if time.monotonic() >= deadline_s:
                    raise NoResult(Outcome.TIMED_OUT, f"no complete answer within {timeout_s:.3g} s")
        except BaseException:
            self._cutter.cut()
            raise
