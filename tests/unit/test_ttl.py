"""The ttl of a message: when it is over, by clocks that may never have been set."""

from __future__ import annotations

import math

from runtime.core.delivery.ttl import expires_s
from runtime.core.message import StoredMessage
from runtime.core.moment import Moment
from tests.unit.test_envelope import stored

NOON = 1_800_014_400.0


def expiring(**more: object) -> StoredMessage:
    fields = {"ttl_s": 100.0, "stored_wall_s": NOON, "stored_boot_s": 50.0, "stored_boot_id": "one"}
    return stored(**{**fields, **more})  # type: ignore[arg-type]


def expires(message: StoredMessage, now: Moment, *, synchronised: bool = True) -> float | None:
    return expires_s(message, now, synchronised=synchronised)


def test_a_message_expires_by_the_boot_clock_whatever_the_wall_clock_does() -> None:
    for wall_s in (0.0, NOON, NOON + 10 * 366 * 86_400):
        for synchronised in (False, True):
            assert expires(expiring(), Moment(wall_s, 80.0, "one"), synchronised=synchronised) == 150.0
    assert expires(expiring(ttl_s=None), Moment(NOON, 80.0, "one")) is None


def test_after_a_reboot_only_a_believable_wall_clock_expires_a_message() -> None:
    assert expires(expiring(), Moment(NOON + 60, 20.0, "two")) == 60.0
    assert expires(expiring(), Moment(0.0, 20.0, "two")) == math.inf
    assert expires(expiring(stored_wall_s=None), Moment(NOON, 20.0, "two")) == math.inf


def test_a_clock_that_is_wrong_and_looks_right_expires_nothing() -> None:
    """Ahead by months now: what was stored five minutes ago had expired."""
    ahead = Moment(NOON + 90 * 86_400, 20.0, "two")
    assert expires(expiring(ttl_s=3_600.0), ahead, synchronised=False) == math.inf
    assert expires(expiring(ttl_s=3_600.0), ahead) != math.inf
