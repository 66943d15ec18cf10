"""A damaged store that was salvaged is history: it never comes back."""

from __future__ import annotations

from runtime.adapters.salvage import salvage
from runtime.adapters.store import MessageStore
from runtime.adapters.storekeeper import Storekeeper
from runtime.core.settlement import Settled
from tests.harness import Home
from tests.store_tools import ObedientClock, keep, put


def test_a_store_taken_away_after_a_salvage_does_not_bring_back_what_was_delivered(home: Home) -> None:
    path, clock = home.layout.messages_db, ObedientClock()
    store = MessageStore(path, clock)
    keep(store, put([b"x"] * 3))
    store._db.close()
    for _ in salvage(path, "for the test"):
        pass
    store = MessageStore(path, clock)
    store.commit(None, Settled(delivered=[1, 2, 3]))
    store._db.close()
    for file in path.parent.glob("messages.db*"):
        file.unlink()  # a person begins anew
    keeper = Storekeeper(home.config, clock)
    for _ in range(20):
        clock.boot += 1.0
        keeper.keep_house()
    assert keeper.figures()["messages"] == 0
    keeper.close()
