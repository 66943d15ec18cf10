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

from collections.abc import Callable, Iterator

from runtime.core.delivery.outgoing import MessageState, Outgoing, Suspicion

LONE_LOSSES = 5
"""Failures alone in flight that convict: the two that raise the suspicion, and three trials."""
SUSPECT_AFTER = 2
"""Failures alone in flight that make a suspect."""
_FIRST_PAUSE_S = 0.25
"""The pause before the first trial, doubled for each further one: meanwhile other traffic flows."""
LONGEST_TRIAL_S = 600.0
"""The wait for a message that was answered with silence doubles each time, up to this."""
_SUSPECTED = (MessageState.SUSPECT, MessageState.ON_TRIAL)


class PoisonDetector:
    """The evidence against messages, in their records. One without any is beyond suspicion."""

    def __init__(self, ack_s: float, may: Callable[[Outgoing], bool] = lambda _: True) -> None:
        """`may`: true if the link may be used for a trial of this message now."""
        self._accused: dict[int, Outgoing] = {}
        """The records that have a `suspicion`."""
        self._may = may
        self._ack_s = ack_s

    def suspects(self) -> list[Outgoing]:
        """The messages under suspicion, the one on trial included."""
        return [message for message in self._accused.values() if message.state in _SUSPECTED]

    def any(self) -> bool:
        """True if there is a suspect."""
        return any(message.state in _SUSPECTED for message in self._accused.values())

    def failed(self, message: Outgoing, now: float, silent_s: float | None = None) -> bool:
        """It was alone in flight when the connection was lost: by the hub, or after a silence of so long.

        Returns true if it is a suspect now.
        """
        suspicion = self._suspicion_of(message)
        if silent_s is None:
            suspicion.losses += 1
        else:
            suspicion.silences += 1
            suspicion.waited_s = silent_s
        suspicion.due = False
        if message.state is MessageState.ON_TRIAL or suspicion.failures >= SUSPECT_AFTER:
            message.become(MessageState.SUSPECT, now)
            return True
        return False

    def patience_s(self, on_trial: Outgoing | None) -> float:
        """Seconds to wait for an acknowledgement: of this one on trial, or of any other message."""
        suspicion = on_trial.suspicion if on_trial is not None else None
        if suspicion is None or not suspicion.silences:
            return self._ack_s
        doubled_s = self._ack_s * 2.0 ** min(suspicion.silences - 1, 16)
        return max(self._ack_s, min(LONGEST_TRIAL_S, doubled_s))

    def overtaken(self, message: Outgoing) -> list[Outgoing]:
        """Others, sent after it, were acknowledged, and it was not. Returns the messages this convicts."""
        suspicion = self._suspicion_of(message)
        suspicion.losses += 1
        suspicion.overtaken = True
        return [message] if suspicion.losses >= LONE_LOSSES else []

    def worth_a_control(self) -> bool:
        """True if the link may be used for a suspect: else a control would cost, and serve no trial."""
        return any(self._may(message) for message in self._accused.values())

    def any_overtaken(self) -> bool:
        """True if a message was not acknowledged while others sent after it were."""
        return any(suspicion.overtaken for suspicion in self._suspicions())

    def control_failed(self) -> None:
        """The hub drops others as well: the failures so far prove nothing."""
        for suspicion in self._suspicions():
            suspicion.losses = min(suspicion.losses, 1)
            suspicion.silences = min(suspicion.silences, 1)
            suspicion.due = False

    def control_passed(self, now: float) -> list[Outgoing]:
        """The hub takes messages. Returns the messages this convicts."""
        convicted = []
        for message in self.suspects():
            suspicion = self._suspicion_of(message)
            if suspicion.losses >= LONE_LOSSES:
                convicted.append(message)
            elif not suspicion.due:
                suspicion.due = True
                failures = min(max(0, suspicion.failures - SUSPECT_AFTER), 16)
                pause_s = min(_FIRST_PAUSE_S * (1 << failures), LONGEST_TRIAL_S)
                suspicion.try_at_s = now + max(pause_s, suspicion.waited_s)
        return convicted

    def passed(self, message: Outgoing, now: float) -> list[Outgoing]:
        """The hub took it. Returns the suspects to release: itself, and all suspected on as little."""
        if message.suspicion is None:
            return []
        self.forget(message)
        if message.state is not MessageState.ON_TRIAL:
            return []
        freed = [message]
        for other in self.suspects():
            if self._suspicion_of(other).failures <= SUSPECT_AFTER:
                self.acquit(other, now)
                freed.append(other)
        return freed

    def acquit(self, message: Outgoing, now: float) -> None:
        """Drop what there is against a message that is not on trial."""
        self.forget(message)
        if message.state is MessageState.SUSPECT:
            message.become(MessageState.QUEUED, now)

    def forget(self, message: Outgoing) -> None:
        """Drop the evidence, whatever its state."""
        if message.suspicion is not None:
            message.suspicion = None
            del self._accused[message.candidate.id]

    def due(self) -> Outgoing | None:
        """The suspect that has a right to a trial, and waits longest."""
        waiting = [
            (message.suspicion.try_at_s, id)
            for id, message in self._accused.items()
            if message.suspicion is not None and message.suspicion.due and self._may(message)
        ]
        return self._accused[min(waiting)[1]] if waiting else None

    def next_trial_s(self) -> float | None:
        """The latest time at which the next trial may begin."""
        due = self.due()
        return due.suspicion.try_at_s if due is not None and due.suspicion is not None else None

    def _suspicion_of(self, message: Outgoing) -> Suspicion:
        if message.suspicion is None:
            message.suspicion = Suspicion()
            self._accused[message.candidate.id] = message
        return message.suspicion

    def _suspicions(self) -> Iterator[Suspicion]:
        return (message.suspicion for message in self._accused.values() if message.suspicion is not None)
