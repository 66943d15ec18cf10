"""Leaves over a real store: each keeps its order for itself, through restarts, upgrades and a salvage."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.adapters.hub.resume_journal import ResumeJournal
from runtime.adapters.salvage.salvage import salvage
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.upload_reader import UploadReader
from runtime.adapters.store.writer import MessageStore
from runtime.core.delivery.read_planner import lane_of
from runtime.core.ingest.protocol import Stored
from runtime.core.message import StoredMessage, StreamName
from runtime.core.settlement import Settled
from tests.support.harness import short_folder
from tests.support.store_tools import ObedientClock, keep, put
from tests.support.upload_source_world import Device

A, B, OWN = (StreamName(None, "s", leaf) for leaf in ("leaf-a", "leaf-b", None))


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "messages.db"


def stored(path: Path) -> dict[int, StreamName]:
    """The stream of each stored message, as a reader finds it."""
    with contextlib.closing(StoreReader(path)) as reader:
        return {m.id: m.name for m in reader.after(0, 100, 10**6) if isinstance(m, StoredMessage)}


def fill(path: Path) -> MessageStore:
    store = MessageStore(path, ObedientClock())
    keep(
        store,
        *(
            put([b"x"], stream="s", leaf=name.leaf, via=["gate-1"] * bool(name.leaf))
            for name in (A, OWN, B, A)
        ),
    )
    return store


def test_streams_of_one_name_are_apart_by_leaf_also_after_a_restart(path: Path) -> None:
    fill(path).close()
    store = MessageStore(path, ObedientClock())
    assert keep(store, put([b"x"], stream="s", leaf="leaf-b")) == [Stored(range(5, 6))]
    assert store.figures()["streams"] == 3, "the stream was known"
    assert store.figures()["leaves"] == 2
    assert store.name_counts == (1, 2)
    store.close()
    assert stored(path) == {1: A, 2: OWN, 3: B, 4: A, 5: B}
    with contextlib.closing(UploadReader(path)) as reader:
        of_a, _ = reader.find(0, 9, 9, 999, only=A)
        but_a, _ = reader.find(0, 9, 9, 999, without=[A])
        assert [m.id for m in of_a] == [1, 4]
        assert [m.id for m in but_a] == [2, 3, 5]
        assert reader.stored() == {A, B, OWN}
        assert reader.stored_above(5) == set()


def test_what_is_read_before_the_first_leaf_came_is_read_after_it(path: Path) -> None:
    """The reader knows the streams by number: the table of leaves came while it was open."""
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"x"], stream="s"))
    with contextlib.closing(UploadReader(path)) as reader:
        assert reader.stored() == {OWN}
        keep(store, put([b"x"], stream="s", leaf="leaf-a"))
        assert reader.stored() == {OWN, A}
    store.close()


def test_a_runtime_that_knows_no_leaves_finds_all_it_needs_in_the_tables_of_the_first_release(
    path: Path,
) -> None:
    fill(path).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        rows = db.execute(
            "SELECT m.id, s.stream, properties FROM messages AS m JOIN streams AS s ON s.id = m.stream"
        ).fetchall()
        db.execute("DROP TABLE leaves")
        db.commit()
    said = '{"source-device-id":"leaf-%s","gateway-path":"gate-1"}'
    assert rows == [(1, "s", said % "a"), (2, "s", None), (3, "s", said % "b"), (4, "s", said % "a")]
    store = MessageStore(path, ObedientClock())  # as after a salvage by such a runtime
    assert set(stored(path).values()) == {OWN}, "one order then, and every message under its leaf"
    store.commit(None, Settled(delivered=[1, 2, 3, 4]))
    assert store.backlog().messages == 0
    store.close()


def test_a_salvage_keeps_the_leaves(path: Path) -> None:
    fill(path).close()
    for _ in salvage(path, "for the test"):
        pass
    assert stored(path) == {1: A, 2: OWN, 3: B, 4: A}


def test_a_leaf_that_has_nothing_stored_gives_its_names_back(path: Path) -> None:
    store = fill(path)
    store.commit(None, Settled(delivered=[1, 4]))
    assert store.give_back_streams(10)
    assert store.name_counts == (2, 1), "the own stream, the earlier ones; leaf-b"
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT leaf FROM leaves").fetchall() == [("leaf-b",)]
    assert keep(store, put([b"x"], stream="s", leaf="leaf-a")) == [Stored(range(5, 6))]
    store.close()
    assert stored(path) == {2: OWN, 3: B, 5: A}


def test_the_batches_of_leaves_are_taken_up_and_an_earlier_runtime_reads_the_others(folder: Path) -> None:
    journal = ResumeJournal(folder / "under-way")
    journal.goes_to("hub/dev")
    journal.save({A: "batch-a", OWN: "batch-own"})
    assert ResumeJournal(folder / "under-way").batches == {A: "batch-a", OWN: "batch-own"}
    assert '"batches":[[null,"s","batch-own"]]' in (folder / "under-way").read_text().replace(" ", "")


# --- delivery ---


def test_a_leaf_s_large_file_holds_up_no_other_leaf(folder: Path) -> None:
    with contextlib.closing(Device(folder)) as device:
        device.put("s", b"x" * 300_000, leaf="leaf-a")
        device.put("s", b"behind it", leaf="leaf-a")
        device.put("s", *[b"y"] * 3, leaf="leaf-b")
        device.put("s", b"z")
        device.turns(10)
        assert device.uploads == [1]
        assert sorted(device.sent) == [3, 4, 5, 6]


def test_batches_of_one_name_do_not_wait_for_each_other_s_leaf(folder: Path) -> None:
    with contextlib.closing(Device(folder)) as device:
        device.put("s", b"1", leaf="leaf-a", batch_id="one")
        device.put("s", b"2", leaf="leaf-b", batch_id="two")
        device.put("s", b"3", leaf="leaf-a", batch_id="two")
        device.put("s", b"4", leaf="leaf-b", batch_id="two")
        device.turns(5)
        assert device.sent == [1, 2, 4], "leaf-a's second batch waits for the end of its first"


STEPS = st.lists(
    st.tuples(
        st.sampled_from([A, B, OWN, StreamName(None, "t", "leaf-a")]), st.integers(1, 40), st.booleans()
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    with short_folder() as folder, contextlib.closing(Device(folder, window=8)) as made:
        yield made


@settings(max_examples=8)
@given(STEPS)
def test_each_leaf_s_streams_leave_in_their_order_whatever_the_others_do(
    device: Device, steps: list[tuple[StreamName, int, bool]]
) -> None:
    """Interleaved bursts, a window of 8, and a hub that is silent for a while."""
    device.sent.clear()
    first = device.store.next_id
    awaited: dict[StreamName, list[int]] = defaultdict(list)
    lanes: dict[int, StreamName] = {}
    for name, count, silent in steps:
        ids = range(device.store.next_id, device.store.next_id + count)
        device.put(name.stream or "", *[b"x"] * count, leaf=name.leaf)
        awaited[name] += ids
        device.answers = not silent
        device.turn()
        lanes |= {id: lane_of(m.candidate)[0] for id, m in device.delivery.queue.messages.items()}
    device.answers = True
    while device.backlog():
        device.turn()
        lanes |= {id: lane_of(m.candidate)[0] for id, m in device.delivery.queue.messages.items()}
    for name, in_order in awaited.items():
        assert [id for id in dict.fromkeys(device.sent) if id in set(in_order)] == in_order
        assert {lanes[id] for id in in_order if id in lanes} <= {name}
    assert sorted(set(device.sent)) == list(range(first, device.store.next_id))
