"""A supervisor of another version, with other insides: the runtime works, and says what it does without."""

from __future__ import annotations

import shutil
from pathlib import Path

import supervisor

from runtime.adapters.supervisor.internals import TESTED_WITH
from tests.support.harness import Home, eventually
from tests.support.supervised import WORKING, Runtime

OTHER_VERSION = "4.99.0"


def other_supervisor(folder: Path) -> Path:
    """A folder with a copy of the installed supervisor in which parts that we rely on changed."""
    (installed,) = supervisor.__path__
    copy = folder / "supervisor"
    shutil.copytree(installed, copy, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    (copy / "version.txt").write_text(f"{OTHER_VERSION}\n")
    loggers, loop = copy / "loggers.py", copy / "supervisord.py"
    loggers.write_text(loggers.read_text().replace("doRollover", "do_rollover"))
    loop.write_text(loop.read_text().replace("self.handle_signal()", "self.handle_signals()"))
    loop.write_text(loop.read_text().replace("def handle_signal(", "def handle_signals("))
    return folder


def test_a_supervisor_that_changed_runs_the_workers_without_what_does_not_fit(
    home: Home, tmp_path: Path
) -> None:
    runtime = Runtime(home, WORKING, PYTHONPATH=str(other_supervisor(tmp_path)))
    try:
        runtime.all_at_work()
        log = (home.layout.log / "supervisord.log").read_text()
        (sentence,) = [line for line in log.splitlines() if OTHER_VERSION in line and TESTED_WITH in line]
        for part in ("loggers.RotatingFileHandler.doRollover", "supervisord.Supervisor.handle_signal"):
            assert part in sentence
        for feature in ("logs that survive a full disk", "the check of supervisord.conf"):
            assert feature in sentence
        assert "a socket that comes back" not in sentence, "its parts are as they were"
        assert "Traceback" not in log
        assert home.edgectl("down", timeout_s=60).returncode == 0
        eventually(lambda: not runtime.process.running(), 20, "it has ended")
    finally:
        runtime.close()
