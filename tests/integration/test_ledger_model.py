"""The ledger against a model: whatever happens to messages, each is in exactly one account, after every step.

Stores, deliveries, expiry, evictions, quarantine with requeues, drops and trims; crashes before and after a
commit; another policy at the next start; rows that no longer tell their stream; salvages of stores that lost
rows; an older version that drops without counting.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pytest import MonkeyPatch

from runtime.adapters.salvage.salvage import salvage
from runtime.adapters.store.counters import POLICIES, QUARANTINED, Loss
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.writer import MessageStore
from runtime.core.ingest import quota as quota_module
from runtime.core.ingest.protocol import Put, Stored
from runtime.core.ingest.quota import Amount, Limit, OverflowPolicy, Quota
from runtime.core.settlement import Settled
from tests.support.store_tools import WIDE, ObedientClock, copy_as_killed, decide, put

POLICY = {
    "reject": WIDE,
    "oldest": Quota(Limit(Amount(6, 10**9), OverflowPolicy.DROP_OLDEST)),
    "lowest": Quota(Limit(Amount(6, 10**9), OverflowPolicy.DROP_LOWEST)),
}
QUARANTINE_BYTES = 1_500
"""Room for a few messages: the oldest give way soon."""
STREAMS = ("a", "b", "c")


class LedgerLife(RuleBasedStateMachine):
    """The store, and where each message is by what was done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="edge-"))
        self.copies = 0
        self.path, self.clock, self.quota = self.folder / "messages.db", ObedientClock(), WIDE
        self.stored = self.delivered = self.requeued = 0
        self.waiting: set[int] = set()
        self.aside: set[int] = set()
        self.lost: Counter[str] = Counter()
        self.late: Counter[str] = Counter()
        self.evicted: dict[int, str] = {}
        """Dropped by this process: the hub may still have them."""
        self.damaged: set[int] = set()
        self.patched = MonkeyPatch()
        self.patched.setattr(quota_module, "AHEAD_SHARE", 3)  # two more than must of six
        self.open()

    def open(self) -> None:
        policies = self.quota.policies()
        self.store = MessageStore(self.path, self.clock, policies=policies, quarantine_bytes=QUARANTINE_BYTES)
        self.evicted.clear()

    def reopen(self, path: Path | None = None) -> None:
        self.store.close()
        self.path = path or self.path
        self.open()

    def commit(self, requests: Sequence[Put] = (), settled: Settled | None = None) -> None:
        settled = settled or Settled()
        admission, replies = decide(self.store, requests, self.quota, settled)
        losses = self.store.commit(admission, settled)
        for reply in replies:
            if isinstance(reply, Stored):
                self.stored += len(reply.ids)
                self.waiting.update(number for number in reply.ids if number is not None)
        self._settled(settled)
        for loss in losses:
            self._lost(loss)

    def _settled(self, settled: Settled) -> None:
        for number in settled.delivered:
            if number in self.waiting:
                self.waiting.discard(number)
                self.delivered += 1
            elif number in self.evicted:
                reason = self.evicted.pop(number)
                self.lost[reason] -= 1
                self.late[reason] += 1
                self.delivered += 1
        for number, _ in settled.quarantined:
            if number in self.waiting:
                self.waiting.discard(number)
                self.aside.add(number)
        back = self.aside & set(settled.requeued)
        self.aside -= back
        self.requeued += len(back)
        self.waiting.update(range(self.store.next_id - len(back), self.store.next_id) if back else ())

    def _lost(self, loss: Loss) -> None:
        gone = {number for first, last in loss.ranges for number in range(first, last + 1)}
        if loss.reason != QUARANTINED:
            self.lost[loss.reason] += loss.amount.messages
            assert gone <= self.waiting | self.aside, "lost twice"
            self.waiting -= gone
            self.aside -= gone
        if loss.reason in POLICIES:
            self.evicted |= dict.fromkeys(gone - self.damaged, loss.reason)

    @rule(stream=st.sampled_from(STREAMS), count=st.integers(1, 4), priority=st.integers(0, 2))
    def put(self, stream: str, count: int, priority: int) -> None:
        self.commit([put([b"x" * 100] * count, stream=stream, priority=priority)])

    @rule(data=st.data(), beside=st.booleans())
    def deliver(self, data: st.DataObject, beside: bool) -> None:
        """Alone, or in the commit of a message, which notes it."""
        known = sorted(self.waiting | self.evicted.keys()) or [10**9]
        ids = data.draw(st.lists(st.sampled_from(known), max_size=4))
        requests = [put([b"beside"], stream="a")] if beside else []
        self.commit(requests, Settled(delivered=[*ids, *ids]))

    @rule()
    def deliver_what_is_damaged(self) -> None:
        """Its payload may be well, where only its size or a level is not."""
        self.commit(settled=Settled(delivered=sorted(self.damaged & self.waiting)))

    @rule(data=st.data(), count=st.integers(1, 3))
    def set_aside_and_drop(self, data: st.DataObject, count: int) -> None:
        ids = data.draw(st.permutations(sorted(self.waiting)))[: 2 * count]
        aside, expired = ids[:count], ids[count:]
        settled = Settled(
            quarantined=[(number, "why") for number in aside],
            dropped=[(number, "expired") for number in expired],
        )
        self.commit([put([b"beside"], stream="a")], settled)

    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.aside) or [1]), max_size=3))
        self.commit(settled=Settled(requeued=[*ids, *ids]))

    @rule(data=st.data())
    def an_operator_drops(self, data: st.DataObject) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.aside) or [1]), max_size=3))
        self.commit(settled=Settled(discarded=[*ids, *ids]))

    @rule(policy=st.sampled_from(sorted(POLICY)))
    def another_policy(self, policy: str) -> None:
        self.quota = POLICY[policy]
        self.reopen()

    @rule(statement=st.integers(0, 12))
    def crash_before_the_commit(self, statement: int) -> None:
        """Whatever statement is the last: nothing of it counts."""
        settled = Settled(
            delivered=sorted(self.waiting)[:1],
            quarantined=[(number, "why") for number in sorted(self.waiting)[1:2]],
            discarded=sorted(self.aside)[:1],
            requeued=sorted(self.aside)[1:2],
        )
        admission, _ = decide(self.store, [put([b"y"] * 3, stream="b")], self.quota, settled)
        seen, target = 0, self.next_folder()

        def count(sql: str) -> None:
            nonlocal seen
            if seen == statement or (sql == "COMMIT" and seen < statement):
                seen = 10**6
                copy_as_killed(self.path, target)
            seen += 1

        self.store._db.set_trace_callback(count)
        self.store.commit(admission, settled)
        self.store._db.set_trace_callback(None)
        self.reopen(target / self.path.name)

    @rule()
    def crash_after_the_commit(self) -> None:
        self.commit([put([b"z"], stream="c")])
        self.reopen(copy_as_killed(self.path, self.next_folder()))

    @rule(
        data=st.data(),
        flip=st.sampled_from(("stream = 'x'", "stream = 77", "bytes = 10000000000000", "priority = 'x'")),
        table=st.sampled_from(("messages", "quarantine")),
    )
    def a_row_is_damaged(self, data: st.DataObject, flip: str, table: str) -> None:
        ids = sorted(self.waiting if table == "messages" else self.aside)
        if ids:
            number = data.draw(st.sampled_from(ids))
            self.damaged.add(number)
            self.store._db.execute(f"UPDATE {table} SET {flip} WHERE id = ?", (number,))
            self.reopen()
            assert self.store.count()

    @rule(rows=st.integers(0, 2), aside=st.booleans())
    def a_salvage_finds_that_rows_are_gone(self, rows: int, aside: bool) -> None:
        gone = sorted(self.waiting)[:rows]
        gone_aside = sorted(self.aside)[: int(aside)]
        self.store.close()
        with closing(sqlite3.connect(self.path)) as db:
            db.executemany("DELETE FROM messages WHERE id = ?", [(number,) for number in gone])
            db.executemany("DELETE FROM quarantine WHERE id = ?", [(number,) for number in gone_aside])
            db.commit()
        list(salvage(self.path, "for the test"))
        self.waiting -= set(gone)
        self.aside -= set(gone_aside)
        self.lost["damaged"] += len(gone) + len(gone_aside)
        self.open()

    @rule()
    def an_older_version_drops_one(self) -> None:
        """It knows no ledger, and deleted what an operator dropped without counting it."""
        for number in sorted(self.aside)[:1]:
            self.store._db.execute("DELETE FROM quarantine WHERE id = ?", (number,))
            self.aside.discard(number)
            self.lost["discarded"] += 1
        self.reopen()

    @rule()
    def names_are_given_back(self) -> None:
        self.store.give_back_streams(2)

    def next_folder(self) -> Path:
        self.copies += 1
        return self.folder / str(self.copies)

    @invariant()
    def every_message_is_in_one_account(self) -> None:
        with closing(StoreReader(self.path)) as reader:
            ledger, waiting_rows, aside_rows = reader.ledger_and_rows()
        total = ledger.total
        assert ledger.open_accounts == []
        assert (total.stored, total.delivered, total.requeued) == (
            self.stored,
            self.delivered,
            self.requeued,
        )
        assert (total.waiting, total.set_aside) == (len(self.waiting), len(self.aside))
        assert (waiting_rows, aside_rows) == (len(self.waiting), len(self.aside))
        assert +Counter(total.lost) == +self.lost
        assert total.late == self.late

    def teardown(self) -> None:
        self.patched.undo()
        self.store.close()
        shutil.rmtree(self.folder, ignore_errors=True)


TestLedgerLife = LedgerLife.TestCase
TestLedgerLife.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
