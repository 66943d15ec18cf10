"""Random life against a model of ten lines: puts, repeats, deliveries, restarts, full disks, jumping clocks;
crashes between any two statements of a commit, a vacuum or a start, and before the acknowledgement."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.adapters.store.errors import StoreFull
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.writer import MessageStore
from runtime.core.ingest.protocol import Put, Stored
from runtime.core.message import StoredMessage
from runtime.core.settlement import Settled
from tests.support.store_tools import ObedientClock, copy_as_killed, decide, keep, put

connect = sqlite3.connect


class Model:
    """What is promised: a keyed message is stored once, and stays until it is delivered."""

    def __init__(self) -> None:
        self.present: dict[int, bytes] = {}
        self.aside: dict[int, bytes] = {}
        self.ids: dict[tuple[str, int], int] = {}
        self.highest = 0
        self.names: dict[int, str] = {}
        """Under which name the cloud knows each message."""

    def stored(self, request: Put, ids: list[int]) -> None:
        for index, number in enumerate(ids):
            key = (request.producer.producer, request.first_sequence + index) if request.producer else None
            if key in self.ids:
                assert self.ids[key] == number, "a repeat must be acknowledged with the same id"
                continue
            assert number > self.highest, "an id was used again"
            self.highest, self.present[number] = number, request.payloads[index]
            if key:
                self.ids[key] = number


class StoreLife(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="edge-"))
        self.generation = 0
        self.path = self.folder / "messages.db"
        self.clock = ObedientClock()
        self.model = Model()
        self.last: Put | None = None
        self.sequence = {"p": 1, "q": 1}
        self.traced: Callable[[str], None] | None = None
        self.open()

    def open(self) -> None:
        with patch.object(sqlite3, "connect", self.connect_traced):
            self.store = MessageStore(self.path, self.clock)

    def commit(self, *requests: Put, settled: Settled | None = None) -> bool:
        admission, replies = decide(self.store, requests)
        try:
            self.store.commit(admission, settled or Settled())
        except StoreFull:
            return False
        for request, reply in zip(requests, replies, strict=True):
            assert isinstance(reply, Stored)
            self.model.stored(request, [number for number in reply.ids if number is not None])
            if request.producer:  # also by a repeat of what a crash cut off: no honest producer reuses it
                who, after = request.producer.producer, request.first_sequence + len(request.payloads)
                self.sequence[who] = max(self.sequence[who], after)
        return True

    @rule(
        who=st.sampled_from("pq"),
        count=st.integers(1, 4),
        skip=st.sampled_from((0, 0, 0, 2)),
        size=st.integers(0, 3000),
    )
    def put_keyed(self, who: str, count: int, skip: int, size: int) -> None:
        first = self.sequence[who] + skip
        payloads = [f"{who}{first + i}".encode() + b"." * size for i in range(count)]
        self.last = put(payloads, producer=who, first=first, stream=who)
        self.commit(self.last)

    @rule(count=st.integers(1, 3))
    def put_without_key(self, count: int) -> None:
        self.commit(put([b"plain"] * count))

    @precondition(lambda self: self.last is not None)
    @rule()
    def repeat(self) -> None:
        assert self.last is not None
        self.commit(self.last, self.last)

    @rule(data=st.data(), beside=st.booleans())
    def deliver(self, data: st.DataObject, beside: bool) -> None:
        """Alone, or in the commit of a message, which notes it."""
        if not self.model.present:
            return
        ids = data.draw(st.lists(st.sampled_from(sorted(self.model.present)), unique=True, max_size=5))
        more = [put([b"beside"], producer="p", first=self.sequence["p"], stream="p")] if beside else []
        if self.commit(*more, settled=Settled(delivered=[*ids, 10**9])):
            for number in ids:
                del self.model.present[number]

    @rule(data=st.data())
    def set_aside(self, data: st.DataObject) -> None:
        if self.model.present:
            number = data.draw(st.sampled_from(sorted(self.model.present)))
            if self.commit(settled=Settled(quarantined=[(number, "why")])):
                self.model.aside[number] = self.model.present.pop(number)

    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        if self.model.aside:
            number, new = data.draw(st.sampled_from(sorted(self.model.aside))), self.store.next_id
            if self.commit(settled=Settled(requeued=[number, number])):
                self.model.present[new] = self.model.aside.pop(number)
                self.model.highest = new

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.open()

    @rule()
    def reboot_with_a_clock_in_1970(self) -> None:
        self.store.close()
        self.clock.reboot()
        self.clock.wall = 5.0
        self.open()

    @rule(years=st.integers(-40, 40))
    def clock_jumps(self, years: int) -> None:
        self.clock.wall += years * 31_557_600

    @rule(statement=st.integers(0, 12), who=st.sampled_from("pq"))
    def crash_in_the_middle_of_a_commit(self, statement: int, who: str) -> None:
        """Nothing of the commit may be there."""
        self.last = put([b"x" * 5000] * 2, producer=who, first=self.sequence[who], stream="new")
        admission, _ = decide(self.store, [self.last])
        settled = Settled(delivered=sorted(self.model.present)[:1])
        with self.crash(statement):
            self.store.commit(admission, settled)

    @rule(who=st.sampled_from("pq"))
    def crash_between_a_commit_and_its_acknowledgement(self, who: str) -> None:
        """The producer comes again with the same request, and must get the ids of then."""
        self.last = put([b"unheard"] * 2, producer=who, first=self.sequence[who], stream=who)
        self.commit(self.last)
        self.go_on_from(copy_as_killed(self.path, self.next_folder()))
        self.commit(self.last)

    @rule(
        what=st.sampled_from(("levels SET messages", "levels SET bytes", "store SET producers")),
        bit=st.integers(0, 61),
    )
    def one_bit_flips_while_it_is_closed(self, what: str, bit: int) -> None:
        """It decides over nothing."""
        self.store.close()
        column, flipped = what.rpartition(" ")[2], 2**bit
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            db.execute(f"UPDATE {what} = ({column} | {flipped}) - ({column} & {flipped})")
            db.commit()
        self.open()
        assert self.store.count()

    @rule()
    def a_copy_goes_on_elsewhere(self) -> None:
        """Each gives the same ids to other messages: under names of their own, once both were started."""
        copy = copy_as_killed(self.path, self.next_folder())
        elsewhere = MessageStore(copy, self.clock)
        keep(elsewhere, put([b"elsewhere"] * 3))
        elsewhere.close()
        reader = StoreReader(copy)
        new = [m for m in reader.after(self.model.highest, 100, 10**6) if isinstance(m, StoredMessage)]
        reader.close()
        assert len(new) == 3
        self.commit(put([b"here"] * 3))
        self.store_and_model_agree()
        assert not {message.key for message in new} & set(self.model.names.values())

    @rule(statement=st.integers(0, 12))
    def crash_in_the_middle_of_a_vacuum(self, statement: int) -> None:
        with self.crash(statement):
            while self.store.vacuum(1):
                pass

    @rule(statement=st.integers(0, 40))
    def crash_in_the_middle_of_a_start(self, statement: int) -> None:
        """As often as it pleases: each start finds what the one before left."""
        self.path = copy_as_killed(self.path, self.next_folder())
        self.store.close()
        with self.crash(statement):
            self.open()

    @contextmanager
    def crash(self, statement: int) -> Iterator[None]:
        """Go on from a copy made before the n-th statement of what is done within, a COMMIT at the latest."""
        target, seen = self.next_folder(), 0

        def count(sql: str) -> None:
            nonlocal seen
            if seen == statement or (sql == "COMMIT" and seen < statement):
                seen = 10**6
                copy_as_killed(self.path, target)
            seen += 1

        self.traced = count
        yield
        self.traced = None
        if target.exists():  # else there was less to do
            self.go_on_from(target / self.path.name)

    def connect_traced(self, *args: Any, **options: Any) -> sqlite3.Connection:
        db = connect(*args, **options)
        db.set_trace_callback(lambda sql: self.traced(sql) if self.traced else None)
        return db

    def next_folder(self) -> Path:
        self.generation += 1
        return self.folder / str(self.generation)

    def go_on_from(self, path: Path) -> None:
        self.store.close()
        self.path = path
        self.open()

    @rule()
    def the_disk_is_full(self) -> None:
        ((pages,),) = self.store._db.execute("PRAGMA page_count").fetchall()
        self.store._db.execute(f"PRAGMA max_page_count = {pages}")
        big = put([b"b" * 60_000] * 8)
        before = self.store.figures()
        if not self.commit(big):
            assert self.store.figures() == before, "a commit that failed changed the books"
        self.store._db.execute("PRAGMA max_page_count = 1000000")

    @invariant()
    def store_and_model_agree(self) -> None:
        reader = StoreReader(self.path)
        rows = [m for m in reader.after(0, 10_000, 10**9) if isinstance(m, StoredMessage)]
        found = {message.id: message.payload for message in rows}
        for message in rows:
            assert self.model.names.setdefault(message.id, message.key) == message.key, "the name is for ever"
        assert len({message.key for message in rows}) == len(rows)
        backlog, lost, ledger = reader.backlog(), reader.lost(), reader.ledger()
        reader.close()
        assert lost.get("quarantined", 0) == len(self.model.aside), "what came back is not lost"
        assert ledger is not None
        assert ledger.total.stored - ledger.total.delivered == len(found) + len(self.model.aside)
        assert found == self.model.present
        assert (backlog.messages, self.store.backlog().messages) == (len(found), len(found))
        assert backlog.bytes == sum(map(len, found.values()))

    def teardown(self) -> None:
        check = sqlite3.connect(self.path).execute("PRAGMA integrity_check").fetchall()
        self.store.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        assert check == [("ok",)]


TestStoreLife = pytest.mark.timeout(480)(StoreLife.TestCase)  # 2,800 steps with real flushes: slow disks
TestStoreLife.settings = settings(
    max_examples=80, stateful_step_count=35, deadline=None, suppress_health_check=list(HealthCheck)
)
