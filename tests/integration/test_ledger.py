"""The ledger on disk: each message in one account, the lost ones with their ids; and the command."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runtime.adapters.salvage.salvage import salvage
from runtime.adapters.store import ledger as tables
from runtime.adapters.store.errors import SCHEMA_VERSION
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.writer import MessageStore
from runtime.core.ingest.quota import Amount, Limit, OverflowPolicy, Quota
from runtime.core.operations.ledger import UNKNOWN_STREAM, Account, Ledger
from runtime.core.settlement import Settled
from runtime.operations.ledger_report import report
from runtime.operations.overview import observe
from tests.support.harness import Home
from tests.support.store_tools import ObedientClock, keep, put

FROZEN = Path(__file__).parents[1] / "data" / "messages-v1.sql"
KILLS = int(os.environ.get("EDGE_LEDGER_KILLS", "20"))
"""1,000 in the long run (`make soak`)."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "messages.db"


@pytest.fixture
def store(path: Path) -> Iterator[MessageStore]:
    with closing(MessageStore(path, ObedientClock(), quarantine_bytes=3_000)) as store:
        yield store


def ledger(path: Path) -> Ledger:
    with closing(StoreReader(path)) as reader:
        found = reader.ledger()
    assert found is not None
    return found


def entries(path: Path) -> list[tuple[str, int | None, int, int]]:
    with closing(StoreReader(path)) as reader:
        return [(e.reason, e.messages, e.first_id, e.last_id) for e in reader.loss_log().entries]


def test_set_aside_and_lost_for_ever_are_two_things(store: MessageStore, path: Path) -> None:
    """What an operator dropped from quarantine left no trace; what came back was counted nowhere."""
    keep(store, put([b"x" * 900] * 6, stream="s"))
    store.commit(None, Settled(quarantined=[(1, "why"), (2, "why")]))
    assert ledger(path).total == Account("", 6, 0, 4, 3_600, 2, 0, {})
    store.commit(None, Settled(requeued=[1], discarded=[2]))
    store.commit(None, Settled(delivered=[7], dropped=[(3, "expired")]))
    assert ledger(path).total == Account("", 6, 1, 3, 2_700, 0, 1, {"discarded": 1, "expired": 1})
    store.commit(None, Settled(quarantined=[(4, "why"), (5, "why"), (6, "why")]))
    lost = {"discarded": 1, "expired": 1, "quarantine_full": 1}
    assert ledger(path).total == Account("", 6, 1, 0, 0, 2, 1, lost)
    assert entries(path) == [("quarantine_full", 1, 4, 4), ("expired", 1, 3, 3), ("discarded", 1, 2, 2)]


def test_losses_of_a_minute_share_an_entry_and_the_log_is_bounded(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_ENTRIES", 3)
    clock = ObedientClock()
    quota = Quota(Limit(Amount(2, 10**6), OverflowPolicy.DROP_OLDEST))
    with closing(MessageStore(path, clock)) as store:
        for _ in range(8):
            keep(store, put([b"x", b"y"]), quota=quota)
            clock.boot += 25
        assert [entry[1:] for entry in entries(path)] == [(2, 13, 14), (6, 7, 12), (6, 1, 6)]
        clock.boot += 1_000
        keep(store, put([b"x"]), quota=quota)
    with closing(StoreReader(path)) as reader:
        log = reader.loss_log()
    assert (len(log.entries), log.cut_entries, log.cut_messages) == (3, 1, 6)
    assert log.entries[0].last_wall_s == clock.wall
    assert ledger(path).total.lost == {"drop-oldest": 15}


def test_a_message_whose_row_no_longer_tells_the_stream_stays_in_the_sum(path: Path) -> None:
    clock = ObedientClock()
    with closing(MessageStore(path, clock)) as store:
        keep(store, put([b"1", b"2"], stream="s"))
        store._db.execute("UPDATE messages SET stream = 'x' WHERE id = 1")
    with closing(MessageStore(path, clock)) as store:
        assert store.count()
        accounts = {each.stream: each for each in ledger(path).accounts}
        assert accounts[UNKNOWN_STREAM] == Account(UNKNOWN_STREAM, 1, 0, 1)
        assert (accounts["-/s"].stored, accounts["-/s"].waiting) == (1, 1)
        store.commit(None, Settled(delivered=[1, 2]))
    assert (ledger(path).total.delivered, ledger(path).open_accounts) == (2, [])


def test_a_counter_that_is_wrong_shows_and_no_recount_hides_it(path: Path) -> None:
    clock = ObedientClock()
    with closing(MessageStore(path, clock)) as store:
        keep(store, put([b"1", b"2"], stream="s"))
        store._db.execute("UPDATE levels SET delivered = delivered | 64")
    with closing(MessageStore(path, clock)) as store:
        store.count()
        store._db.execute("UPDATE messages SET stream = 'x' WHERE id = 1")
        store.commit(None, Settled(dropped=[(1, "expired")]))  # damaged: all is counted again
    assert ledger(path).total.difference == -64


def test_a_store_of_the_first_release_begins_its_ledger_with_what_is_there(path: Path) -> None:
    """Of its stream `b` one is in quarantine by the counters; take the row, as its `quarantine drop` did."""
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            FROZEN.read_text() + "DELETE FROM quarantine; UPDATE levels SET stored = stored + 5;"
        )
    with closing(MessageStore(path, ObedientClock())) as store:
        store.count()
    found = report(path, check=True)
    assert found.wrong == []
    assert (found.since, ledger(path).total.lost) == ("2027-01-15T08:00:00Z", {"expired": 1, "discarded": 1})


def test_what_the_first_release_knew_is_as_it_left_it(store: MessageStore, path: Path) -> None:
    """But for the columns of the fold, in two of the tables; it refuses the store as a newer one."""
    keep(store, put([b"1"] * 3, stream="s"), put([b"2"], stream="t"))
    store.commit(None, Settled(quarantined=[(1, "why")], dropped=[(2, "expired")]))
    store.commit(None, Settled(requeued=[1], delivered=[4]))
    with closing(sqlite3.connect(":memory:")) as old, closing(sqlite3.connect(path)) as db:
        old.executescript(FROZEN.read_text())
        schema = "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE '_sqlite%' ORDER BY name"
        now = dict(db.execute(schema).fetchall())
        then = dict(old.execute(schema).fetchall())
        assert {name for name in then if now[name] != then[name]} == {"messages", "store"}
        assert db.execute("PRAGMA user_version").fetchall() == [(SCHEMA_VERSION,)]
        names = {number for (number,) in db.execute("SELECT id FROM streams")}
        assert {number for (number,) in db.execute("SELECT stream FROM levels")} <= names, "it would salvage"


def test_what_a_salvage_cannot_read_is_lost_by_name(path: Path) -> None:
    with closing(MessageStore(path, ObedientClock())) as store:
        keep(store, put([b"x"] * 5, stream="s"))
        store.commit(None, Settled(delivered=[1], quarantined=[(2, "why")]))
        store._db.execute("DELETE FROM messages WHERE id IN (3, 4)")
        store._db.execute("DELETE FROM quarantine")
    list(salvage(path, "for the test", wall_s=1_800_000_000.0))
    assert ledger(path).total == Account("", 5, 1, 1, 1, 0, 0, {"damaged": 3})
    assert ("damaged", None, 1, 4) in entries(path)
    assert report(path, check=True).wrong == []


def test_the_command_says_what_does_not_close_with_everything_down(home: Home) -> None:
    home.layout.state.mkdir(exist_ok=True)
    path = home.layout.messages_db
    with closing(MessageStore(path, ObedientClock())) as store:
        keep(store, put([b"x"] * 3, stream="s"), put([b"y"], stream="t"))
        store.commit(None, Settled(delivered=[1], dropped=[(2, "expired")]))
    well = home.edgectl("ledger", "s", "--check")
    assert well.returncode == 0, well
    assert "every account closes" in well.stdout and "expired  2027-01-15T08:00:00Z" in well.stdout
    assert "-/t" not in well.stdout
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE levels SET stored = stored + 2 WHERE stream = 1")
        db.execute("DELETE FROM messages WHERE id = 4")
        db.commit()
    wrong = home.edgectl("ledger", "--check", "--json")
    assert wrong.returncode == 1, wrong
    found = json.loads(wrong.stdout)
    assert (found["difference"], found["closes"], found["losses"][0]["ids"]) == (2, False, [2, 2])
    assert found["wrong"] == [
        "all streams together: 2 of the stored messages are in no account",
        "-/s: 2 of the stored messages are in no account",
        "2 messages wait by the counters, 1 by the rows",
    ]
    state = observe(home.layout, ObedientClock(), settings=home.config.settings)
    assert "ledger: it does not close by 2 messages (edgectl ledger --check)" in state["reasons"]
    assert state["streams"] == [
        {"stream": "-/s", "messages": 1, "bytes": 1},
        {"stream": "-/t", "messages": 1, "bytes": 1},
    ]


def _live(path: Path, seed: int) -> None:
    """Store and settle at random until killed."""
    chance = random.Random(seed)
    store = MessageStore(path, ObedientClock(), quarantine_bytes=1_200)
    quota = Quota(Limit(Amount(6, 10**6), OverflowPolicy.DROP_OLDEST))
    while True:
        present = _ids(store, "messages ORDER BY id LIMIT 9")
        aside = _ids(store, "quarantine ORDER BY id DESC LIMIT 4")
        chance.shuffle(present)
        settled = Settled(
            delivered=present[:2],
            quarantined=[(number, "why") for number in present[2:4]],
            dropped=[(number, "expired") for number in present[4 : chance.randint(4, 5)]],
            requeued=aside[: chance.randint(0, 1)],
            discarded=aside[1 : chance.randint(1, 2)],
        )
        request = put([b"x" * 200] * chance.randint(1, 5), stream=chance.choice("abc"))
        keep(store, request, quota=quota, settled=settled)


def _ids(store: MessageStore, rows: str) -> list[int]:
    return [number for (number,) in store._db.execute(f"SELECT id FROM {rows}").fetchall()]


def test_the_ledger_closes_after_every_kill(path: Path) -> None:
    """With drops, requeues and trims in every life; every tenth time a salvage follows."""
    chance = random.Random(20261129)
    MessageStore(path, ObedientClock()).close()
    before = 0
    for number in range(KILLS):
        pid = os.fork()
        if pid == 0:
            try:
                _live(path, number)
            except BaseException:
                traceback.print_exc()
            os._exit(1)
        with closing(StoreReader(path)) as reader:
            while reader.next_id() <= before + 12 and os.waitpid(pid, os.WNOHANG) == (0, 0):
                os.sched_yield()
        for _ in range(chance.randint(0, 20_000)):  # the random moment, not a wait
            pass
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
        if number % 10 == 9:
            list(salvage(path, "for the test"))
        found = report(path, check=True)
        assert found.wrong == [], (number, found)
        with closing(StoreReader(path)) as reader:
            before = reader.next_id()
    total = ledger(path).total
    assert total.requeued and total.delivered, total
    assert {"expired", "discarded", "quarantine_full", "drop-oldest"} <= total.lost.keys(), total
