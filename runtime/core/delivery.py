"""The way of messages to the hub: events in, steps out. No socket, disk, clock or chance in here.

Invariants:

1. A message is *delivered* only by the PUBACK of its own last send on the client that is open now.
2. Within a stream, what is sent for the first time is sent in store order: after a loss everything that was
   not acknowledged goes back to the front, in order, before anything newer.
3. A message is *quarantined* only on evidence that is about it, and not about the hub (below).
4. Nothing that was settled is sent again while ingest has not confirmed its removal.

Poison against outage
---------------------
A connection that was lost says nothing about who was to blame. So the window narrows (to a quarter with
each loss) until one message is alone in flight. One that was alone at two losses in a row is a *suspect*: its
stream waits, others go on. From then on it is an experiment with a control, both under the same conditions,
first and alone on a fresh connection:

    control   any other telemetry: another stream's, else a message that was delivered before, once more
    trial     the suspect

A trial is due only after a control passed. A suspect that failed `LONE_LOSSES` times, with a passed control
between its failures and after the last, is set aside. A control that fails clears the record: the hub drops
others too, this is an outage, nobody is to blame. So while the hub drops everybody nothing is set aside, for
however long; and a hub that drops every connection after n messages lets the suspect pass: it goes first.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from enum import Enum

from runtime.core.backoff import pause_s
from runtime.core.line import Acked, Cause, Closed, Connected, LineEvent, Lost
from runtime.core.pacing import Pace
from runtime.core.settlement import Settled

LONE_LOSSES = 5
"""Failures alone on the line, the first two before there was a suspicion, that prove a message poisonous."""
SUSPECT_AFTER = 2
DRAIN_S = 2.0
"""How long a client that is to be replaced may still acknowledge what is in flight."""
QUICK_S = 30.0
"""For so long after the last acknowledgement connecting is tried about once a second; then it backs off."""
PROBE = -1
"""Stands for a control of the worker's choice where a message id is expected."""

Tag = tuple[int, int]
"""(message id, number of the piece): the name of a PUBLISH."""


@dataclass(frozen=True, slots=True)
class Open:
    """Connect a new client."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Let go of the client."""

    reason: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send this piece now. `PROBE`: a message that was delivered before, or one that says nothing."""

    tag: Tag


@dataclass(frozen=True, slots=True)
class Upload:
    """The payload of this message goes as a file: begin."""

    id: int


@dataclass(frozen=True, slots=True)
class TellRefused:
    """The hub refused the credentials: say so to who can renew them."""


Step = Open | Discard | Send | Upload | TellRefused


@dataclass(frozen=True, slots=True)
class Offer:
    """A message that may be sent, as far as deciding needs to know it."""

    id: int
    stream: Hashable
    pieces: int = 1
    wire_bytes: int = 0
    priority: int = 4
    expires_s: float | None = None
    """On the clock of `now`; what has not been sent by then is dropped."""
    file: bool = False
    """A file upload comes first; then its one piece, the link."""


class Phase(Enum):
    """The life of a client."""

    DOWN = "down"
    CONNECTING = "connecting"
    UP = "up"
    DRAINING = "draining"
    CLOSING = "closing"


@dataclass(frozen=True, slots=True)
class Limits:
    """Deadlines, and how many at a time."""

    connect_s: float = 20.0
    ack_s: float = 30.0
    retry_max_s: float = 60.0
    uploads: int = 2
    """Most file uploads at a time; the hub allows ten."""


@dataclass(slots=True, eq=False)
class _Message:
    offer: Offer
    stream: _Stream
    unsent: deque[int]
    unacked: int
    lone_losses: int = 0
    touched: bool = False
    """Something of it was sent."""


@dataclass(slots=True, eq=False)
class _Stream:
    waiting: deque[_Message] = field(default_factory=deque)
    """With something unsent, in store order."""
    turn: float = 0.0
    queued: bool = False
    held: bool = False
    in_flight: int = 0


@dataclass(slots=True)
class _Suspicion:
    proved: bool = False
    """A control passed since it failed last: a trial is due."""
    try_at_s: float = 0.0


class Delivery:
    """All that is on its way. Times are seconds on one clock that never jumps."""

    def __init__(self, pace: Pace, limits: Limits | None = None) -> None:
        self.pace = pace
        self.phase = Phase.DOWN
        self.last_loss = ""
        self.losses = 0
        self._limits = limits or Limits()
        self._client = 0
        self._generation: int | None = None
        self._opened_generation: int | None = None
        self._messages: dict[int, _Message] = {}
        self._streams: dict[Hashable, _Stream] = {}
        self._turns: list[tuple[float, int, _Stream]] = []
        self._virtual = 0.0
        self._in_flight: dict[Tag, tuple[float, int]] = {}  # -> (sent at, bytes), in order of sending
        self._in_flight_bytes = 0
        self._held_bytes = 0
        self._delivered: list[int] = []
        self._quarantined: list[tuple[int, str]] = []
        self._dropped: list[tuple[int, str]] = []
        self._unconfirmed: set[int] = set()
        self._files: dict[int, _Message] = {}  # whose payload is not uploaded yet
        self._uploading: set[int] = set()
        self._suspects: dict[int, _Suspicion] = {}
        self._trial: _Message | None = None
        self._control: Tag | None = None
        self._sent_on_client = 0
        self._limit = 1 << 30
        self._acked_on_client = 0
        self._attempts = 0
        self._open_at_s = 0.0
        self._deadline_s = 0.0
        self._progress_s = 0.0
        self._last_ack_s: float | None = None
        self._steps: list[Step] = []

    # -- figures -------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Messages in hand: offered and not settled."""
        return len(self._messages)

    @property
    def held_bytes(self) -> int:
        """Their bytes."""
        return self._held_bytes

    @property
    def in_flight(self) -> int:
        """Sends without an acknowledgement."""
        return len(self._in_flight)

    @property
    def unconfirmed(self) -> int:
        """Settled messages that ingest has not confirmed to have removed."""
        return len(self._unconfirmed)

    @property
    def suspects(self) -> list[int]:
        return list(self._suspects)

    @property
    def window(self) -> int:
        """How many may be in flight now."""
        return 1 if self._trial else min(self._limit, self.pace.window)

    # -- what is to be sent, and what became of it ---------------------------------------------------

    def offer(self, offer: Offer) -> bool:
        """Take on a message; ids of a stream must come in store order. False where it is known already."""
        if offer.id in self._messages or offer.id in self._unconfirmed:
            return False
        stream = self._streams.setdefault(offer.stream, _Stream())
        message = _Message(offer, stream, deque(range(offer.pieces)), offer.pieces)
        self._messages[offer.id] = message
        self._held_bytes += offer.wire_bytes
        if offer.file:
            self._files[offer.id] = message
        stream.waiting.append(message)
        self._queue(stream)
        return True

    def refuse(self, id: int, reason: str) -> None:
        """Set a message aside that was never offered, because nobody would take it."""
        if id not in self._unconfirmed:
            self._quarantined.append((id, reason))
            self._unconfirmed.add(id)

    def uploaded(self, id: int) -> None:
        """The payload is in the cloud: its link may go."""
        self._uploading.discard(id)
        if message := self._files.pop(id, None):
            self._release(message.stream)

    def upload_failed(self, id: int, reason: str, *, for_good: bool) -> None:
        """It is not. `for_good` sets it aside; else it begins anew when `steps` says so."""
        self._uploading.discard(id)
        if message := self._files.get(id):
            if for_good:
                self._quarantined.append((id, reason))
                self._forget(message)
            self._release(message.stream)

    def take_settled(self) -> Settled:
        """What became of messages since the last call."""
        taken = Settled(self._delivered, self._quarantined, self._dropped)
        self._delivered, self._quarantined, self._dropped = [], [], []
        return taken

    def confirmed(self, ids: set[int]) -> None:
        """Ingest removed them: they will not be read again."""
        self._unconfirmed -= ids

    # -- events --------------------------------------------------------------------------------------

    def credentials(self, generation: int | None, now: float) -> None:
        """Which credentials are in force; None while there are none."""
        if generation == self._generation:
            return
        self._generation = generation
        self._open_at_s = min(self._open_at_s, now)
        self._attempts = 0

    def report(self, event: LineEvent, now: float, draw: float) -> None:
        """Something happened on the line; `draw` is random in [0, 1)."""
        if event.client != self._client:
            return  # of a client that was discarded: it may lie
        match event:
            case Connected() if self.phase is Phase.CONNECTING:
                self._up(now)
            case Acked(tag=tag) if self.phase in (Phase.UP, Phase.DRAINING):
                self._acked(tag, now)  # type: ignore[arg-type]  # the tag is the one we sent
            case Lost(cause=cause, reason=reason) if self.phase not in (Phase.CLOSING, Phase.DOWN):
                self._lost(cause, reason, now, draw)
            case Closed():
                self.phase = Phase.DOWN
            case _:
                pass

    def steps(self, now: float, draw: float) -> list[Step]:
        """What to do now. Call it after every event, and at the latest when `wait_s` is over."""
        match self.phase:
            case Phase.DOWN if self._may_open(now):
                self._client += 1
                self._opened_generation = self._generation
                self.phase = Phase.CONNECTING
                self._deadline_s = now + self._limits.connect_s
                self._steps.append(Open())
            case Phase.CONNECTING if now >= self._deadline_s:
                self._lost(Cause.OVERDUE, f"no answer within {self._limits.connect_s:g} s", now, draw)
            case Phase.UP if self._overdue(now):
                self._lost(Cause.OVERDUE, f"no acknowledgement for {self._limits.ack_s:g} s", now, draw)
            case Phase.UP:
                self._steps_up(now)
            case _:
                pass
        if self.phase is Phase.DRAINING and (not self._in_flight or now >= self._deadline_s):
            self._discard("replaced by a new one")
        if self.phase in (Phase.UP, Phase.DRAINING, Phase.CONNECTING, Phase.DOWN):
            self._start_uploads(now)
        taken, self._steps = self._steps, []
        return taken

    def wait_s(self, now: float) -> float:
        """How long nothing needs to be done, if nothing happens."""
        if self.phase is Phase.DOWN and self._generation is not None:
            return max(0.0, self._open_at_s - now)
        if self.phase in (Phase.CONNECTING, Phase.DRAINING):
            return max(0.0, self._deadline_s - now)
        if self.phase is Phase.UP:
            times = [s.try_at_s - now for s in self._suspects.values() if s.proved]
            if self._in_flight:
                times.append(self._progress_s + self._limits.ack_s - now)
            times.append(self.pace.wait_s(now))
            return max(0.0, min(times))
        return 60.0

    # -- the client ----------------------------------------------------------------------------------

    def _may_open(self, now: float) -> bool:
        return self._generation is not None and now >= self._open_at_s and self.pace.open(now)

    def _overdue(self, now: float) -> bool:
        return bool(self._in_flight) and now - self._progress_s >= self._limits.ack_s

    def _up(self, now: float) -> None:
        self.phase = Phase.UP
        self._sent_on_client = self._acked_on_client = 0
        self._control = None
        self._progress_s = now
        due = [id for id, s in self._suspects.items() if s.proved]
        self._trial = self._messages[due[0]] if due else None

    def _steps_up(self, now: float) -> None:
        if self._generation != self._opened_generation or not self.pace.open(now) or self._trial_due(now):
            self.phase = Phase.DRAINING
            self._deadline_s = now + DRAIN_S
            return
        for message in self._sendable(now):
            self._send(message, now)
        if self._suspects and not self._trial and not self._sent_on_client:
            self._put_in_flight((PROBE, 0), 0, now)

    def _trial_due(self, now: float) -> bool:
        """Whether a suspect has a right to a fresh connection now."""
        if self._trial is not None:
            return False
        idle = not self._in_flight and not self._turns
        return any(s.proved and (idle or now >= s.try_at_s) for s in self._suspects.values())

    def _discard(self, reason: str) -> None:
        self._take_back()
        self._trial = None
        self.phase = Phase.CLOSING
        self._steps.append(Discard(reason))

    def _lost(self, cause: Cause, reason: str, now: float, draw: float) -> None:
        self.losses += 1
        self.last_loss = f"{cause.value}: {reason}"
        if cause is Cause.REFUSED and self.phase is Phase.CONNECTING:
            self._steps.append(TellRefused())
        if cause in (Cause.DROPPED, Cause.OVERDUE) and self.phase is not Phase.CONNECTING:
            self._blame()
        self._attempts = 1 if self._acked_on_client else self._attempts + 1
        self._acked_on_client = 0
        self._open_at_s = now + self._pause_s(cause, now, draw)
        self._discard(reason)

    def _pause_s(self, cause: Cause, now: float, draw: float) -> float:
        """A short outage is healed within a second; a long one, or a hub that asks for it, with patience."""
        if self._last_ack_s is None:
            self._last_ack_s = now
        if cause in (Cause.DROPPED, Cause.UNREACHABLE) and now - self._last_ack_s < QUICK_S:
            most_s = min(0.8, self._limits.retry_max_s)
            return pause_s(self._attempts - 1, draw, max_s=most_s, base_s=0.05, floor_s=0.01)
        return pause_s(self._attempts - 1, draw, max_s=self._limits.retry_max_s)

    # -- sending -------------------------------------------------------------------------------------

    def _sendable(self, now: float) -> Iterator[_Message]:
        """Messages whose next piece may go now, the right one first."""
        if self._trial is not None:
            while not self._in_flight and self._trial is not None and self._trial.unsent:
                yield self._trial
            return
        barred: list[_Stream] = []  # others may pass them: an urgent one, a smaller one
        while self._turns and len(self._in_flight) < self.window:
            if self._in_flight_bytes > self.pace.window_bytes:
                break
            turn, _, stream = heapq.heappop(self._turns)
            stream.queued = False
            message = self._head(stream, now)
            if message is None:
                continue
            size_bytes = message.offer.wire_bytes // message.offer.pieces
            if not self.pace.allows(size_bytes, message.offer.priority, now):
                barred.append(stream)
                continue
            self._virtual = turn
            stream.turn = turn + 1.0 / (1 << message.offer.priority)
            yield message
            self._queue(stream)
        for stream in barred:
            self._queue(stream)

    def _head(self, stream: _Stream, now: float) -> _Message | None:
        """The message whose turn it is in `stream`, expired ones dropped; None where it has to wait."""
        while stream.waiting and not stream.held:
            message = stream.waiting[0]
            offer = message.offer
            if offer.expires_s is not None and now >= offer.expires_s and not message.touched:
                self._dropped.append((offer.id, "expired"))
                self._forget(message)
                continue
            if offer.id in self._files:
                return None
            return message
        return None

    def _send(self, message: _Message, now: float) -> None:
        piece = message.unsent.popleft()
        if not message.unsent:
            message.stream.waiting.popleft()
        message.touched = True
        message.stream.in_flight += 1
        size_bytes = message.offer.wire_bytes // message.offer.pieces
        self.pace.sent(size_bytes, now)
        self._put_in_flight((message.offer.id, piece), size_bytes, now)

    def _put_in_flight(self, tag: Tag, size_bytes: int, now: float) -> None:
        if not self._sent_on_client and self._trial is None:
            self._control = tag
        if not self._in_flight:
            self._progress_s = now
        self._sent_on_client += 1
        self._in_flight[tag] = (now, size_bytes)
        self._in_flight_bytes += size_bytes
        self._steps.append(Send(tag))

    def _acked(self, tag: Tag, now: float) -> None:
        sent = self._in_flight.pop(tag, None)
        if sent is None:
            return
        sent_s, size_bytes = sent
        self._in_flight_bytes -= size_bytes
        self._progress_s = self._last_ack_s = now
        self._acked_on_client += 1
        self._attempts = 0
        self._limit = min(self._limit + 1, 1 << 30)
        self.pace.acked(now - sent_s, len(self._in_flight) + 1, now)
        message = self._messages.get(tag[0])
        if message is not None:
            message.unacked -= 1
            message.stream.in_flight -= 1
            message.lone_losses = 0
            if not message.unacked:
                self._delivered.append(tag[0])
                self._forget(message)
            if message is self._trial:
                self._acquitted(message, now)
        if tag == self._control:
            self._control = None
            self._control_passed(now)

    def _take_back(self) -> None:
        """What is not acknowledged goes to the front of its stream, in order."""
        for tag in reversed(self._in_flight):
            message = self._messages.get(tag[0])
            if message is None:
                continue
            stream = message.stream
            stream.in_flight -= 1
            message.unsent.appendleft(tag[1])
            if not stream.waiting or stream.waiting[0] is not message:
                stream.waiting.appendleft(message)
            self._queue(stream)
        self._in_flight.clear()
        self._in_flight_bytes = 0

    def _forget(self, message: _Message) -> None:
        """It is settled, and waits for ingest's confirmation."""
        id, stream = message.offer.id, message.stream
        self._unconfirmed.add(id)
        self._held_bytes -= message.offer.wire_bytes
        del self._messages[id]
        self._files.pop(id, None)
        self._suspects.pop(id, None)
        if stream.waiting and stream.waiting[0] is message:
            stream.waiting.popleft()
        if not stream.waiting and not stream.in_flight:
            self._streams.pop(message.offer.stream, None)

    def _queue(self, stream: _Stream) -> None:
        """Give a stream that has something to send its turn. One that comes new starts now, not before."""
        if stream.queued or stream.held or not stream.waiting:
            return
        stream.queued = True
        stream.turn = max(stream.turn, self._virtual)
        heapq.heappush(self._turns, (stream.turn, stream.waiting[0].offer.id, stream))

    def _release(self, stream: _Stream) -> None:
        stream.held = False
        self._queue(stream)

    # -- file uploads --------------------------------------------------------------------------------

    def _start_uploads(self, now: float) -> None:
        """Begin the upload of every stream's head that needs one, as far as the pace allows."""
        for id, message in self._files.items():
            stream = message.stream
            if len(self._uploading) >= self._limits.uploads or not self.pace.may_upload(now):
                return
            if stream.waiting[0] is message and not stream.held and not stream.in_flight:
                stream.held = True
                self._uploading.add(id)
                self._steps.append(Upload(id))

    # -- poison against outage -----------------------------------------------------------------------

    def _blame(self) -> None:
        """The connection was lost. Who was alone in flight bears it; else the window narrows."""
        if len(self._in_flight) > 1:
            self._limit = max(1, min(self._limit, len(self._in_flight)) // 4)
            self.pace.lost()
        for tag in self._in_flight if len(self._in_flight) == 1 else ():
            message = self._messages.get(tag[0])
            if tag == self._control and (message is None or message.offer.id not in self._suspects):
                self._control_failed()
            if message is not None:
                self._limit = 1
                message.lone_losses += 1
                if message.lone_losses >= SUSPECT_AFTER:
                    message.stream.held = True
                    self._suspects[message.offer.id] = _Suspicion()

    def _control_failed(self) -> None:
        """The hub drops others as well."""
        for id, suspicion in self._suspects.items():
            self._messages[id].lone_losses = 1
            suspicion.proved = False

    def _control_passed(self, now: float) -> None:
        """The hub takes messages: what failed before and after this is to blame itself."""
        for id, suspicion in list(self._suspects.items()):
            message = self._messages[id]
            if message.lone_losses >= LONE_LOSSES:
                reason = f"the hub dropped the connection {message.lone_losses} times when it came, alone"
                self._quarantined.append((id, reason))
                self._forget(message)
                self._release(message.stream)
            else:
                suspicion.proved = True
                suspicion.try_at_s = now + 0.125 * (1 << message.lone_losses)

    def _acquitted(self, message: _Message, now: float) -> None:
        """It passed, alone: a control for the others; who was suspected on as little is let go with it."""
        self._trial = None
        for id in [message.offer.id, *self._suspects]:
            other = self._messages.get(id)
            if other is None or other is message or other.lone_losses <= SUSPECT_AFTER:
                self._suspects.pop(id, None)
                if other is not None:
                    self._release(other.stream)
        self._release(message.stream)
        self._control_passed(now)
