"""`edgectl status` tells what can be known, whatever is down; `edgectl doctor` tells what helps."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.overview import _trouble
from runtime.adapters.status import StatusFile, beat_of, read_status
from runtime.cli.status import duration, size
from tests.harness import Cloud, Home, eventually
from tests.supervised import PROGRAMS, Runtime


def status(home: Home) -> tuple[int, dict[str, Any]]:
    answer = home.edgectl("status", "--json")
    assert answer.stderr == ""
    return answer.returncode, json.loads(answer.stdout)


def test_a_home_that_never_ran_is_down_and_no_traceback(home: Home) -> None:
    code, found = status(home)
    assert (code, found["verdict"]) == (2, "down")
    assert set(found["workers"]) == set(PROGRAMS)
    assert found["disk"]["free_bytes"] > 0
    text = home.edgectl("status")
    assert text.returncode == 2 and text.stdout.startswith("DOWN")


@pytest.fixture
def served(home: Home) -> Iterator[Runtime]:
    runtime = Runtime(home)
    try:
        for program in PROGRAMS:
            runtime.wait_for(program)
        yield runtime
    finally:
        runtime.close()


def test_the_backlog_is_known_even_when_everything_is_down(served: Runtime) -> None:
    home = served.home
    assert home.edgectl("send", "--stream", "s", "one").returncode == 0
    code, found = status(home)
    assert (code, found["verdict"]) == (1, "degraded"), "no platform is configured"
    assert found["backlog"]["messages"] == 1
    eventually(lambda: status(home)[1]["backlog"]["counted"].get("stored") == 1, 10, "ingest says so too")
    eventually(
        lambda: status(home)[1]["workers"]["ingest"]["state"] == "RUNNING", 20, "it has stood for a while"
    )
    assert status(home)[1]["workers"]["ingest"]["memory_bytes"] > 5_000_000
    served.close()
    code, found = status(home)
    assert code == 2
    assert found["backlog"]["messages"] == 1
    assert found["backlog"]["oldest_age_s"] > 0


def test_a_runtime_with_its_hub_is_healthy(device: Home, cloud: Cloud) -> None:
    runtime = Runtime(device)
    try:
        eventually(cloud.approve_all, 40, "the device asks for approval")
        eventually(lambda: status(device)[0] == 0, 40, "healthy")
        found = status(device)[1]
        assert found["hub"]["state"] == "up" and found["identity"]["state"] == "registered"
    finally:
        runtime.close()


def test_watch_shows_the_state_again_and_again(home: Home) -> None:
    import subprocess
    import sys

    watch = subprocess.Popen(
        [sys.executable, "-m", "runtime", "--home", str(home.folder), "status", "--watch"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert watch.stdout is not None
        heads = 0
        while heads < 2:
            heads += watch.stdout.readline().startswith("DOWN")
    finally:
        watch.kill()
        watch.wait()


def test_a_full_disk_stops_the_figures_but_not_the_heart(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "upload.status"
    path.write_text(json.dumps({"pid": 1}))  # a predecessor's
    reporter = StatusFile(path, "upload")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    reporter.progress({}, now=True)
    first = beat_of(path, reporter._fixed["pid"])
    assert first is not None, "the predecessor's words no longer stand for ours"
    assert read_status(path) is None
    eventually(lambda: _beats_on(reporter, path, first), 5, "the heart beats on")


def _beats_on(reporter: StatusFile, path: Path, before: object) -> bool:
    reporter.progress({}, now=True)
    return beat_of(path, reporter._fixed["pid"]) != before


def test_a_worker_that_runs_without_progress_is_no_healthy_worker() -> None:
    worker = {"state": "RUNNING", "progress_age_s": 20.0, "uptime_s": 100.0, "trouble": ""}
    assert "no progress for 20 s" in _trouble("upload", worker)
    assert "never reported" in _trouble("upload", {**worker, "progress_age_s": None})
    assert _trouble("upload", {**worker, "progress_age_s": 1.0}) == ""


def test_figures_are_said_as_a_person_says_them() -> None:
    assert [duration(s) for s in (None, 4.9, 65, 7800, 200_000)] == ["-", "4s", "1m05s", "2h10m", "2d07h"]
    assert [size(b) for b in (None, 0, 2048, 5_000_000)] == ["-", "0 B", "2 KiB", "4.8 MiB"]


def test_doctor_names_what_is_wrong_and_what_helps(home: Home) -> None:
    home.write_config('[platform]\ninstance = "localhost:1"\n')
    began_s = time.monotonic()
    answer = home.edgectl("doctor", "--json", timeout_s=60)
    assert time.monotonic() - began_s < 30
    checks = {check["name"]: check for check in json.loads(answer.stdout)}
    assert answer.returncode == 2
    assert checks["configuration"]["verdict"] == "ok"
    assert checks["fsync"]["verdict"] in ("ok", "warning")
    platform = checks["platform localhost:1"]
    assert platform["verdict"] == "error" and "refused" in platform["text"].lower()
    assert platform["remedy"]


def test_doctor_tells_a_bad_setting_from_everything_else(home: Home) -> None:
    home.write_config('[log]\nlevel = "LOUD"\n')
    answer = home.edgectl("doctor", timeout_s=60)
    assert answer.returncode == 2
    assert "log.level" in answer.stdout


def test_doctor_is_content_with_a_working_device(device: Home, cloud: Cloud) -> None:
    answer = device.edgectl("doctor", "--json", timeout_s=60)
    bad = [c for c in json.loads(answer.stdout) if c["verdict"] == "error"]
    assert bad == []
