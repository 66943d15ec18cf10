"""The worker management against a real hub: what the cloud desires arrives, what programs report is there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.process.status_file import StatusFile
from runtime.core.management.replies import Kept, ManagementRefusal, TwinValue, Watched
from runtime.core.management.requests import (
    AppliedRequest,
    PingRequest,
    ReportRequest,
    TwinPart,
    TwinRequest,
    WatchRequest,
    WhoAmIRequest,
)
from runtime.core.management.twin import ReportMode
from runtime.layout import Layout
from runtime.workers.built_in_methods import BuiltInMethods
from tests.support.management_world import ManagementWorld


@pytest.fixture
def world(folder: Path) -> Iterator[ManagementWorld]:
    made = ManagementWorld(folder)
    try:
        yield made
    finally:
        made.close()


def test_what_a_program_reports_is_kept_at_once_and_in_the_cloud_soon(world: ManagementWorld) -> None:
    program = world.program()
    kept = program.ask(ReportRequest(path=("press",), value={"speed": 3}))
    assert isinstance(kept, Kept) and kept.change
    assert world.reported() == {}, "there is no connection yet"
    world.upload.connect()
    world.until(lambda: world.reported().get("press") == {"speed": 3})
    confirmed = program.ask(ReportRequest(path=("press", "speed"), value=4, wait_s=10))
    assert isinstance(confirmed, Kept) and confirmed.confirmed
    assert world.reported()["press"] == {"speed": 4}
    assert program.ask(ReportRequest(ReportMode.REMOVE, ("press",), wait_s=10)).confirmed
    assert "press" not in world.reported()


def test_desired_is_read_offline_after_a_restart(world: ManagementWorld) -> None:
    program = world.program()
    world.desire({"press": {"speed": 7}})
    world.upload.connect()
    world.until(lambda: world.worker.figures()["twin"] == "level")
    world.upload.disconnect()
    world.restart()
    value = program.ask(TwinRequest(TwinPart.DESIRED, ("press",)))
    assert isinstance(value, TwinValue) and value.value == {"speed": 7}
    assert value.state == "away" and value.age_s is not None
    refused = program.ask(TwinRequest(path=("nothing",)))
    assert isinstance(refused, ManagementRefusal) and refused.code == "no_such_path"


def test_a_watch_is_woken_by_a_change_and_by_nothing_else(world: ManagementWorld) -> None:
    program, other = world.program(), world.program()
    world.upload.connect()
    world.until(lambda: world.worker.figures()["twin"] == "level")
    first = program.ask(WatchRequest(("press",), after=0, wait_s=0.05))
    assert isinstance(first, Watched) and first.unchanged
    program.send(WatchRequest(("press",), after=first.change, wait_s=30))
    assert other.ask(PingRequest()).version == 1
    world.desire({"other": 1})
    world.steps()
    assert program.reply() is None
    world.desire({"press": {"speed": 8}})
    woken = world.until(program.reply)
    assert isinstance(woken, Watched) and woken.value == {"speed": 8}
    again = program.ask(WatchRequest(("press",), after=999, wait_s=30))
    assert isinstance(again, Watched) and again.value == {"speed": 8}, "a number of another database's life"
    assert world.worker.figures()["not_applied"] == ["other", "press"]
    assert isinstance(program.ask(AppliedRequest(woken.change, ("press",))), Kept)
    assert world.worker.figures()["not_applied"] == ["other"]


def test_changes_made_while_away_arrive(world: ManagementWorld) -> None:
    program = world.program()
    world.upload.connect()
    world.until(lambda: world.worker.figures()["twin"] == "level")
    world.upload.disconnect()
    world.desire({"late": True})
    program.send(WatchRequest((), after=world.worker._state.twin.record.desired_change(()), wait_s=30))
    world.upload.connect()
    woken = world.until(program.reply)
    assert isinstance(woken, Watched) and woken.value == {"late": True}


def test_alarms_are_looked_for_now_and_then_and_not_at_every_turn(
    world: ManagementWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every turn read the status files of all programs: a thousand requests a second, seven files each."""
    looks: list[int] = []
    monkeypatch.setattr(BuiltInMethods, "alarms", lambda self: looks.append(1) or {})
    world.steps(50)
    assert len(looks) <= 1


def test_an_alarm_is_seen_in_the_twin_and_goes_with_its_cause(world: ManagementWorld) -> None:
    status = StatusFile(Layout(world.home).status_file("ingest"), "ingest")
    for figures, alarms in ({"alarm": "failed 7 times"}, {"ingest": "failed N times"}), ({}, None):
        status.progress(figures, now=True)
        world.restart()  # else it looks every fifteen seconds
        world.upload.connect()
        world.until(lambda wanted=alarms: world.reported().get("runtime", {}).get("alarms") == wanted)


def test_the_runtimes_own_section_is_reported_and_not_a_programs(world: ManagementWorld) -> None:
    program = world.program()
    world.upload.connect()
    world.until(lambda: world.reported().get("runtime", {}).get("version"))
    refused = program.ask(ReportRequest(path=("runtime",), value=1))
    assert isinstance(refused, ManagementRefusal) and refused.code == "not_granted"
    who = program.ask(WhoAmIRequest())
    assert who.program == "" and who.grants["report"] == ["/"]


def test_a_program_is_granted_what_its_table_says(folder: Path) -> None:
    table = '[management.program.press]\nuser = "0"\nreport = ["/press"]\n'
    world = ManagementWorld(folder, table)
    try:
        program = world.program()
        assert program.ask(WhoAmIRequest()).program == "press"
        assert isinstance(program.ask(ReportRequest(path=("press", "a"), value=1)), Kept)
        refused = program.ask(ReportRequest(path=("oven",), value=1))
        assert isinstance(refused, ManagementRefusal) and refused.code == "not_granted"
    finally:
        world.close()


def test_an_applied_property_is_acknowledged_as_plug_and_play_defines_it(folder: Path) -> None:
    world = ManagementWorld(folder, 'acknowledge = "pnp"\n')
    try:
        world.upload.connect()
        world.desire({"press": {"speed": 7}})
        program = world.program()
        change = program.ask(WatchRequest(("press", "speed"), after=0, wait_s=10))
        assert program.ask(AppliedRequest(change.change, ("press", "speed"), 203, "slower")) == Kept(
            change.change
        )
        world.until(lambda: "press" in world.reported())
        version = world.worker._state.twin.record.desired_version
        expected = {"value": 7, "ac": 203, "av": version, "ad": "slower"}
        assert world.reported()["press"] == {"speed": expected}
    finally:
        world.close()


def test_a_section_that_the_hub_refuses_is_named_and_holds_up_no_other(world: ManagementWorld) -> None:
    world.upload.connect()
    world.until(lambda: world.reported().get("runtime"))
    world.hub.faults(twin={"PATCH": {"status": 400, "times": 2}})
    program = world.program()
    program.ask(ReportRequest(path=(), mode=ReportMode.PATCH, value={"bad": 1, "good": 2}))
    world.until(lambda: world.reported().get("good") == 2)
    world.until(lambda: [*world.worker.figures()["refused"]] == ["bad"])
    assert "the hub refuses /bad" in world.worker.figures()["alarm"]
    program.ask(ReportRequest(path=("bad",), value=3))
    world.until(lambda: world.reported().get("bad") == 3)
    assert world.worker.figures()["refused"] == {} and "alarm" not in world.worker.figures()
