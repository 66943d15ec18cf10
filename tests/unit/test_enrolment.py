"""Provisioning: every state and every answer, and what the device does next."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.backoff import LONGEST_RETRY_AFTER_S
from runtime.core.identity.enrolment import (
    REFUSED_PAUSE_S,
    Call,
    Enrolment,
    EnrolmentPolicy,
    EnrolmentState,
    Wish,
    adopted,
    after,
    next_step,
    restored,
    settled,
)
from runtime.core.identity.platform_answer import (
    NAMELESS_TIMES,
    Outcome,
    PlatformAnswer,
    PlatformResult,
    ProvisioningOperation,
)
from runtime.core.moment import Moment
from runtime.core.secret import Secret

POLICY = EnrolmentPolicy(poll_s=5, retry_max_s=300, cancelled_pause_s=3600)
WISH = Wish("platform:443", "mark-1", "dev-1")
NOW = Moment(1_000_000, 1000, "boot")


def later(seconds: float) -> Moment:
    return Moment(NOW.wall_s + seconds, NOW.boot_s + seconds, NOW.boot_id)


FRESH = Enrolment(basis=WISH.basis())
PENDING = Enrolment(EnrolmentState.PENDING, WISH.basis(), "op", "CODE", at=NOW, pause_s=5)
WEATHER = [
    Outcome.PRECONDITION,
    Outcome.DISABLED,
    Outcome.THROTTLED,
    Outcome.UNAVAILABLE,
    Outcome.UNEXPECTED,
    Outcome.GARBLED,
    Outcome.TIMED_OUT,
    Outcome.CUT,
    Outcome.UNREACHABLE,
    Outcome.PROXY,
    Outcome.NAME_UNKNOWN,
    Outcome.TLS_FAILED,
    Outcome.WRONG_TIME,
    Outcome.NO_CERTIFICATE,
]
# (call, outcome) -> state afterwards, and the call that comes next (None: no call until a fact changes)
TABLE: dict[tuple[Call, Outcome], tuple[EnrolmentState, Call | None]] = {
    (Call.INIT, Outcome.BAD_REQUEST): (EnrolmentState.REJECTED, Call.INIT),
    (Call.INIT, Outcome.UNAUTHORIZED): (EnrolmentState.TOKEN_REFUSED, Call.INIT),
    (Call.INIT, Outcome.FORBIDDEN): (EnrolmentState.TOKEN_REFUSED, Call.INIT),
    (Call.INIT, Outcome.NOT_YET): (EnrolmentState.FRESH, Call.INIT),
    (Call.INIT, Outcome.GONE): (EnrolmentState.FRESH, Call.INIT),
    (Call.INIT, Outcome.CANCELLED): (EnrolmentState.FRESH, Call.INIT),
    (Call.COMPLETE, Outcome.NOT_YET): (EnrolmentState.PENDING, Call.COMPLETE),
    (Call.COMPLETE, Outcome.BAD_REQUEST): (EnrolmentState.PENDING, Call.COMPLETE),
    (Call.COMPLETE, Outcome.UNAUTHORIZED): (EnrolmentState.TOKEN_REFUSED, Call.COMPLETE),
    (Call.COMPLETE, Outcome.FORBIDDEN): (EnrolmentState.TOKEN_REFUSED, Call.COMPLETE),
    (Call.COMPLETE, Outcome.GONE): (EnrolmentState.FRESH, Call.INIT),
    (Call.COMPLETE, Outcome.CANCELLED): (EnrolmentState.CANCELLED, Call.INIT),
    **{(Call.INIT, weather): (EnrolmentState.FRESH, Call.INIT) for weather in WEATHER},
    **{(Call.COMPLETE, weather): (EnrolmentState.PENDING, Call.COMPLETE) for weather in WEATHER},
}


def test_the_table_names_every_answer_to_every_call() -> None:
    bad = {o for o in Outcome if not o.good and o is not Outcome.ABANDONED}
    assert set(TABLE) == {(call, outcome) for call in Call for outcome in bad}


@pytest.mark.parametrize(("call", "outcome"), TABLE, ids=lambda one: one.name)
def test_every_answer_leads_where_the_table_says_after_a_pause(call: Call, outcome: Outcome) -> None:
    state, next_call = TABLE[call, outcome]
    record = FRESH if call is Call.INIT else PENDING
    found = after(record, call, PlatformAnswer(outcome, reason="words"), POLICY, NOW, 0.5)
    step = next_step(settled(found, WISH, False), WISH, False, NOW)
    assert (found.state, step.call) == (state, next_call)
    assert step.call is None or step.in_s >= 1, "an answer must never lead to a tight loop"
    if outcome is not Outcome.NOT_YET or call is Call.INIT:
        assert (found.trouble, found.reason) == (outcome, "words")


def test_an_operation_that_the_platform_knows_no_more_is_not_asked_about_for_ever() -> None:
    """After months in a drawer it may be a 404, for which the contract has no word."""
    record, asked = PENDING, 0
    while record.operation_id and asked < 100:
        record, asked = (
            after(record, Call.COMPLETE, PlatformAnswer(Outcome.UNEXPECTED), POLICY, NOW, 0.5),
            asked + 1,
        )
    assert asked == NAMELESS_TIMES, "a gateway that is set up wrong for a moment costs no operator's approval"
    assert next_step(record, WISH, False, later(record.pause_s)).call is Call.INIT
    outage = replace(PENDING, failures=1000, trouble=Outcome.TIMED_OUT)
    assert (
        after(outage, Call.COMPLETE, PlatformAnswer(Outcome.UNEXPECTED), POLICY, NOW, 0.5).operation_id
        == "op"
    )
    for _ in range(NAMELESS_TIMES - 2):
        outage = after(outage, Call.COMPLETE, PlatformAnswer(Outcome.UNEXPECTED), POLICY, NOW, 0.5)
        assert outage.operation_id == "op", "failures of another kind counted for it"


@given(
    record=st.sampled_from([FRESH, PENDING]),
    outcome=st.sampled_from([o for o in Outcome if not o.good]),
    draw=st.floats(0, 1, exclude_max=True),
    asked_s=st.none() | st.floats(0, 5000),
    failures=st.integers(0, 1000),
)
def test_whatever_comes_there_is_a_way_on_and_retry_after_is_kept(
    record: Enrolment, outcome: Outcome, draw: float, asked_s: float | None, failures: int
) -> None:
    call = Call.COMPLETE if record.operation_id else Call.INIT
    record = replace(record, failures=failures)
    found = after(record, call, PlatformAnswer(outcome, retry_after_s=asked_s), POLICY, NOW, draw)
    step = next_step(found, WISH, False, NOW)
    assert step.call is not None and step.in_s >= max(asked_s or 0, 1)


@pytest.mark.parametrize("outcome", [o for o in Outcome if not o.good], ids=lambda one: one.name)
@pytest.mark.parametrize("record", [FRESH, PENDING], ids=["init", "complete"])
def test_no_answer_puts_the_next_question_off_for_longer_than_two_days(
    record: Enrolment, outcome: Outcome
) -> None:
    """A 202 with `Retry-After: 999999999`: the operator approved, and the device looked days later."""
    call = Call.COMPLETE if record.operation_id else Call.INIT
    found = after(record, call, PlatformAnswer(outcome, retry_after_s=999_999_999.0), POLICY, NOW, 0.5)
    assert found.pause_s <= 2 * LONGEST_RETRY_AFTER_S


@pytest.mark.parametrize("outcome", [o for o in Outcome if not o.good], ids=lambda one: one.name)
def test_no_word_of_a_gateway_ends_an_operation_until_it_was_said_ten_times(outcome: Outcome) -> None:
    """One 400 to `complete`, and the operator's approval was thrown away."""
    record = PENDING
    for _ in range(NAMELESS_TIMES - 1):
        record = after(record, Call.COMPLETE, PlatformAnswer(outcome, own=False), POLICY, NOW, 0.5)
        assert record.operation_id == "op"
    refused = after(FRESH, Call.INIT, PlatformAnswer(outcome, own=False), POLICY, NOW, 0.5)
    assert refused.state is not EnrolmentState.REJECTED
    assert refused.state is not EnrolmentState.TOKEN_REFUSED or outcome is Outcome.UNAUTHORIZED


@pytest.mark.parametrize("outcome", [o for o in Outcome if o.refuses], ids=lambda one: one.name)
@pytest.mark.parametrize("own", [False, True])
def test_an_operation_that_is_refused_for_ever_gives_way_to_another_one(outcome: Outcome, own: bool) -> None:
    record, asked = PENDING, 0
    while record.operation_id:
        record, asked = (
            after(record, Call.COMPLETE, PlatformAnswer(outcome, own=own), POLICY, NOW, 0.5),
            asked + 1,
        )
        record = after(
            record, Call.COMPLETE, PlatformAnswer(Outcome.CUT), POLICY, NOW, 0.5
        )  # between two of them
    assert asked <= NAMELESS_TIMES
    assert next_step(record, WISH, False, later(2 * POLICY.cancelled_pause_s)).call is Call.INIT


def test_a_platform_whose_operations_are_over_at_once_is_not_asked_for_thousands_a_day() -> None:
    """`init` 200 and `complete` 410: 7,692 operations a day."""
    record, now, begun = FRESH, NOW, 0
    while now.boot_s < NOW.boot_s + 86_400:
        step = next_step(settled(record, WISH, False), WISH, False, now)
        assert step.call is not None
        now = Moment(now.wall_s + step.in_s, now.boot_s + step.in_s, now.boot_id)
        begun += step.call is Call.INIT
        value = (
            PlatformAnswer(Outcome.OK, ProvisioningOperation("op", "AB"))
            if step.call is Call.INIT
            else PlatformAnswer(Outcome.GONE)
        )
        record = after(record, step.call, value, POLICY, now, 0.5)
    assert begun < 600


def test_a_token_that_is_dead_on_arrival_does_not_begin_the_next_operation_at_once() -> None:
    """Approvals that come by themselves, and tokens that never register."""
    record = replace(FRESH, begun=8)
    granted = after(
        record, Call.COMPLETE, PlatformAnswer(Outcome.OK, PlatformResult(Secret("t"), None)), POLICY, NOW, 0.5
    )
    assert next_step(granted, WISH, True, NOW).call is None
    assert next_step(settled(granted, WISH, False), WISH, False, later(10)).in_s > 100
    assert next_step(settled(granted, WISH, False), WISH, False, later(86_400)).in_s == 0


def test_a_line_that_is_put_back_needs_no_approval_and_keeps_another_wish() -> None:
    by_hand = adopted(BY_HAND, NOW)
    back = restored(by_hand, WISH.basis())
    assert (back.state, back.basis, back.adopted) == (EnrolmentState.PROVISIONED, WISH.basis(), "hand-1")
    rotated = replace(PENDING, basis=Wish("platform", "mark-2", "dev-1").basis())
    assert restored(rotated, WISH.basis()).state is EnrolmentState.PROVISIONED
    assert restored(PENDING, "made by hand") == Enrolment(EnrolmentState.PROVISIONED, "made by hand")
    other = replace(PENDING, basis=Wish("platform", "mark-1", "dev-2").basis())
    assert restored(other, WISH.basis()) == other, "another wish is not given up"
    assert (
        settled(replace(other, state=EnrolmentState.FRESH), WISH, True, "made by hand").basis
        == "made by hand"
    )


def test_an_approval_is_found_by_polling_at_the_set_pace() -> None:
    begun = after(
        FRESH, Call.INIT, PlatformAnswer(Outcome.OK, ProvisioningOperation("op", "CODE")), POLICY, NOW, 0.5
    )
    assert (begun.state, begun.operation_id, begun.verification_code) == (
        EnrolmentState.PENDING,
        "op",
        "CODE",
    )
    assert next_step(begun, WISH, False, NOW).in_s == POLICY.poll_s
    waiting = after(begun, Call.COMPLETE, PlatformAnswer(Outcome.NOT_YET), POLICY, later(5), 0.5)
    assert next_step(waiting, WISH, False, later(10)).in_s == 0
    done = after(
        waiting,
        Call.COMPLETE,
        PlatformAnswer(Outcome.OK, PlatformResult(Secret("t"), None)),
        POLICY,
        later(10),
        0.5,
    )
    assert (done.state, done.operation_id, done.verification_code) == (EnrolmentState.PROVISIONED, None, None)
    assert next_step(done, WISH, True, later(10)).call is None


def test_an_operator_who_cancelled_is_not_asked_again_in_a_hurry() -> None:
    found = after(
        PENDING, Call.COMPLETE, PlatformAnswer(Outcome.CANCELLED, reason="by Eve"), POLICY, NOW, 0.0
    )
    step = next_step(found, WISH, False, NOW)
    assert (step.state, step.why) == (EnrolmentState.CANCELLED, "by Eve")
    assert step.in_s >= POLICY.cancelled_pause_s


def test_an_expired_operation_is_begun_again_even_if_the_platform_always_says_so() -> None:
    record, now = PENDING, NOW
    pauses = []
    for _ in range(12):
        record = after(record, Call.COMPLETE, PlatformAnswer(Outcome.GONE), POLICY, now, 0.9)
        pauses.append(record.pause_s)
        assert next_step(record, WISH, False, now).call is Call.INIT
    assert pauses[0] <= 10 and pauses[-1] > 100, "a platform that expires at once is not stormed"


def test_a_refused_provisioning_token_waits_visibly_and_a_new_one_is_taken_at_once() -> None:
    found = after(FRESH, Call.INIT, PlatformAnswer(Outcome.UNAUTHORIZED), POLICY, NOW, 0.0)
    assert next_step(found, WISH, False, NOW).in_s >= REFUSED_PAUSE_S
    fresh = Wish(WISH.instance, "mark-2", WISH.device_id)
    step = next_step(settled(found, fresh, False), fresh, False, NOW)
    assert (step.call, step.in_s) == (Call.INIT, 0)


def test_a_rejected_wish_is_asked_for_again_ever_more_seldom_and_another_one_at_once() -> None:
    """One 400 to `init` was for ever."""
    found, pauses = FRESH, list[float]()
    for _ in range(12):
        found = after(
            found, Call.INIT, PlatformAnswer(Outcome.BAD_REQUEST, reason="id is taken"), POLICY, NOW, 0.5
        )
        step = next_step(settled(found, WISH, False), WISH, False, NOW)
        assert (step.state, step.call, step.why) == (EnrolmentState.REJECTED, Call.INIT, "id is taken")
        pauses.append(step.in_s)
    assert pauses[0] >= REFUSED_PAUSE_S and pauses[-1] >= POLICY.cancelled_pause_s / 2
    other = Wish(WISH.instance, WISH.token, "dev-2")
    assert next_step(settled(found, other, False), other, False, NOW).call is Call.INIT


def test_only_the_wish_that_a_token_in_force_was_granted_under_needs_no_other_token() -> None:
    other = Enrolment(EnrolmentState.PENDING, "another wish", "op", "CODE", adopted="x")
    granted = WISH.basis()
    assert settled(other, WISH, True, granted) == Enrolment(
        EnrolmentState.PROVISIONED, WISH.basis(), adopted="x"
    )
    begun = Enrolment(basis=WISH.basis(), adopted="x")
    for has_token, under in ((False, granted), (True, "another"), (True, None)):
        assert settled(other, WISH, has_token, under) == begun


@pytest.mark.parametrize("granted", [None, WISH.basis()])
@pytest.mark.parametrize("instance", ["platform:443", "PLATFORM", "platform"])
def test_a_shared_token_that_is_rotated_makes_no_registered_device_ask_for_approval(
    instance: str, granted: str | None
) -> None:
    done, rotated = Enrolment(EnrolmentState.PROVISIONED, WISH.basis()), Wish(instance, "mark-2", "dev-1")
    still = settled(done, rotated, True, granted)
    assert (still.state, still.basis) == (EnrolmentState.PROVISIONED, rotated.basis())
    assert next_step(still, rotated, True, NOW).call is None
    dead = settled(still, rotated, False)
    assert next_step(dead, rotated, False, NOW).call is Call.INIT, "the new token provisions where it has to"


def test_another_token_is_taken_at_once_where_the_device_is_not_yet_what_it_wishes_to_be() -> None:
    pending = replace(PENDING, basis=Wish("platform:443", "mark-1", "dev-2").basis())
    rotated = Wish("platform:443", "mark-2", "dev-2")
    for has_token in (False, True):  # also beside a token that serves under the id of before
        step = next_step(settled(pending, rotated, has_token, WISH.basis()), rotated, has_token, NOW)
        assert (step.call, step.in_s) == (Call.INIT, 0)


@pytest.mark.parametrize(
    "other", [Wish("other:443", "mark-1", "dev-1"), Wish("platform:443", "mark-1", "dev-2")]
)
def test_another_platform_or_another_wished_id_means_provisioning_again(other: Wish) -> None:
    done = Enrolment(EnrolmentState.PROVISIONED, WISH.basis())
    assert next_step(settled(done, WISH, True), WISH, True, NOW).call is None
    assert next_step(settled(done, other, True), other, True, NOW).call is Call.INIT


def test_a_token_that_is_taken_away_after_it_has_served_changes_nothing() -> None:
    done = Enrolment(EnrolmentState.PROVISIONED, WISH.basis())
    without = Wish(WISH.instance, None, WISH.device_id)
    assert settled(done, without, True) == done
    assert next_step(done, without, True, NOW).state is EnrolmentState.PROVISIONED


def test_a_dead_registration_token_begins_provisioning_again() -> None:
    done = Enrolment(EnrolmentState.PROVISIONED, WISH.basis())
    assert next_step(settled(done, WISH, False), WISH, False, NOW).call is Call.INIT


BY_HAND = Wish("platform:443", None, "dev-1", "hand-1")


def test_a_token_made_by_hand_is_taken_at_once_and_only_once() -> None:
    step = next_step(settled(FRESH, BY_HAND, False), BY_HAND, False, NOW)
    assert (step.adopt, step.in_s) == (True, 0)
    taken = adopted(BY_HAND, NOW)
    assert settled(taken, BY_HAND, True) == taken
    assert next_step(taken, BY_HAND, True, NOW).call is None
    dead = next_step(settled(taken, BY_HAND, False), BY_HAND, False, NOW)
    assert dead.call is None and "made by hand is spent" in dead.why
    another = replace(BY_HAND, by_hand="hand-2")
    assert next_step(settled(taken, another, True), another, True, NOW).adopt


def test_a_provisioning_token_beside_one_made_by_hand_renews_it_and_begins_nothing_anew() -> None:
    taken = adopted(BY_HAND, NOW)
    with_token = replace(BY_HAND, token="mark-1")
    taken_away = replace(with_token, by_hand=None)
    for wish in (with_token, taken_away):
        assert next_step(settled(taken, wish, True), wish, True, NOW).call is None


def test_once_a_token_made_by_hand_is_dead_the_usual_way_is_open_and_it_is_not_taken_again() -> None:
    wish = replace(BY_HAND, token="mark-1")
    dead = settled(adopted(BY_HAND, NOW), wish, False)
    assert next_step(dead, wish, False, NOW).call is Call.INIT
    pending = after(
        dead, Call.INIT, PlatformAnswer(Outcome.OK, ProvisioningOperation("op", "AB")), POLICY, NOW, 0.5
    )
    assert next_step(settled(pending, wish, False), wish, False, NOW).call is Call.COMPLETE
    done = after(
        pending,
        Call.COMPLETE,
        PlatformAnswer(Outcome.OK, PlatformResult(Secret("t"), None)),
        POLICY,
        NOW,
        0.5,
    )
    assert next_step(settled(done, wish, True), wish, True, NOW).call is None
    other_id = replace(wish, device_id="dev-2")
    assert next_step(settled(done, other_id, True), other_id, True, NOW).call is Call.INIT


def test_a_device_without_platform_or_token_says_what_is_missing() -> None:
    nothing, tokenless = Wish(None, None, None), Wish("platform", None, None)
    assert next_step(FRESH, nothing, False, NOW).state is EnrolmentState.UNCONFIGURED
    step = next_step(FRESH, tokenless, False, NOW)
    assert step.state is EnrolmentState.TOKENLESS and "provisioning_token_file" in step.why


def test_a_clock_that_is_set_ends_the_pause_for_a_certificate_that_did_not_count_by_it() -> None:
    wrong = after(FRESH, Call.INIT, PlatformAnswer(Outcome.WRONG_TIME, retry_after_s=600), POLICY, NOW, 0.5)
    assert next_step(wrong, WISH, False, later(5)).in_s > 500
    assert next_step(wrong, WISH, False, Moment(1.8e9, NOW.boot_s + 5, NOW.boot_id)).in_s == 0


def test_a_pause_survives_a_restart_but_not_a_reboot() -> None:
    record = after(FRESH, Call.INIT, PlatformAnswer(Outcome.UNAVAILABLE, retry_after_s=600), POLICY, NOW, 0.5)
    assert next_step(record, WISH, False, later(60)).in_s >= 540
    rebooted = Moment(0, 30, "another boot")
    assert next_step(record, WISH, False, rebooted).in_s == 0
