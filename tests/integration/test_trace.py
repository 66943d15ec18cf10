"""`edgectl trace`: what became of one message, by the store's file and upload's last record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.process.process import Lock
from runtime.adapters.process.status_file import StatusFile
from runtime.adapters.store.writer import MessageStore
from runtime.cli.trace import sentence
from runtime.core.settlement import Settled
from runtime.errors import UsageError
from runtime.layout import Layout
from runtime.operations.trace import look_up
from tests.support.harness import Home
from tests.support.store_tools import ObedientClock, keep, put


class Given:
    """A store with three messages, and no process."""

    def __init__(self, folder: Path) -> None:
        self.layout = Layout(folder)
        for path in (self.layout.state, self.layout.run):
            path.mkdir(parents=True)
        self.clock = ObedientClock()
        self.store = MessageStore(self.layout.messages_db, self.clock)
        keep(self.store, put([b"one", b"two", b"three"], producer="press-7", stream="s", first=5))
        self.clock.boot += 60
        self.clock.wall += 60

    def upload_says(self, **figures: Any) -> None:
        record = {"store": self.uuid(), **figures}
        StatusFile(self.layout.status_file("upload"), "upload", self.clock).progress(
            {"state": "up", "trace": record}, now=True
        )

    def uuid(self) -> str:
        ((uuid,),) = self.store._db.execute("SELECT uuid FROM store").fetchall()
        return str(uuid)

    def of(self, id: int) -> dict[str, Any]:
        return look_up(self.layout, self.clock, id)


@pytest.fixture
def given(tmp_path: Path) -> Iterator[Given]:
    world = Given(tmp_path / "home")
    yield world
    world.store.close()


@pytest.fixture
def lives(given: Given) -> Iterator[None]:
    """This process stands for upload."""
    lock = Lock(given.layout.lock("upload"))
    yield
    lock.release()


def test_with_everything_down_a_stored_message_is_known_by_the_store(given: Given) -> None:
    found = given.of(2)
    assert (found["state"], found["upload"], found["ahead"]) == ("stored", "down", 1)
    assert (found["key"], found["stream"], found["bytes"]) == ("press-7/b/6", "-/s", 3)
    assert (found["stored"], found["stored_age_s"]) == ("2027-01-15T08:00:00Z", 60.0)


def test_an_id_that_was_never_given_is_a_mistake_in_one_sentence(given: Given) -> None:
    for id in (-1, 0, 4, 1 << 62):
        with pytest.raises(UsageError, match=f"never was a message {id}; ids given so far: 1 to 3"):
            given.of(id)


def test_a_message_that_was_settled_long_ago_is_no_longer_known(given: Given) -> None:
    given.store.commit(None, Settled(delivered=[1]))
    assert given.of(1) == {"id": 1, "state": "settled", "losses": []}


def test_of_a_message_that_left_the_losses_are_named_that_it_may_be_among(given: Given) -> None:
    given.store.commit(None, Settled(dropped=[(1, "expired"), (3, "expired")]))
    given.store.commit(None, Settled(delivered=[2]))
    (loss,) = given.of(2)["losses"]
    assert (loss["stream"], loss["reason"], loss["ids"], loss["certain"]) == ("-/s", "expired", [1, 3], False)
    assert "perhaps lost: 2 of -/s were expired, with ids from 1 to 3" in sentence(given.of(2))


def test_a_loss_of_every_id_in_its_range_is_certain(given: Given) -> None:
    given.store.commit(None, Settled(dropped=[(1, "expired"), (2, "expired")]))
    assert given.of(2)["losses"][0]["certain"]
    assert sentence(given.of(2)).endswith("lost: expired")


def test_the_owner_of_a_message_is_named(given: Given) -> None:
    assert "owner" not in given.of(1)
    keep(given.store, put([b"four"], producer="press-8", owner="user 1000", stream="s"))
    assert given.of(4)["owner"] == "user 1000"
    assert sentence(given.of(4)).endswith("stored by user 1000")


def test_a_message_in_quarantine_is_known_with_the_reason(given: Given) -> None:
    given.store.commit(None, Settled(quarantined=[(1, "too large")]))
    given.clock.wall += 5
    found = given.of(1)
    assert (found["state"], found["reason"], found["since_s"]) == ("set aside", "too large", 5.0)
    assert found["key"] == "press-7/b/5"


@pytest.mark.usefixtures("lives")
def test_what_upload_knows_of_a_message_is_said_while_it_lives(given: Given) -> None:
    since = given.clock.boot - 3
    record = {"id": 1, "state": "suspect", "since_boot_s": since, "attempts": 4, "failures": 3}
    given.upload_says(states={"in flight": [[2, 2]], "suspect": [[1, 1]]}, records=[record])
    first = given.of(1)
    assert (first["state"], first["since_s"], first["attempts"]) == ("suspect", 3.0, 4)
    assert [given.of(id)["state"] for id in (2, 3)] == ["in flight", "queued"]


def test_what_a_dead_upload_knew_of_a_message_is_not_believed(given: Given) -> None:
    given.upload_says(states={"in flight": [[1, 3]]})
    assert given.of(1)["state"] == "stored"


def test_a_delivery_is_dated_while_it_is_remembered_also_when_upload_is_gone(given: Given) -> None:
    at_s = given.clock.boot - 12
    given.upload_says(delivered=[[1, 2, at_s]])
    given.store.commit(None, Settled(delivered=[1]))
    assert given.of(1) == {"id": 1, "state": "delivered", "delivered_s": 12.0, "removed": True}
    assert (given.of(2)["state"], given.of(2)["removed"]) == ("delivered", False)
    given.clock.reboot()
    assert given.of(1)["state"] == "settled", "that clock began again"


@pytest.mark.usefixtures("lives")
@pytest.mark.parametrize("junk", [None, 7, [1], [[1]], [["a", "b", "c"]], {"states": 3}, [[1, 2, None]]])
def test_a_status_record_may_hold_anything(given: Given, junk: Any) -> None:
    given.upload_says(states=junk, records=junk, delivered=junk)
    assert given.of(1)["state"] == "queued"
    given.upload_says(states={"in flight": junk})
    assert given.of(1)["state"] == "queued"


@pytest.mark.usefixtures("lives")
def test_what_upload_says_of_another_store_is_not_said_of_this_one(given: Given) -> None:
    given.upload_says(store="another", states={"in flight": [[1, 1]]}, delivered=[[2, 2, 1.0]])
    assert [given.of(id)["state"] for id in (1, 2)] == ["queued", "queued"]


def test_the_command_says_it_in_one_line_and_in_its_exit_status(home: Home) -> None:
    home.layout.state.mkdir(parents=True, exist_ok=True)
    absent = home.edgectl("trace", "1")
    assert (absent.returncode, absent.stdout) == (1, "") and "does not exist yet" in absent.stderr
    store = MessageStore(home.layout.messages_db, ObedientClock())
    keep(store, put([b"one", b"two"], producer="press-7", stream="s"))
    store.commit(None, Settled(delivered=[2]))
    store.close()
    stored, settled, never = (home.edgectl("trace", str(id)) for id in (1, 2, 3))
    assert stored.returncode == 0 and stored.stdout.startswith("message 1 is stored, ")
    assert stored.stdout.count("\n") == 1 and "key press-7/b/0, stream -/s, 3 B" in stored.stdout
    assert settled.returncode == 1 and settled.stdout.startswith("message 2 has left the store")
    assert never.returncode == 2 and never.stdout == "" and never.stderr.count("\n") == 1
