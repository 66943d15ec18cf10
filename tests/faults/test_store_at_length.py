"""What looks at every message of a large store takes little memory, and the heart beats meanwhile."""

from __future__ import annotations

import resource
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from runtime.adapters.store.evictions import create_indexes, victims
from runtime.adapters.store.writer import MessageStore
from runtime.core.ingest.quota import Amount, Eviction, OverflowPolicy
from runtime.core.settlement import Settled
from tests.support.store_tools import ObedientClock, keep, put

DROPS = (OverflowPolicy.DROP_LOWEST, frozenset((OverflowPolicy.DROP_OLDEST, OverflowPolicy.DROP_LOWEST)))
LARGE = """
import sys
from pathlib import Path
from runtime.adapters.store.writer import MessageStore
from runtime.adapters.store.evictions import victims
from runtime.core.ingest.quota import Amount, Eviction, OverflowPolicy
from runtime.core.settlement import Settled
from tests.faults.test_store_at_length import DROPS
from tests.support.store_tools import ObedientClock

def kib():
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))

beats = []
before = kib()
store = MessageStore(Path(sys.argv[1]), ObedientClock(), policies=DROPS, alive=lambda: beats.append(1))
made = len(beats)
assert made, "an index takes its time"
store.commit(None, Settled(quarantined=[(1, "damaged")]))
assert len(beats) > made, "so does counting"
for index in ("by_priority", "by_stream", "by_stream_priority"):
    store._db.execute(f"DROP INDEX {index}")  # as where there was no room for it
lowest = Eviction(None, OverflowPolicy.DROP_LOWEST, 9, Amount(1, 0))
assert len(victims(store._db, lowest, None, store._holders)) == 1
assert kib() - before < 8_000, kib() - before
print(store.backlog().messages)
"""


def fill(db: sqlite3.Connection, messages: int) -> None:
    """With all but the first."""
    db.execute(
        "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        "INSERT INTO messages (id, stream, kind, priority, stored_boot_s, boot, bytes, payload) "
        "SELECT i, 1, 0, i % 10, 1.0, 1, 0, x'' FROM n",
        (messages,),
    )


def test_indexes_and_counts_over_a_large_store_take_little_memory(tmp_path: Path) -> None:
    """Sorted in memory, 5 million messages took 260 MB: the kernel ended ingest at every start."""
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"x"], stream="s"))
    store.close()
    with closing(sqlite3.connect(path)) as db, db:
        fill(db, 300_000)
        db.execute("UPDATE messages SET priority = 99 WHERE id = 1")  # counted before, nobody knows where
        db.execute("UPDATE store SET next_id = 300001, folded = 300000")
    told = subprocess.run(
        [sys.executable, "-c", LARGE, str(path)], capture_output=True, text=True, check=False
    )
    assert told.stdout.strip() == "299999", told.stderr


@pytest.mark.parametrize(("wanted", "gone"), [(1, 1), (2, 2), (3, 3), (7, 7), (10, 10), (99, 10)])
def test_what_gives_way_is_found_in_pieces_and_is_neither_more_nor_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: int, gone: int
) -> None:
    monkeypatch.setattr("runtime.adapters.store.evictions.EVICTED_AT_ONCE", 2)
    store = MessageStore(tmp_path / "messages.db", ObedientClock())
    keep(store, put([b"x"] * 10, stream="s"))
    for policy in (OverflowPolicy.DROP_OLDEST, OverflowPolicy.DROP_LOWEST):
        eviction = Eviction(None, policy, 9, Amount(1, wanted))
        assert victims(store._db, eviction, None, store._holders) == list(range(1, gone + 1))
    store.close()


def test_a_disk_without_room_for_an_index_opens_the_store_and_drains_it(tmp_path: Path) -> None:
    """Who turned to a policy that drops because the disk was full had a store that never opened again."""
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock())
    for _ in range(10):
        keep(store, put([b""] * 500))
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store.close()
    store = MessageStore(path, ObedientClock(), policies=DROPS, max_pages=pages + 2)
    store.commit(None, Settled(delivered=list(range(1, 5_001))))
    assert store.backlog().messages == 0
    store.close()
    store = MessageStore(path, ObedientClock(), policies=DROPS)
    assert (
        len(store._db.execute("SELECT 1 FROM sqlite_master WHERE name LIKE 'by\\_%' ESCAPE '\\'").fetchall())
        == 3
    )
    store.close()


def test_nowhere_to_sort_an_index_does_not_keep_the_store_shut(tmp_path: Path) -> None:
    """In a container whose root is read-only a policy that drops shut ingest out of a large store."""
    store = MessageStore(tmp_path / "messages.db", ObedientClock())
    keep(store, put([b"x"], stream="s"))
    fill(store._db, 200_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))  # no file can be made any more
    try:
        create_indexes(store._db, DROPS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    lowest = Eviction(None, OverflowPolicy.DROP_LOWEST, 9, Amount(2, 0))
    assert victims(store._db, lowest, None, store._holders) == [10, 20]
    store.close()
