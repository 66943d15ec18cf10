"""A rate that messages and files share, under any use: kept, nobody starves, nothing is owed for ever."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.delivery.engine import Delivery
from runtime.core.delivery.link_budget import FilePermit, LinkBudget, LinkPolicy
from runtime.core.delivery.token_bucket import BURST_S, URGENT_DEBT_S
from runtime.core.delivery.window import CongestionWindow
from tests.support.delivery_world import LIMITS, World
from tests.support.depth import deep

URGENT, PLAIN = 8, 4
PER_S = 1_000.0
MESSAGE, BLOCK = 5_000, 50_000
"""The largest of each: one may overdraw, and is paid for afterwards."""

uses = st.lists(
    st.one_of(
        st.tuples(st.just("message"), st.integers(0, MESSAGE)),
        st.tuples(st.just("weighed"), st.integers(-200, 200)),
        st.tuples(st.just("block"), st.integers(0, BLOCK)),
        st.tuples(st.just("urgent"), st.integers(0, 100_000)),
        st.tuples(st.just("urgent block"), st.integers(0, 100 * BLOCK)),
        st.tuples(st.just("pass"), st.integers(0, 100_000)),
    ),
    max_size=60,
)


def use(link: LinkBudget, what: str, size: int, now: float) -> float:
    """Do it where the link allows it; how many bytes went that were not urgent."""
    match what:
        case "message" if link.allows(PLAIN, now):
            link.sent(size, PLAIN)
            return size
        case "block" if link.files(now) is FilePermit.ALL:
            link.uploaded(size, PLAIN)
            return size
        case "urgent":
            assert link.allows(URGENT, now)
            link.sent(size, URGENT)
        case "urgent block":
            link.uploaded(size, URGENT)
    return 0


@given(uses)
def test_the_rate_is_kept_and_whoever_waits_comes_to_his_turn(steps: list[tuple[str, int]]) -> None:
    link, now, went = LinkBudget(LinkPolicy(bytes_per_s=PER_S, urgent_priority=URGENT)), 0.0, 0.0
    for what, number in steps:
        if what == "pass":
            now += number / 1000
        elif what == "weighed":
            continue
        went += use(link, what, number, now)
        assert went <= PER_S * (now + BURST_S) + MESSAGE + BLOCK
    began, asked = now, 0
    while not (link.allows(PLAIN, now) and link.files(now) is FilePermit.ALL):
        now += max(0.001, link.wait_s(now))
        asked += 1
    assert now - began <= 2 * ((MESSAGE + BLOCK) / PER_S + URGENT_DEBT_S)
    assert asked <= 200, "it turned round without a pause"


@settings(max_examples=deep(40))
@given(uses, st.booleans())
def test_messages_and_files_that_both_want_all_get_half_each_whatever_was_before(
    steps: list[tuple[str, int]], messages_first: bool
) -> None:
    link, now = LinkBudget(LinkPolicy(bytes_per_s=PER_S, urgent_priority=URGENT)), 0.0
    link.wait_s(now)
    for what, number in steps:
        now += number / 1000 if what == "pass" else 0.0
        if what == "weighed":
            link.correct_charge(number)
        use(link, what, number, now)
    now += 2 * (BLOCK / PER_S + URGENT_DEBT_S)  # what was owed is paid
    began, went = now, {"message": 0.0, "block": 0.0}
    while now - began < 100:
        for what in sorted(went, reverse=messages_first):
            while more := use(link, what, 500, now):
                went[what] += more
        now += max(0.001, min(0.5, link.wait_s(now)))
    for bytes_ in went.values():
        assert 0.48 * 100 * PER_S <= bytes_ <= 0.52 * 100 * PER_S


def test_an_hour_of_urgent_messages_beyond_the_rate_does_not_hold_up_the_others_for_hours() -> None:
    """They pass the rate, and what they used of it was owed by everybody else."""
    for terms in (
        LinkPolicy(messages_per_s=1, urgent_priority=8),
        LinkPolicy(bytes_per_s=100, urgent_priority=8),
    ):
        link = LinkBudget(terms)
        for second in range(3_600):
            for _ in range(10):
                assert link.allows(URGENT, second)
                link.sent(100, URGENT)
        assert not link.allows(PLAIN, 3_600.0), "it is paid for, though"
        assert link.allows(PLAIN, 3_601.0 + URGENT_DEBT_S)


def test_a_file_is_begun_though_messages_use_all_of_the_rate() -> None:
    """It was asked whether a message might go, right after the messages: never, while they had any."""
    for terms in (LinkPolicy(bytes_per_s=1_000), LinkPolicy(messages_per_s=10)):
        world = World()
        world.delivery = Delivery(CongestionWindow(8), LinkBudget(terms), LIMITS)
        world.delivery.set_credentials(1, world.now)
        for id in range(1, 200):
            world.store(id, "telemetry")
        world.step()
        world.connect()
        world.store(1000, "files", file=True)
        for _ in range(20):
            world.step()
            world.receive()
            world.acknowledge()
            world.step()
            world.pass_time(max(0.01, world.delivery.wait_s(world.now)))
        assert world.uploads == [1000]
        assert len(world.delivered) < 150, "the rate was not used up"
