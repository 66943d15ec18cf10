"""MQTT over WebSockets, where 8883 is blocked: the real client, the real frames, the same guarantees."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from runtime.adapters.hub import mqtt_client as hub_adapter
from runtime.core.delivery.envelope import Telemetry
from runtime.core.delivery.events import Cause, Closed
from runtime.core.proxy_url import parse
from runtime.core.secret import Secret
from runtime.devcloud.addresses import HTTPS_PORT
from tests.support.harness import Cloud, Home, eventually
from tests.support.proxy import proxying
from tests.support.upload import (
    Line,
    acked,
    backlog,
    check_arrivals,
    losses,
    put,
    put_in_force,
    register,
    uploading,
)


@pytest.fixture
def proxy_url(cloud: Cloud) -> Iterator[str]:
    """The library asks for port 443. Who may not listen there is led to the stand-in's by a proxy."""
    if cloud.facts["websocket_port"] == HTTPS_PORT:
        yield ""
        return
    with proxying(ports={HTTPS_PORT: cloud.facts["websocket_port"]}) as proxy:
        yield proxy.url()


@pytest.fixture
def line(cloud: Cloud, proxy_url: str) -> Line:
    return Line(cloud, websockets=True, proxy=parse(Secret(proxy_url)) if proxy_url else None)


def message(number: int, payload: bytes = b"x") -> Telemetry:
    return Telemetry(f"m-{number}", payload, (("n", str(number)),), "text/plain")


def test_the_fast_way_below_the_library_works_over_websockets_too(cloud: Cloud, line: Line) -> None:
    line.connect(register(cloud))
    client = line.hub._client
    assert client is not None and client.wire is not None
    assert type(client.wire._paho._sock).__name__ == "WebsocketWrapper", "this is no WebSocket"
    plain = client.wire.socket
    assert plain is not None
    assert plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    cloud.faults(withhold_acks=True)
    for number in range(200):
        line.hub.send(number, message(number, b"x" * (100_000 if number % 50 == 49 else number)))
    eventually(lambda: cloud.message_count() == 200, what="more than paho's 20 are in flight")
    cloud.no_faults()
    line.until(lambda seen: len(acked(seen)) == 200)
    assert [m.message_id for m in cloud.messages()] == [f"m-{n}" for n in range(200)]
    assert len(cloud.messages()[49].payload) == 100_000
    line.discard(1)


@pytest.mark.parametrize("mode", ["abrupt", "polite"])
def test_a_dropped_websocket_is_told_once_and_the_next_one_connects(
    cloud: Cloud, line: Line, mode: str
) -> None:
    credentials = register(cloud)
    for number in range(1, 4):
        line.connect(credentials)
        cloud.faults(withhold_acks=True)
        for n in range(50):
            line.hub.send(n, message(n))
        cloud.drop(mode)
        line.until(lambda seen, number=number: len(losses(seen)) == number)
        line.discard(number)
        cloud.no_faults()
    assert {lost.cause for lost in losses(line.seen)} == {Cause.DROPPED}


def test_a_silent_hub_behind_a_websocket_can_be_let_go_of_at_once(cloud: Cloud, line: Line) -> None:
    line.connect(register(cloud))
    cloud.faults(silent=True)
    line.hub.send(1, message(1))
    began_s = time.monotonic()
    line.discard(1)
    assert time.monotonic() - began_s < hub_adapter.DISCARD_DEADLINE_S
    assert Closed(1) in line.seen


def test_a_hub_that_is_away_behind_its_https_server_is_unreachable(cloud: Cloud, line: Line) -> None:
    credentials = register(cloud)
    cloud.hub(up=False)
    line.hub.open(credentials)
    line.until(lambda seen: bool(losses(seen)))
    assert losses(line.seen)[0].cause is Cause.UNREACHABLE
    line.discard(1)


def test_telemetry_survives_drops_of_a_websocket_under_load(home: Home, cloud: Cloud, proxy_url: str) -> None:
    uploading(home, cloud, toml=f'websockets = true\nproxy = "{proxy_url}"')
    payloads = [b"%d" % n for n in range(1500)]
    cloud.faults(ack_delay_ms=5)
    for start in range(0, len(payloads), 300):
        put(home, {"stream": "s"}, *payloads[start : start + 300])
        eventually(lambda done=start + 100: cloud.message_count() >= done, what="it goes on after a drop")
        cloud.drop("abrupt" if start % 600 else "polite")
    eventually(lambda: backlog(home) == 0)
    check_arrivals(cloud, payloads)


def test_a_renewed_sas_is_taken_over_websockets_without_losing_a_message(
    home: Home, cloud: Cloud, proxy_url: str
) -> None:
    before = uploading(home, cloud, toml=f'websockets = true\nproxy = "{proxy_url}"')
    payloads = [b"%d" % n for n in range(200)]
    put(home, {"stream": "s"}, *payloads[:100])
    eventually(lambda: backlog(home) == 0)
    put_in_force(home.layout, register(cloud, before.device_id.partition(":")[2]))
    put(home, {"stream": "s"}, *payloads[100:])
    eventually(lambda: len(cloud.connections()) == 2, what="a second connection, with the new SAS")
    eventually(lambda: backlog(home) == 0)
    check_arrivals(cloud, payloads)
