"""`make demo`, shortened: exit status 0, nothing lost, and nothing left behind, also after Ctrl-C."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.support.harness import Process, eventually


def start(folder: Path) -> Process:
    return Process(
        sys.executable,
        "-m",
        "runtime",
        "demo",
        "--yes",
        "--seconds",
        "1",
        log=folder / "demo.log",
        TMPDIR=str(folder),
    )


def processes_of(folder: Path) -> list[str]:
    """Command lines of living processes that name `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (path.parent / "environ").read_bytes()
        except OSError:
            continue  # it ended while we looked
        if str(folder) in text or f"{folder}/edge-demo-".encode() in environment:
            found.append(text)
    return found


@pytest.mark.timeout(240)
def test_the_demo_loses_nothing_and_leaves_nothing_behind(folder: Path) -> None:
    demo = start(folder)
    try:
        status = demo.popen.wait(220)
    finally:
        demo.close()
    said = demo.said()
    assert status == 0, said
    assert "acknowledged = stored = delivered, nothing lost." in said
    assert "commands sent = done, each once, and the twin is equal." in said
    assert "\x1b" not in said, "no colour and no live line in a pipe"
    assert list(folder.glob("edge-demo-*")) == []
    assert processes_of(folder) == []


@pytest.mark.timeout(120)
def test_ctrl_c_leaves_no_process_and_no_file(folder: Path) -> None:
    demo = start(folder)
    try:
        eventually(lambda: "messages flow" in demo.said() or not demo.running(), 90, "messages flow")
        demo.signal(signal.SIGINT)
        assert demo.popen.wait(60) == 130, demo.said()
    finally:
        demo.close()
    assert "Traceback" not in demo.said()
    assert list(folder.glob("edge-demo-*")) == []
    assert processes_of(folder) == []
