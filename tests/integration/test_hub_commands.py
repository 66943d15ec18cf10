"""What comes down while nothing on the device handles it: it is not acknowledged, and asked for no more."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from loguru import logger

from runtime.adapters.hub import inbound
from runtime.core.identity.credentials import HubCredentials
from runtime.core.secret import Secret
from runtime.devcloud.mqtt.topics import Channel
from tests.integration.test_hub import message
from tests.support.harness import eventually
from tests.support.hub_in_thread import DEVICE, HubInThread
from tests.support.upload import Line, acked


@pytest.fixture
def line(hub: HubInThread) -> Line:
    return Line(SimpleNamespace(facts={"ca_file": hub.ca_file}))  # type: ignore[arg-type]  # all that it looks at


@pytest.fixture
def said() -> Iterator[list[str]]:
    inbound.logged_channels.clear()
    lines: list[str] = []
    sink = logger.add(lines.append, level="WARNING", format="{message}")
    yield lines
    logger.remove(sink)


def credentials(hub: HubInThread) -> HubCredentials:
    return HubCredentials(hub.address, DEVICE, generation=1, sas=Secret(hub.sas()))


def leave_a_session(hub: HubInThread) -> None:
    """As the published SDK does: it listens, and its session stays at the hub."""
    with hub.client() as client:
        client.connect()
        client.on_message_received = queue.Queue[Any]().put
        client.on_twin_desired_properties_patch_received = queue.Queue[Any]().put
        eventually(lambda: {Channel.COMMANDS, Channel.DESIRED_CHANGES} <= listening(hub))


def listening(hub: HubInThread) -> set[Channel]:
    kept = hub.call(lambda: hub.cloud.database.recall(f"session of {DEVICE}"))
    return {Channel[name] for name in json.loads(kept or "{}").get("channels", {})}


def test_a_command_that_nothing_handles_stays_at_the_hub_and_telemetry_goes_on(
    hub: HubInThread, line: Line, said: list[str]
) -> None:
    """It was acknowledged and thrown away: the cloud was told of a success, and memory grew."""
    leave_a_session(hub)
    for n in range(20):
        hub.call(lambda n=n: hub.cloud.send_command(DEVICE, b"%d" % n, {}, time.time()))
    number = line.connect(credentials(hub))
    for n in range(50):
        line.hub.send(n, message(n))
    line.until(lambda seen: len(acked(seen)) == 50)
    eventually(lambda: Channel.COMMANDS not in listening(hub), what="its channel is unsubscribed")
    assert len(hub.call(lambda: hub.cloud.commands_for(DEVICE))) == 20, "none counts as delivered"
    assert len([text for text in said if "cloud-to-device message not acknowledged" in text]) == 1
    client = line.hub._client
    assert client is not None and client.wire is not None
    manager = client.wire._transport._op_manager
    eventually(lambda: not manager._pending_operation_callbacks)
    assert not manager._unknown_operation_completions, "a packet id that would acknowledge telemetry later"
    line.discard(number)


def test_a_session_is_left_once_and_a_later_command_costs_nothing(
    hub: HubInThread, line: Line, said: list[str]
) -> None:
    leave_a_session(hub)
    hub.call(lambda: hub.cloud.send_command(DEVICE, b"first", {}, time.time()))
    number = line.connect(credentials(hub))
    eventually(lambda: Channel.COMMANDS not in listening(hub))
    line.discard(number)
    hub.call(lambda: hub.cloud.send_command(DEVICE, b"second", {}, time.time()))
    number = line.connect(credentials(hub))
    line.hub.send("there", message(1))
    line.until(lambda seen: acked(seen) == ["there"])
    line.discard(number)
    assert len(hub.call(lambda: hub.cloud.commands_for(DEVICE))) == 2
    assert len(said) == 1


def test_a_change_of_the_twin_that_nothing_handles_is_asked_for_no_more(
    hub: HubInThread, line: Line, said: list[str]
) -> None:
    leave_a_session(hub)
    number = line.connect(credentials(hub))
    hub.call(lambda: hub.cloud.patch_desired(DEVICE, {"interval": 5}, time.time()))
    eventually(lambda: Channel.DESIRED_CHANGES not in listening(hub))
    assert Channel.COMMANDS in listening(hub), "of that nothing came"
    line.discard(number)
    assert len(said) == 1
