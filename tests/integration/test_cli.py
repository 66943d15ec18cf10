"""The command line is well-mannered: helps, exit statuses, and never a traceback for a user's mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness import Home
from tests.unit.test_readme import commands


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_explains_itself(home: Home, command: str) -> None:
    shown = home.edgectl(command, "--help")
    assert shown.returncode == 0
    assert "usage: edgectl" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "required: COMMAND"),
        (("sing",), "invalid choice"),
        (("worker", "gardener"), "invalid choice"),
        (("--config", "/nowhere.toml", "config"), "/nowhere.toml does not exist"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(home: Home, arguments: tuple[str, ...], says: str) -> None:
    failed = home.edgectl(*arguments)
    assert failed.returncode == 2
    assert says in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_wrong_setting_stops_every_command_with_status_2(home: Home) -> None:
    home.write_config('[upload]\nwindow = "wide"\n')
    for command in (["config"], ["worker", "ingest"], ["up"], ["send", "x"]):
        failed = home.edgectl(*command)
        assert failed.returncode == 2, command
        assert "upload.window = 'wide' is not a whole number" in failed.stderr
        assert "Traceback" not in failed.stderr


def test_config_says_where_each_value_came_from(home: Home) -> None:
    home.write_config("[upload]\nwindow = 7\n")
    found = json.loads(home.edgectl("config", "--json").stdout)["settings"]
    assert found["upload.window"] == {"value": 7, "source": str(home.folder / "edge.toml")}
    assert found["log.level"]["source"] == "default"


def test_a_reader_that_leaves_early_causes_no_traceback(home: Home, folder: Path) -> None:
    import subprocess
    import sys

    from tests.harness import clean_environment

    piped = subprocess.run(
        f"{sys.executable} -m runtime --home {home.folder} config | head -1",
        shell=True,
        capture_output=True,
        text=True,
        timeout=30,
        env=clean_environment(),
    )
    assert "Traceback" not in piped.stderr
