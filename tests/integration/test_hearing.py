"""What the hub says: on disk before the hub is told so, whatever dies, and never at telemetry's cost."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from runtime.adapters.bus.hub_line import LineToUpload
from runtime.adapters.hub.paho_wire import PahoWire
from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.process import Stop
from runtime.adapters.process.status_file import read_status
from runtime.core.delivery.connection import ConnectionState
from runtime.core.delivery.link_budget import LinkPolicy
from runtime.core.identity.credentials import HubCredentials
from runtime.core.management import hub_line_ends
from runtime.core.management import listening as listening_decisions
from runtime.core.management.hub_channels import (
    HubChannel,
    command_properties_of,
    method_of,
    method_response_topic,
    reported_patch_topic,
    twin_get_topic,
    twin_response_of,
)
from runtime.core.management.hub_line import HubDown, HubMessage, HubUp, PublishOutcome
from runtime.core.management.listening import MUTE_S
from runtime.core.secret import Secret
from runtime.devcloud.state.hub_limits import Tier
from runtime.workers import upload, upload_management
from runtime.workers.upload_management import IMPOSSIBLE
from tests.integration.test_hub_commands import listening
from tests.support.harness import Home, eventually
from tests.support.hub_in_thread import DEVICE, HubInThread
from tests.support.relay_world import RelayWorld
from tests.support.upload import put_in_force


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides see each other at once, and calls are given up soon."""
    monkeypatch.setattr(hub_line_ends, "BEAT_S", 0.05)
    monkeypatch.setattr(upload_management, "CALL_WAITS_S", 0.3)
    monkeypatch.setattr(listening_decisions, "SETTLE_S", 0.5)


@pytest.fixture
def world(hub: HubInThread, home: Home) -> Iterator[RelayWorld]:
    with contextlib.closing(RelayWorld(hub, home)) as world:
        yield world


def command(hub: HubInThread, payload: bytes = b"go") -> None:
    hub.call(lambda: hub.cloud.send_command(DEVICE, payload, {"n": "1"}, time.time()))


def waiting(hub: HubInThread) -> int:
    """Commands that the hub does not count as completed."""
    return len(hub.call(lambda: hub.cloud.commands_for(DEVICE)))


def is_muted(world: RelayWorld) -> bool:
    return str(world.relay.record(world.now())["management"]).startswith("muted")


def mid(message: HubMessage) -> str:
    return command_properties_of(message.topic)["$.mid"]


def test_the_subscriptions_follow_the_first_acknowledged_telemetry(
    hub: HubInThread, world: RelayWorld
) -> None:
    hub.faults(withhold_acks=True)
    world.send(3)
    world.until(lambda: len(hub.messages()) == 3)
    world.now.more_s += 5
    world.turn()
    assert not listening(hub), "nothing was subscribed"
    hub.faults()
    world.until(world.listening)
    assert world.delivered() and not world.losses


def test_a_command_is_acknowledged_after_it_was_stored_and_not_before(
    hub: HubInThread, world: RelayWorld
) -> None:
    """Management is killed before its commit: the same command comes to the next one."""
    world.stores = False
    world.listen()
    command(hub)
    world.until(lambda: world.messages)
    world.send(50)
    world.until(world.delivered)
    assert waiting(hub) == 1
    world.kill_management()
    world.start_management()
    world.stores = True
    world.until(lambda: waiting(hub) == 0)
    first, second = world.messages
    assert mid(first) == mid(second) and second.payload == b"go"
    assert not world.losses


def test_a_command_whose_puback_died_with_upload_comes_again_under_its_own_id(
    hub: HubInThread, world: RelayWorld
) -> None:
    """After the commit and before the PUBACK: DUP, and the same id, by which management knows it."""
    world.stores = False
    world.listen()
    command(hub)
    world.until(lambda: world.messages)
    assert world.management is not None
    world.kill_upload()
    world.management.end.stored(world.messages[0].number)  # says so to a process that is gone
    world.stores = True
    world.start_upload()
    world.until(lambda: waiting(hub) == 0)
    first, again = world.messages
    assert again.dup and not first.dup and mid(first) == mid(again)
    assert [type(said) for said in world.news].count(HubDown) >= 1


def test_fifty_owed_pubacks_hold_up_neither_telemetry_nor_the_discard(
    hub: HubInThread, world: RelayWorld
) -> None:
    world.stores = False
    world.listen()
    for n in range(50):
        command(hub, b"%d" % n)
    world.until(lambda: len(world.messages) == 50)
    world.send(500)
    world.until(world.delivered)
    assert waiting(hub) == 50 and not world.losses
    assert world.management is not None
    for message in reversed(world.messages):  # the hub drops a device whose PUBACKs are out of order
        world.management.end.stored(message.number)
    world.until(lambda: waiting(hub) == 0)
    assert not world.losses
    for n in range(50):
        command(hub, b"%d" % n)
    world.until(lambda: len(world.messages) == 100)
    began_s = time.monotonic()
    world.kill_upload()
    assert time.monotonic() - began_s < 5


def test_with_management_away_commands_stay_at_the_hub_and_calls_are_answered_at_once(
    hub: HubInThread, world: RelayWorld
) -> None:
    world.listen()
    world.kill_management()
    command(hub)
    began_s = time.monotonic()
    call = asyncio.run_coroutine_threadsafe(hub.cloud.call_method(DEVICE, "ping", None, 30.0), hub.loop)
    world.send(50)
    world.until(lambda: call.done() and world.delivered())
    status, body = call.result()
    assert status == 503 and b"does not run" in body
    assert time.monotonic() - began_s < 3
    assert waiting(hub) == 1
    world.start_management()
    world.until(lambda: waiting(hub) == 0)
    assert [message.channel for message in world.messages] == [HubChannel.COMMANDS], "the call is over"


def test_twin_requests_and_calls_go_by_the_line_and_are_booked(hub: HubInThread, world: RelayWorld) -> None:
    world.listen()
    before = world.link.usage.day_messages
    get, patch = world.publish(twin_get_topic("g1")), world.publish(reported_patch_topic("p1"), b'{"a":1}')
    world.until(lambda: len(world.outcomes) == 2 and len(world.messages) == 2)
    assert world.outcomes == [PublishOutcome(get, acked=True), PublishOutcome(patch, acked=True)]
    answers = [twin_response_of(message.topic) for message in world.messages]
    assert [(answer.status, answer.rid) for answer in answers if answer] == [(200, "g1"), (204, "p1")]
    assert world.link.usage.day_messages == before + 4, "two requests, and two answers"
    hub.call(lambda: hub.cloud.patch_desired(DEVICE, {"speed": 3}, time.time()))
    call = asyncio.run_coroutine_threadsafe(hub.cloud.call_method(DEVICE, "ping", 1, 30.0), hub.loop)
    world.until(lambda: len(world.messages) == 4)
    by_channel = {message.channel: message for message in world.messages[2:]}
    assert b'"speed": 3' in by_channel[HubChannel.DESIRED].payload
    method = method_of(by_channel[HubChannel.METHODS].topic)
    assert method is not None and method.name == "ping"
    world.publish(method_response_topic(200, method.rid), b'"pong"')
    world.until(call.done)
    assert call.result() == (200, b'"pong"')
    assert world.relay.record(world.now())["management"] == "listening"


def test_outside_the_agreed_hours_calls_are_answered_and_the_twin_waits(
    hub: HubInThread, world: RelayWorld
) -> None:
    world.listen()
    world.link.policy = LinkPolicy(messages_per_day=1)
    world.link.usage.day_messages = 1
    state = world.until(lambda: isinstance(world.news[-1], HubUp) and world.news[-1].held and world.news[-1])
    assert "budget" in state.held
    refused = world.publish(twin_get_topic("g1"))
    world.until(lambda: PublishOutcome(refused, acked=False) in world.outcomes)
    call = asyncio.run_coroutine_threadsafe(hub.cloud.call_method(DEVICE, "ping", 1, 30.0), hub.loop)
    world.until(lambda: world.messages)
    method = method_of(world.messages[0].topic)
    assert method is not None
    world.publish(method_response_topic(200, method.rid), b"1")
    world.until(call.done)
    assert call.result()[0] == 200


def test_on_a_basic_tier_telemetry_flows_and_management_is_muted_until_the_tier_is_raised(
    hub: HubInThread, world: RelayWorld
) -> None:
    hub.call(lambda: hub.cloud.change_limits({"tier": Tier.BASIC}))
    world.until(lambda: world.delivered() and (world.send(1) or is_muted(world)))
    muted = world.until(lambda: isinstance(world.news[-1], HubDown) and world.news[-1])
    assert muted.reason == "muted: the hub drops the connection"
    assert len(world.losses) == 3, "one for each SUBSCRIBE"
    world.send(500)
    world.until(world.delivered)
    assert len(world.losses) == 3 and world.delivery.suspects == [], "no message is suspected for it"
    hub.call(lambda: hub.cloud.change_limits({"tier": None}))
    world.now.more_s += MUTE_S
    world.listen()
    assert len(world.losses) == 3


@pytest.mark.parametrize("drop_at", ["twin-get", "twin-patch"])
def test_a_hub_that_drops_us_over_the_twin_mutes_it(
    hub: HubInThread, world: RelayWorld, drop_at: str
) -> None:
    hub.faults(drop_at=drop_at)
    topic = {"twin-get": twin_get_topic("r"), "twin-patch": reported_patch_topic("r")}[drop_at]
    for count in (1, 2, 3):
        world.listen()
        world.publish(topic, b"{}" if drop_at == "twin-patch" else b"")
        world.until(lambda count=count: len(world.losses) == count)
        world.send(20)
        world.until(world.delivered)
    assert is_muted(world)
    assert all(not outcome.acked for outcome in world.outcomes) and len(world.outcomes) == 3


def test_a_hub_that_is_late_with_management_gets_more_time_on_the_next_client(
    hub: HubInThread, world: RelayWorld
) -> None:
    """Thirty seconds of ours were taken for evidence against a hub that throttles, each time again."""
    world.listen()
    hub.faults(withhold_acks=True)
    before, patience = world.link.usage.day_messages, world.delivery.sender.patience
    before_s = patience.current_s
    world.publish(twin_get_topic("g1"))
    world.until(lambda: world.link.usage.day_messages > before, "it is on its way")
    world.now.more_s += before_s + 0.1
    world.until(lambda: world.outcomes)
    assert not world.outcomes[0].acked and patience.current_s > before_s
    world.until(lambda: world.delivery.connection.state is ConnectionState.UP)


def test_a_refused_subscription_is_seen_and_telemetry_goes_on(hub: HubInThread, world: RelayWorld) -> None:
    hub.faults(refuse_subscribe=True)
    world.send(1)
    world.until(lambda: world.relay.record(world.now())["management"] == "listening")
    record = world.relay.record(world.now())
    assert record["management_channels"] == [] and len(record["management_refused"]) == len(HubChannel)
    world.send(20)
    world.until(world.delivered)
    assert not world.losses


def test_switched_off_while_it_runs_it_unsubscribes_and_commands_stay(
    hub: HubInThread, world: RelayWorld
) -> None:
    world.listen()
    world.relay.switch(DEVICE, world.now(), on=False)
    world.until(lambda: not listening(hub))  # before, the hub would send it and lock it for a minute
    command(hub)
    world.send(20)
    world.until(world.delivered)
    assert waiting(hub) == 1
    world.relay.switch(DEVICE, world.now(), on=True)
    assert world.relay.record(world.now())["management_channels"] == []
    world.send(1)
    world.until(lambda: waiting(hub) == 0)
    assert not world.losses


def test_packet_ids_come_round_and_no_telemetry_is_acknowledged_falsely(
    hub: HubInThread, world: RelayWorld
) -> None:
    """By `paho.subscribe` itself an id stays behind: 65,535 later a PUBLISH with it passed for delivered."""
    world.listen()
    world.publish(twin_get_topic("g1"))
    world.until(lambda: world.outcomes)
    client = world.connection._client
    assert client is not None and client.wire is not None
    assert not client.wire._transport._op_manager._unknown_operation_completions
    client.wire._paho._last_mid = 65_535  # the ids of the subscriptions are next
    hub.faults(withhold_acks=True)
    world.send(20)
    world.until(lambda: len(hub.messages()) >= 20)
    for _ in range(20):
        world.turn()
    assert world.delivery.in_flight == 20, "none has a PUBACK"
    hub.faults()
    world.until(world.delivered)


def test_a_command_that_comes_again_before_it_is_stored_is_acknowledged_by_its_new_packet(
    hub: HubInThread, world: RelayWorld
) -> None:
    """The hub's lock ends: it comes again on the same connection, and a PUBACK for the old one is ignored."""
    hub.call(lambda: hub.cloud.change_limits({"command_lock_s": 0.3}))
    world.stores = False
    world.listen()
    command(hub)
    world.until(lambda: len(world.messages) == 2)
    assert world.management is not None
    for message in world.messages:
        world.management.end.stored(message.number)
    world.stores = True
    world.until(lambda: waiting(hub) == 0)
    assert len({mid(message) for message in world.messages}) == 1 and not world.losses


def test_a_twin_request_that_the_hub_refuses_by_quota_has_the_quota_looked_into(
    hub: HubInThread, world: RelayWorld
) -> None:
    world.listen()
    hub.faults(twin={"GET": {"status": 403}})
    world.publish(twin_get_topic("g1"))
    world.until(lambda: world.messages)
    assert world.relay.drain_quota_doubt() and not world.relay.drain_quota_doubt()
    world.publish(reported_patch_topic("p1"), b"{}")
    world.until(lambda: len(world.messages) == 2)
    assert not world.relay.drain_quota_doubt(), "this one was answered well"


def test_a_hub_that_drops_us_over_a_puback_mutes_it_and_telemetry_goes_on(
    hub: HubInThread, world: RelayWorld
) -> None:
    """The session is the hub's: the command comes again on each connection, whatever is subscribed."""
    world.listen()
    hub.faults(drop_at="puback")
    command(hub)
    world.until(lambda: is_muted(world))
    assert len(world.losses) == 3
    world.send(200)
    world.until(lambda: world.delivered() and len(world.messages) > 3)
    assert len(world.losses) == 3 and waiting(hub) == 1, "it is not acknowledged while mute"
    hub.faults()
    world.now.more_s += MUTE_S
    world.kill_upload()
    world.start_upload()
    world.until(lambda: waiting(hub) == 0)


def test_without_the_librarys_inside_there_is_no_management_and_telemetry_goes_on(
    hub: HubInThread, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PahoWire, "find", classmethod(lambda cls, *_: None))
    with contextlib.closing(RelayWorld(hub, home)) as world:
        world.send(20)
        world.until(lambda: world.delivered() and HubDown(IMPOSSIBLE) in world.news)
        assert world.relay.record(world.now())["management"] == IMPOSSIBLE
        world.now.more_s += 100
        world.send(20)
        world.until(world.delivered)
        assert not world.losses and not listening(hub)


def test_the_worker_itself_passes_on_what_the_hub_says(hub: HubInThread, home: Home) -> None:
    home.write_config(
        f'[upload]\nca_file = "{hub.ca_file}"\n[management]\nenabled = true\n[log]\nlevel = "WARNING"\n'
    )
    put_in_force(home.layout, HubCredentials(hub.address, DEVICE, generation=1, sas=Secret(hub.sas())))
    line, stop = LineToUpload(home.layout), Stop()
    line.end.listen(frozenset({HubChannel.COMMANDS}))
    worker = threading.Thread(target=upload.run, args=(home.config, stop))
    worker.start()
    now, status_file = SystemClock().boot_s, home.layout.status_file("upload")

    def message() -> HubMessage | None:
        news = line.receive(now())
        line.send(now())
        return next((said for said in news if isinstance(said, HubMessage)), None)

    try:
        eventually(lambda: message() or listening(hub))
        command(hub)
        line.end.stored(eventually(message).number)
        line.send(now())
        eventually(lambda: waiting(hub) == 0)
        eventually(lambda: (read_status(status_file) or {}).get("management") in ("subscribing", "listening"))
    finally:
        stop.ask()
        worker.join(20)
        line.close()
