"""Packs on their way out: which waiting messages go as one, when, and which were sent so before.

Packs are cut late, when a stream has its turn, from the head of its queue: so they follow the order of single
delivery by construction, batches included, and grow by themselves under a throttle. Rows in the store never
know of packs.

1. Once sent, a pack is frozen: after a loss it goes again with the same members and the same name, and a
   message that was sent alone goes alone. A later run learns both from the note (`pack_notes`).
2. A pack of one unit is cut as soon as nothing more fits, else `linger_s` after its oldest member was stored.
   It goes sooner where waiting serves nothing: for an urgent message, a ttl or allowed hours that would end,
   a message behind it that may not join, a crowded send queue. More than one unit: only where more waits.
3. A pack that is convicted (`poison`) is dissolved: its members go one by one, and are tried one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from runtime.core.delivery.envelope import Compression, Telemetry
from runtime.core.delivery.metering import units
from runtime.core.delivery.pack_cut import FIRST_RATIO, Joinable, fill, joinable, metered
from runtime.core.delivery.pack_names import MOST_MEMBERS
from runtime.core.delivery.packing import PackRule, join, may_join

if TYPE_CHECKING:
    from runtime.core.delivery.link_budget import LinkBudget
    from runtime.core.delivery.outgoing import Outgoing
    from runtime.core.delivery.send_queue import SendQueue, StreamQueue

REREAD_S = 5.0
"""Longest wait, after a restart, until the members of a pack that was sent before are read again."""
MOST_STREAMS = 1_024
"""Most streams whose compression is remembered; those that sent no pack for longest give way."""
_NEVER = float("inf")


@dataclass(slots=True, eq=False)
class Pack:
    """Messages that go as one, in the order of their stream."""

    rule: PackRule
    ids: tuple[int, ...]
    """The ids of its members; of a pack of an earlier run, some may have left the store."""
    members: list[Outgoing] = field(default_factory=list)
    """Their records; of a pack of an earlier run, those that were read again so far."""
    telemetry: Telemetry | None = None
    """What is sent; None: not joined yet, or again."""
    units: int = 1
    """The units that the hub bills for it."""
    dissolved: bool = False
    """Its members go one by one."""
    closed: bool = False
    """It was sealed or dissolved: no further message joins it."""

    def seal(self, telemetry: Telemetry) -> None:
        """Settle what is sent."""
        self.closed = True
        self.telemetry = telemetry
        self.units = units(metered(telemetry))

    def dissolve(self) -> None:
        """Let its members go one by one from now on."""
        self.dissolved = self.closed = True
        for member in self.members:
            member.pack = None


@dataclass(slots=True)
class PackFigures:
    """The packs of one stream since the start."""

    packs: int = 0
    members: int = 0
    """Messages in those packs."""
    ratio: float = FIRST_RATIO
    """Size of the payload of the last packs after compression, by that before; expected of the first one."""


class Packer:
    """Cuts packs from the queues of streams that have a rule for it. Times are on one clock without jumps."""

    def __init__(self, queue: SendQueue, link: LinkBudget) -> None:
        self.caught_up: Callable[[Hashable], bool] = lambda stream: True
        """True if all that is stored of a stream was read."""
        self.figures: dict[Hashable, PackFigures] = {}
        """By stream, those that sent last at the end."""
        self._queue = queue
        self._link = link
        self._resting: dict[StreamQueue, None] = {}
        self._turn_s = 0.0

    def begin_turn(self, now: float) -> None:
        """The streams that have rested until now may have their turn."""
        self._turn_s = now

    def ready(self, message: Outgoing, now: float) -> bool:
        """True if `message`, at the head of its stream, may go now: alone, or as the first of its pack.

        Else its stream rests: until more of it comes, or until `next_s`.
        """
        stream = message.stream
        if message.pack is not None:
            ready = message.pack.telemetry is not None or self._restored(message.pack, stream, now)
        elif message.touched or message.part is None:
            ready = True
        else:
            ready = not self._rests(stream, now) and self._cut(message, now)
        if ready:
            self._resting.pop(stream, None)
        return ready

    def next_s(self) -> float:
        """The time at which the next stream has rested long enough.

        One that had already in the last turn, and was not sent, waits for something else: a rate, the window.
        """
        for stream in [stream for stream in self._resting if not stream.waiting]:
            del self._resting[stream]
        ends_s = (stream.rests_until_s for stream in self._resting)
        return min((end_s for end_s in ends_s if end_s > self._turn_s), default=_NEVER)

    # -- a pack of this run --------------------------------------------------------------------------

    def _rests(self, stream: StreamQueue, now: float) -> bool:
        """True if nothing has changed since it was found that the stream had better wait for more."""
        return (
            stream in self._resting
            and now < stream.rests_until_s
            and len(stream.waiting) == stream.rests_with
            and not stream.deferred
            and not self._queue.crowded
        )

    def _rest(self, stream: StreamQueue, until_s: float) -> bool:
        stream.rests_until_s, stream.rests_with = until_s, len(stream.waiting)
        self._resting[stream] = None
        return False

    def _cut(self, first: Outgoing, now: float) -> bool:
        """Cut the next pack from the head of the stream, or let it rest."""
        assert first.part is not None
        stream, rule = first.stream, first.part.rule
        records = self._packable(first, now)
        figures = self._figures_of(first.candidate.stream)
        ratio = 1.0 if rule.compression is Compression.NONE else figures.ratio
        messages = joinable([record.part.telemetry for record in records if record.part], rule, ratio)
        ended = messages.ended or len(records) < len(stream.waiting) or bool(stream.deferred)
        if not ended and not messages.fills_a_unit(ratio):
            until_s = self._lingers_until_s(records, rule, now)
            if now < until_s:
                return self._rest(stream, until_s)
        if len(messages.messages) > 1:
            self._form(records, messages, rule, figures)
        return True

    def _packable(self, first: Outgoing, now: float) -> list[Outgoing]:
        """The messages at the head of the stream that go under the same rule and were not sent yet."""
        assert first.part is not None
        rule, priority = first.part.rule, first.candidate.priority
        records = []
        for record in islice(first.stream.waiting, MOST_MEMBERS):
            candidate = record.candidate
            if record.touched or record.part is None:
                break
            if record.part.rule is not rule and record.part.rule != rule:
                break
            if candidate.priority != priority and not candidate.completes_batch:
                break
            if candidate.expires_s is not None and now >= candidate.expires_s:
                break
            records.append(record)
            if candidate.completes_batch:
                break
        return records

    def _lingers_until_s(self, records: Sequence[Outgoing], rule: PackRule, now: float) -> float:
        """The time until which these wait for more; one that is past where waiting serves nothing."""
        first = records[0]
        if not rule.linger_s or first.stored_s is None or self._queue.crowded:
            return now
        until_s = min(first.stored_s, first.since_s) + rule.linger_s  # a clock may have jumped
        if self._link.is_urgent(first.candidate.priority) or self._link.closes_within(until_s - now):
            return now
        expiries_s = (record.candidate.expires_s for record in records)
        return now if any(s is not None and s <= until_s for s in expiries_s) else until_s

    def _form(
        self, records: Sequence[Outgoing], messages: Joinable, rule: PackRule, figures: PackFigures
    ) -> None:
        count, telemetry = fill(messages, rule, figures.ratio)
        if count == 1:
            return
        members = list(records[:count])
        pack = Pack(rule, tuple(member.candidate.id for member in members), members)
        pack.seal(telemetry)
        for member in members:
            member.pack = pack
        figures.packs += 1
        figures.members += count
        if rule.compression is not Compression.NONE:
            measured = len(telemetry.payload) / max(1, messages.raw_bytes[count - 1])
            figures.ratio = (figures.ratio + measured) / 2

    # -- a pack of an earlier run --------------------------------------------------------------------

    def _restored(self, pack: Pack, stream: StreamQueue, now: float) -> bool:
        """Join the members of a pack that was sent before, once all that are left of it were read again."""
        if len(pack.members) < len(pack.ids) and not self._all_read(pack, stream, now):
            return self._rest(stream, min(now + 0.1, stream.rereads_until_s))
        stream.rereads_until_s = _NEVER
        together = [record for record in stream.waiting if record.pack is pack]
        if stream.waiting[len(together) - 1] is not together[-1]:  # what was dropped is back between them
            others = [record for record in stream.waiting if record.pack is not pack]
            stream.waiting.clear()
            stream.waiting.extend((*together, *others))
        for member in pack.members:
            member.pack = None
        parts = [member.part.telemetry for member in together if member.part is not None]
        pack.members, pack.ids = together, tuple(member.candidate.id for member in together)
        if len(parts) == len(together) and may_join(parts, pack.rule.format):
            pack.seal(join(parts, pack.rule))
            for member in together:
                member.pack = pack
        else:
            pack.dissolve()
        return True

    def _all_read(self, pack: Pack, stream: StreamQueue, now: float) -> bool:
        if stream.rereads_until_s == _NEVER:
            stream.rereads_until_s = now + REREAD_S
        past = stream.last_id is not None and stream.last_id >= pack.ids[-1]
        return past or now >= stream.rereads_until_s or self.caught_up(pack.members[0].candidate.stream)

    def _figures_of(self, stream: Hashable) -> PackFigures:
        figures = self.figures.pop(stream, None) or PackFigures()
        self.figures[stream] = figures
        while len(self.figures) > MOST_STREAMS:
            del self.figures[next(iter(self.figures))]
        return figures
