"""A message whose PUBACK never comes is noticed, though others are acknowledged all the time."""

from __future__ import annotations

from runtime.core.delivery.actions import Candidate, Discard, Send
from runtime.core.delivery.connection import DeliveryLimits
from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.events import Acked, Connected
from runtime.core.delivery.link_budget import LinkBudget
from runtime.core.delivery.window import CongestionWindow


def test_one_missing_acknowledgement_among_others_is_noticed() -> None:
    delivery = Delivery(CongestionWindow(4), LinkBudget(), DeliveryLimits(ack_s=30.0))
    delivery.set_credentials(1, 0.0)
    delivery.actions(0.0, 0.5)
    delivery.on_event(Connected(1), 0.0, 0.5)
    delivery.offer(Candidate(1, "lost"), 0.0)
    now, discarded = 0.0, False
    for id in range(2, 400):
        delivery.offer(Candidate(id, "other"), now)
        steps = delivery.actions(now, 0.5)
        discarded = discarded or any(isinstance(step, Discard) for step in steps)
        now += 1.0
        for step in steps:
            if isinstance(step, Send) and step.tag[0] != 1:
                delivery.on_event(Acked(1, step.tag), now, 0.5)
    assert discarded, "message 1 waits for its acknowledgement since 400 s"
