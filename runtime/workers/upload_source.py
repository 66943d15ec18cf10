"""The half of upload that faces the store: rows in, candidates out. It is not a worker of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import cast

from loguru import logger

from runtime.adapters.hub.resume_journal import Chunked, ResumeJournal
from runtime.adapters.process.clock import Clock, read_moment
from runtime.adapters.store.upload_reader import StoredLevel, UploadReader
from runtime.config import Config
from runtime.core.delivery.actions import Action, Candidate, Send, StartUpload
from runtime.core.delivery.batches import is_full
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.envelope import (
    LIMIT_BYTES,
    Compression,
    FileParcel,
    Packing,
    Parcel,
    Sealed,
    Telemetry,
    Unsendable,
    has_brotli,
    seal,
)
from runtime.core.delivery.metering import UNIT_BYTES
from runtime.core.delivery.outgoing import Outgoing
from runtime.core.delivery.over_budget import Remedy
from runtime.core.delivery.packing import PackFormat, PackRule, part_of
from runtime.core.delivery.queue_room import Room
from runtime.core.delivery.read_planner import (
    AGAIN_S,
    PAGE_BYTES,
    DrainOrder,
    Lane,
    LaneFill,
    Query,
    ReadPlanner,
    lane_of,
)
from runtime.core.delivery.ttl import expires_s, stored_s
from runtime.core.log_events import LogEvent
from runtime.core.message import CorruptRow, Kind, StoredMessage, StreamName
from runtime.core.moment import Moment

CONTROL_BYTES = 16_384
"""A delivered message up to this size is kept, to be sent once more as a control."""

MOST_PACKINGS = 1_024
REREAD_S = 30.0
"""Interval of the looks through a store that should be empty and is not."""

_PARTS = {"batch-id", "chunk-id", "complete-batch", "complete-message"}


def _is_part(message: StoredMessage) -> bool:
    """True if its producer sends it as a part of a whole: of a batch, or a chunk of its own."""
    return message.batch_id is not None or message.chunk_id is not None or message.kind is not Kind.MESSAGE


class UploadSource:
    """Reads the messages that `ReadPlanner` plans, seals them, and keeps them until they are settled."""

    def __init__(self, config: Config, delivery: Delivery, clock: Clock) -> None:
        self.look_for_new = True
        self._begun = False
        self._settings = config.settings
        self._delivery = delivery
        self._clock = clock
        self._store = UploadReader(config.layout.messages_db)
        self._journal = ResumeJournal(config.layout.under_way)
        delivery.queue.batches.caught_up = lambda lane: self._planner.caught_up(cast(Lane, lane)[0])
        delivery.packer.caught_up = delivery.queue.batches.caught_up
        delivery.queue.batches.resume({(stream, False): b for stream, b in self._journal.batches.items()})
        self._packings: dict[StreamName, Packing] = {}
        self._pack_rules: dict[StreamName, PackRule] = {}
        self._room = Room()
        self._important: set[StreamName] = set()
        self._important_at_s = self._reread_at_s = 0.0
        self._planner = ReadPlanner(self._fresh_first, config.settings.upload.backlog_per_s)
        compressions = {stream.compression for stream in config.settings.stream.values()}
        if not has_brotli() and compressions - {Compression.NONE}:
            logger.bind(event=LogEvent.COMPRESSION_MISSING).warning(
                "a stream asks for compression, but the extra [compress] is not installed"
            )

    def read(self) -> bool:
        """Take on messages as far as there is room in the send queue. True if to read further at once.

        That holds where a read only passed over other streams' messages: no event will come to wait for.
        """
        now, passed_over = self._clock.boot_s(), False
        room = self._delivery.room.look(now)
        if room.full(stands=False, important=True) and room.full(stands=True, important=True):
            return False
        self._room = room
        if room.full(stands=False, important=False):
            self._look_for_important(now)
        for refused in (False, True):
            if query := self._planner.resume(self._fill, now, refused=refused):
                passed_over = self._answer(query) or passed_over
        if self.look_for_new:
            newest = self._store.newest()
            self._reread(newest, now)
            if not self._begun:
                oldest = self.oldest()
                self._journal.packings.begin(self._store.uuid, newest, oldest or 0)
                self._journal.packs.begin(self._store.uuid, oldest)
                self._begun = True
            stored = self._store.stored() if newest > self._planner.front else set()
            query = self._planner.advance(newest, stored)
            if query:
                passed_over = self._answer(query) or passed_over
            self.look_for_new = query is not None
        if self._journal.packs.waits and self._planner.all_read():
            self._journal.packs.all_read()
        return passed_over

    @property
    def store(self) -> str | None:
        """The uuid of the store that all ids belong to."""
        return self._store.uuid

    def set_destination(self, destination: str) -> bool:
        """Set the hub and the device id that messages go to. True if the destination was another before.

        This destination has neither the parts of messages nor the files of the other: each hub has a
        storage, and keeps each device's files under its name.
        """
        another = self._journal.goes_to(destination)
        if another:
            self._delivery.restart(self._clock.boot_s())
        return another

    def remember(self, reached: Mapping[int, int], actions: Iterable[Action]) -> None:
        """Save the progress of messages in pieces, and the packing of the next sends, for a later run."""
        for action in actions:
            if isinstance(action, Send):
                self._remember_packing(action.tag[0], sends=True)
            elif isinstance(action, StartUpload):
                self._remember_packing(action.id, sends=False)
        for id, piece in reached.items():
            message = self._delivery.record(id)
            if message is not None and message.resume_key and isinstance(message.sealed, Parcel):
                self._journal.reached(message.resume_key, Chunked(message.sealed.chunk_bytes, piece))
        batches = self._delivery.queue.batches.begun.items()
        self._journal.save({cast(Lane, lane)[0]: batch for lane, batch in batches})

    def _remember_packing(self, id: int, *, sends: bool) -> None:
        message = self._delivery.queue.messages.get(id)
        if message is None:
            return
        name = lane_of(message.candidate)[0].without_leaf
        self._journal.packings.sending(self._store.uuid, name, id, self._configured(name))
        packs = message.part is not None or self._journal.packings.packed(name)
        if sends and (packs or self._may_be_dropped(message, name)):
            self._journal.packs.sending(self._store.uuid, message)

    def _may_be_dropped(self, message: Outgoing, name: StreamName) -> bool:
        """True if a ttl or a budget may end the message: once it was sent, no later run may drop it."""
        sheds = self._settings.of_stream(name).over_budget.remedy is not Remedy.WAIT
        return sheds or message.candidate.expires_s is not None

    def confirmed(self, removed: Collection[Outgoing]) -> None:
        """Ingest has removed these messages: no later run will see them."""
        self._journal.packs.confirmed(removed)
        for message in removed:
            if message.resume_key is not None:
                self._journal.left(message.resume_key)

    def levels(self) -> list[StoredLevel]:
        """What is stored, by stream and priority."""
        return self._store.levels()

    def oldest(self) -> int | None:
        """The first id in the store; None where it is empty."""
        return self._store.backlog().oldest_id

    def piece(self, id: int, number: int) -> Telemetry:
        """A piece of a message in the send queue."""
        message = self._delivery.queue.messages[id]
        if message.pack is not None and message.pack.telemetry is not None:
            return message.pack.telemetry
        if isinstance(message.sealed, Parcel):
            return message.sealed.open(number)
        assert message.link is not None  # its file is uploaded: only then it may be sent
        return message.link

    def file(self, id: int) -> FileParcel | None:
        """A message in the send queue whose payload goes as a file, read again: only now is it in memory.

        None where the store has dropped it meanwhile.
        """
        rows, _ = self._store.find(id - 1, id, 1, PAGE_BYTES)
        message = rows[0] if rows else None
        sealed = seal(message, self._packing(message)) if isinstance(message, StoredMessage) else None
        return sealed if isinstance(sealed, FileParcel) else None

    def link(self, id: int, blob_name: str) -> None:
        """The message's file is uploaded: from now on the message is the telemetry that says so."""
        message = self._delivery.queue.messages.get(id)
        if message is not None and isinstance(message.sealed, FileParcel):
            message.link = message.sealed.link(blob_name)

    def as_control(self, id: int) -> Telemetry | None:
        """A message that can be sent once more, at any time, to test whether the hub takes any.

        Not one of a batch or in chunks, nor a completion: it would come in the midst of the next one. Nor a
        pack, which repeats many and costs more than a probe.
        """
        message = self._delivery.settled.get(id)
        sealed = message.sealed if message is not None and message.pack is None else None
        if not isinstance(sealed, Parcel) or sealed.pieces > 1 or sealed.wire_bytes > CONTROL_BYTES:
            return None
        telemetry = sealed.open(0)
        return None if _PARTS & {name for name, _ in telemetry.properties} else telemetry

    def forget(self, id: int) -> bool:
        """Forget the content of a settled message. True if a file upload belonged to it."""
        message = self._delivery.settled.get(id)
        if message is None:
            return False
        if message.resume_key is not None:
            self._journal.whole(message.resume_key)
        message.sealed = message.link = message.part = None
        if message.pack is not None:
            message.pack.telemetry = None
        return message.candidate.file

    def _answer(self, query: Query) -> bool:
        """Answer a query. True if it found nothing up to the id that it reached."""
        rows, reached = self._store.find(
            query.after, query.up_to, query.limit, query.limit_bytes, query.only, query.without
        )
        now, synchronised = read_moment(self._clock), self._clock.synchronised()
        for message in rows:
            if isinstance(message, CorruptRow):
                self._delivery.refuse(message.id, message.reason, now.boot_s)
                continue
            name = message.name
            last_fresh = self._delivery.queue.stream((name, True)).last_id
            in_parts = _is_part(message)
            lane = self._planner.lane(query, message.id, name, in_parts=in_parts, last_fresh=last_fresh)
            sealed = self._seal(message) if self._may_be_file(message) else None
            file = sealed is not None and isinstance(sealed[0], FileParcel)
            fill = self._fill_for(lane, message.priority, file=file)
            fill.full = fill.full or self._planner.waits(name, last_fresh)
            if self._planner.admit(query, message.id, name, fill):
                self._take_on(message, lane, now, sealed, synchronised=synchronised)
        self._planner.done(query, reached)
        return not rows and query.after < reached

    def _may_be_file(self, message: StoredMessage) -> bool:
        """True if it is worth sealing, before there is room for it, to know whether it stands for a file."""
        if message.file is None and len(message.payload) <= UNIT_BYTES // 2:
            return False
        least_bytes = min(LIMIT_BYTES, (self._packing(message).file_from_units or LIMIT_BYTES) * UNIT_BYTES)
        return message.file is not None or len(message.payload) > least_bytes // 2

    def _take_on(
        self,
        message: StoredMessage,
        lane: Lane,
        now: Moment,
        known: tuple[Sealed, int] | None,
        *,
        synchronised: bool,
    ) -> None:
        if self._delivery.record(message.id) is not None:
            return
        sealed, reached = known or self._seal(message)
        if isinstance(sealed, Unsendable):
            self._delivery.refuse(message.id, sealed.reason, now.boot_s)
            return
        file = isinstance(sealed, FileParcel)
        if isinstance(sealed, FileParcel):
            sealed = replace(sealed, payload=b"")  # many may wait: they must not fill the memory
        candidate = Candidate(
            message.id,
            lane,
            sealed.pieces,
            sealed.wire_bytes,
            message.priority,
            expires_s(message, now, synchronised=synchronised),
            file,
            message.batch_id,
            message.kind is Kind.COMPLETE_BATCH and message.batch_id is not None,
            reached=reached,
            is_part=message.kind is not Kind.MESSAGE or message.chunk_id is not None,
            sent_before=self._journal.packs.sent_before(self._store.uuid, message.id),
        )
        stands = self._delivery.room.stands(self._delivery.queue.stream(lane), candidate.priority, file=file)
        record = self._delivery.offer(candidate, now.boot_s)
        if record is not None:
            important = self._delivery.room.is_important(candidate.priority)
            self._room.took(candidate.wire_bytes, stands=stands, important=important)
            record.sealed, record.spool_file = sealed, message.file
            record.stored_s = stored_s(message, now, synchronised=synchronised)
            self._let_pack(record, message)
            if isinstance(sealed, Parcel) and sealed.chunk_bytes:
                record.resume_key = message.key

    def _let_pack(self, record: Outgoing, message: StoredMessage) -> None:
        """Let a message go in a pack, where its stream packs, or where it was sent in one before."""
        before = self._journal.packs.rule_of(self._store.uuid, message.id)
        rule = before or self._configured_rule(message.name.without_leaf)
        if record.sealed is not None:
            record.part = part_of(record.sealed, rule)
        self._journal.packs.restore(self._store.uuid, record)

    def _configured_rule(self, name: StreamName) -> PackRule:
        if name not in self._pack_rules:
            if len(self._pack_rules) >= MOST_PACKINGS:
                self._pack_rules.clear()
            stream, compression = self._settings.of_stream(name), self._configured(name).compression
            self._pack_rules[name] = PackRule(
                stream.pack,
                stream.linger_s,
                stream.pack_units,
                stream.pack_message_id,
                compression,
                stream.fold_completion,
            )
        return self._pack_rules[name]

    def _seal(self, message: StoredMessage) -> tuple[Sealed, int]:
        """The message, and the first piece that the hub does not have; the rest is cut as those before."""
        packing = self._packing(message)
        if (chunked := self._journal.chunked(message.key)) is not None:
            sealed = seal(message, replace(packing, chunk_bytes=chunked.chunk_bytes))
            if isinstance(sealed, Parcel) and sealed.chunk_bytes == chunked.chunk_bytes:
                return sealed, min(chunked.reached, sealed.pieces - 1)
        packs = packing.packs or self._journal.packs.rule_of(self._store.uuid, message.id) is not None
        return seal(message, packing, late=packs), 0

    def _fill(self, lane: Lane) -> LaneFill:
        """The fill of a lane, for any next message: one that finds no room is not taken."""
        stream = self._delivery.queue.stream(lane)
        stands = self._delivery.room.stands(stream)
        return self._fill_of(lane, stands=stands, important=lane[0] in self._important)

    def _fill_for(self, lane: Lane, priority: int, *, file: bool) -> LaneFill:
        """The fill of a lane as it counts for a certain next message."""
        stream, room = self._delivery.queue.stream(lane), self._delivery.room
        stands = room.stands(stream, priority, file=file)
        return self._fill_of(lane, stands=stands, important=room.is_important(priority))

    def _fill_of(self, lane: Lane, *, stands: bool, important: bool) -> LaneFill:
        stream = self._delivery.queue.stream(lane)
        packs = self._configured_rule(lane[0].without_leaf).format is not PackFormat.NONE
        return LaneFill(
            len(stream.waiting),
            stream.bytes - stream.deferred_bytes,
            crowded=self._room.crowded(stands=stands) or stream.files > 0,
            packs=packs,
            restores=self._journal.packs.waits,
            full=is_full(stream) or self._room.full(stands=stands, important=important),
        )

    def _reread(self, newest: int, now: float) -> None:
        """Where all is delivered, and a message is stored, it was passed over: its row names no stream."""
        delivery, drained = self._delivery, self._planner.front >= newest > 0 and not self._planner.behind
        if drained and not delivery.queue.messages and not delivery.settled and now >= self._reread_at_s:
            self._reread_at_s = now + REREAD_S
            self._planner.start_over()

    def _look_for_important(self, now: float) -> None:
        """Find streams whose messages have room where others have none: now and then, from the counters."""
        if now >= self._important_at_s:
            self._important_at_s = now + AGAIN_S
            self._important = self._store.stored_above(self._delivery.room.least_important())

    def _packing(self, message: StoredMessage) -> Packing:
        """The packing as configured, or the one under which it may have been sent before."""
        name = message.name.without_leaf
        return self._journal.packings.of(self._store.uuid, name, message.id, self._configured(name))

    def _configured(self, name: StreamName) -> Packing:
        if name not in self._packings:
            if len(self._packings) >= MOST_PACKINGS:  # streams come and go
                self._packings.clear()
            wanted = self._settings.of_stream(name)
            upload = self._settings.upload
            self._packings[name] = Packing(
                wanted.compression if has_brotli() else Compression.NONE,
                wanted.chunk_bytes,
                upload.file_from_units,
                upload.site_id,
                wanted.pack is not PackFormat.NONE,
            )
        return self._packings[name]

    def _fresh_first(self, name: StreamName) -> bool:
        return self._settings.of_stream(name).drain is DrainOrder.FRESH_FIRST
