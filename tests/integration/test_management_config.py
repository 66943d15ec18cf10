"""Settings that the cloud desires, with the real worker and a hub: tried, confirmed, taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.__main__ import main
from runtime.config import Config, load
from runtime.core.management.config_trial import TrialPolicy
from runtime.workers import config_trials
from tests.support.management_world import ManagementWorld


class TakenAtOnce:
    """A reload that every worker has taken when it is asked about."""

    def __init__(self, config: Config, clock: object) -> None:
        self.values = load({}, home=config.layout.home).settings
        REMEMBERED.append(self.values.upload.window)

    def problems(self) -> list[str] | None:
        return []

    def close(self) -> None:
        pass


REMEMBERED: list[int] = []
"""What each reload found in force."""


@pytest.fixture
def world(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ManagementWorld]:
    monkeypatch.setattr(config_trials, "ASK_EVERY_S", 0.1)
    monkeypatch.setattr(config_trials, "TrialPolicy", lambda limit_s: TrialPolicy(limit_s / 600, 0.2))
    monkeypatch.setattr(config_trials, "ReloadProcess", TakenAtOnce)
    REMEMBERED.clear()
    made = ManagementWorld(folder)
    try:
        made.upload.connect()
        made.until(lambda: made.worker.figures()["hub"] == "up")
        yield made
    finally:
        made.close()


def told(world: ManagementWorld) -> Any:
    """What the cloud reads of it."""
    return world.reported().get("runtime", {}).get("config", {})


def test_desired_settings_are_confirmed_by_the_hub_and_shown(
    world: ManagementWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    world.desire({"runtime": {"config": {"upload": {"window": 9}}}})
    world.until(lambda: told(world) == {"state": "confirmed"})
    assert REMEMBERED == [9]
    assert main(["--home", str(world.home), "config", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["settings"]["upload.window"]
    assert (shown["value"], shown["source"]) == (9, "twin /runtime/config")


def test_they_are_taken_back_where_the_connection_ends_with_them(world: ManagementWorld) -> None:
    world.desire({"runtime": {"config": {"upload": {"window": 9}}}})
    world.until(lambda: REMEMBERED == [9])
    world.upload.disconnect()
    world.until(lambda: len(REMEMBERED) == 2)
    assert REMEMBERED[1] == load({}, home=world.home).settings.upload.window != 9
    world.upload.connect()
    world.until(lambda: told(world).get("state") == "taken back")
    assert told(world)["reason"] == "the hub was not reached within 1 s"


def test_what_is_not_allowed_is_refused_with_the_reason(world: ManagementWorld) -> None:
    world.desire({"runtime": {"config": {"alarm": {"command": ["reboot"]}}}})
    world.until(lambda: told(world).get("state") == "refused")
    assert told(world)["reason"] == "alarm.command is not among management.remote_settings"
    assert REMEMBERED == []
