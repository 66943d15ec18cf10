"""The demo's input: the metrics of this machine, and of machines that hide some."""

from __future__ import annotations

from pathlib import Path

from runtime.demo import metrics


def test_this_machine_tells_about_itself() -> None:
    found = metrics.read()
    assert found["memory"]["total_bytes"] > found["memory"]["available_bytes"] > 0
    assert found["cpu"]["user_s"] >= 0
    assert found["disk"]["total_bytes"] > 0


def test_what_a_container_hides_is_left_out(tmp_path: Path) -> None:
    assert set(metrics.read(tmp_path)) == {"disk"}
