"""The two ends of the hub line, without a socket: frames in, values out, and the frames that are due.

Theory of operation

Nothing is sent once only. What must arrive is kept and repeated every RESEND_S until its answer comes, and at
once where the other end shows another session: it is another process, which has nothing of what was sent.
What comes twice is recognised by its number and answered again, and passed on once.

    upload's end            `up` or `down` on each change and every BEAT_S; messages until `stored`
    management's end        `listen` in answer to every `up` and `down`, once it has said which channels it
                            wants; publishes until `published`

Numbers begin where those of an earlier process cannot be (`first_number_of`): what is said late of a number
never concerns another message.

Bounds: the messages that upload keeps are bounded by `owed.py`, management's publishes by MOST_PUBLISHES, and
the numbers that are remembered to recognise repeats by MOST_REMEMBERED.

Each end belongs to one thread. Times are seconds on CLOCK_BOOTTIME.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runtime.core.management.hub_channels import HubChannel
from runtime.core.management.hub_line import (
    FromManagement,
    FromUpload,
    HubDown,
    HubMessage,
    HubUp,
    ListenTo,
    MessageStored,
    PublishAtHub,
    PublishOutcome,
    decode_from_management,
    decode_from_upload,
    encode_from_management,
    encode_from_upload,
)
from runtime.errors import Rejected

BEAT_S = 1.0
RESEND_S = 2.0
SILENT_S = 5.0
"""An end that has not been received from for so long counts as away."""
CALL_WAITS_S = 1.0
"""A call of a method that management has not taken by then is answered by upload, and not served later."""
MOST_PUBLISHES = 64
MOST_REMEMBERED = 1_000

Frames = list[bytes]


def first_number_of(now: float) -> int:
    """The first number of a process that starts now: a microsecond each since boot, and slower than that."""
    return int(now * 1e6) + 1


@dataclass(slots=True)
class _Repeated:
    """A frame that is sent until it is answered."""

    frames: Frames
    at_s: float = -math.inf
    """Time of the next sending."""


@dataclass(slots=True)
class _KeptMessage:
    """A message of the hub, passed on to the session of management that is known, until it is stored."""

    message: HubMessage
    at_s: float = -math.inf


class UploadEnd:
    """The end of `upload`: it tells the state of the connection and passes messages on."""

    def __init__(self, session: str) -> None:
        self._session = session
        self._peer = ""
        self._peer_s = -math.inf
        self._state: HubUp | HubDown = HubDown("upload starts")
        self._state_at_s = -math.inf
        self._messages: OrderedDict[int, _KeptMessage] = OrderedDict()
        self._publishes: OrderedDict[int, bool | None] = OrderedDict()
        """Outcome of each of management's publishes by number; None while it is in flight."""
        self._outcomes: list[Frames] = []

    def set_state(self, state: HubUp | HubDown) -> None:
        """The state of the connection from now on."""
        if state != self._state:
            self._state, self._state_at_s = state, -math.inf

    def add(self, message: HubMessage) -> None:
        """Pass a message on, until it is stored or withdrawn."""
        self._messages[message.number] = _KeptMessage(message)

    def withdraw(self, number: int) -> None:
        """Repeat this message no more."""
        self._messages.pop(number, None)

    def published(self, number: int, *, acked: bool) -> None:
        """The outcome of a publish that management asked for."""
        if number in self._publishes:
            self._publishes[number] = acked
            self._outcomes.append(encode_from_upload(self._session, PublishOutcome(number, acked)))

    def received(self, frames: Sequence[bytes], now: float) -> FromManagement | None:
        """The new thing that a frame says; None for a repeat, and for what is no frame of the line."""
        try:
            session, said = decode_from_management(frames)
        except Rejected:
            return None
        if session != self._peer:
            self._begin(session)
        self._peer_s = now
        match said:
            case PublishAtHub(number=number) if number in self._publishes:
                outcome = self._publishes[number]
                if outcome is not None:
                    self.published(number, acked=outcome)
                return None
            case PublishAtHub(number=number):
                self._publishes[number] = None
                _forget_oldest(self._publishes)
            case MessageStored(number):
                self._messages.pop(number, None)
        return said

    def _begin(self, session: str) -> None:
        """Another process of management: nothing that was sent before is known to it."""
        self._peer = session
        self._publishes.clear()
        self._outcomes.clear()
        for message in self._messages.values():
            message.at_s = -math.inf

    def is_away(self, now: float) -> bool:
        """True if management has not been received from for SILENT_S."""
        return now - self._peer_s > SILENT_S

    @property
    def peer(self) -> str:
        """The session of management; empty before its first frame."""
        return self._peer

    def due(self, now: float) -> list[Frames]:
        """The frames to be sent now."""
        due: list[Frames] = []
        if now >= self._state_at_s:
            self._state_at_s = now + BEAT_S
            due.append(encode_from_upload(self._session, self._state))
        for kept in self._messages.values():
            if now >= kept.at_s and not self.is_away(now):  # else the socket would keep each repeat
                kept.at_s = now + RESEND_S
                due.append(encode_from_upload(self._session, replace(kept.message, to=self._peer)))
        due += self._outcomes
        self._outcomes = []
        return due

    def next_s(self, now: float) -> float:
        """The time at which a frame is due, if nothing happens before."""
        if self._outcomes:
            return -math.inf
        if self.is_away(now):
            return self._state_at_s
        return min([self._state_at_s, *(message.at_s for message in self._messages.values())])


class ManagementEnd:
    """The end of `management`: it says which channels it wants, takes messages over, and publishes."""

    def __init__(self, session: str, first_number: int) -> None:
        self._session = session
        self._peer = ""
        self._peer_s = -math.inf
        self._state: HubUp | HubDown = HubDown("upload has not been received from")
        self._channels: frozenset[HubChannel] | None = None
        self._last_number = first_number - 1
        self._publishes: OrderedDict[int, tuple[int, _Repeated]] = OrderedDict()
        """By number, with the connection that each was meant for."""
        self._messages: OrderedDict[int, bool] = OrderedDict()
        """Numbers of the messages that came in this session of upload; True for those that are stored."""
        self._answers: list[Frames] = []
        self._pending: list[FromUpload] = []

    @property
    def state(self) -> HubUp | HubDown:
        """The state of the connection, as upload told it last."""
        return self._state

    @property
    def has_room(self) -> bool:
        """True if another publish may be asked for."""
        return len(self._publishes) < MOST_PUBLISHES

    def listen(self, channels: frozenset[HubChannel]) -> None:
        """Want these channels from now on. Before that upload takes management for away."""
        self._channels = channels
        self._answer(ListenTo(channels))

    def stored(self, number: int) -> None:
        """The message is taken over; call it after the commit."""
        if number in self._messages:
            self._messages[number] = True
            self._answer(MessageStored(number))

    def publish(self, topic: str, payload: bytes) -> int | None:
        """Have this published on the connection that stands; the outcome follows under the returned number.

        None where there is no connection, or no room.
        """
        if not isinstance(self._state, HubUp) or not self.has_room:
            return None
        self._last_number += 1
        asked = PublishAtHub(self._state.client, self._last_number, topic, payload)
        frames = encode_from_management(self._session, asked)
        self._publishes[self._last_number] = self._state.client, _Repeated(frames)
        return self._last_number

    def received(self, frames: Sequence[bytes], now: float) -> list[FromUpload]:
        """The new things that a frame says; a state is one only where it differs from the one before."""
        try:
            session, said = decode_from_upload(frames)
        except Rejected:
            return []
        if session != self._peer:
            self._peer = session
            self._messages.clear()
            if isinstance(self._state, HubUp):
                self._change(HubDown("upload started again"))
        self._peer_s = now
        match said:
            case HubUp() | HubDown():
                self._change(said)
                if self._channels is not None:
                    self._answer(ListenTo(self._channels))
            case PublishOutcome(number):
                if self._publishes.pop(number, None) is not None:
                    self._pending.append(said)
            case HubMessage(to=to) if to == self._session and self._is_new(said, now):
                self._pending.append(replace(said, to=""))
        return self._news()

    def _is_new(self, message: HubMessage, now: float) -> bool:
        """True for a message to be taken over. A repeat that is stored is answered again."""
        if message.number in self._messages:
            if self._messages[message.number]:
                self._answer(MessageStored(message.number))
            return False
        self._messages[message.number] = False
        _forget_oldest(self._messages)
        if message.channel is HubChannel.METHODS and now - message.received_s > CALL_WAITS_S:
            self.stored(message.number)  # upload has answered this call meanwhile
            return False
        return True

    def overdue(self, now: float) -> list[FromUpload]:
        """What follows from upload's silence: a connection that upload does not confirm counts as gone."""
        if isinstance(self._state, HubUp) and now - self._peer_s > SILENT_S:
            self._change(HubDown("upload does not answer"))
        return self._news()

    def _change(self, state: HubUp | HubDown) -> None:
        if state == self._state:
            return
        before, self._state = self._state, state
        client = state.client if isinstance(state, HubUp) else None
        gone = [number for number, (meant_for, _) in self._publishes.items() if meant_for != client]
        for number in gone:
            del self._publishes[number]
            self._pending.append(PublishOutcome(number, acked=False))
        if isinstance(before, HubUp) and client is not None and client != before.client:
            self._pending.append(HubDown("another connection"))
        self._pending.append(state)

    def _news(self) -> list[FromUpload]:
        news, self._pending = self._pending, []
        return news

    def _answer(self, said: FromManagement) -> None:
        self._answers.append(encode_from_management(self._session, said))

    def due(self, now: float) -> list[Frames]:
        """The frames to be sent now."""
        due, self._answers = self._answers, []
        return due + _due([repeated for _, repeated in self._publishes.values()], now)

    def next_s(self) -> float:
        """The time at which a frame is due, or silence counts, if nothing happens before."""
        if self._answers or self._pending:
            return -math.inf
        silent_s = self._peer_s + SILENT_S if isinstance(self._state, HubUp) else math.inf
        return min([silent_s, *(repeated.at_s for _, repeated in self._publishes.values())])


def _due(waiting: Iterable[_Repeated], now: float) -> list[Frames]:
    due = [repeated for repeated in waiting if now >= repeated.at_s]
    for repeated in due:
        repeated.at_s = now + RESEND_S
    return [repeated.frames for repeated in due]


def _forget_oldest(known: OrderedDict[int, Any]) -> None:
    while len(known) > MOST_REMEMBERED:
        known.popitem(last=False)
