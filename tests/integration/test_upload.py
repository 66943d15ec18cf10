"""upload and ingest at work, against the stand-in: what is acknowledged arrives in order."""

from __future__ import annotations

from tests.harness import Cloud, Home, eventually
from tests.lines import backlog, check_arrivals, put, uploading


def test_messages_of_several_streams_arrive_in_order_and_leave_the_store(home: Home, cloud: Cloud) -> None:
    uploading(home, cloud)
    payloads = [f"{n}".encode() for n in range(1000)]
    for start in range(0, 1000, 100):
        put(home, {"stream": f"s{start // 100 % 3}"}, *payloads[start : start + 100])
    eventually(lambda: cloud.message_count() == 1000)
    check_arrivals(cloud, payloads)
    eventually(lambda: backlog(home) == 0)
