"""A message whose PUBACK never comes is noticed, though others are acknowledged all the time."""

from __future__ import annotations

from runtime.core.delivery.actions import Candidate, Discard, Send
from runtime.core.delivery.connection_state import DeliveryLimits
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.events import Acked, Connected
from runtime.core.delivery.window import CongestionWindow, Pace


def test_one_missing_acknowledgement_among_others_is_noticed() -> None:
    delivery = Delivery(Pace(CongestionWindow(4)), DeliveryLimits(ack_s=30.0))
    delivery.credentials(1, 0.0)
    delivery.steps(0.0, 0.5)
    delivery.report(Connected(1), 0.0, 0.5)
    delivery.offer(Candidate(1, "lost"))
    now, discarded = 0.0, False
    for id in range(2, 400):
        delivery.offer(Candidate(id, "other"))
        steps = delivery.steps(now, 0.5)
        discarded = discarded or any(isinstance(step, Discard) for step in steps)
        now += 1.0
        for step in steps:
            if isinstance(step, Send) and step.tag[0] != 1:
                delivery.report(Acked(1, step.tag), now, 0.5)
    assert discarded, "message 1 waits for its acknowledgement since 400 s"
