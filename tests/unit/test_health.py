"""The sentinel's judgement, without a process: hours of looks in a millisecond."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.adapters.supervisor.event_listener import split_event
from runtime.core.operations.health import (
    Action,
    Health,
    HealthLimits,
    Kill,
    KillSupervisor,
    Observation,
    RestartAll,
    StartAfresh,
    StartAgain,
    Withhold,
)

LOOK_S = 5.0


class Watching:
    """A judge, a clock, and one worker called upload."""

    def __init__(self, limits: HealthLimits | None = None, *, company: bool = False) -> None:
        self.health = Health(limits or HealthLimits())
        self.company = company
        """Whether a worker called ingest works beside it."""
        self.now_s = 1000.0
        self.beat = 0

    def look(
        self,
        state: str = "RUNNING",
        pid: int = 7,
        *,
        beats: bool = True,
        works: bool = True,
        busy: bool = False,
        started: int = 0,
    ) -> list[Action]:
        self.now_s += LOOK_S
        self.beat += beats
        beat = self.beat or None
        work = (self.now_s if works else 3) if busy or beat is None else None
        ingest = {"ingest": Observation("RUNNING", 5, self.now_s)} if self.company else {}
        return self.health.look(
            self.now_s, {"upload": Observation(state, pid, beat, work, started), **ingest}
        )

    def until_action(self, looks: int = 50, **sight: object) -> tuple[list[Action], float]:
        """Look until something is to be done; what, and after how many seconds."""
        began_s = self.now_s
        for _ in range(looks):
            actions = self.look(**sight)  # type: ignore[arg-type]
            if actions:
                return actions, self.now_s - began_s
        return [], self.now_s - began_s

    def hang(self, pid: int) -> list[Action]:
        """A worker that worked and then stands still."""
        self.look(pid=pid)
        return self.until_action(pid=pid, beats=False)[0]


def test_a_worker_that_beats_is_never_touched() -> None:
    watching = Watching()
    assert all(watching.look() == [] for _ in range(1000))
    assert watching.health.alarms(watching.now_s) == []


def test_a_hung_worker_is_killed_within_20_seconds() -> None:
    watching = Watching()
    watching.look()
    actions, after_s = watching.until_action(beats=False)
    assert actions == [Kill("upload", 7, 15.0)]
    assert after_s <= 20


def test_a_worker_that_never_reported_gets_the_longer_grace_of_a_start() -> None:
    watching = Watching()
    actions, after_s = watching.until_action(beats=False)
    assert actions == [Kill("upload", 7, 60.0)]
    assert after_s <= 70


def test_a_worker_that_hangs_before_its_first_report_is_killed_as_soon_as_any_other() -> None:
    """It had a minute, as one that is slow: but it uses no CPU, and waits for no disk."""
    watching = Watching()
    actions, after_s = watching.until_action(beats=False, works=False)
    assert actions == [Kill("upload", 7, 15.0)]
    assert after_s <= 20


def test_a_worker_that_works_now_and_then_before_its_first_report_has_its_grace() -> None:
    watching = Watching()
    for number in range(11):
        assert watching.look(beats=False, works=number % 3 == 0) == []


def test_a_worker_busy_with_its_store_has_the_grace_of_a_start_for_as_long_as_it_works() -> None:
    """Building an index, SQLite sorts for long without a word."""
    watching = Watching()
    watching.look(busy=True)
    assert all(watching.look(beats=False, busy=True) == [] for _ in range(11))
    watching.look(busy=True)
    _, after_s = watching.until_action(beats=False, busy=True, works=False)
    assert after_s <= 20


def test_waking_from_a_night_of_suspend_hangs_nobody() -> None:
    watching = Watching()
    watching.look()
    watching.now_s += 8 * 3600
    assert watching.look(beats=False) == []
    assert watching.look() == []


def test_a_worker_that_was_frozen_with_the_sentinel_gets_the_time_to_the_next_look() -> None:
    """With less patience than two looks take the first one after the thaw killed everybody."""
    watching = Watching(HealthLimits(hang_after_s=4.0))
    watching.look()
    watching.now_s += 60
    assert watching.look(beats=False) == []
    assert watching.look() == []
    assert watching.until_action(beats=False)[1] <= 15


def test_a_worker_killed_again_and_again_is_not_killed_faster_each_time() -> None:
    watching = Watching()
    watching.look()
    watching.until_action(beats=False)
    _, after_s = watching.until_action(beats=False)
    assert after_s >= 15


def test_a_fatal_program_is_started_within_30_seconds_and_then_with_growing_pauses() -> None:
    watching = Watching()
    watching.look()
    pauses = []
    for _ in range(8):
        actions, after_s = watching.until_action(state="FATAL", pid=0, beats=False)
        assert actions == [StartAgain("upload", "FATAL")]
        pauses.append(after_s)
        watching.look(state="BACKOFF", pid=0, beats=False)
    assert pauses[0] <= 10
    assert pauses == sorted(pauses)
    assert 30 <= pauses[-1] <= 40


def test_a_program_that_stood_for_a_while_starts_its_pauses_from_the_beginning() -> None:
    watching = Watching()
    for _ in range(6):
        watching.until_action(state="FATAL", pid=0)
        watching.look(state="BACKOFF", pid=0)
    for _ in range(20):
        watching.look(pid=8)
    _, after_s = watching.until_action(state="FATAL", pid=0)
    assert after_s <= 10


def test_who_is_being_tried_again_by_supervisord_is_left_to_it() -> None:
    watching = Watching()
    watching.look()
    assert watching.until_action(state="BACKOFF", pid=0)[0] == []


def test_what_a_person_stopped_stays_stopped() -> None:
    watching = Watching()
    watching.look()
    assert watching.until_action(looks=1000, state="STOPPED", pid=0)[0] == []


def test_a_worker_that_restarts_too_often_raises_an_alarm_that_ends_with_its_cause() -> None:
    watching = Watching()
    for pid in range(10, 16):
        watching.look(pid=pid)
    assert watching.health.restarts() == {"upload": 5}
    assert [alarm.worker for alarm in watching.health.alarms(watching.now_s)] == ["upload"]
    for _ in range(200):
        watching.look(pid=15)
    assert watching.health.alarms(watching.now_s) == []


def test_a_worker_that_dies_between_two_looks_at_every_start_raises_an_alarm_too() -> None:
    """It lived 0.9 s of every 31: most looks found nobody, and after some minutes no alarm came or stayed."""
    watching = Watching()
    for second in range(0, 3600, 5):
        watching.look(state="BACKOFF", pid=0, beats=False, started=1 + second // 31)
        assert second < 300 or [a.worker for a in watching.health.alarms(watching.now_s)] == ["upload"]
    assert watching.health.restarts() == {"upload": 3595 // 31}


def test_a_death_that_was_seen_as_another_process_is_one_restart() -> None:
    watching = Watching()
    for life in range(1, 5):
        for state, pid in (("STARTING", 10 + life), ("RUNNING", 10 + life), ("BACKOFF", 0), ("BACKOFF", 0)):
            watching.look(state=state, pid=pid, started=life)
    assert watching.health.restarts() == {"upload": 3}
    watching.look(state="STOPPED", pid=0)  # supervisord begins another life of its own
    watching.look(state="STARTING", pid=20, started=5)
    assert watching.health.restarts() == {"upload": 4}


def test_the_ladder_ends_with_the_service_manager() -> None:
    watching = Watching()
    pids = iter(range(100, 200))
    reached: list[type] = []
    for _ in range(9):
        reached += [type(action) for action in watching.hang(next(pids))]
    assert reached.count(Kill) == 9
    assert [step for step in reached if step is not Kill] == [RestartAll, RestartAll, Withhold]


def climbed(watching: Watching) -> list[Action]:
    """Hung so often that every measure of ours is used up; what followed beside the kills."""
    return [step for pid in range(100, 109) for step in watching.hang(pid) if not isinstance(step, Kill)]


def test_the_limit_of_fresh_starts_is_one_of_an_hour() -> None:
    watching = Watching()
    climbed(watching)
    watching.now_s += 3600
    assert [type(step) for step in climbed(watching)] == [RestartAll, RestartAll, Withhold]


def test_the_limit_holds_for_the_next_sentinel_too() -> None:
    watching = Watching()
    climbed(watching)
    kept = json.loads(json.dumps({"restarted_all_at_s": watching.health.memory()["restarted_all_at_s"]}))
    watching.health = Health(HealthLimits(), kept)
    assert [type(step) for step in climbed(watching)] == [Withhold] * 7, "each hang from the third on"


def test_a_worker_that_nothing_helped_raises_an_alarm_until_it_stands() -> None:
    watching = Watching()
    climbed(watching)
    assert watching.health.helpless()
    assert "nothing helped" in str(watching.health.alarms(watching.now_s))
    watching.look(pid=200)
    for _ in range(14):
        watching.look(pid=200, beats=False)
    assert watching.health.helpless(), "it is up, and does nothing"
    for _ in range(14):
        watching.look(pid=201)
    assert not watching.health.helpless()
    assert "nothing helped" not in str(watching.health.alarms(watching.now_s))


def test_one_worker_that_hangs_again_and_again_costs_the_others_nothing() -> None:
    """A token file on a dead network drive: 18 processes were started afresh, and then systemd ended all."""
    watching, kills, gaps_s = Watching(company=True), [], []
    for pid in range(100, 112):
        watching.look(pid=pid)
        actions, after_s = watching.until_action(looks=100, pid=pid, beats=False)
        kills += actions
        gaps_s.append(after_s)
    assert all(isinstance(action, Kill) for action in kills) and len(kills) == 12
    assert gaps_s == sorted(gaps_s) and gaps_s[2] <= 20 and 300 <= gaps_s[-1] <= 310
    assert not watching.health.helpless()
    assert "others work" in str(watching.health.alarms(watching.now_s))
    for _ in range(14):
        watching.look(pid=200)
    watching.look(pid=200)
    assert watching.until_action(pid=200, beats=False)[1] <= 20, "it stood for a minute: that is forgotten"


def test_a_first_report_after_each_start_is_no_progress() -> None:
    """Both hang behind it, one after the other: that is no company that works."""
    watching, ladder = Watching(), []
    for life in range(12):
        for look in range(5):
            beat = (life, min(look, 1))
            sights = {name: Observation("RUNNING", 10 + life, beat) for name in ("a", "b")}
            watching.now_s += LOOK_S
            ladder += watching.health.look(watching.now_s, sights)
    assert any(isinstance(step, RestartAll) for step in ladder)


def test_a_process_that_waits_for_a_disk_is_not_killed_for_it_and_an_alarm_says_so() -> None:
    health = Health(HealthLimits())
    for now_s in range(0, 600, 5):
        assert health.look(now_s, {"ingest": Observation("RUNNING", 7, 1, waits_for_disk=True)}) == []
    (alarm,) = health.alarms(600)
    assert (alarm.worker, alarm.kind) == ("ingest", "disk") and "for a disk" in alarm.text
    health.look(605, {"ingest": Observation("RUNNING", 7, 2)})
    assert health.alarms(605) == []


def test_a_worker_that_has_used_up_its_descriptors_starts_afresh_and_an_alarm_says_so() -> None:
    """upload had 435 of 1,024 after 400 files; at 1,024 delivery stopped, and status said HEALTHY."""
    health, said = Health(HealthLimits()), []
    for now_s in range(0, 40, 5):
        said += health.look(now_s, {"upload": Observation("RUNNING", 7, now_s, descriptors=0.95)})
    assert [type(action) for action in said][:2] == [StartAfresh, Kill], "asked, and then not waited for"
    (alarm,) = health.alarms(40)
    assert alarm.kind == "descriptors"
    assert health.look(45, {"upload": Observation("RUNNING", 8, 45, descriptors=0.1)}) == []


def test_restarts_that_an_operator_asked_for_raise_no_alarm() -> None:
    """Five reloads were told as a crash loop."""
    health = Health(HealthLimits())
    for pid in range(10, 30):
        health.look(pid * 5.0, {"upload": Observation("RUNNING", pid, pid, asked=frozenset({pid - 1}))})
    assert health.alarms(200) == []
    assert health.restarts() == {"upload": 19}


def test_an_alarm_is_the_same_one_while_its_figures_grow() -> None:
    watching, kinds = Watching(), set()
    for pid in range(10, 40):
        watching.look(pid=pid)
        kinds |= {(alarm.worker, alarm.kind) for alarm in watching.health.alarms(watching.now_s)}
    assert kinds == {("upload", "restarts")}


@pytest.mark.parametrize(
    "memory",
    [
        {"watches": 3, "restarted_all_at_s": {"a": 1}},
        {"watches": {"upload": 7}},
        {
            "watches": {
                "upload": {"hung_at_s": 5, "restarts": "4", "pid": None, "restarted_at_s": ["x", None]}
            }
        },
        {"restarted_all_at_s": [float("nan"), True, "x"]},
    ],
)
def test_memory_of_a_wrong_type_stops_no_sentinel(memory: dict[str, object]) -> None:
    watching = Watching()
    watching.health = Health(HealthLimits(), memory)
    assert all(watching.hang(pid) for pid in range(10, 14))
    assert watching.health.memory()


def test_a_supervisord_that_cannot_be_asked_but_ticks_is_not_killed_as_hung() -> None:
    """Somebody had taken the path of its socket."""
    health = Health(HealthLimits())
    health.look(0, {})
    assert all(health.silence(now_s, ticks=now_s % 5 == 0) == [] for now_s in range(600))
    assert any(health.silence(600 + now_s) for now_s in range(25)), "and where its ticks end it is"


def test_silence_of_supervisord_is_borne_for_20_seconds() -> None:
    watching = Watching()
    watching.look()
    said = [watching.health.silence(watching.now_s + at_s) for at_s in (5, 10, 15, 20)]
    assert said == [[], [], [], []]
    assert isinstance(watching.health.silence(watching.now_s + 25)[0], KillSupervisor)


def test_one_answer_of_supervisord_ends_its_silence() -> None:
    watching = Watching()
    watching.look()
    for _ in range(20):
        watching.now_s += 10
        assert watching.health.silence(watching.now_s) == []
        watching.look()


def test_the_next_sentinel_goes_on_where_the_last_one_died() -> None:
    watching = Watching()
    for pid in (10, 11, 12):
        watching.look(pid=pid)
    kept = json.loads(json.dumps(watching.health.memory()))
    successor = Health(HealthLimits(), kept)
    successor.look(watching.now_s + 5, {"upload": Observation("RUNNING", 13, 99)})
    assert successor.restarts() == {"upload": 3}


def test_memory_of_another_version_is_taken_as_far_as_it_is_understood() -> None:
    successor = Health(HealthLimits(), {"watches": {"upload": {"restarts": 4, "colour": "blue"}}})
    assert successor.restarts() == {"upload": 4}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["RUNNING", "STARTING", "BACKOFF", "FATAL", "EXITED", "STOPPED", "STOPPING", "UNKNOWN"]
            ),
            st.integers(0, 3),
            st.one_of(st.none(), st.integers(0, 3)),
            st.floats(0, 10_000),
        ),
        max_size=80,
    )
)
def test_only_a_living_process_is_killed_and_only_a_fallen_one_started(
    looks: list[tuple[str, int, int | None, float]],
) -> None:
    health, now_s = Health(HealthLimits()), 0.0
    for state, pid, beat, pause_s in looks:
        now_s += pause_s
        for action in health.look(now_s, {"w": Observation(state, pid, beat)}):
            if isinstance(action, Kill):
                assert state in ("RUNNING", "STARTING") and pid
            elif isinstance(action, StartAgain):
                assert state in ("FATAL", "EXITED", "UNKNOWN")


def _event(name: str, payload: bytes) -> bytes:
    head = (
        f"ver:3.0 server:supervisor serial:1 pool:sentinel poolserial:1 eventname:{name} len:{len(payload)}\n"
    )
    return head.encode() + payload


@given(st.lists(st.tuples(st.sampled_from(["TICK_5", "PROCESS_STATE"]), st.binary(max_size=40))), st.data())
def test_events_come_out_whole_however_the_pipe_cuts_them(
    events: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(_event(name, payload) for name, payload in events)
    buffer, names = b"", []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        buffer, stream = buffer + stream[:cut], stream[cut:]
        while True:
            name, buffer = split_event(buffer)
            if name is None:
                break
            names.append(name)
    assert names == [name for name, _ in events]
    assert buffer == b""
