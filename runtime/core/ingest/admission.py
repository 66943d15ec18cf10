"""Admission: which requests of producers are kept, and their replies. One `Admission` decides one commit.

Pure: the stored amounts, the known sequences, the room and the time come in as values (`View`, `Stamp`).
Files that stand for payloads are asked for by what is returned (`MeasureFiles`, `TakeFiles`); the worker
takes them before the commit. No decision holds before the commit: on failure the Admission is discarded.

Invariants, held by `tests/unit/test_admission.py`:

1. A request is kept whole or not at all, in the order of its payloads; requests in the order they came.
2. A sequence known as stored is answered with its id and not kept again, also within one commit.
3. Ids grow by one, and no id is given twice.
4. No limit is exceeded after the commit, but by an owner within its share; what gives way was stored by an
   earlier commit, is no more important than what it gives way to, and is booked as an eviction. Where the
   oldest give way a hundredth more of them do (`QuotaUsage.ahead`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from runtime.core.ingest.message_fields import NO_DETAILS, Details, Values
from runtime.core.ingest.new_names import NO_LEAVES, LeafTerms, objection_to_streams
from runtime.core.ingest.ownership import key_prefix
from runtime.core.ingest.protocol import (
    Code,
    Ping,
    Pong,
    ProducerKey,
    Put,
    Refusal,
    Reply,
    Request,
    Stored,
)
from runtime.core.ingest.put_plan import (
    REUSED,
    PutPlan,
    Run,
    amounts_of,
    content_of_put,
    file_indexes,
    keys_of,
    remember,
    runs_of,
    sequences_of,
    warnings_of,
)
from runtime.core.ingest.quota import (
    NOTHING,
    TOP_PRIORITY,
    Amount,
    Eviction,
    Limit,
    OverflowPolicy,
    Quota,
    QuotaUsage,
)
from runtime.core.ingest.refused_request import (
    RETRY_FULL_MS,
    RETRY_SOON_MS,
    RefusedRequest,
    not_taken,
    refuse_if,
    where_full,
)
from runtime.core.ingest.sequences import Fate, Sequences
from runtime.core.ingest.store_view import Stamp, View
from runtime.core.ingest.taken_files import NotTaken, TakenFile, WantedFile, spool_name
from runtime.core.ingest.unfolded_rows import StoredRequest
from runtime.core.message import StreamName

EVICTED_AT_ONCE = 5_000
"""Most messages evicted by one commit: 30 ms. Only a limit lowered over a large backlog asks for more."""


class MeasureFiles(NamedTuple):
    """Asks for the sizes of files before a request can be decided; they go to `Admission.measured`."""

    files: Sequence[WantedFile]
    plan: PutPlan


class TakeFiles(NamedTuple):
    """There is room: asks that these files be taken, all or none. The result goes to `Admission.taken`."""

    files: Sequence[WantedFile]
    plan: PutPlan
    bytes_on_disk: int
    """The part of the request that takes no further room: its files are only renamed."""
    evictions_before: int
    """The number of evictions that were booked before room was made for this request."""


@dataclass
class Admission:
    """The decisions of one commit."""

    quota: Quota
    view: View
    stamp: Stamp
    known: Mapping[ProducerKey, Sequences]
    """The remembered sequences of the producers whose requests are decided, by producer."""
    apart: frozenset[ProducerKey] = frozenset()
    """The producers among the requests whose name and boot are another owner's."""
    leaves: LeafTerms = NO_LEAVES
    """The leaves whose messages are taken."""
    rows: list[Values] = field(default_factory=list)
    details: dict[int, Details] = field(default_factory=dict)
    """The details of the rows that have any, by id."""
    added: dict[tuple[int, int], Amount] = field(default_factory=dict)
    """The amounts that the rows add, by (stream, priority)."""
    producers: dict[ProducerKey, Sequences] = field(default_factory=dict)
    """The sequences that change with this commit, by producer."""
    new_streams: dict[StreamName, int] = field(default_factory=dict)
    disk_bytes: int = 0
    """The bytes that the rows take on disk, about."""

    def __post_init__(self) -> None:
        self.next_id = self.view.next_id
        self._usage = QuotaUsage(self.view.levels, self.view.total, self.view.held, self.view.leaving)
        self.holders: list[tuple[int, str]] = []
        """The first id of each run of rows, and its owner."""
        self.added_by: dict[tuple[str, int], Amount] = {}
        """The amounts that they add, by owner and priority."""
        self._holders: dict[tuple[str, str], str] = {}
        """The first owner that stores a message under a name and boot."""
        self._named_by: dict[StreamName, str] = {}
        self._trimming = False
        self.has_keyless = False
        self.rows_tell_all = True
        """What the producers' memory gains can be read off the rows (`unfolded_rows.py`)."""
        self.wants_count = False
        """A request found no room by counters that may be wrong: count, then decide again."""

    @property
    def named_by(self) -> Mapping[StreamName, str]:
        """The owners of the new streams."""
        return self._named_by

    @property
    def evictions(self) -> Sequence[Eviction]:
        return self._usage.evictions

    def decide(self, request: Request) -> Reply | MeasureFiles:
        """Keep or refuse one request. The reply may leave when this commit is on disk, not before.

        Where files stand for payloads their sizes are asked for first, and then the files: nothing else may
        be decided in between.
        """
        if isinstance(request, Ping):
            return Pong()
        evictions = len(self._usage.evictions)
        try:
            plan = self._plan(request)
            if plan.file_indexes:
                return MeasureFiles(plan.files(), plan)
            if plan.fresh:
                self._make_room(plan, 0)
            return self._keep(plan)
        except RefusedRequest as refusal:
            return self._refused(refusal, evictions)

    def measured(self, asked: MeasureFiles, sizes: Sequence[int], *, copied: bool) -> Refusal | TakeFiles:
        """Make room for files of these sizes; 0 for one that will not be taken.

        `copied`: the drop folder is a file system of its own, so that a file is written once more.
        """
        plan = asked.plan.with_sizes(sizes)
        bytes_on_disk = 0 if copied else sum(sizes)
        evictions = len(self._usage.evictions)
        try:
            self._make_room(plan, bytes_on_disk)
        except RefusedRequest as refusal:
            return self._refused(refusal, evictions)
        return TakeFiles(asked.files, plan, bytes_on_disk, evictions)

    def taken(self, asked: TakeFiles, result: Sequence[TakenFile] | NotTaken) -> Reply:
        """Keep the request whose files were taken; refuse it where they were not."""
        if isinstance(result, NotTaken):
            return self._refused(not_taken(result), asked.evictions_before)
        self.disk_bytes -= asked.bytes_on_disk
        return self._keep(asked.plan.with_files(result))

    def _refused(self, refusal: RefusedRequest, evictions: int) -> Refusal:
        """Withdraw what was booked for a refused request."""
        self._usage.withdraw(evictions)
        if refusal.trim is not None and not self._trimming:
            self._trimming = True  # once a commit, however many ask
            self._usage.evict(refusal.trim)
        return refusal.reply

    def _plan(self, put: Put) -> PutPlan:
        memory = self._memory(put.producer)
        content = content_of_put(put) if memory is not None else 0
        collides = memory is not None and memory.is_another(*sequences_of(put), content)
        fresh = range(len(put.payloads)) if collides else self._fresh(put, memory)
        if not fresh:
            return PutPlan(put, memory, content, collides, fresh, (), None, ())
        runs = runs_of(put, fresh)
        prefix = self._prefix(put.producer)
        if collides and prefix is not None:  # two messages must not have one name at the cloud either
            prefix = f"{prefix[:-1]}+{content:x}/"
        files = file_indexes(runs)
        if files and (put.producer is None or any(put.payloads[index] for index in files)):
            raise RefusedRequest(
                Code.BAD_FIELD, "a file needs a key (producer, boot, sequence) and no payload"
            )
        return PutPlan(put, memory, content, collides, fresh, runs, prefix, files)

    def _keep(self, plan: PutPlan) -> Stored:
        """Turn the fresh payloads into rows, and remember their sequences."""
        put, memory, content, collides, fresh, runs, prefix, _ = plan
        if not fresh:
            assert memory is not None, "only what is remembered is a repeat"
            return self._stored(put, memory, repeated=len(put.payloads))
        warnings = REUSED if collides else warnings_of(put, memory, fresh)
        first_id = self._store(put, runs, prefix)
        if memory is None or put.producer is None:
            self.has_keyless = True
            return Stored(range(first_id, self.next_id))
        memory = memory if put.producer in self.producers else memory.copy()
        self.producers[put.producer] = memory
        if put.producer not in self.apart:
            self._holders.setdefault(put.producer[:2], put.producer.owner)
        if collides:
            memory.store_again(*sequences_of(put), first_id)
        else:
            remember(memory, put.first_sequence, fresh, first_id)
        memory.note_content(*sequences_of(put), content)
        whole = len(fresh) == len(put.payloads)
        if whole and not collides:
            self._mark(
                StoredRequest(
                    put.producer, self.is_apart(put.producer), *sequences_of(put), first_id, content
                )
            )
        else:
            self.rows_tell_all = False
        if whole:
            return Stored(range(first_id, self.next_id), warnings=tuple(warnings))
        return self._stored(put, memory, len(put.payloads) - len(fresh), warnings)

    def is_apart(self, key: ProducerKey) -> bool:
        """True if another owner has stored messages under this name and boot: those have the plain names."""
        return key in self.apart or self._holders.get(key[:2], key.owner) != key.owner

    def _prefix(self, key: ProducerKey | None) -> str | None:
        """The prefix of the names of its messages; None where its producer gave none."""
        return None if key is None else key_prefix(key, apart=self.is_apart(key))

    def _memory(self, key: ProducerKey | None) -> Sequences | None:
        if key is None:
            return None
        memory = self.producers.get(key) or self.known.get(key)
        if memory is None:
            if not self._may_add_producer(key.owner):
                raise RefusedRequest(
                    Code.TOO_MANY_PRODUCERS,
                    "too many producers were active lately to remember one more",
                    RETRY_FULL_MS * 10,
                )
            memory = Sequences()
        return memory

    def _may_add_producer(self, owner: str) -> bool:
        """True if one more producer of this owner may be taken into memory."""
        new = [key.owner for key in self.producers if key not in self.known]
        if len(new) < self.view.most_new_producers:
            return True
        return self.view.producers_of.get(owner, 0) + new.count(owner) < self.view.producers_in_share

    def _fresh(self, put: Put, memory: Sequences | None) -> range | list[int]:
        """The indexes of the payloads that are not stored yet. Raises RefusedRequest if that is forgotten."""
        everything = range(len(put.payloads))
        if memory is None or memory.expected is None or put.first_sequence >= memory.expected:
            return everything
        fates = [memory.fate(put.first_sequence + index) for index in everything]
        if Fate.FORGOTTEN in fates:
            raise RefusedRequest(
                Code.SEQUENCE_FORGOTTEN,
                f"sequences below {memory.floor} are forgotten: whether this was stored cannot be told",
            )
        return [index for index, fate in enumerate(fates) if fate is Fate.NEW]

    def _check_streams(self, put: Put, amounts: Mapping[StreamName, Amount]) -> None:
        missing = [name for name in amounts if name not in self.view.streams and name not in self.new_streams]
        if not missing:
            return
        of_leaves = [name for name in missing if name.leaf is not None]
        if of_leaves:
            refuse_if(self.leaves.objection_to_new(self.view.streams, self.new_streams, of_leaves))
        if own := len(missing) - len(of_leaves):
            owned = [*self._named_by.values()].count(put.owner) + self.view.streams_of.get(put.owner, 0)
            there = (*self.view.streams, *self.new_streams)
            refuse_if(objection_to_streams(self.quota, there, owned, own))

    def _check_leaves(self, runs: Sequence[Run]) -> None:
        for run in runs:
            name, via = run.described.name, run.described.via
            if via or name.leaf is not None:
                refuse_if(self.leaves.objection(name, via))

    def _fit_leaves(self, amounts: Mapping[StreamName, Amount]) -> None:
        """Refuse what a leaf has no room for. Its limit refuses, whatever the policy of the store is."""
        most = self.quota.leaf_messages
        for leaf in {name.leaf for name in amounts if name.leaf is not None}:
            wanted = sum(amount.messages for name, amount in amounts.items() if name.leaf == leaf)
            if wanted > most:
                raise RefusedRequest(
                    Code.EXCEEDS_LIMIT, f"the request alone exceeds the limit of leaf {leaf}"
                )
            if self._usage.leaf_messages(leaf) + wanted > most:
                self._believe_counters(Code.LEAF_FULL, f"leaf {leaf}")
                raise RefusedRequest(Code.LEAF_FULL, f"leaf {leaf} is full", RETRY_FULL_MS)

    def _make_room(self, plan: PutPlan, bytes_on_disk: int) -> None:
        """Book the evictions that let it in, or refuse it; `bytes_on_disk` of it are there already."""
        put, amounts, wanted = plan.put, amounts_of(plan.runs), NOTHING
        self._check_leaves(plan.runs)
        self._check_streams(put, amounts)
        if self.quota.leaf_messages:
            self._fit_leaves(amounts)
        for name, amount in amounts.items():
            wanted = amount if wanted is NOTHING else wanted.plus(amount)
            limit = self.quota.of(name)
            if limit is not None:
                self._fit(put, name, self._usage.stream(name), amount, limit)
        total = self.quota.total
        self._fit(put, None, self._usage.total, wanted, total)
        to_write = wanted.minus(Amount(0, bytes_on_disk)) if bytes_on_disk else wanted
        if to_write.disk_bytes > self.view.room_bytes - self.disk_bytes:
            self._evict(put, None, to_write, total.policy, Code.DISK_FULL)

    def _fit(self, put: Put, name: StreamName | None, used: Amount, wanted: Amount, limit: Limit) -> None:
        if limit.fits(used, wanted):
            return
        if not limit.most.covers(wanted):
            raise RefusedRequest(
                Code.EXCEEDS_LIMIT, f"the request alone exceeds the limit of {name or 'the store'}"
            )
        code = Code.STREAM_FULL if name else Code.STORE_FULL
        self._believe_counters(code, where_full(name, code))
        if limit.policy is not OverflowPolicy.REJECT:
            self._trim(put, name, used, limit, code)
        shared = name is None and limit.policy is OverflowPolicy.REJECT
        if shared and self._usage.fits_in_share(put.owner, self.view.sole_owner, wanted, limit.most):
            return
        self._evict(put, name, used.plus(wanted).over(limit.most), limit.policy, code)

    def _trim(self, put: Put, name: StreamName | None, used: Amount, limit: Limit, code: Code) -> None:
        """Evict in parts, commit by commit, where a limit was lowered far below the stored amount."""
        excess = used.over(limit.most)
        bytes_at_once = EVICTED_AT_ONCE * (used.bytes // max(1, used.messages) + 1)
        piece = Amount(min(excess.messages, EVICTED_AT_ONCE), min(excess.bytes, bytes_at_once))
        if piece == excess:
            return
        trim = self._eviction(put, name, piece, limit.policy)
        if self._usage.can_free(trim):
            raise RefusedRequest(code, "the limit was lowered: room is being made", RETRY_SOON_MS, trim)

    def _evict(
        self, put: Put, name: StreamName | None, amount: Amount, policy: OverflowPolicy, code: Code
    ) -> None:
        where = where_full(name, code)
        if policy is OverflowPolicy.REJECT:
            raise RefusedRequest(code, f"{where} is full", RETRY_FULL_MS)
        self._believe_counters(code, where)
        eviction = self._eviction(put, name, amount, policy)
        if name is None and (most := self._usage.largest_holder(self.quota.total.most)) is not None:
            theirs = replace(eviction, owner=most)
            eviction = theirs if self._usage.can_free(theirs) else eviction
        if not self._usage.can_free(eviction):
            raise RefusedRequest(code, f"{where} is full, and nothing in it may give way", RETRY_FULL_MS)
        # what is freed of a full disk shows at the next look only: till then more would go with each commit
        self._usage.evict(eviction if code is Code.DISK_FULL else self._usage.ahead(eviction))

    def _believe_counters(self, code: Code, where: str) -> None:
        """Refuse while the counters are not verified: where one decides, every message was counted once."""
        if not self.view.counted:
            self.wants_count = True
            raise RefusedRequest(
                code, f"{where} seems full: what is stored is being counted first", RETRY_SOON_MS
            )

    def _eviction(
        self, put: Put, name: StreamName | None, amount: Amount, policy: OverflowPolicy
    ) -> Eviction:
        """An evicted message must not be more important than any message it gives way to."""
        lowest = min(description.priority for description in put.descriptions)
        return Eviction(
            name, policy, lowest if policy is OverflowPolicy.DROP_LOWEST else TOP_PRIORITY, amount
        )

    def _store(self, put: Put, runs: Sequence[Run], prefix: str | None) -> int:
        """Turn the fresh payloads into rows; return the first id."""
        first_id = self.next_id
        if not self.holders or self.holders[-1][1] != put.owner:
            self.holders.append((first_id, put.owner))
        for run in runs:
            self._store_run(put, run, prefix)
        return first_id

    def _store_run(self, put: Put, run: Run, prefix: str | None) -> None:
        described, indexes, sizes, amount = run
        payloads, stream = put.payloads, self._stream(described.name, put.owner)
        columns = (stream, int(put.kind), described.priority, *self.stamp)
        ids = range(self.next_id, self.next_id + len(indexes))
        keys = keys_of(put, indexes, prefix)
        self.rows += [
            (number, *columns, key, size, payloads[index], None)
            for number, key, size, index in zip(ids, keys, sizes, indexes, strict=True)
        ]
        self.next_id = ids.stop
        self._count(described.name, (stream, described.priority), amount, put.owner)
        if described.stored is not NO_DETAILS:
            self._store_details(described.stored, ids, keys)

    def _mark(self, request: StoredRequest) -> None:
        self.rows[-1] = (*self.rows[-1][:-1], request.pack())

    def _count(self, name: StreamName, level: tuple[int, int], amount: Amount, owner: str) -> None:
        before, held = self.added.get(level), (owner, level[1])
        self.added[level] = amount if before is None else before.plus(amount)
        self.added_by[held] = self.added_by.get(held, NOTHING).plus(amount)
        self._usage.add(name, amount, owner)
        self.disk_bytes += amount.disk_bytes

    def _store_details(self, details: Details, ids: Sequence[int], keys: Sequence[str | None]) -> None:
        for number, key in zip(ids, keys, strict=True):
            file = spool_name(key, details.file) if key and details.file else None
            self.details[number] = replace(details, file=file)

    def _stream(self, name: StreamName, owner: str) -> int:
        number = self.view.streams.get(name) or self.new_streams.get(name)
        if number is None:
            number = self.new_streams[name] = self.view.next_stream + len(self.new_streams)
            if name.leaf is None:
                self._named_by[name] = owner
        return number

    def _stored(
        self, put: Put, memory: Sequences, repeated: int, warnings: Sequence[tuple[str, str]] = ()
    ) -> Stored:
        ids = [memory.id_of(put.first_sequence + index) for index in range(len(put.payloads))]
        return Stored(ids, repeated, tuple(warnings))
