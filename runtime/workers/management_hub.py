"""Management's side of the hub: what came by way of upload becomes events, and what is published goes there.

Commands wait here until they are on disk, in the order in which they came: the hub ends a connection that
acknowledges out of order. What has no room waits here, too, not acknowledged, so that the hub keeps it.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import dataclass, replace

from runtime.adapters.bus.hub_line import LineToUpload
from runtime.adapters.management.rows import content_of
from runtime.core.management.call_record import CallLinkDown, RespondToCall
from runtime.core.management.calls import call_id_of
from runtime.core.management.command_record import CommandReceived, digest_of
from runtime.core.management.hub_channels import (
    HubChannel,
    method_response_topic,
    reported_patch_topic,
    twin_get_topic,
)
from runtime.core.management.hub_events import call_of, command_topic_of, twin_event_of
from runtime.core.management.hub_line import FromUpload, HubDown, HubMessage, HubUp
from runtime.core.management.owed import LOCK_S
from runtime.core.management.twin_record import AskTwin, SendReported, TwinLinkDown, TwinLinkUp
from runtime.layout import Layout
from runtime.workers.management_turn import HubOwed, ManagementTurn

MOST_COMMANDS_A_TURN = 100
MOST_UNSENT, MOST_UNSENT_BYTES = 1_024, 8 * 1024 * 1024
"""Answers that wait for room on the line; beyond either the oldest goes, and its caller waits for nothing."""
EVERYTHING = frozenset(HubChannel)
_TWIN = frozenset((HubChannel.TWIN_RESPONSES, HubChannel.DESIRED))


@dataclass(frozen=True, slots=True)
class _Unsent:
    client: int
    topic: str
    payload: bytes


class HubSide:
    """The line to upload, and what waits on it."""

    def __init__(self, layout: Layout) -> None:
        self.line = LineToUpload(layout)
        self.line.end.listen(EVERYTHING)
        self._client: int | None = None
        self._twin_up = False
        self._commands: deque[HubMessage] = deque()
        self._taken: list[HubMessage] = []
        """Commands, and other messages, of this turn."""
        self._unsent: deque[_Unsent] = deque()
        self.twin_received = False
        """In this turn the hub sent the twin, or a change of it."""

    @property
    def state(self) -> str:
        """up, or the reason why there is no connection."""
        state = self.line.end.state
        return "up" if isinstance(state, HubUp) else state.reason or "down"

    @property
    def muted(self) -> bool:
        return self.state.startswith("muted")

    @property
    def waiting_commands(self) -> int:
        """Commands that came and are not on disk."""
        return len(self._commands)

    # --- in a turn ---

    def receive(self, turn: ManagementTurn, now_s: float) -> None:
        """Take what upload passed on into the turn."""
        self._taken, self.twin_received = [], False
        for event in self.line.receive(now_s):
            self._take(turn, event)
        while self._commands and now_s - self._commands[0].received_s > LOCK_S:
            self._commands.popleft()  # the hub sends it again, under another number
        for _ in range(min(len(self._commands), MOST_COMMANDS_A_TURN)):
            if not self._take_command(turn, self._commands[0]):
                return
            self._taken.append(self._commands.popleft())

    def _take(self, turn: ManagementTurn, event: FromUpload) -> None:
        match event:
            case HubUp():
                self._up(turn, event)
            case HubDown():
                self._down(turn)
            case HubMessage(channel=HubChannel.COMMANDS):
                self._commands.append(event)
            case HubMessage():
                self._taken.append(event)
                self._message(turn, event)

    def _up(self, turn: ManagementTurn, up: HubUp) -> None:
        self._client = up.client
        twin_up = up.channels >= _TWIN and not up.held
        if twin_up and not self._twin_up:
            turn.twin(TwinLinkUp(up.device_id))
        elif self._twin_up and not twin_up:
            turn.twin(TwinLinkDown())
        self._twin_up = twin_up

    def _down(self, turn: ManagementTurn) -> None:
        if self._client is not None:
            turn.calls(CallLinkDown(self._client))
        if self._twin_up:
            turn.twin(TwinLinkDown())
        self._client, self._twin_up = None, False
        self._commands.clear()  # not acknowledged: the hub sends them again
        self._unsent.clear()

    def _message(self, turn: ManagementTurn, message: HubMessage) -> None:
        if message.channel is HubChannel.METHODS:
            call = call_of(message)
            if call is not None:
                call_id = call_id_of(call.payload)
                known = turn.database.answer(call.method, call_id) if call_id else None
                turn.calls(replace(call, known=known))
        elif event := twin_event_of(message):
            self.twin_received = True
            turn.twin(event)

    def _take_command(self, turn: ManagementTurn, message: HubMessage) -> bool:
        """True if it is in the turn, to be acknowledged; False where there is no room for it."""
        topic = command_topic_of(message.topic)
        if topic.id is None:
            known = turn.database.command_of_digest(digest_of(message.topic, message.payload))
        else:  # senders give one id to several commands: only the same content is a repeat
            known = turn.database.command_of(topic.id, content_of(topic.properties, message.payload))
        received = CommandReceived(
            HubOwed(message.number),
            topic.id,
            message.topic,
            topic.name,
            message.payload,
            leaf=topic.leaf,
            properties=topic.properties,
            expires_wall_s=topic.expires_wall_s,
            ttl_s=topic.ttl_s,
            dup=message.dup,
            known=known,
        )
        turn.commands(received)
        return not turn.left

    # --- after it ---

    def committed(self) -> None:
        """What this turn took is on disk: it may be acknowledged, in the order in which it came."""
        for message in self._taken:
            self.line.end.stored(message.number)

    def failed(self) -> None:
        """Nothing of this turn is on disk: its commands are taken again. A call is answered by upload."""
        commands = [one for one in self._taken if one.channel is HubChannel.COMMANDS]
        self._commands.extendleft(reversed(commands))
        for message in self._taken:
            if message.channel in _TWIN:
                self.line.end.stored(message.number)  # a GET says it again

    def publish(self, action: AskTwin | SendReported | RespondToCall) -> None:
        """Publish on the connection that it is meant for; where that is gone, nothing is to be sent."""
        if self._client is None:
            return
        match action:
            case AskTwin(rid):
                unsent = _Unsent(self._client, twin_get_topic(rid), b"")
            case SendReported(rid, patch):
                payload = json.dumps(patch, ensure_ascii=False, separators=(",", ":")).encode()
                unsent = _Unsent(self._client, reported_patch_topic(rid), payload)
            case RespondToCall(client, rid, status, payload):
                unsent = _Unsent(client, method_response_topic(status, rid), payload)
        self._unsent.append(unsent)
        while len(self._unsent) > MOST_UNSENT or self._unsent_bytes() > MOST_UNSENT_BYTES:
            self._unsent.popleft()

    def _unsent_bytes(self) -> int:
        return sum(len(unsent.payload) for unsent in self._unsent)

    def send(self, now_s: float) -> None:
        """Send what is due on the line."""
        while self._unsent and self.line.end.has_room:
            unsent = self._unsent.popleft()
            if unsent.client == self._client:
                self.line.end.publish(unsent.topic, unsent.payload)
        self.line.send(now_s)

    def wait_s(self, now_s: float) -> float:
        """Seconds until something is due on the line."""
        return max(0.0, self.line.end.next_s() - now_s)

    def ensure_bound(self) -> None:
        self.line.ensure_bound()

    def close(self) -> None:
        self.line.close()
