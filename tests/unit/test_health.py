"""The sentinel's judgement, without a process: hours of looks in a millisecond."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from runtime.adapters.listener import split_event
from runtime.core.health import (
    Action,
    Growth,
    Health,
    Kill,
    KillSupervisor,
    Limits,
    RestartAll,
    Sight,
    StartAgain,
    Withhold,
)

LOOK_S = 5.0


class Watching:
    """A judge, a clock, and one worker called upload."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.health = Health(limits or Limits())
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
        return self.health.look(self.now_s, {"upload": Sight(state, pid, beat, work, started)})

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
    watching.health = Health(Limits(), kept)
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
    successor = Health(Limits(), kept)
    successor.look(watching.now_s + 5, {"upload": Sight("RUNNING", 13, 99)})
    assert successor.restarts() == {"upload": 3}


def test_memory_of_another_version_is_taken_as_far_as_it_is_understood() -> None:
    successor = Health(Limits(), {"watches": {"upload": {"restarts": 4, "colour": "blue"}}})
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
    health, now_s = Health(Limits()), 0.0
    for state, pid, beat, pause_s in looks:
        now_s += pause_s
        for action in health.look(now_s, {"w": Sight(state, pid, beat)}):
            if isinstance(action, Kill):
                assert state in ("RUNNING", "STARTING") and pid
            elif isinstance(action, StartAgain):
                assert state in ("FATAL", "EXITED", "UNKNOWN")


def _filling(growth: Growth, seconds: int, bytes_per_s: float, began_s: float = 0.0) -> list[float | None]:
    """What it says at looks every 5 s while the disk fills so fast."""
    return [
        growth.seen(began_s + at_s, 10**12 - round(bytes_per_s * (began_s + at_s)))
        for at_s in range(0, seconds, 5)
    ]


def test_the_first_seconds_of_a_runtime_are_no_reason_to_call_the_disk_full_soon() -> None:
    """ingest writes its ballast of 64 MiB then: by that rate the disk was full in 17 h."""
    growth = Growth()
    assert growth.seen(0, 10**12) is None
    after = [growth.seen(at_s, 10**12 - (64 << 20)) for at_s in range(5, 600, 5)]
    assert set(after) == {None, 0.0}
    assert after[:17] == [None] * 17


def test_a_disk_that_fills_steadily_is_told_as_it_is_from_the_first_word_on() -> None:
    said = [rate for rate in _filling(Growth(), 900, 1000.0) if rate is not None]
    assert len(said) > 100 and all(abs(rate - 1000) < 1 for rate in said)


def test_a_disk_that_stops_filling_is_told_within_minutes() -> None:
    growth = Growth()
    _filling(growth, 600, 1000.0)
    last = [growth.seen(600 + at_s, 10**12 - 600_000) for at_s in range(0, 1500, 5)][-1]
    assert last is not None and last < 20


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
