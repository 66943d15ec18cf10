"""The stand-in's command queue: every command ends in one final state, and its sender learns which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.devcloud.state.commands import CommandOptions, CommandQueue, FeedbackMode, topic_time
from runtime.devcloud.state.database import Database
from runtime.devcloud.state.hub_limits import HubLimits, Tier
from runtime.devcloud.state.problems import Problem

DEVICE, OTHER = "demo:dev-1", "demo:dev-2"
FULL = FeedbackMode.FULL


class World:
    """A queue whose limits a test may change."""

    def __init__(self, folder: Path) -> None:
        self.limits = HubLimits()
        self.database = Database(folder / "devcloud.db")
        self.queue = CommandQueue(self.database, lambda: self.limits, "life of {}".format)

    def send(self, at_s: float = 0.0, device_id: str = DEVICE, **options: Any) -> int:
        return self.queue.enqueue(device_id, b"go", {}, CommandOptions(**options), at_s).seq

    def states(self) -> list[str]:
        return [row["state"] for row in self.queue.records(None, 0, 100)]

    def feedback(self) -> list[tuple[str, str]]:
        return [(row["message_id"], row["status"]) for row in self.queue.feedback(0, 100)]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.database.close()


def test_fifty_commands_may_wait_for_a_device_and_one_more_is_refused_to_its_sender(world: World) -> None:
    first, *_ = [world.send() for _ in range(50)]
    with pytest.raises(Problem) as caught:
        world.send()
    assert (caught.value.status, caught.value.kind) == (403, "hub/deviceMaximumQueueDepthExceeded")
    world.send(device_id=OTHER)
    assert world.queue.complete(first, 1.0)
    world.send()


def test_expired_commands_make_room(world: World) -> None:
    world.limits = world.limits.merge({"commands_pending": 1})
    world.send(at_s=0.0)
    with pytest.raises(Problem):
        world.send(at_s=3599.0)
    world.send(at_s=3600.0)
    assert world.states() == ["expired", "enqueued"]


def test_every_final_state_has_its_feedback_and_the_first_one_counts(world: World) -> None:
    world.limits = world.limits.merge({"lock_end_counts": True, "command_deliveries": 2})
    done, late, dead = (world.send(message_id=name, ack=FULL) for name in ("done", "late", "dead"))
    assert world.queue.complete(done, 1.0)
    assert not world.queue.complete(done, 2.0)
    for _ in range(2):
        world.queue.delivered(dead)
        world.queue.lock_ended(dead, 3.0)
    assert world.states() == ["completed", "enqueued", "deadLettered"]
    assert world.queue.expire(3600.0) == 1
    assert not world.queue.complete(late, 3601.0)
    world.send(message_id="gone", ack=FULL, at_s=3601.0)
    assert world.queue.purge(DEVICE, 3602.0) == 1
    assert world.feedback() == [
        ("done", "Success"),
        ("dead", "DeliveryCountExceeded"),
        ("late", "Expired"),
        ("gone", "Purged"),
    ]


@pytest.mark.parametrize(
    ("ack", "wanted"),
    [
        (None, ""),
        (FeedbackMode.NONE, ""),
        (FeedbackMode.POSITIVE, "+"),
        (FeedbackMode.NEGATIVE, "-"),
        (FeedbackMode.FULL, "+-"),
    ],
)
def test_feedback_comes_only_as_asked_for(world: World, ack: FeedbackMode | None, wanted: str) -> None:
    world.queue.complete(world.send(message_id="+", ack=ack), 1.0)
    world.send(message_id="-", ack=ack)
    world.queue.expire(1e9)
    assert [message_id for message_id, _ in world.feedback()] == list(wanted)


def test_the_end_of_a_lock_counts_only_where_it_is_told_to(world: World) -> None:
    """Over MQTT the real hub was seen to send an unacknowledged command until it expires."""
    command = world.send()
    for _ in range(100):
        world.queue.delivered(command)
        world.queue.lock_ended(command, 1.0)
    assert world.states() == ["enqueued"]


def test_a_sender_may_name_the_expiry_or_leave_out_the_message_id(world: World) -> None:
    world.send(at_s=1000.0, expires_at_s=1001.5, message_id="")
    (command,) = world.queue.pending(DEVICE)
    assert command.system == {"$.exp": "1970-01-01T00:16:41.5000000Z"} and command.message_id == ""
    world.queue.expire(1001.5)
    assert world.states() == ["expired"]


def test_times_in_a_topic_have_seven_digits() -> None:
    assert topic_time(1595686465.172) == "2020-07-25T14:14:25.1720000Z"


@pytest.mark.parametrize(
    ("properties", "options", "payload", "status"),
    [
        ({"a b": "1"}, {}, b"", 400),
        ({"a": "ü"}, {}, b"", 400),
        ({"": "1"}, {}, b"", 400),
        ({}, {"message_id": "a/b"}, b"", 400),
        ({}, {"message_id": "x" * 129}, b"", 400),
        ({}, {"expires_at_s": -1.0}, b"", 400),
        ({}, {"expires_at_s": 3 * 86400.0}, b"", 400),
        ({}, {}, bytes(64 * 1024 + 1), 413),
        ({"a": "b"}, {}, bytes(64 * 1024), 413),
    ],
)
def test_what_the_hub_does_not_take_from_a_sender_is_refused(
    world: World, properties: dict[str, str | None], options: dict[str, object], payload: bytes, status: int
) -> None:
    with pytest.raises(Problem) as caught:
        world.queue.enqueue(DEVICE, payload, properties, CommandOptions(**options), 0.0)  # type: ignore[arg-type]
    assert caught.value.status == status
    assert world.states() == []


def test_a_deleted_device_takes_its_commands_and_their_feedback_with_it(world: World) -> None:
    world.queue.complete(world.send(ack=FULL), 1.0)
    world.send(device_id=OTHER)
    world.queue.forget(DEVICE)
    assert (world.states(), world.feedback()) == (["enqueued"], [])


@pytest.mark.parametrize(
    "asked",
    [
        {"tier": "free"},
        {"command_lock_s": 0},
        {"command_lock_s": True},
        {"commands_pending": 51},
        {"commands_pending": 1.5},
        {"command_ttl_s": 3 * 86400},
        {"lock_end_counts": 1},
        {"locks": 1},
    ],
)
def test_limits_that_the_hub_cannot_have_are_refused(asked: dict[str, object]) -> None:
    with pytest.raises(Problem):
        HubLimits().merge(asked)


def test_a_limit_is_set_and_taken_back() -> None:
    limits = HubLimits().merge({"tier": "basic", "command_lock_s": 0.5})
    assert (limits.tier, limits.command_lock_s) == (Tier.BASIC, 0.5)
    assert limits.merge({"tier": None, "command_lock_s": None}) == HubLimits()


def test_a_database_of_an_earlier_version_gets_the_columns_that_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "devcloud.db"
    old = Database(path)
    for column in ("state", "expires_at", "deliveries"):
        old.execute("DROP INDEX IF EXISTS commands_enqueued")
        old.execute(f"ALTER TABLE commands DROP COLUMN {column}")
    old.execute(
        "INSERT INTO commands (device_id, message_id, payload, properties, queued_at)"
        " VALUES ('d', 'm', '', '{}', 0)"
    )
    old.close()
    again = Database(path)
    assert again.rows("SELECT state, deliveries FROM commands") == [{"state": "expired", "deliveries": 0}]
    again.close()
