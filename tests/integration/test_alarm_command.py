"""An operator's program gets each alarm once, and nothing that it does holds up the sentinel."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.process import alarm_command
from runtime.adapters.process.alarm_command import AlarmCommand
from runtime.adapters.process.clock import SystemClock
from runtime.adapters.supervisor.rpc import Program
from runtime.config import load
from runtime.workers.sentinel_metrics import MetricsFile
from tests.support.harness import Home, eventually

WRITES = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_the_command_gets_the_beginning_and_the_end_of_an_alarm(home: Home) -> None:
    told = home.folder / "told"
    command = json.dumps([sys.executable, "-c", WRITES, str(told)])
    home.write_config(f"[alarm]\ncommand = {command}\n[sentinel]\nmetrics_every_s = 0\n")
    settings = load({}, home=home.folder).settings
    layout = home.layout
    layout.create()
    clock = Clock()
    metrics = MetricsFile(layout, clock)
    down = {"ingest": Program("ingest", "BACKOFF", 0, "no memory", 1)}

    def look(programs: dict[str, Program], count: int) -> list[dict[str, Any]]:
        clock.at_s += 100.0

        def told_all() -> bool:
            metrics.write(programs, settings)
            return len(events(told)) >= count

        eventually(told_all, 20, f"{count} events are told")
        return events(told)

    began = look(down, 1)
    assert any(event["alarm"] == "ingest is BACKOFF: no memory" for event in began)
    assert {event["event"] for event in began} == {"begins"} and began[0]["home"] == str(home.folder)
    assert not (layout.run / "metrics.prom").exists(), "no metrics were asked for"


class Clock(SystemClock):
    """The real clock, put forward."""

    at_s = 0.0

    def boot_s(self) -> float:
        return super().boot_s() + self.at_s


def test_a_command_that_hangs_fails_or_is_missing_costs_its_event_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarm_command, "TIME_S", 0.2)
    told, command = tmp_path / "told", AlarmCommand()
    command.command = [sys.executable, "-c", "import time; time.sleep(60)"]
    command.add({"n": 1})
    began_s = time.monotonic()
    command.turn(0.0)
    assert time.monotonic() - began_s < 5, "it is not waited for"
    command.command = ["/nowhere/to/be/found"]
    command.add({"n": 2})
    command.turn(1.0)  # the first is ended, the second cannot be started
    command.command = [sys.executable, "-c", WRITES, str(told)]
    command.add({"n": 3})

    def done() -> bool:
        command.turn(1.0)
        return bool(events(told))

    eventually(done, 20, "the next one is told")
    assert events(told) == [{"n": 3}]
    for number in range(1000):
        command.add({"n": number})
    assert len(command._waiting) == alarm_command.MOST_WAITING
