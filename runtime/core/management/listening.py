"""Listening to the hub beside telemetry: when to subscribe, what may be published, and when to be mute.

Theory of operation

Telemetry comes first. A client subscribes after its first telemetry PUBACK, or SETTLE_S after it connected
where nothing is in flight, one channel after the other. A hub may end connections because of management (one
of the basic tier does so at each SUBSCRIBE and each twin PUBLISH): then telemetry would fail, too. So a loss
that management may be the reason of is a strike, and after MOST_STRIKES in a row it is mute for a while,
which doubles each time.

    WAITING --first PUBACK--> SUBSCRIBING --granted or refused--> LISTENING
       ^                            |                                |
       +------ another client ------+------- strikes: MUTED ---------+

After a time of muteness one strike is enough to be mute again, until a client proves that management works:
it was granted its channels and stood for PROVEN_S.

Considered and left: telling a basic tier by its answers (it gives none); unsubscribing while mute (that is
what ends the connection).

Times are seconds on one clock that never jumps.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from enum import StrEnum

from runtime.core.management.hub_channels import HubChannel

SETTLE_S = 2.0
LOOK_EVERY_S = 1.0
"""Interval of looks while something else holds a SUBSCRIBE back."""
STRIKE_S = 10.0
"""A connection that the hub ends so soon after a SUBSCRIBE may have ended because of it."""
PUBACK_STRIKE_S = 1.0
"""The same after a PUBACK, of which there may be many."""
MOST_STRIKES = 3
MUTE_S, LONGEST_MUTE_S = 60.0, 86_400.0
PROVEN_S = 600.0
SUBACK_S = 30.0
"""A SUBSCRIBE without an answer for so long counts as refused."""


class ListeningState(StrEnum):
    """What management may do on the connection; the words stand in `status`."""

    OFF = "off"
    """Management has not said that it wants anything."""
    WAITING = "waiting"
    """There is no connection, or it has not carried telemetry yet."""
    SUBSCRIBING = "subscribing"
    LISTENING = "listening"
    MUTED = "muted"


@dataclass(frozen=True, slots=True)
class SubscribeChannel:
    """Subscribe to this channel now."""

    channel: HubChannel


@dataclass(frozen=True, slots=True)
class UnsubscribeChannel:
    """Unsubscribe from this channel now."""

    channel: HubChannel


ListeningAction = SubscribeChannel | UnsubscribeChannel


class Listening:
    """Decisions about one client after the other."""

    def __init__(self) -> None:
        self.granted: set[HubChannel] = set()
        self.refused: set[HubChannel] = set()
        self._wanted: frozenset[HubChannel] = frozenset()
        self._up_s: float | None = None
        self._first_ack = False
        self._asked: tuple[HubChannel, float] | None = None
        """The SUBSCRIBE without an answer."""
        self._subscribed_s = -math.inf
        """Time of the last SUBSCRIBE on this client."""
        self._puback_s = -math.inf
        self._publishes: dict[Hashable, float] = {}
        self._busy_s = -math.inf
        self._strikes = 0
        self._muted_until_s = -math.inf
        self._mute_s = MUTE_S

    # -- what is wanted, and what is so --------------------------------------------------------------

    @property
    def wanted(self) -> frozenset[HubChannel]:
        return self._wanted

    def want(self, channels: frozenset[HubChannel]) -> None:
        """Management wants these channels from now on."""
        self._wanted = channels
        self.refused &= channels

    def state(self, now: float) -> ListeningState:
        if self.is_muted(now):
            return ListeningState.MUTED
        if not self._wanted:
            return ListeningState.OFF
        if self._up_s is None or not (self._asked or self.granted or self.refused):
            return ListeningState.WAITING
        return ListeningState.SUBSCRIBING if self._asked or self._missing() else ListeningState.LISTENING

    def is_muted(self, now: float) -> bool:
        return now < self._muted_until_s

    def muted_s(self, now: float) -> float:
        """Seconds until management may try again."""
        return max(0.0, self._muted_until_s - now)

    def may_publish(self, now: float) -> bool:
        """True if a twin request, the answer to a call or a PUBACK may go out."""
        return self._up_s is not None and not self.is_muted(now)

    # -- the life of a client ------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """A client is up. The hub's session may know of subscriptions: it is asked again nevertheless."""
        self._forget_client()
        self._up_s = now

    def telemetry_acked(self) -> bool:
        """The hub took a message of telemetry on this client. True for the first one."""
        first, self._first_ack = not self._first_ack, True
        return first

    def answered(self, channel: HubChannel, *, granted: bool) -> None:
        """The hub's SUBACK. One that grants counts however late it comes."""
        if self._asked and self._asked[0] is channel:
            self._asked = None
            (self.granted if granted else self.refused).add(channel)
        elif granted and channel in self.refused:
            self.refused.remove(channel)
            self.granted.add(channel)

    def published(self, tag: Hashable, now: float) -> None:
        """A PUBLISH of management is in flight."""
        self._publishes[tag] = now

    def acknowledged(self, now: float) -> None:
        """A PUBACK went out for a message that came."""
        self._puback_s = now

    def acked(self, tag: Hashable) -> bool:
        """The hub acknowledged a PUBLISH. True if it was one of management."""
        return self._publishes.pop(tag, None) is not None

    @property
    def in_flight(self) -> int:
        return len(self._publishes)

    def may_be_the_reason(self) -> bool:
        """True while the hub has not answered what management sent: a loss now is not a message's fault."""
        return self._asked is not None or bool(self._publishes)

    def lost(self, now: float, *, by_hub: bool) -> list[Hashable]:
        """The client is gone; `by_hub` where the hub ended it, or acknowledged nothing of management.

        Returns the tags of what is lost with it.
        """
        tags = list(self._publishes)
        soon = now - self._subscribed_s <= STRIKE_S or now - self._puback_s <= PUBACK_STRIKE_S
        if by_hub and (soon or self._publishes):
            self._strike(now)
        elif self._subscribed_s > -math.inf:
            self._strikes = 0
            if self._is_proven(now):
                self._mute_s = MUTE_S
        self._forget_client()
        return tags

    def _strike(self, now: float) -> None:
        self._strikes += 1
        tried_again = self._muted_until_s > -math.inf and self._mute_s > MUTE_S
        if self._strikes >= MOST_STRIKES or tried_again:
            self._strikes = 0
            self._muted_until_s = now + self._mute_s
            self._mute_s = min(2 * self._mute_s, LONGEST_MUTE_S)

    def _is_proven(self, now: float) -> bool:
        return bool(self.granted) and now - self._subscribed_s >= PROVEN_S

    def _forget_client(self) -> None:
        self.granted, self.refused = set(), set()
        self._up_s, self._asked, self._first_ack = None, None, False
        self._subscribed_s = self._puback_s = -math.inf
        self._publishes.clear()

    # -- what to do ----------------------------------------------------------------------------------

    def actions(self, now: float, *, telemetry_in_flight: bool, hold: bool = False) -> list[ListeningAction]:
        """The actions due now. `hold` where no SUBSCRIBE may go out, as while a message is on trial."""
        if telemetry_in_flight:
            self._busy_s = now
        if self._up_s is None or self.is_muted(now):
            return []
        if self._asked is not None and now >= self._asked[1] + SUBACK_S:
            self.answered(self._asked[0], granted=False)
        if self._is_proven(now):
            self._mute_s = MUTE_S
        actions: list[ListeningAction] = []
        for channel in sorted(self.granted - self._wanted):
            self.granted.discard(channel)
            actions.append(UnsubscribeChannel(channel))
        missing = self._missing()
        if missing and self._asked is None and not hold and self._is_settled(now, telemetry_in_flight):
            self._asked = missing[0], now
            self._subscribed_s = now
            actions.append(SubscribeChannel(missing[0]))
        return actions

    def _is_settled(self, now: float, telemetry_in_flight: bool) -> bool:
        """True if telemetry has gone first, or there is none."""
        assert self._up_s is not None
        return self._first_ack or (now >= self._up_s + SETTLE_S and not telemetry_in_flight)

    def _missing(self) -> list[HubChannel]:
        """Channels to be subscribed to, in the order of the enum."""
        missing = self._wanted - self.granted - self.refused
        return sorted(missing, key=list(HubChannel).index)

    def overdue(self, now: float, ack_s: float) -> bool:
        """True if a PUBLISH of management has had no PUBACK for too long on a client without other traffic.

        Where telemetry is in flight, its own watchdog judges the connection.
        """
        return now > self._judged_s(ack_s)

    def _judged_s(self, ack_s: float) -> float:
        oldest_s = min(self._publishes.values(), default=math.inf)
        return max(oldest_s, self._busy_s) + ack_s

    def next_s(self, now: float, ack_s: float) -> float:
        """The latest time at which something may be due."""
        if self._up_s is None:
            return math.inf
        if self.is_muted(now):
            return self._muted_until_s
        until_s = self._judged_s(ack_s) if self._publishes else math.inf
        if self._asked is not None:
            until_s = min(until_s, self._asked[1] + SUBACK_S)
        elif self._missing():
            until_s = min(until_s, max(now + LOOK_EVERY_S, self._up_s + SETTLE_S))
        return until_s
