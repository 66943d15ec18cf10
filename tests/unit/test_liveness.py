"""A health check fails for what a restart may mend, and for nothing else: not for a network that is away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.__main__ import main
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
        (WorkerProgress(16.0), "ingest has made no progress for 16 s"),
        (WorkerProgress(0.5, store="no room on the disk"), "ingest stores nothing now: no room on the disk"),
    ],
)
def test_a_worker_is_well_or_its_fault_is_named(progress: WorkerProgress, words: str | None) -> None:
    assert faults({"ingest": progress}) == ([words] if words else [])


def test_the_check_follows_the_status_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layout = Layout(tmp_path)
    layout.run.mkdir()
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
