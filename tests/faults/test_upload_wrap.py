"""Packet ids have 16 bits: behind 65,535 they come round, and a library that kept an old PUBACK would lie."""

from __future__ import annotations

import pytest

from tests.support.harness import Cloud, Home, eventually
from tests.support.upload import backlog, check_arrivals, put, quarantined, uploading

COUNT = 72_000


@pytest.mark.timeout(400)
def test_nothing_counts_as_delivered_that_the_hub_does_not_have_when_packet_ids_come_round(
    home: Home, cloud: Cloud
) -> None:
    uploading(home, cloud)
    payloads = [b"%d" % n for n in range(COUNT)]
    for n in range(0, COUNT, 1000):
        put(home, {"stream": "s"}, *payloads[n : n + 1000])
    for floor in (1_000, 3_000, 69_000, 70_000):  # 66,000 of them on one connection
        eventually(lambda f=floor: cloud.message_count() > f, 120)
        cloud.drop("abrupt")
    eventually(lambda: backlog(home) == 0, 120)
    check_arrivals(cloud, payloads)
    assert quarantined(home) == {}
