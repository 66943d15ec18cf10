"""Packet ids have 16 bits: where they come round, a library that kept an old PUBACK would lie."""

from __future__ import annotations

import sys

import pytest

from tests.support.harness import Cloud, Home, Process, eventually
from tests.support.small_packet_ids import LARGEST
from tests.support.upload import backlog, check_arrivals, prepare, put, quarantined

COUNT = 4 * LARGEST


@pytest.mark.timeout(200)
def test_nothing_counts_as_delivered_that_the_hub_does_not_have_when_packet_ids_come_round(
    home: Home, cloud: Cloud
) -> None:
    prepare(home, cloud)
    words = ("--home", str(home.folder), "worker", "upload")
    log = home.layout.log / "upload.log"
    home.workers["upload"] = Process(sys.executable, "-m", "tests.support.small_packet_ids", *words, log=log)
    payloads = [b"%d" % n for n in range(COUNT)]
    for n in range(0, COUNT, 1000):
        put(home, {"stream": "s"}, *payloads[n : n + 1000])
    for floor in (500, 1_500, COUNT - 2_000, COUNT - 1_000):  # most of them on one connection
        eventually(lambda f=floor: cloud.message_count() > f, 120)
        cloud.drop("abrupt")
    eventually(lambda: backlog(home) == 0, 120)
    check_arrivals(cloud, payloads)
    assert quarantined(home) == {}
