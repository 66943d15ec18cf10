"""A health check fails for what a restart may mend, and for nothing else: not for a network that is away."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from runtime.__main__ import main
from runtime.adapters.process.process import Lock
from runtime.adapters.process.status_file import StatusFile
from runtime.core.operations.liveness import WorkerProgress, faults
from runtime.layout import WORKERS, Layout


@pytest.mark.parametrize(
    ("progress", "words"),
    [
        (WorkerProgress(0.5), None),
        (WorkerProgress(14.0, store="open"), None),
        (WorkerProgress(600.0, busy=True), None),
        (WorkerProgress(None), "ingest has not reported yet"),
        (WorkerProgress(0.5, gone=True), "ingest does not run"),
        (WorkerProgress(600.0, busy=True, gone=True), "ingest does not run"),
        (WorkerProgress(16.0), "ingest has made no progress for 16 s"),
        (WorkerProgress(0.5, store="no room on the disk"), "ingest stores nothing now: no room on the disk"),
    ],
)
def test_a_worker_is_well_or_its_fault_is_named(progress: WorkerProgress, words: str | None) -> None:
    assert faults({"ingest": progress}) == ([words] if words else [])


def test_the_check_follows_the_status_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(tmp_path)
    layout.run.mkdir()
    layout.state.mkdir()
    locks = [Lock(layout.lock(name)) for name in (*WORKERS, "sentinel")]
    assert main(["--home", str(tmp_path), "health"]) == 1
    assert len(capsys.readouterr().out.splitlines()) == len(WORKERS) + 1
    for name in (*WORKERS, "sentinel"):
        StatusFile(layout.status_file(name), name).progress({"store": "open"} if name == "ingest" else {})
    assert main(["--home", str(tmp_path), "health", "--wait", "1"]) == 0
    assert capsys.readouterr().out == "healthy\n"
    StatusFile(layout.status_file("ingest"), "ingest").progress({"store": "newer"})
    assert main(["--home", str(tmp_path), "health", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {
        "healthy": False,
        "faults": ["ingest stores nothing now: newer"],
    }
    layout.status_file("upload").write_bytes(b"\xff{")
    assert main(["--home", str(tmp_path), "health"]) == 1, "a record of anything at all is no report"
    for lock in locks:
        lock.release()


def test_a_runtime_that_was_stopped_is_not_well_from_that_moment_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last reports of its workers were read as theirs for 15 s more."""
    layout, names = Layout(tmp_path), (*WORKERS, "sentinel")
    layout.run.mkdir()
    layout.state.mkdir()
    locks = {name: Lock(layout.lock(name)) for name in (*names, "supervisor")}
    for name in names:
        StatusFile(layout.status_file(name), name).progress({"store": "open"} if name == "ingest" else {})

    def faults_now() -> list[str]:
        main(["--home", str(tmp_path), "health", "--json"])
        return list(json.loads(capsys.readouterr().out)["faults"])

    assert faults_now() == []
    locks.pop("upload").release()
    assert faults_now() == [], "it is started again in a moment"
    locks.pop("supervisor").release()
    assert faults_now() == ["upload does not run"], "who would?"
    locks["supervisor"] = Lock(layout.lock("supervisor"))
    for name in set(names) - {"upload"}:
        locks.pop(name).release()
    assert faults_now() == [f"{name} does not run" for name in names], "supervisord is ending, too"
    layout.lock("ingest").chmod(0)
    if os.geteuid():  # root may open it all the same
        assert faults_now() == [], "what we may not look at says nothing"
    locks.pop("supervisor").release()


def test_the_check_is_done_in_a_fraction_of_its_tenth_of_a_second(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.run.mkdir()
    main(["--home", str(tmp_path), "health"])
    began_s = time.process_time()
    main(["--home", str(tmp_path), "health"])
    assert time.process_time() - began_s < 0.1
