"""Admission: which requests of producers are kept, and their replies. One `Admission` decides one commit.

Pure: the stored amounts, the known sequences, the room and the time come in as values (`View`, `Stamp`). No
decision holds before the commit: on failure the whole Admission is discarded.

Invariants, held by `tests/unit/test_admission.py`:

1. A request is kept whole or not at all, in the order of its payloads; requests in the order they came.
2. A sequence known as stored is answered with its id and not kept again, also within one commit.
3. Ids grow by one, and no id is given twice.
4. No limit is exceeded after the commit, but by an owner that holds little; what gives way was stored by an
   earlier commit, is no more important than what it gives way to, and is booked as an eviction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from runtime.core.ingest.message_fields import NO_DETAILS, Details
from runtime.core.ingest.message_rows import Values
from runtime.core.ingest.numbering import REUSED, content_of_put, keys_of, remember, sequences_of, warnings_of
from runtime.core.ingest.ownership import key_prefix
from runtime.core.ingest.payload_runs import Run, amounts_of, runs_of, weighed
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
from runtime.core.ingest.quota import (
    EARLIER,
    NOTHING,
    TOP_PRIORITY,
    Amount,
    Eviction,
    Held,
    Levels,
    Limit,
    OverflowPolicy,
    Quota,
    QuotaUsage,
)
from runtime.core.ingest.sequences import Fate, Sequences
from runtime.core.ingest.taken_files import NotTaken, TakenFile, spool_name
from runtime.core.message import StreamName

RETRY_FULL_MS = 1_000
RETRY_SOON_MS = 100
EVICTED_AT_ONCE = 5_000
"""Most messages evicted by one commit: 30 ms. Only a limit lowered over a large backlog asks for more."""
ROW_OVERHEAD_BYTES = 128  # what a row takes on disk beside its payload and texts, generously


class Stamp(NamedTuple):
    """The time and the boot in which a commit is decided."""

    wall_s: float | None
    """None while the clock is not synchronised."""
    boot_s: float
    boot: int
    """The store's number for this boot."""


class Named(NamedTuple):
    """A file that stands for a payload."""

    at: int
    name: str
    key: str
    """The key of its message."""


@dataclass(frozen=True, slots=True)
class View:
    """The state of the store before this commit."""

    next_id: int
    streams: Mapping[StreamName, int]
    next_stream: int
    levels: Levels
    total: Amount
    room_bytes: int
    """The bytes that the disk still takes."""
    may_meet_producers: int = 1_000
    """Most producers never met before that may be taken into memory now."""
    producers_of: Mapping[str, int] = field(default_factory=dict)
    """The number of producers in memory, by owner."""
    few_producers: int = 0
    """The number of producers that each owner may have, even where all others take the room."""
    streams_of: Mapping[str, int] = field(default_factory=dict)
    """The number of streams that were named lately, by owner."""
    held: Held = field(default_factory=dict)
    sole_owner: str = ""
    """The owner of all that is stored, as far as is known; empty where there are several."""
    leaving: Amount = NOTHING
    """The amount that leaves with this commit; it is subtracted from `levels` and `total` already."""
    counted: bool = True
    """True if `levels` and `total` were counted from the rows: else one flipped bit might decide over
    messages."""


class _Refusal(Exception):
    """Leaves the decision on one request; carries the reply, and what may give way for its next attempt."""

    def __init__(
        self, code: Code, message: str, retry_after_ms: int | None = None, trim: Eviction | None = None
    ) -> None:
        self.reply = Refusal(code, message, retry_after_ms)
        self.trim = trim


@dataclass
class Admission:
    """The decisions of one commit."""

    quota: Quota
    view: View
    stamp: Stamp
    known: Mapping[ProducerKey, Sequences]
    """The sequences of every keyed producer among the requests that was met before."""
    apart: frozenset[ProducerKey] = frozenset()
    """The producers among the requests whose name and boot are another owner's."""
    rows: list[Values] = field(default_factory=list)
    details: dict[int, Details] = field(default_factory=dict)
    """The details of the rows that have any, by id."""
    added: dict[tuple[int, int], Amount] = field(default_factory=dict)
    """The amounts that the rows add, by (stream, priority)."""
    producers: dict[ProducerKey, Sequences] = field(default_factory=dict)
    """The sequences that change with this commit, by producer."""
    new_streams: dict[StreamName, int] = field(default_factory=dict)
    take_files: Callable[[Sequence[tuple[str, str]]], Sequence[TakenFile] | NotTaken] = lambda wanted: (
        NotTaken("files are not taken here")
    )
    """Takes a producer's files, each (name, key of its message), all of them; or none, and says why."""
    copies_files: bool = False
    """The drop folder is a file system of its own: a file that is taken is written once more."""
    weigh_file: Callable[[str, str], int] = lambda name, key: 0
    """The size of a producer's file, by name and key of its message; 0 where it will not be taken."""
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
        self.wants_count = False
        """A request found no room by counters that may be wrong: count, then decide again."""

    @property
    def named_by(self) -> Mapping[StreamName, str]:
        """The owners of the new streams."""
        return self._named_by

    @property
    def evictions(self) -> Sequence[Eviction]:
        return self._usage.evictions

    def decide(self, request: Request) -> Reply:
        """Keep or refuse one request. The reply may leave when this commit is on disk, not before."""
        if isinstance(request, Ping):
            return Pong()
        booked = len(self._usage.evictions)
        try:
            return self._put(request)
        except _Refusal as refusal:
            self._usage.withdraw(booked)
            if refusal.trim is not None and not self._trimming:
                self._trimming = True  # once a commit, however many ask
                self._usage.evict(refusal.trim)
            return refusal.reply

    def _put(self, put: Put) -> Stored:
        memory = self._memory(put.producer)
        content = content_of_put(put) if memory is not None else 0
        another = memory is not None and memory.is_another(*sequences_of(put), content)
        fresh = range(len(put.payloads)) if another else self._fresh(put, memory)
        if not fresh:
            assert memory is not None
            return self._stored(put, memory, repeated=len(put.payloads))
        runs, there_bytes = runs_of(put, fresh), 0
        prefix = self._prefix(put.producer)
        if another and prefix is not None:  # two messages must not have one name at the cloud either
            prefix = f"{prefix[:-1]}+{content:x}/"
        files = _files(put, runs, prefix)
        if files:
            weights = {file.at: self.weigh_file(file.name, file.key) for file in files}
            runs = [weighed(run, weights) for run in runs]
            there_bytes = 0 if self.copies_files else sum(weights.values())
        amounts = amounts_of(runs)
        self._check_streams(put, amounts)
        self._make_room(put, amounts, there_bytes)
        warnings = REUSED if another else warnings_of(put, memory, fresh)
        if files:
            put = self._take_files(put, files)
        first_id = self._keep(put, runs, prefix)
        self.disk_bytes -= there_bytes
        if memory is None or put.producer is None:
            self.has_keyless = True
            return Stored(range(first_id, self.next_id))
        memory = memory if put.producer in self.producers else memory.copy()
        self.producers[put.producer] = memory
        if put.producer not in self.apart:
            self._holders.setdefault(put.producer[:2], put.producer.owner)
        if another:
            memory.store_again(*sequences_of(put), first_id)
        else:
            remember(memory, put.first_sequence, fresh, first_id)
        memory.note_content(*sequences_of(put), content)
        if len(fresh) == len(put.payloads):
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
        found = self.producers.get(key) or self.known.get(key)
        if found is None:
            if not self._may_meet(key.owner):
                raise _Refusal(
                    Code.TOO_MANY_PRODUCERS,
                    "too many producers were active lately to remember one more",
                    RETRY_FULL_MS * 10,
                )
            found = Sequences()
        return found

    def _may_meet(self, owner: str) -> bool:
        met = [key.owner for key in self.producers if key not in self.known]
        if len(met) < self.view.may_meet_producers:
            return True
        return self.view.producers_of.get(owner, 0) + met.count(owner) < self.view.few_producers

    def _fresh(self, put: Put, memory: Sequences | None) -> range | list[int]:
        """The indexes of the payloads that are not stored yet."""
        everything = range(len(put.payloads))
        if memory is None or memory.expected is None or put.first_sequence >= memory.expected:
            return everything
        fates = [memory.fate(put.first_sequence + index) for index in everything]
        if Fate.FORGOTTEN in fates:
            raise _Refusal(
                Code.SEQUENCE_FORGOTTEN,
                f"sequences below {memory.floor} are forgotten: whether this was stored cannot be told",
            )
        return [index for index, fate in enumerate(fates) if fate is Fate.NEW]

    def _take_files(self, put: Put, files: Sequence[Named]) -> Put:
        """Have the files taken, or refuse; the record of each file is the payload of its row."""
        taken = self.take_files([(file.name, file.key) for file in files])
        if isinstance(taken, NotTaken):
            code = Code.DISK_FULL if taken.full else Code.STORE_UNAVAILABLE
            raise _Refusal(
                code if taken.passing else Code.BAD_FIELD,
                taken.reason,
                RETRY_FULL_MS if taken.passing else None,
            )
        payloads = list(put.payloads)
        for file, found in zip(files, taken, strict=True):
            payloads[file.at] = found.pack()
        return put._replace(payloads=payloads)

    def _check_streams(self, put: Put, amounts: Mapping[StreamName, Amount]) -> None:
        missing = [name for name in amounts if name not in self.view.streams and name not in self.new_streams]
        if not missing:
            return
        there = len(self.view.streams.keys() - {EARLIER}) + len(self.new_streams)
        owned = [*self._named_by.values()].count(put.owner) + self.view.streams_of.get(put.owner, 0)
        if not self.quota.takes_streams(there, owned, len(missing)):
            raise _Refusal(
                Code.TOO_MANY_STREAMS, f"the store holds {self.quota.max_streams} streams", RETRY_FULL_MS * 10
            )

    def _make_room(self, put: Put, amounts: Mapping[StreamName, Amount], there_bytes: int) -> None:
        """Book the evictions that let `amounts` in, or refuse; of them `there_bytes` are on disk already."""
        wanted = NOTHING
        for name, amount in amounts.items():
            wanted = amount if wanted is NOTHING else wanted.plus(amount)
            limit = self.quota.of(name)
            if limit is not None:
                self._fit(put, name, self._usage.stream(name), amount, limit)
        total = self.quota.total
        self._fit(put, None, self._usage.total, wanted, total)
        to_write = wanted.minus(Amount(0, there_bytes)) if there_bytes else wanted
        if _disk_bytes(to_write) > self.view.room_bytes - self.disk_bytes:
            self._evict(put, None, to_write, total.policy, Code.DISK_FULL)

    def _fit(self, put: Put, name: StreamName | None, used: Amount, wanted: Amount, limit: Limit) -> None:
        if limit.fits(used, wanted):
            return
        if not limit.most.covers(wanted):
            raise _Refusal(
                Code.EXCEEDS_LIMIT, f"the request alone exceeds the limit of {name or 'the store'}"
            )
        code = Code.STREAM_FULL if name else Code.STORE_FULL
        self._believe_counters(code, _where(name, code))
        if limit.policy is not OverflowPolicy.REJECT:
            self._trim(put, name, used, limit, code)
        few = name is None and limit.policy is OverflowPolicy.REJECT
        if few and self._usage.takes_few(put.owner, self.view.sole_owner, wanted, limit.most):
            return
        self._evict(put, name, used.plus(wanted).over(limit.most), limit.policy, code)

    def _trim(self, put: Put, name: StreamName | None, used: Amount, limit: Limit, code: Code) -> None:
        """Where a limit was lowered far below the stored amount, the excess leaves commit by commit."""
        excess = used.over(limit.most)
        bytes_at_once = EVICTED_AT_ONCE * (used.bytes // max(1, used.messages) + 1)
        piece = Amount(min(excess.messages, EVICTED_AT_ONCE), min(excess.bytes, bytes_at_once))
        if piece == excess:
            return
        trim = self._eviction(put, name, piece, limit.policy)
        if self._usage.can_free(trim):
            raise _Refusal(code, "the limit was lowered: room is being made", RETRY_SOON_MS, trim)

    def _evict(
        self, put: Put, name: StreamName | None, amount: Amount, policy: OverflowPolicy, code: Code
    ) -> None:
        where = _where(name, code)
        if policy is OverflowPolicy.REJECT:
            raise _Refusal(code, f"{where} is full", RETRY_FULL_MS)
        self._believe_counters(code, where)
        eviction = self._eviction(put, name, amount, policy)
        if name is None and (most := self._usage.most_held(self.quota.total.most)) is not None:
            theirs = replace(eviction, owner=most)
            eviction = theirs if self._usage.can_free(theirs) else eviction
        if not self._usage.can_free(eviction):
            raise _Refusal(code, f"{where} is full, and nothing in it may give way", RETRY_FULL_MS)
        self._usage.evict(eviction)

    def _believe_counters(self, code: Code, where: str) -> None:
        """The counters decide now: not before every message was counted once."""
        if not self.view.counted:
            self.wants_count = True
            raise _Refusal(code, f"{where} seems full: what is stored is being counted first", RETRY_SOON_MS)

    def _eviction(
        self, put: Put, name: StreamName | None, amount: Amount, policy: OverflowPolicy
    ) -> Eviction:
        """An evicted message must not be more important than any message it gives way to."""
        lowest = min(description.priority for description in put.descriptions)
        return Eviction(
            name, policy, lowest if policy is OverflowPolicy.DROP_LOWEST else TOP_PRIORITY, amount
        )

    def _keep(self, put: Put, runs: Sequence[Run], prefix: str | None) -> int:
        """Turn the fresh payloads into rows; return the first id."""
        first_id = self.next_id
        if not self.holders or self.holders[-1][1] != put.owner:
            self.holders.append((first_id, put.owner))
        for run in runs:
            self._keep_run(put, run, prefix)
        return first_id

    def _keep_run(self, put: Put, run: Run, prefix: str | None) -> None:
        described, indexes, sizes, amount = run
        payloads, stream = put.payloads, self._stream(described.name, put.owner)
        columns = (stream, int(put.kind), described.priority, *self.stamp)
        ids = range(self.next_id, self.next_id + len(indexes))
        keys = keys_of(put, indexes, prefix)
        self.rows += [
            (number, *columns, key, size, payloads[index])
            for number, key, size, index in zip(ids, keys, sizes, indexes, strict=True)
        ]
        self.next_id = ids.stop
        self._count(described.name, (stream, described.priority), amount, put.owner)
        if described.details is not NO_DETAILS:
            self._keep_details(described.details, ids, keys)

    def _count(self, name: StreamName, level: tuple[int, int], amount: Amount, owner: str) -> None:
        before, held = self.added.get(level), (owner, level[1])
        self.added[level] = amount if before is None else before.plus(amount)
        self.added_by[held] = self.added_by.get(held, NOTHING).plus(amount)
        self._usage.add(name, amount, owner)
        self.disk_bytes += _disk_bytes(amount)

    def _keep_details(self, details: Details, ids: Sequence[int], keys: Sequence[str | None]) -> None:
        for number, key in zip(ids, keys, strict=True):
            file = spool_name(key, details.file) if key and details.file else None
            self.details[number] = details._replace(file=file)

    def _stream(self, name: StreamName, owner: str) -> int:
        number = self.view.streams.get(name) or self.new_streams.get(name)
        if number is None:
            number = self.new_streams[name] = self.view.next_stream + len(self.new_streams)
            self._named_by[name] = owner
        return number

    def _stored(
        self, put: Put, memory: Sequences, repeated: int, warnings: Sequence[tuple[str, str]] = ()
    ) -> Stored:
        ids = [memory.id_of(put.first_sequence + index) for index in range(len(put.payloads))]
        return Stored(ids, repeated, tuple(warnings))


def _where(name: StreamName | None, code: Code) -> str:
    return f"stream {name}" if name else "the disk" if code is Code.DISK_FULL else "the store"


def _disk_bytes(amount: Amount) -> int:
    return amount.bytes + amount.messages * ROW_OVERHEAD_BYTES


def _files(put: Put, runs: Sequence[Run], prefix: str | None) -> list[Named]:
    """The files that stand for payloads."""
    named = [
        (index, run.described.details.file)
        for run in runs
        if run.described.details.file
        for index in run.indexes
    ]
    if not named:
        return []
    if put.producer is None or any(put.payloads[index] for index, _ in named):
        raise _Refusal(Code.BAD_FIELD, "a file needs a key (producer, boot, sequence) and no payload")
    return [Named(index, name, f"{prefix}{put.first_sequence + index}") for index, name in named]
