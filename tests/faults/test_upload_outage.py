"""The hub is away for long, under load: tried with patience, then all arrives, and nobody is blamed."""

from __future__ import annotations

import time

import pytest

from tests.support.harness import Cloud, Home, at_full_size, eventually
from tests.support.upload import backlog, check_arrivals, endings, put, put_in_force, quarantined, register

AWAY_S = at_full_size(240.0, 6.0)
RETRY_MAX_S = at_full_size(60.0, 1.0)
POISON = b"poison"


def begin(home: Home, cloud: Cloud, retry_max_s: float) -> None:
    before, _, after = cloud.config_toml().rpartition("retry_max_s = 2")  # the last one is upload's
    home.write_config(f"{before}retry_max_s = {retry_max_s}{after}")
    put_in_force(home.layout, register(cloud))
    home.start_worker("ingest")
    home.start_worker("upload")
    eventually(lambda: home.layout.messages_db.exists())


def put_for(home: Home, seconds: float, payloads: list[bytes], pause_s: float) -> None:
    """Messages of three streams, at a pace, for so long."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        more = [b"m-%06d" % n for n in range(len(payloads), len(payloads) + 20)]
        put(home, {"stream": f"s{len(payloads) // 20 % 3}"}, *more)
        payloads += more
        due_s = time.monotonic() + pause_s
        eventually(lambda at=due_s: time.monotonic() >= at, 2 * pause_s + 1)  # the load's pace


@pytest.mark.timeout(AWAY_S + 2 * RETRY_MAX_S + 120)
def test_a_hub_that_was_away_for_minutes_gets_everything_in_order_when_it_is_back(
    home: Home, cloud: Cloud
) -> None:
    begin(home, cloud, RETRY_MAX_S)
    payloads: list[bytes] = []
    put_for(home, 1.0, payloads, 0.05)
    cloud.faults(poison=POISON.decode())
    cloud.hub(up=False)
    put(home, {"stream": "bad"}, POISON)
    put_for(home, AWAY_S, payloads, AWAY_S / 100)
    attempts = endings(home)
    assert quarantined(home) == {}, "nobody is to blame for an outage"
    assert 3 <= attempts <= 3 * min(AWAY_S, 30) + AWAY_S / RETRY_MAX_S * 8, "a storm of attempts"
    cloud.hub(up=True)
    eventually(lambda: backlog(home) == 0, RETRY_MAX_S + 60)
    check_arrivals(cloud, payloads)
    assert list(quarantined(home)) == [POISON]


@pytest.mark.timeout(at_full_size(600, 120))
def test_a_hub_that_throttles_by_dropping_condemns_nobody_and_gets_everything(
    home: Home, cloud: Cloud
) -> None:
    """It takes a few messages of each connection, then cuts it: for as long as it pleases."""
    cloud.faults(drop_after_messages=5, ack_delay_ms=5)
    begin(home, cloud, 0.2)
    payloads = [b"m-%d" % n for n in range(at_full_size(1000, 60))]
    put(home, {"stream": "s"}, *payloads)
    eventually(lambda: backlog(home) == 0, at_full_size(500, 60))
    check_arrivals(cloud, payloads)
    assert quarantined(home) == {}
