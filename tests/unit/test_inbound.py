"""Messages between paho's thread and the loop: bounded, and none beyond is acknowledged."""

from __future__ import annotations

from types import SimpleNamespace

from runtime.adapters.hub.inbound import InboundQueue
from runtime.core.delivery.events import Inbound
from runtime.core.management.owed import MOST_OWED, MOST_OWED_BYTES

TOPIC = "devices/d/messages/devicebound/%24.mid=1"


def came(number: int, size_bytes: int = 1, qos: int = 1, topic: str = TOPIC) -> SimpleNamespace:
    return SimpleNamespace(topic=topic, payload=bytes(size_bytes), mid=number, qos=qos, dup=0)


def test_what_waits_is_bounded_by_count_and_what_is_beyond_keeps_its_place_in_the_order() -> None:
    events: list[Inbound] = []
    inbound = InboundQueue(events.append)
    inbound.on = True
    receive = inbound.receiver(1, lambda: None)
    for number in range(MOST_OWED + 2):
        receive(came(number))
    receive(came(0, qos=0))
    assert [event.too_many for event in events] == [False] * MOST_OWED + [True] * 2
    assert events[-1].packet_id == MOST_OWED + 1 and events[-1].payload == b""
    for event in events:
        inbound.read(event)
    receive(came(1_000))
    assert not events[-1].too_many, "they were read"


def test_what_waits_is_bounded_by_bytes() -> None:
    events: list[Inbound] = []
    inbound = InboundQueue(events.append)
    inbound.on = True
    receive = inbound.receiver(1, lambda: None)
    receive(came(1, MOST_OWED_BYTES))
    receive(came(2, 1))
    assert [event.too_many for event in events] == [False, True]
    inbound.read(events[0])
    receive(came(3, MOST_OWED_BYTES))
    assert not events[-1].too_many


def test_with_management_off_nothing_is_passed_on_and_each_channel_is_left_once() -> None:
    left: list[str] = []
    wire = SimpleNamespace(unsubscribe=left.append)
    inbound = InboundQueue(lambda event: left.append("passed on"))
    receive = inbound.receiver(1, lambda: wire)  # type: ignore[arg-type, return-value]  # all that it calls
    for topic in (TOPIC, TOPIC, "$iothub/methods/POST/m/?$rid=1", "no/channel"):
        receive(came(1, topic=topic))
    assert left == ["devices/d/messages/devicebound/#", "$iothub/methods/POST/#"]
