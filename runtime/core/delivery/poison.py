"""Poison against outage: which message is to blame when the hub drops the connection.

A lost connection does not say which message was to blame. The engine narrows its window with each loss
until one message is alone in flight. One that was alone at two losses in a row is a *suspect*: its stream
waits, others go on. From then on it is an experiment with a control, both under the same conditions, first
and alone on a fresh connection:

    control   any other telemetry: another stream's, else a message that was delivered before, once more
    trial     the suspect

A trial is due only after a control passed. A suspect that failed `LONE_LOSSES` times, with a passed control
between its failures and after the last, is convicted. A control that fails clears the records: the hub drops
others too, this is an outage, no message is to blame.

A message may also be the one that is not acknowledged, for as long as the hub's deadline, while others that
were sent after it are. That is an experiment with its control already: nothing is narrowed, no stream waits,
and so many of them convict as well. On the next connections a control goes first, so that a hub that loses
the first acknowledgement of each connection convicts no message.

A connection that we ended (a watchdog, a keep-alive, a TCP that gave up), or that ended before the hub had
seen the message, is *silence*: a slow or broken line does the same, so it convicts no message. Silence twice
in a row makes a suspect as well, so that other messages go on; its trials get more and more time, and where
the hub has all of it and says nothing, a control follows it: the answer to that one may convict, as above.

So while a hub drops all messages, none is convicted, for however long. A hub that drops every connection at
its n-th message lets the suspect pass, because it goes first. A hub that drops at random, half of the time,
convicts an innocent message once in 500 (two losses, then three times a passed control and a failed trial,
then a passed control); one that drops every tenth, once in 100,000.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

LONE_LOSSES = 5
"""Failures alone in flight that convict: the two that raise the suspicion, and three trials."""
SUSPECT_AFTER = 2
_FIRST_PAUSE_S = 0.25
"""The pause before the first trial, doubled for each further one: meanwhile other traffic flows."""
LONGEST_TRIAL_S = 600.0
"""The wait for a message that was answered with silence doubles each time, up to this."""


@dataclass(slots=True)
class _Record:
    losses: int = 0
    silences: int = 0
    waited_s: float = 0.0
    """Length of the last silence; other messages get as long before the next trial."""
    suspect: bool = False
    overtaken: bool = False
    due: bool = False
    """A control passed since it failed last."""
    try_at_s: float = 0.0

    @property
    def failures(self) -> int:
        """Failures of either kind."""
        return self.losses + self.silences


class PoisonDetector:
    """The records, by message id. A message without one is beyond suspicion."""

    def __init__(self, ack_s: float, may: Callable[[int], bool] = lambda _: True) -> None:
        """`may`: true if the link may be used for a trial of this message now."""
        self._records: dict[int, _Record] = {}
        self._may = may
        self._ack_s = ack_s

    def suspects(self) -> list[int]:
        return [id for id, record in self._records.items() if record.suspect]

    def failures(self) -> dict[int, int]:
        """The suspects, and the number of failures of each."""
        return {id: record.failures for id, record in self._records.items() if record.suspect}

    def any(self) -> bool:
        return any(record.suspect for record in self._records.values())

    def failed(self, id: int, silent_s: float | None = None) -> bool:
        """It was alone in flight when the connection was lost: by the hub, or after a silence of so long.

        Returns true if it is a suspect now.
        """
        record = self._records.setdefault(id, _Record())
        if silent_s is None:
            record.losses += 1
        else:
            record.silences += 1
            record.waited_s = silent_s
        record.due = False
        record.suspect = record.suspect or record.failures >= SUSPECT_AFTER
        return record.suspect

    def patience_s(self, on_trial: int | None) -> float:
        """Seconds to wait for an acknowledgement: of this one on trial, or of any other message."""
        record = self._records.get(on_trial) if on_trial is not None else None
        if record is None or not record.silences:
            return self._ack_s
        return max(self._ack_s, min(LONGEST_TRIAL_S, self._ack_s * 2.0 ** min(record.silences - 1, 16)))

    def overtaken(self, id: int) -> dict[int, int]:
        """Others, sent after it, were acknowledged, and it was not. Returns the messages this convicts."""
        record = self._records.setdefault(id, _Record())
        record.losses += 1
        record.overtaken = True
        return {id: record.losses} if record.losses >= LONE_LOSSES else {}

    def worth_a_control(self) -> bool:
        """True if the link may be used for a suspect: else a control would cost, and serve no trial."""
        return any(self._may(id) for id in self._records)

    def any_overtaken(self) -> bool:
        return any(record.overtaken for record in self._records.values())

    def control_failed(self) -> None:
        """The hub drops others as well: the failures so far prove nothing."""
        for record in self._records.values():
            record.losses = min(record.losses, 1)
            record.silences = min(record.silences, 1)
            record.due = False

    def control_passed(self, now: float) -> dict[int, int]:
        """The hub takes messages. Returns the messages this convicts: ids and numbers of failures."""
        convicted = {}
        for id, record in self._records.items():
            if not record.suspect:
                continue
            if record.losses >= LONE_LOSSES:
                convicted[id] = record.losses
            elif not record.due:
                record.due = True
                failures = min(max(0, record.failures - SUSPECT_AFTER), 16)
                pause_s = min(_FIRST_PAUSE_S * (1 << failures), LONGEST_TRIAL_S)
                record.try_at_s = now + max(pause_s, record.waited_s)
        return convicted

    def passed(self, id: int) -> list[int]:
        """The hub took it. Returns the messages to release: itself, and all suspected on as little."""
        if not self._records:
            return []
        freed = [id] if self._records.pop(id, _Record()).suspect else []
        if freed:
            freed += [other for other in self.suspects() if self._records[other].failures <= SUSPECT_AFTER]
        for other in freed:
            self._records.pop(other, None)
        return freed

    def forget(self, id: int) -> None:
        self._records.pop(id, None)

    def due(self) -> list[int]:
        """Suspects that have a right to a trial, the one that waits longest first."""
        waiting = [
            (record.try_at_s, id) for id, record in self._records.items() if record.due and self._may(id)
        ]
        return [id for _, id in sorted(waiting)]

    def next_trial_s(self) -> float | None:
        """The latest time at which the next trial may begin."""
        due = self.due()
        return self._records[due[0]].try_at_s if due else None
