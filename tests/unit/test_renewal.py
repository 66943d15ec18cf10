"""When tokens are renewed, and what every answer leads to."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.identity.escalation import (
    HOPELESS_TIMES,
    AnswerVerdict,
    Evidence,
    Task,
    judge,
    refuses_token,
)
from runtime.core.identity.platform_answer import NAMELESS_TIMES, Outcome
from runtime.core.identity.renewal import (
    CLEAR_SHARE,
    EXPIRED_PAUSE_S,
    MIN_GAP_S,
    REFUSAL_SERIES_S,
    URGENT_PAUSE_S,
    CredentialState,
    Life,
    Refusals,
    RegistrationState,
    RenewalPolicy,
    RetryPace,
    due_in_s,
    former_pause_s,
    next_step,
    refused_as,
    registration_state,
    renewal_age_s,
    retry_pause_s,
)
from runtime.core.moment import Moment

POLICY = RenewalPolicy()
DAY_S = 86_400.0
NOW = Moment(1_800_000_000, 50_000, "boot")
draws = st.floats(0, 1, exclude_max=True)
lifetimes = st.floats(20, 10 * 365 * DAY_S)


def later(seconds: float, wall_step_s: float = 0) -> Moment:
    return Moment(NOW.wall_s + seconds + wall_step_s, NOW.boot_s + seconds, NOW.boot_id)


def _after(now: Moment, seconds: float) -> Moment:
    return later(now.boot_s - NOW.boot_s + max(0.0, seconds))


def life(lifetime_s: float | None = DAY_S, draw: float = 0.5) -> Life:
    return Life(NOW, lifetime_s, draw)


def registered(sas: Life | None = None, registration: Life | None = None, **more: object) -> CredentialState:
    return CredentialState(registration or life(30 * DAY_S), False, sas or life(), True, **more)  # type: ignore[arg-type]


@given(lifetime_s=lifetimes, draw=draws, fraction=st.floats(0.05, 0.95), jitter=st.floats(0, 0.5))
def test_a_renewal_is_well_clear_of_expiry_and_never_at_once(
    lifetime_s: float, draw: float, fraction: float, jitter: float
) -> None:
    age_s = renewal_age_s(lifetime_s, draw, RenewalPolicy(fraction, jitter))
    assert MIN_GAP_S <= age_s <= lifetime_s - min(60, CLEAR_SHARE * lifetime_s) + 1e-6


@given(lifetime_s=st.floats(0, 1e-3) | st.floats(-1e9, 20), draw=draws)
def test_a_token_that_hardly_lives_or_came_dead_does_not_make_a_tight_loop(
    lifetime_s: float, draw: float
) -> None:
    assert renewal_age_s(lifetime_s, draw, POLICY) >= MIN_GAP_S


def test_a_token_of_30_seconds_is_renewed_with_time_to_spare() -> None:
    ages = [renewal_age_s(30, n / 100, POLICY) for n in range(100)]
    assert min(ages) >= 10 and max(ages) <= 21


def test_a_fleet_that_started_together_spreads_over_half_of_a_lifetime() -> None:
    ages = [renewal_age_s(DAY_S, n / 1000, POLICY) for n in range(1000)]
    assert max(ages) - min(ages) > 0.49 * DAY_S


def test_a_token_without_an_end_is_never_renewed() -> None:
    assert due_in_s(life(None), POLICY, NOW) == math.inf
    assert due_in_s(life(None), POLICY, Moment(0, 1, "another boot")) == math.inf


@given(jump_s=st.floats(-3.2e8, 3.2e8), passed_s=st.floats(0, DAY_S), draw=draws)
def test_a_wall_clock_that_jumps_by_ten_years_moves_no_renewal(
    jump_s: float, passed_s: float, draw: float
) -> None:
    one = life(draw=draw)
    assert due_in_s(one, POLICY, later(passed_s, jump_s)) == due_in_s(one, POLICY, later(passed_s))


def test_after_a_reboot_the_wall_clock_tells_the_age_where_it_can_be_right() -> None:
    rebooted = Moment(NOW.wall_s + 3600, 60, "another boot")
    assert life().age(rebooted) == 3600
    assert due_in_s(life(), POLICY, rebooted) == renewal_age_s(DAY_S, 0.5, POLICY) - 3600


def test_after_a_reboot_a_wall_clock_that_went_on_for_less_than_the_uptime_tells_no_age() -> None:
    """Set back meanwhile: a token of a day would have looked new, and ended in use."""
    rebooted = Moment(NOW.wall_s + 3600, 7200, "another boot")
    assert life().age(rebooted) is None
    assert due_in_s(life(), POLICY, rebooted) <= 0


@given(draw=draws, uptime_s=st.floats(0, 1000), wall_s=st.floats(0, 1.7e9))
def test_a_clock_at_1970_after_a_reboot_means_renewal_within_the_first_minute(
    draw: float, uptime_s: float, wall_s: float
) -> None:
    rebooted = Moment(wall_s, uptime_s, "another boot")
    assert due_in_s(life(draw=draw), POLICY, rebooted) == pytest.approx(draw * 60 - uptime_s)


def test_a_clock_that_is_set_after_a_reboot_is_believed_from_then_on() -> None:
    before, after = Moment(30, 30, "another boot"), Moment(NOW.wall_s + 2 * DAY_S, 31, "another boot")
    assert life().remaining_s(before) is None
    assert life().remaining_s(after) == -DAY_S


def test_the_platforms_word_on_the_remaining_life_replaces_our_own_reckoning() -> None:
    known = life(100).corrected(40, later(10))
    assert (known.remaining_s(later(10)), known.lifetime_s) == (40, 50)
    unknown = life(None).corrected(40, later(10))
    assert (unknown.remaining_s(later(20)), unknown.lifetime_s) == (30, 40)
    rebooted = Moment(30, 30, "another boot")
    of_unknown_age = life(100).corrected(40, rebooted)
    assert (of_unknown_age.remaining_s(rebooted), of_unknown_age.lifetime_s) == (40, 100)


@given(lifetime_s=lifetimes, behind_s=st.floats(0, 60 * 365 * DAY_S), draw=draws, waited_s=st.floats(0, 9))
def test_a_token_that_a_date_far_behind_made_look_old_is_not_renewed_as_soon_as_it_is_proven(
    lifetime_s: float, behind_s: float, draw: float, waited_s: float
) -> None:
    received = life(lifetime_s + behind_s, draw)
    proven = received.corrected(lifetime_s - waited_s, later(waited_s))
    assert due_in_s(proven, POLICY, NOW) == pytest.approx(
        due_in_s(life(lifetime_s, draw), POLICY, NOW), abs=1
    )


@given(
    failures=st.integers(0, 100),
    draw=draws,
    left=st.floats(0.001, 1),
    lifetime_s=lifetimes,
)
def test_a_failure_never_makes_us_miss_more_than_an_eighth_of_what_is_left(
    failures: int, draw: float, left: float, lifetime_s: float
) -> None:
    now = later((1 - left) * lifetime_s)
    pause_s = retry_pause_s(life(lifetime_s), failures, draw, POLICY, now)
    assert 1.0 <= pause_s <= max(URGENT_PAUSE_S, 0.1251 * left * lifetime_s)


def test_pauses_grow_to_an_hour_while_there_is_time_and_shrink_as_expiry_nears() -> None:
    at = {
        left_s: retry_pause_s(life(), 20, 1.0, POLICY, later(DAY_S - left_s))
        for left_s in (40_000, 8000, 80, 8)
    }
    assert at == {40_000: 3600, 8000: 1000, 80: 10, 8: 5}
    assert retry_pause_s(life(), 20, 1.0, POLICY, later(2 * DAY_S)) == EXPIRED_PAUSE_S
    assert retry_pause_s(None, 20, 1.0, POLICY, NOW) == EXPIRED_PAUSE_S


def test_a_device_that_was_revoked_is_not_silent_for_an_hour_because_one_renewal_was_cut() -> None:
    """The Registration Token would have lived for ever, so there seemed to be time: the device had no SAS."""
    held = CredentialState(life(None), False, life(), False, token_refused=True)
    assert retry_pause_s(held.at_stake(Task.REFRESH), 20, 1.0, POLICY, NOW) == EXPIRED_PAUSE_S
    assert replace(held, token_refused=False).at_stake(Task.REFRESH) == life(None)
    assert held.at_stake(Task.REGISTER) == life()


def test_a_new_device_registers_at_once_and_then_waits_for_its_time() -> None:
    new = CredentialState(life(30 * DAY_S))
    assert (next_step(new, POLICY, NOW).task, next_step(new, POLICY, NOW).in_s) == (Task.REGISTER, 0)
    step = next_step(registered(), POLICY, NOW)
    assert (step.task, step.in_s) == (Task.REGISTER, renewal_age_s(DAY_S, 0.5, POLICY))


def test_a_renewed_registration_token_is_proven_by_registering_at_once() -> None:
    unproven = CredentialState(life(30 * DAY_S), True, Life(later(-100), DAY_S, 0.5), False)
    assert next_step(unproven, POLICY, NOW).task is Task.REGISTER
    assert next_step(unproven, POLICY, NOW).in_s <= 0


def test_both_due_means_refresh_first_so_that_one_registration_serves_both() -> None:
    step = next_step(registered(life(100), life(100)), POLICY, later(90))
    assert step.task is Task.REFRESH and step.in_s <= 0


def test_a_refresh_that_fails_does_not_starve_the_sas() -> None:
    pace = {Task.REFRESH: RetryPace(3, later(90), 60, Outcome.UNAVAILABLE)}
    step = next_step(registered(life(100), life(100), paces=pace), POLICY, later(90))
    assert step.task is Task.REGISTER and step.in_s <= 0


def test_without_a_provisioning_token_the_sas_is_still_renewed() -> None:
    step = next_step(registered(life(100), life(100), can_refresh=False), POLICY, later(90))
    assert step.task is Task.REGISTER and step.in_s <= 0


def test_a_dead_registration_token_hands_over_to_its_parent_and_then_to_provisioning() -> None:
    assert next_step(CredentialState(None, True), POLICY, NOW).task is Task.REFRESH_PARENT
    step = next_step(CredentialState(None, False, life(), False), POLICY, NOW)
    assert (step.task, step.in_s) == (None, math.inf)


@given(
    lifetime_s=st.floats(0, 60), passed_s=st.floats(0, 60), refused=st.booleans(), token_refused=st.booleans()
)
def test_no_token_is_renewed_within_the_minimum_gap_whatever_was_refused(
    lifetime_s: float, passed_s: float, refused: bool, token_refused: bool
) -> None:
    held = registered(
        life(lifetime_s),
        life(lifetime_s),
        hub_refused=Refusals(1, NOW) if refused else None,
        token_refused=token_refused,
    )
    step = next_step(held, POLICY, later(passed_s))
    assert step.in_s >= MIN_GAP_S - passed_s - 1e-6


def test_the_hubs_first_refusal_is_answered_at_once_and_the_next_ones_with_backoff() -> None:
    first = Refusals().record(later(100), 0.9, POLICY)
    assert next_step(registered(hub_refused=first), POLICY, later(100)).in_s == 0
    second = first.record(later(110), 0.9, POLICY)
    third = second.record(later(120), 0.9, POLICY)
    assert MIN_GAP_S <= second.pause_s < third.pause_s
    assert next_step(registered(hub_refused=third), POLICY, later(120)).in_s == third.pause_s
    series = later(120 + third.pause_s + REFUSAL_SERIES_S)
    assert third.record(series, 0.9, POLICY).pause_s == 0, "a new series begins with an answer at once"


@given(draw=draws, connecting_s=st.floats(0, REFUSAL_SERIES_S - 1))
def test_a_long_pause_does_not_pass_for_the_end_of_a_series_of_refusals(
    draw: float, connecting_s: float
) -> None:
    twelfth = Refusals(12, NOW, pause_s=EXPIRED_PAUSE_S)
    refused_again = later(twelfth.pause_s + connecting_s)
    assert twelfth.record(refused_again, draw, POLICY).count == 13


def test_a_sas_signed_by_a_wrong_clock_is_signed_again_as_soon_as_the_clock_is_set() -> None:
    fifth = Refusals(5, NOW, pause_s=EXPIRED_PAUSE_S)
    assert fifth.wait_s(later(10)) == EXPIRED_PAUSE_S - 10
    for jump_s in (1.8e9, -1.8e9, 61.0):
        assert fifth.wait_s(later(10, jump_s)) == 0


def test_a_pause_for_a_wrong_clock_ends_when_the_clock_is_set_and_no_other_pause_does() -> None:
    paces = {outcome: RetryPace(9, NOW, 300, outcome) for outcome in (Outcome.WRONG_TIME, Outcome.TLS_FAILED)}
    for jump_s in (1.8e9, -1.8e9, 61.0):
        assert paces[Outcome.WRONG_TIME].wait_s(later(5, jump_s)) == 0
        assert paces[Outcome.TLS_FAILED].wait_s(later(5, jump_s)) == 295
    assert paces[Outcome.WRONG_TIME].wait_s(later(5, 59)) == 295, "a clock that is slewed was not set"


def test_a_pause_is_over_after_a_reboot_and_a_clock_that_runs_backwards_does_not_prolong_it() -> None:
    pace = RetryPace(1, NOW, 60)
    assert pace.wait_s(later(20)) == 40
    assert pace.wait_s(Moment(0, 5, "another boot")) == 0
    assert pace.wait_s(later(-1000)) <= 60


# What each answer to each task leads to: everything not named here is a pause and the same again.
REFRESHED = {Outcome.OK: AnswerVerdict.STORE, Outcome.CREATED: AnswerVerdict.STORE}
REFUSED = dict.fromkeys((Outcome.UNAUTHORIZED, Outcome.GONE, Outcome.CANCELLED), AnswerVerdict.REFUSED)
DOUBTED = dict.fromkeys((Outcome.GONE, Outcome.CANCELLED), AnswerVerdict.DOUBT)
DEAD = dict.fromkeys((Outcome.GONE, Outcome.CANCELLED), AnswerVerdict.DROP)
HOPELESS = dict.fromkeys((Outcome.BAD_REQUEST, Outcome.FORBIDDEN, Outcome.PRECONDITION), AnswerVerdict.DROP)
VERDICTS: dict[tuple[Task, bool], dict[Outcome, AnswerVerdict]] = {
    (Task.REGISTER, False): {**REFRESHED, **REFUSED},
    (Task.REGISTER, True): {**REFRESHED, **REFUSED},
    (Task.REFRESH, False): {**REFRESHED, **DOUBTED},
    (Task.REFRESH, True): {**REFRESHED, **DEAD, **HOPELESS},
    (Task.REFRESH_PARENT, False): {**REFRESHED, **DEAD, **HOPELESS},
    (Task.REFRESH_PARENT, True): {**REFRESHED, **DEAD, **HOPELESS},
    (Task.REGISTER_FORMER, False): REFRESHED,
    (Task.REGISTER_FORMER, True): REFRESHED,
}


@pytest.mark.parametrize("outcome", Outcome, ids=lambda one: one.name)
@pytest.mark.parametrize(("task", "refused"), VERDICTS)
def test_every_answer_to_every_task_has_its_verdict(task: Task, refused: bool, outcome: Outcome) -> None:
    wanted = VERDICTS[task, refused].get(outcome, AnswerVerdict.RETRY)
    assert judge(task, outcome, Evidence(refused=refused)) is wanted


@pytest.mark.parametrize("outcome", [o for o in Outcome if not o.good], ids=lambda one: one.name)
@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize("task", Task, ids=lambda one: one.name)
def test_no_word_of_a_gateway_gives_a_token_up_until_it_was_said_ten_times(
    task: Task, refused: bool, outcome: Outcome
) -> None:
    """One 401 to register and one page of a firewall to refresh, and the device was provisioned again."""
    for refusals in range(NAMELESS_TIMES):
        seen = Evidence(own=False, refusals=refusals, refused=refused, replaceable=True)
        assert judge(task, outcome, seen) is AnswerVerdict.RETRY


@pytest.mark.parametrize("outcome", [o for o in Outcome if o.refuses], ids=lambda one: one.name)
@pytest.mark.parametrize("own", [False, True])
def test_whatever_refuses_for_ever_there_is_a_way_on(own: bool, outcome: Outcome) -> None:
    """401 to register, then 404 to refresh: 30 days of calls, and never provisioned again."""
    first = [judge(Task.REGISTER, outcome, Evidence(own, n)) for n in range(1, NAMELESS_TIMES + 1)]
    assert AnswerVerdict.REFUSED in first
    for task in (Task.REFRESH, Task.REFRESH_PARENT):
        last = [judge(task, outcome, Evidence(own, n, True)) for n in range(1, NAMELESS_TIMES + 1)]
        assert last[-1] is AnswerVerdict.DROP
    renewed_in_vain = Evidence(own, HOPELESS_TIMES, True)
    assert judge(Task.REGISTER, outcome, renewed_in_vain) is AnswerVerdict.DROP
    without_other_means = replace(renewed_in_vain, renewable=False)
    assert judge(Task.REGISTER, outcome, without_other_means) is AnswerVerdict.REFUSED


@pytest.mark.parametrize("outcome", [o for o in Outcome if not (o.good or o.refuses)], ids=lambda o: o.name)
@pytest.mark.parametrize("task", Task, ids=lambda one: one.name)
def test_no_weather_is_evidence_against_a_token_however_long_it_lasts(task: Task, outcome: Outcome) -> None:
    seen = Evidence(refusals=10**6, refused=True, replaceable=True)
    assert judge(task, outcome, seen) is AnswerVerdict.RETRY
    assert not refuses_token(outcome)


def test_a_token_that_never_registered_gives_way_to_the_line_that_did() -> None:
    refused = Evidence(replaceable=True)
    assert judge(Task.REGISTER, Outcome.UNAUTHORIZED, refused) is AnswerVerdict.DROP
    assert judge(Task.REGISTER, Outcome.UNAUTHORIZED, replace(refused, own=False)) is AnswerVerdict.RETRY
    assert judge(Task.REGISTER, Outcome.FORBIDDEN, refused) is AnswerVerdict.RETRY


def test_a_token_that_was_refused_is_tried_again_now_and_then_while_an_operator_is_awaited() -> None:
    now, paces, tries = NOW, {Task.REGISTER_FORMER: RetryPace(1, NOW, 300.0, Outcome.UNAUTHORIZED)}, 0
    while now.boot_s < NOW.boot_s + DAY_S:
        step = next_step(CredentialState(former=True, paces=paces), POLICY, now)
        assert step.task is Task.REGISTER_FORMER and (tries or step.in_s >= 300)
        now, tries = _after(now, step.in_s), tries + 1
        pace = paces[Task.REGISTER_FORMER]
        pause_s = former_pause_s(pace.failures, 0.5)
        paces = {Task.REGISTER_FORMER: pace.after(Outcome.UNAUTHORIZED, "", pause_s, now)}
    assert 20 <= tries <= 100


@pytest.mark.parametrize("told_s", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("lifetime_s", [None, 30 * DAY_S])
def test_a_token_is_not_believed_to_be_over_as_soon_as_it_was_handed_out(
    lifetime_s: float | None, told_s: float
) -> None:
    """A remaining life of a second, told of every token: 31,700 calls a day."""
    fresh = Life(NOW, lifetime_s, 0.5).corrected(told_s, later(1))
    assert due_in_s(fresh, POLICY, later(1)) > 60
    aged = Life(NOW, lifetime_s, 0.5).corrected(told_s, later(DAY_S))
    assert due_in_s(aged, POLICY, later(DAY_S)) <= MIN_GAP_S, "of an old one it is true"


def test_a_token_of_twelve_seconds_is_renewed_in_time() -> None:
    short = Life(NOW, 12.0, 0.5).corrected(11.0, later(1))
    assert short.remaining_s(later(1)) == 11.0


def test_a_platform_that_renews_tokens_and_refuses_every_one_of_them_is_asked_ever_more_rarely() -> None:
    now, paces, parent, asked_s = later(60), dict[Task, RetryPace](), False, list[float]()
    while now.boot_s < NOW.boot_s + DAY_S / 2:
        held = CredentialState(Life(now, 30 * DAY_S, 0.5), parent, life(), False, False, paces=paces)
        now = _after(now, next_step(held, POLICY, now).in_s)
        pace = paces.get(Task.REGISTER, RetryPace())
        pause_s = retry_pause_s(life(), pace.failures, 0.5, POLICY, now)
        paces = {Task.REGISTER: pace.after(Outcome.UNAUTHORIZED, "", pause_s, now)}
        step = next_step(replace(held, token_refused=True, paces=paces), POLICY, now)
        assert step.task is Task.REFRESH
        now = _after(now, step.in_s)
        asked_s.append(now.boot_s)
        parent, paces = True, {Task.REGISTER: paces[Task.REGISTER].with_another_token()}
    assert asked_s[0] - NOW.boot_s < 70, "the first refusal is answered at once"
    assert len(asked_s) < 60, "twelve hours; every five seconds would be thousands"


def test_another_token_ends_the_pause_for_a_refused_one_and_no_pause_for_the_weather() -> None:
    refused, throttled = (
        RetryPace(3, NOW, 600, outcome) for outcome in (Outcome.UNAUTHORIZED, Outcome.THROTTLED)
    )
    assert (refused.with_another_token().wait_s(NOW), refused.with_another_token().failures) == (0, 3)
    assert throttled.with_another_token() == throttled


def test_a_machine_put_back_to_a_snapshot_beside_a_newer_disk_does_not_wait_for_moments_to_come() -> None:
    """Its boot clock goes back by a month, under the same boot id."""
    put_back = replace(NOW, boot_s=NOW.boot_s - 40_000)
    weather = RetryPace(3, NOW, 3600.0, Outcome.TIMED_OUT, "")
    for held in (
        registered(),
        registered(paces={Task.REGISTER: weather, Task.REFRESH: weather}),
        registered(hub_refused=Refusals(3, NOW, 300.0)),
        registered(token_refused=True),
    ):
        assert next_step(held, POLICY, put_back).in_s <= 0


@pytest.mark.parametrize(
    ("task", "refused"),
    [
        (Task.REFRESH, {"token_refused": True}),
        (Task.REGISTER, {"hub_refused": Refusals(1, NOW)}),
    ],
)
def test_a_pause_of_a_token_that_had_time_does_not_keep_a_refused_one_waiting_for_an_hour(
    task: Task, refused: dict[str, object]
) -> None:
    sas, registration = Life(later(-100), DAY_S, 0.5), Life(later(-DAY_S), 30 * DAY_S, 0.5)
    for asked_s, most_s in ((0.0, EXPIRED_PAUSE_S), (1800.0, 1800.0 + EXPIRED_PAUSE_S)):
        pace = RetryPace(3, NOW, 3000.0, Outcome.UNAVAILABLE, "", asked_s)
        other = Task.REGISTER if task is Task.REFRESH else Task.REFRESH
        held = registered(
            sas, registration, paces={task: pace, other: replace(pace, asked_s=3000.0)}, **refused
        )
        step = next_step(held, POLICY, NOW)
        assert (step.task, step.in_s) == (task, most_s)
        assert held.at_stake(task) is None, "nor do later failures wait by a life that is over"


def test_a_fleet_with_no_life_to_lose_that_was_told_the_same_number_does_not_come_back_as_one() -> None:
    fleet = []
    for draw in (0.0, 0.5, 0.9):
        pause_s = retry_pause_s(None, 9, draw, POLICY, NOW, 3600.0)
        pace = RetryPace().after(Outcome.UNAVAILABLE, "", pause_s, NOW, 3600.0)
        fleet.append(next_step(CredentialState(life(), paces={Task.REGISTER: pace}), POLICY, NOW).in_s)
    assert fleet == [3600, 3600 + EXPIRED_PAUSE_S / 2, 3600 + 0.9 * EXPIRED_PAUSE_S]


def test_people_are_told_where_the_registration_stands() -> None:
    sas, gone = life(), Life(later(-2 * DAY_S), DAY_S, 0.5)
    assert registration_state(CredentialState(), NOW) is RegistrationState.UNPROVISIONED
    assert registration_state(CredentialState(life()), NOW) is RegistrationState.REGISTERING
    assert registration_state(registered(sas), NOW) is RegistrationState.REGISTERED
    assert registration_state(registered(gone), NOW) is RegistrationState.EXPIRED
    assert registration_state(registered(sas, on_hold=True), NOW) is RegistrationState.ON_HOLD
    assert registration_state(registered(sas, token_refused=True), NOW) is RegistrationState.REFUSED
    assert registration_state(CredentialState(None, True, sas), NOW) is RegistrationState.REFUSED
    for basis, refused in (
        ("mtls platform.example 7f", RegistrationState.CERTIFICATE_REFUSED),
        ("dps global.example 0ne dev-1", RegistrationState.ENROLMENT_REFUSED),
        ("platform.example dev-1 7f", RegistrationState.REFUSED),
    ):
        assert (
            registration_state(registered(sas, token_refused=True, refused_as=refused_as(basis)), NOW)
            is refused
        )
