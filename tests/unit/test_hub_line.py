"""The hub line: frames may be lost or come twice, processes may die, and what is said arrives once."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.management.hub_channels import HubChannel
from runtime.core.management.hub_line import (
    FromManagement,
    FromUpload,
    HubDown,
    HubMessage,
    HubUp,
    ListenTo,
    MessageStored,
    PublishAtHub,
    PublishOutcome,
    decode_from_management,
    decode_from_upload,
    encode_from_management,
    encode_from_upload,
)
from runtime.core.management.hub_line_ends import (
    BEAT_S,
    CALL_WAITS_S,
    MOST_PUBLISHES,
    RESEND_S,
    SILENT_S,
    ManagementEnd,
    UploadEnd,
)
from runtime.errors import Rejected

UP = HubUp(1, "demo:dev-1", frozenset({HubChannel.COMMANDS}))
GET = "$iothub/twin/GET/?$rid=1"
NUMBERS = st.integers(0, 2**53)
CHANNELS = st.frozensets(st.sampled_from(HubChannel))
TOPICS = st.text(st.characters(codec="utf-8"), max_size=30)


def command(number: int, received_s: float = 0.0, channel: HubChannel = HubChannel.COMMANDS) -> HubMessage:
    return HubMessage(1, number, channel, "topic", b"go", received_s=received_s)


class World:
    """Both ends, and the frames between them."""

    def __init__(self) -> None:
        self.now = 100.0
        self.upload, self.management = UploadEnd("u1"), ManagementEnd("m1", 1)
        self.management.listen(frozenset({HubChannel.COMMANDS}))
        self.at_management: list[FromUpload] = []
        self.at_upload: list[FromManagement] = []

    def exchange(self, *, lost_up: bool = False, lost_down: bool = False, rounds: int = 3) -> None:
        for _ in range(rounds):
            for frames in self.upload.due(self.now):
                if not lost_up:
                    self.at_management += self.management.received(frames, self.now)
            self.at_management += self.management.overdue(self.now)
            for frames in self.management.due(self.now):
                if not lost_down and (said := self.upload.received(frames, self.now)) is not None:
                    self.at_upload.append(said)

    def later(self, seconds: float) -> None:
        self.now += seconds

    def of(self, kind: type[FromUpload] | type[FromManagement]) -> list[object]:
        return [said for said in [*self.at_management, *self.at_upload] if isinstance(said, kind)]


@given(
    st.one_of(
        st.builds(HubUp, NUMBERS, TOPICS, CHANNELS, TOPICS),
        st.builds(HubDown, TOPICS),
        st.builds(
            HubMessage, NUMBERS, NUMBERS, st.sampled_from(HubChannel), TOPICS, st.binary(max_size=50),
            st.booleans(), st.floats(0, 1e9),
        ),
        st.builds(PublishOutcome, NUMBERS, st.booleans()),
    )
)  # fmt: skip
def test_what_upload_says_is_read_as_it_was_said(said: FromUpload) -> None:
    assert decode_from_upload(encode_from_upload("s", said)) == ("s", said)


@given(
    st.one_of(
        st.builds(ListenTo, CHANNELS),
        st.builds(MessageStored, NUMBERS),
        st.builds(PublishAtHub, NUMBERS, NUMBERS, st.just(GET), st.binary(max_size=50)),
    )
)
def test_what_management_says_is_read_as_it_was_said(said: FromManagement) -> None:
    assert decode_from_management(encode_from_management("s", said)) == ("s", said)


@given(st.lists(st.binary(max_size=40) | st.just(b'{"kind":"up","session":"s"}'), max_size=3))
def test_any_other_frames_are_refused_and_change_nothing(frames: list[bytes]) -> None:
    for decode in (decode_from_upload, decode_from_management):
        with pytest.raises(Rejected):
            decode(frames)
    assert UploadEnd("u").received(frames, 0.0) is None and ManagementEnd("m", 1).received(frames, 0.0) == []


@pytest.mark.parametrize("topic", ["devices/d/messages/events/", "$iothub/methods/POST/x", ""])
def test_management_publishes_to_no_other_topic(topic: str) -> None:
    """A telemetry message by this way would not be in the store."""
    frames = encode_from_management("m", PublishAtHub(1, 1, topic, b""))
    with pytest.raises(Rejected, match="not a topic"):
        decode_from_management(frames)


def test_the_state_is_told_on_each_change_and_both_see_who_is_there() -> None:
    world = World()
    assert world.upload.is_away(world.now)
    world.exchange()
    world.upload.set_state(UP)
    world.exchange()
    world.exchange()
    assert world.at_management == [HubDown("upload starts"), UP], "the first change, and no repeat"
    assert not world.upload.is_away(world.now)
    assert ListenTo(frozenset({HubChannel.COMMANDS})) in world.at_upload
    assert world.upload.next_s(world.now) == world.now + BEAT_S
    world.later(SILENT_S + 0.1)
    world.exchange(lost_up=True)
    assert HubDown("upload does not answer") in world.at_management[2:]
    assert world.upload.is_away(world.now)
    world.later(BEAT_S)
    world.exchange()
    assert world.at_management[-1] == UP and not world.upload.is_away(world.now)


def test_a_message_is_repeated_until_it_is_stored_and_passed_on_once() -> None:
    world = World()
    world.upload.set_state(UP)
    world.upload.add(command(7))
    world.exchange(lost_up=True)
    assert not world.of(HubMessage)
    world.later(RESEND_S)
    world.exchange()
    world.later(RESEND_S)
    world.exchange()
    assert world.of(HubMessage) == [command(7)]
    world.management.stored(7)
    world.exchange(lost_down=True)
    assert not world.of(MessageStored)
    world.later(RESEND_S)
    world.exchange()
    assert world.of(MessageStored) == [MessageStored(7)] and world.of(HubMessage) == [command(7)]
    world.later(RESEND_S)
    frames = world.upload.due(world.now)
    assert len(frames) == 1, "the state alone"


def test_another_process_of_management_is_sent_at_once_what_is_not_stored() -> None:
    world = World()
    world.upload.set_state(UP)
    world.exchange()
    world.upload.add(command(7))
    world.exchange()
    world.management = ManagementEnd("m2", 1_000)
    world.management.listen(frozenset())
    world.later(BEAT_S)
    world.exchange()
    assert world.of(HubMessage) == [command(7), command(7)]
    assert world.management.state == UP


def test_another_process_of_management_is_sent_first_what_came_first() -> None:
    """It took the newest command, which came in the moment of its start, before all that waited."""
    world = World()
    world.upload.set_state(UP)
    world.exchange()
    world.upload.add(command(7))
    world.exchange()
    world.management, world.at_management = ManagementEnd("m2", 1_000), []
    world.management.listen(frozenset())
    world.upload.add(command(8))
    for _ in range(3):
        world.exchange()
    assert world.of(HubMessage) == [command(7), command(8)]


def test_nothing_is_repeated_to_a_management_that_does_not_answer() -> None:
    """Each repeat stayed in the socket of a worker that was stopped: 60 kB a command every two seconds."""
    world = World()
    world.exchange()
    world.upload.add(command(7))
    world.later(SILENT_S + 0.1)
    for _ in range(10):
        world.later(RESEND_S)
        assert len(world.upload.due(world.now)) == 1, "the state alone"
        assert world.upload.next_s(world.now) == world.now + BEAT_S
    world.later(BEAT_S)
    world.exchange()
    assert world.of(HubMessage) == [command(7)]


def test_a_message_that_was_withdrawn_is_repeated_no_more() -> None:
    world = World()
    world.exchange()
    world.upload.add(command(7))
    world.exchange(lost_up=True)
    world.upload.withdraw(7)
    world.later(RESEND_S)
    world.exchange()
    assert not world.of(HubMessage)


def test_a_call_that_management_comes_to_too_late_is_not_served() -> None:
    """Upload has told the caller that management is away."""
    world = World()
    world.upload.add(command(7, world.now, HubChannel.METHODS))
    world.later(CALL_WAITS_S + 0.1)
    world.exchange()
    assert not world.of(HubMessage) and world.of(MessageStored) == [MessageStored(7)]
    world.upload.add(command(8, world.now, HubChannel.METHODS))
    world.exchange()
    assert [said.number for said in world.of(HubMessage) if isinstance(said, HubMessage)] == [8]


def test_a_publish_is_repeated_until_its_outcome_is_known_and_carried_out_once() -> None:
    world = World()
    assert world.management.publish(GET, b"") is None, "no connection"
    world.upload.set_state(UP)
    world.exchange()
    number = world.management.publish(GET, b"")
    assert number is not None
    world.exchange(lost_down=True)
    world.later(RESEND_S)
    world.exchange()
    world.later(RESEND_S)
    world.exchange()
    assert world.of(PublishAtHub) == [PublishAtHub(1, number, GET, b"")]
    world.upload.published(number, acked=True)
    world.exchange(lost_up=True)
    world.later(RESEND_S)
    world.exchange()
    assert world.of(PublishOutcome) == [PublishOutcome(number, acked=True)]
    assert len(world.of(PublishAtHub)) == 1
    assert not world.management.due(world.now)


@pytest.mark.parametrize("state", [HubDown("lost"), HubUp(2, "demo:dev-1")])
def test_a_publish_ends_lost_with_its_connection(state: HubUp | HubDown) -> None:
    world = World()
    world.upload.set_state(UP)
    world.exchange()
    number = world.management.publish(GET, b"")
    assert number is not None
    world.upload.set_state(state)
    world.exchange(lost_down=True)
    expected = [HubDown("another connection")] if isinstance(state, HubUp) else []
    assert world.at_management[1:] == [PublishOutcome(number, acked=False), *expected, state]


def test_another_process_of_upload_ends_the_connection_and_its_publishes() -> None:
    world = World()
    world.upload.set_state(UP)
    world.exchange()
    number = world.management.publish(GET, b"")
    world.upload = UploadEnd("u2")
    world.upload.add(command(1))
    world.exchange()
    assert PublishOutcome(number or 0, acked=False) in world.at_management
    assert isinstance(world.management.state, HubDown)
    assert len(world.of(HubMessage)) == 1


def test_publishes_are_bounded() -> None:
    world = World()
    world.upload.set_state(UP)
    world.exchange()
    given_numbers = [world.management.publish(GET, b"") for _ in range(MOST_PUBLISHES + 5)]
    assert given_numbers[-5:] == [None] * 5 and None not in given_numbers[:MOST_PUBLISHES]
    assert not world.management.has_room


@pytest.mark.parametrize("seed", range(30))
def test_whatever_is_lost_each_thing_arrives_once_in_the_end(seed: int) -> None:
    chance = random.Random(seed)
    world = World()
    world.upload.set_state(UP)
    asked: set[int] = set()
    for number in range(1, 21):
        world.upload.add(command(number))
        if isinstance(world.management.state, HubUp) and (mine := world.management.publish(GET, b"")):
            asked.add(mine)
        world.exchange(lost_up=chance.random() < 0.5, lost_down=chance.random() < 0.5, rounds=1)
        for said in world.of(HubMessage):
            assert isinstance(said, HubMessage)
            world.management.stored(said.number)
        for wanted in world.of(PublishAtHub):
            assert isinstance(wanted, PublishAtHub)
            world.upload.published(wanted.number, acked=True)
        world.later(chance.random())
    for _ in range(6):
        world.exchange()
        for said in world.of(HubMessage):
            assert isinstance(said, HubMessage)
            world.management.stored(said.number)
        for wanted in world.of(PublishAtHub):
            assert isinstance(wanted, PublishAtHub)
            world.upload.published(wanted.number, acked=True)
        world.later(RESEND_S)
    numbers = [said.number for said in world.of(HubMessage) if isinstance(said, HubMessage)]
    assert sorted(numbers) == list(range(1, 21))
    outcomes = [said.number for said in world.of(PublishOutcome) if isinstance(said, PublishOutcome)]
    assert sorted(outcomes) == sorted(asked)
