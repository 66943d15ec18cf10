"""Names are given back: whoever invents them without end locks out itself at most."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.store.upload_reader import UploadReader
from runtime.adapters.store.writer import MessageStore
from runtime.core.ingest.admission import MeasureFiles
from runtime.core.ingest.protocol import Code, Put, Refusal, Reply, Stored
from runtime.core.ingest.quota import EARLIER, OWNER_SHARES, Amount, Limit, OverflowPolicy, Quota
from runtime.core.message import StreamName
from runtime.core.settlement import Settled
from runtime.workers.store_housekeeping import TIDY_S
from runtime.workers.store_manager import StoreManager
from tests.support.harness import Home
from tests.support.store_tools import ObedientClock, ever_lost, keep, put

STREAMS, PRODUCERS = 20, 30
TROUBLE, HONEST = "user 1001", "user 1000"


class World:
    def __init__(self, home: Home) -> None:
        home.write_config(
            f"[ingest]\nmax_producers = {PRODUCERS}\n[store]\nmax_streams = {STREAMS}\nmin_free_bytes = 0\n"
        )
        self.path = home.layout.messages_db
        self.clock = ObedientClock()
        self.open(home)

    def open(self, home: Home) -> None:
        self.keeper = StoreManager(home.config, self.clock)

    def put(self, request: Put) -> Reply | MeasureFiles:
        self.clock.boot += TIDY_S
        keys = {request.producer} if request.producer else set()
        admission = self.keeper.admission(keys, Settled())
        reply = admission.decide(request)
        self.keeper.commit(admission, Settled())
        return reply

    def say(self, stream: str, owner: str = TROUBLE) -> Reply | MeasureFiles:
        return self.put(put([b"x"], stream=stream, owner=owner))

    def ask(self, query: str) -> list[tuple[object, ...]]:
        with sqlite3.connect(self.path) as db:
            return db.execute(query).fetchall()


@pytest.fixture
def world(home: Home) -> Iterator[World]:
    made = World(home)
    yield made
    made.keeper.close()


def code_of(reply: object) -> str | None:
    return reply.code if isinstance(reply, Refusal) else None


def ids_of(reply: object) -> list[int]:
    assert isinstance(reply, Stored), reply
    return [number for number in reply.ids if number is not None]


def test_streams_with_nothing_stored_give_their_names_back_and_what_they_did_stays_counted(
    world: World, home: Home
) -> None:
    """After `store.max_streams` names every new stream was refused for ever, with an empty store."""
    delivered, dropped = 0, 0
    for number in range(10 * STREAMS):
        if number == 5 * STREAMS:
            world.keeper.close()
            world.open(home)
        ids = ids_of(world.say(f"invented-{number}"))
        if number % 3:
            world.keeper.commit(None, Settled(delivered=ids))
            delivered += 1
        else:
            world.keeper.commit(None, Settled(dropped=[(ids[0], "expired")]))
            dropped += 1
    assert world.ask("SELECT sum(stored), sum(delivered), sum(messages), sum(bytes) FROM levels") == [
        (delivered + dropped, delivered, 0, 0)
    ]
    assert world.ask("SELECT reason, sum(messages) FROM losses GROUP BY reason") == [("expired", dropped)]
    assert world.ask(f"SELECT count(*) <= {STREAMS + 1} FROM streams") == [(1,)]
    assert len(world.keeper._usable()._levels.levels) <= STREAMS + 1, "nor are they kept in memory"
    assert world.ask("SELECT count(*) FROM levels WHERE stream NOT IN (SELECT id FROM streams)") == [(0,)]


def test_a_stream_keeps_its_name_while_anything_of_it_is_stored_or_set_aside(world: World) -> None:
    ids_of(world.say("stored"))
    aside = ids_of(world.say("set aside"))
    world.keeper.commit(None, Settled(quarantined=[(aside[0], "poison")]))
    for number in range(3 * STREAMS):
        world.keeper.commit(None, Settled(delivered=ids_of(world.say(f"invented-{number}"))))
    names = {str(name) for (name,) in world.ask("SELECT stream FROM streams")}
    assert {"stored", "set aside", EARLIER.stream} <= names
    world.keeper.commit(None, Settled(requeued=aside))
    reader = UploadReader(world.path)
    try:
        found, whole = reader.find(0, 10_000, 10, 10**6)
    finally:
        reader.close()
    assert whole and [getattr(message, "stream", None) for message in found] == ["stored", "set aside"]


def test_a_dropped_message_of_a_stream_without_a_name_that_the_hub_has_after_all_ends_no_store(
    tmp_path: Path,
) -> None:
    """The commit stood, the worker died of a KeyError, and the next start took the store for damaged."""
    quota = Quota(Limit(Amount(2, 10**9), OverflowPolicy.DROP_OLDEST))
    path = tmp_path / "messages.db"
    store = MessageStore(path, ObedientClock(), policies=quota.policies())
    for stream in ("short-lived", "other", "other"):
        keep(store, put([b"x"], stream=stream), quota=quota)
    assert ever_lost(store) == {(StreamName(None, "short-lived"), OverflowPolicy.DROP_OLDEST): Amount(1, 1)}
    assert store.give_back_streams(10)
    keep(store, put([b"x"], stream="other"), quota=quota, settled=Settled(delivered=[1, 2]))
    assert ever_lost(store) == {(EARLIER, OverflowPolicy.DROP_OLDEST): Amount(0, 0)}
    assert store.figures()["messages"] == 2
    store.close()
    store = MessageStore(path, ObedientClock(), policies=quota.policies())
    assert store.figures()["messages"] == 2
    store.close()


def test_the_number_of_a_stream_is_never_used_again(world: World) -> None:
    seen: set[object] = set()
    for number in range(3 * STREAMS):
        world.keeper.commit(None, Settled(delivered=ids_of(world.say(f"invented-{number}"))))
        ((fresh,),) = world.ask(f"SELECT id FROM streams WHERE stream = 'invented-{number}'")
        assert fresh not in seen
        seen.add(fresh)


def test_whoever_holds_all_names_of_streams_keeps_no_other_owner_from_having_a_few(world: World) -> None:
    for number in range(STREAMS):
        ids_of(world.say(f"taken-{number}"))
    assert code_of(world.say("one more")) == Code.TOO_MANY_STREAMS
    for number in range(STREAMS // OWNER_SHARES):
        ids_of(world.say(f"mine-{number}", HONEST))
    assert code_of(world.say("another", HONEST)) == Code.TOO_MANY_STREAMS
    ids_of(world.say("mine-0", HONEST))
    assert code_of(world.say("one more")) == Code.TOO_MANY_STREAMS
    assert StreamName(None, "mine-0") in world.keeper._usable()._streams


def test_whoever_invents_producers_keeps_no_other_owner_from_being_met(world: World) -> None:
    """10,000 names in 15 s locked out every new producer and every `edgectl send`."""

    def comes(name: str, owner: str) -> str | None:
        return code_of(world.put(put([b"x"], producer=name, first=1, owner=owner)))

    for number in range(PRODUCERS):
        assert comes(f"invented-{number}", TROUBLE) is None
    assert comes("one-more", TROUBLE) == Code.TOO_MANY_PRODUCERS
    for number in range(PRODUCERS // OWNER_SHARES):
        assert comes(f"mine-{number}", HONEST) is None
    assert comes("too-many", HONEST) == Code.TOO_MANY_PRODUCERS
    assert comes("one-more", TROUBLE) == Code.TOO_MANY_PRODUCERS
    repeat = world.put(put([b"x"], producer="mine-0", first=1, owner=HONEST))
    assert isinstance(repeat, Stored) and repeat.repeated == 1


def test_that_holds_after_a_restart_too(world: World, home: Home) -> None:
    for number in range(PRODUCERS):
        world.put(put([b"x"], producer=f"invented-{number}", first=1, owner=TROUBLE))
    world.keeper.close()
    world.open(home)
    assert code_of(world.put(put([b"x"], producer="more", first=1, owner=TROUBLE))) == Code.TOO_MANY_PRODUCERS
    assert code_of(world.put(put([b"x"], producer="mine", first=1, owner=HONEST))) is None
