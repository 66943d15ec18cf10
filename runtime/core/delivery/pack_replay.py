"""Pack replay: what messages would have cost under other rules, and how long they would have waited. Pure.

The delivery engine itself sends them, at the times at which they were stored, to a hub that acknowledges at
once. So packs are cut, linger, wait for a budget of units and end as they would have with the link up all the
time. The first message is replayed at 00:00, where a budget's day begins.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

from runtime.core.delivery.actions import Action, Candidate, Open, Send, StartUpload
from runtime.core.delivery.connection import DeliveryLimits
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.envelope import FileParcel, Packing, Parcel, Telemetry, Unsendable, seal
from runtime.core.delivery.events import Acked, Connected
from runtime.core.delivery.link_budget import BELIEVABLE_S, LinkBudget, LinkPolicy
from runtime.core.delivery.pack_names import is_counted
from runtime.core.delivery.packing import (
    ENCODING,
    LENGTHS,
    MEMBER_TYPE,
    PACK,
    PackFormat,
    PackRule,
    part_of,
)
from runtime.core.delivery.read_planner import lane_of
from runtime.core.delivery.unit_counts import UnitCounts, of_file_calls, of_send
from runtime.core.delivery.window import CongestionWindow
from runtime.core.message import Kind, StoredMessage

LEAST_STEP_S = 0.001
FILE_CALLS = 2
"""The beginning and the end of a file upload."""


@dataclass(slots=True)
class ReplayedStream:
    """What one stream cost, and how long its messages waited."""

    counts: UnitCounts = field(default_factory=UnitCounts)
    waits_s: list[float] = field(default_factory=list)
    """From storing a message to its acknowledgement."""
    messages: int = 0
    alone: Counter[str] = field(default_factory=Counter)
    """Messages that never go in a pack, by the reason; completions apart."""


class Replay:
    """Sends messages as they come. Times are seconds since the first one, and never go back."""

    def __init__(self, units_per_day: int = 0) -> None:
        self.streams: dict[str, ReplayedStream] = {}
        self._link = LinkBudget(LinkPolicy(units_per_day=units_per_day))
        self._delivery = Delivery(CongestionWindow(), self._link, DeliveryLimits())
        self._now = 0.0
        self._client = 0
        self._stored_s: dict[int, float] = {}
        self._delivery.set_credentials(1, self._now)
        self._turn()

    def store(self, message: StoredMessage, at_s: float, packing: Packing, rule: PackRule) -> None:
        """A message comes, under the rules of its stream."""
        self._advance(at_s)
        packs = rule.format is not PackFormat.NONE
        sealed = seal(message, packing, late=packs)
        if isinstance(sealed, Unsendable):
            return
        stream = self._stream_of(message)
        stream.messages += 1
        record = self._delivery.offer(
            Candidate(
                message.id,
                (message.name, False),
                sealed.pieces,
                sealed.wire_bytes,
                message.priority,
                file=isinstance(sealed, FileParcel),
                batch=message.batch_id,
                completes_batch=message.kind is Kind.COMPLETE_BATCH and message.batch_id is not None,
            ),
            self._now,
        )
        assert record is not None, "a message was replayed twice"
        record.sealed, record.stored_s = sealed, self._now
        self._stored_s[message.id] = self._now
        record.part = part_of(sealed, rule)
        if record.part is None and packs and message.kind is Kind.MESSAGE:
            stream.alone[why_alone(sealed, rule.format)] += 1
        self._turn()

    def finish(self) -> None:
        """Let everything go that still waits."""
        while self._delivery.queue.messages:
            self._step()

    def _stream_of(self, message: StoredMessage) -> ReplayedStream:
        return self.streams.setdefault(str(message.name.without_leaf), ReplayedStream())

    def _advance(self, until_s: float) -> None:
        while self._delivery.queue.messages and self._due_s() < until_s:
            self._step()
        self._now = max(self._now, until_s)

    def _due_s(self) -> float:
        return self._now + max(LEAST_STEP_S, self._delivery.wait_s(self._now))

    def _step(self) -> None:
        self._now = self._due_s()
        self._turn()

    def _turn(self) -> None:
        """Carry out what is due; each send may make room for others."""
        self._link.set_time(BELIEVABLE_S + self._now, self._now)
        while actions := self._delivery.actions(self._now, 0.5):
            for action in actions:
                self._carry_out(action)
            settled = self._delivery.drain_settled()
            for id in settled.delivered:
                record = self._delivery.record(id)
                assert record is not None
                name = str(lane_of(record.candidate)[0].without_leaf)
                self.streams[name].waits_s.append(self._now - self._stored_s.pop(id))
            self._delivery.confirmed(settled.ids())

    def _carry_out(self, action: Action) -> None:
        match action:
            case Open():
                self._client += 1
                self._delivery.on_event(Connected(self._client), self._now, 0.5)
            case Send((id, piece)):
                self._sent(id, piece)
                self._delivery.on_event(Acked(self._client, (id, piece)), self._now, 0.5)
            case StartUpload(id):
                self._counts_of(id).add(of_file_calls(FILE_CALLS))
                self._delivery.uploaded(id, self._now)
            case _:
                raise AssertionError(action)  # the hub never fails

    def _sent(self, id: int, piece: int) -> None:
        record = self._delivery.queue.messages[id]
        sealed, pack = record.sealed, record.pack
        if pack is not None and pack.telemetry is not None:
            telemetry = pack.telemetry
        elif isinstance(sealed, Parcel):
            telemetry = sealed.open(piece)
        else:
            assert isinstance(sealed, FileParcel)
            telemetry = sealed.link(sealed.blob_name)
        size_bytes, saved_bytes = telemetry.metered_bytes(""), telemetry.saved_bytes
        self._counts_of(id).add(of_send(size_bytes, len(record.together), saved_bytes=saved_bytes))

    def _counts_of(self, id: int) -> UnitCounts:
        lane = lane_of(self._delivery.queue.messages[id].candidate)
        return self.streams[str(lane[0].without_leaf)].counts


def why_alone(sealed: Parcel | FileParcel, format: PackFormat) -> str:
    """The reason why a message never goes in a pack of this format."""
    if isinstance(sealed, FileParcel):
        return "goes as a file"
    if sealed.raw is None:
        return "goes in chunks"
    return _why_of(sealed.raw, format)


def _why_of(telemetry: Telemetry, format: PackFormat) -> str:
    names = {name for name, _ in telemetry.properties}
    if "message-id" in names and format is not PackFormat.CBOR_SEQ:
        return "own message ids"
    for name, why in (
        ("chunk-id", "chunks that its producer cut"),
        (ENCODING, "compressed by its producer"),
        (PACK, "a property that packs have"),
        (LENGTHS, "a property that packs have"),
        (MEMBER_TYPE, "a property that packs have"),
    ):
        if name in names:
            return why
    if not is_counted(telemetry.mid):
        return "no sequence number in its key"
    if format is PackFormat.LINES and b"\n" in telemetry.payload:
        return "newlines in payloads"
    if format is PackFormat.LINES and telemetry.content_type is not None:
        return "its content type says that it is lines already"
    return "properties that are too long"


def quantile(values: list[float], share: float) -> float:
    """The value below which this share of them is; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]
