"""A supervisor that is not the one we know costs the features that rely on what changed, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from supervisor import events, loggers

from runtime.adapters.supervisor import internals
from runtime.adapters.supervisor.internals import (
    RELIES_ON,
    TESTED_WITH,
    Feature,
    RunningSupervisord,
    changed_parts,
    difference,
    fingerprint,
    wrong_configuration,
)


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """What was learned of supervisor's parts counts for one test."""
    for cached in (fingerprint, changed_parts):
        cached.cache_clear()
    yield
    for cached in (fingerprint, changed_parts):
        cached.cache_clear()


@pytest.fixture
def supervisord(tmp_path: Path) -> Iterator[SimpleNamespace]:
    logged: list[str] = []
    logger = SimpleNamespace(critical=logged.append, warn=logged.append)
    yield SimpleNamespace(options=SimpleNamespace(here=str(tmp_path), logger=logger), logged=logged)
    events.clear()


def test_every_part_of_the_supervisor_that_we_test_with_is_as_we_know_it() -> None:
    """Where this fails after an upgrade: read what changed, then state the new fingerprint and version."""
    assert {
        part: fingerprint(part)
        for parts in RELIES_ON.values()
        for part, known in parts.items()
        if fingerprint(part) is None or (known and fingerprint(part) != known)
    } == {}
    assert difference() == ""
    assert set(RELIES_ON) == set(Feature)


def test_another_version_with_the_same_parts_is_named_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(internals, "installed_version", lambda: "4.9.0")
    assert difference().startswith(f"supervisor 4.9.0 is not {TESTED_WITH}")
    assert difference().endswith("nothing is switched off")
    assert not any(map(changed_parts, Feature))


@pytest.mark.parametrize("how", ["changed", "gone"])
def test_a_part_that_changed_costs_the_feature_that_relies_on_it(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def roll_over(handler: object) -> None:
        raise NotImplementedError

    if how == "changed":
        monkeypatch.setattr(loggers.RotatingFileHandler, "doRollover", roll_over)
    else:
        monkeypatch.delattr(loggers.RotatingFileHandler, "doRollover")
    assert [feature for feature in Feature if changed_parts(feature)] == [Feature.RELIABLE_LOGS]
    assert "loggers.RotatingFileHandler.doRollover" in difference()
    assert "works without logs that survive a full disk, until" in difference()


def test_a_feature_that_is_off_is_not_installed_and_hears_no_event(
    supervisord: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(internals, "changed_parts", lambda feature: feature is Feature.LOG_WATCH)
    running, called = RunningSupervisord(supervisord), []
    for feature in (Feature.LOG_WATCH, Feature.LOCK_WATCH):
        running.install(feature, lambda feature=feature: called.append(feature))
        running.subscribe(feature, "Tick5", lambda _, feature=feature: called.append(feature))
    events.notify(events.Tick5Event(0, supervisord))
    assert called == [Feature.LOCK_WATCH, Feature.LOCK_WATCH]


def test_a_callback_that_fails_is_named_once_and_ends_neither_supervisord_nor_the_others(
    supervisord: SimpleNamespace,
) -> None:
    running, ticks = RunningSupervisord(supervisord), []
    running.subscribe(Feature.LOG_WATCH, "Tick5", lambda event: event.no_such_thing)
    running.subscribe(Feature.LOCK_WATCH, "Tick5", ticks.append)
    for tick in range(3):
        events.notify(events.Tick5Event(tick, supervisord))
    assert len(ticks) == 3
    (sentence,) = supervisord.logged
    assert "without a log folder that comes back" in sentence and "no_such_thing" in sentence


def test_a_file_is_not_called_wrong_by_a_check_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "supervisord.conf"
    file.write_text("nonsense")
    assert wrong_configuration(["-c", str(file)]) != ""
    monkeypatch.setattr(internals, "changed_parts", lambda feature: feature is Feature.CHECKED_RELOAD)
    assert wrong_configuration(["-c", str(file)]) == ""
