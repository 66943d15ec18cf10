"""The command line has manners: helps, exit statuses, pipes, and never a traceback for a user's mistake."""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cli import parser
from tests.support.forked import Outcome, try_all
from tests.support.harness import Home, clean_environment, eventually, require_tool

LASTING = {"up", "worker", "devcloud", "demo", "send"}
"""They run until they are stopped, or wait for stdin."""
WRITING = {"bundle"}
"""It would leave a file in the folder of whoever runs the tests; test_bundle.py has it."""


def every_command(
    found: argparse.ArgumentParser | None = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Each command and subcommand with its parser, `edgectl` itself first."""
    found = found or parser()
    yield path, found
    for action in found._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from every_command(below, (*path, name))


COMMANDS = dict(every_command())
ALONE = [
    path
    for path, found in COMMANDS.items()
    if path and path[0] not in LASTING | WRITING and not any(a.required for a in found._actions)
]
"""Those that do something without another word."""

NEEDING = {"quarantine", "ledger", "reload", "twin", "commands", "update"}
"""Those that have nothing to say before there is a store, a running runtime, or device management."""


def ends(outcome: Outcome, status: int) -> bool:
    """In that status, with one sentence for a person and no traceback."""
    sentence = outcome.err.count("\n") == 1 and outcome.err.startswith("edgectl")
    return outcome.status == status and "Traceback" not in outcome.err and sentence


def test_every_command_explains_itself_without_a_heavy_import() -> None:
    """`edgectl --help` on a small device in 0.2 s, not in 2."""
    found = try_all([[*path, "--help"] for path in COMMANDS])
    assert len(found) > 40
    wrong = [f for f in found if f.status or f.err or not f.out.startswith("usage: edgectl") or f.heavy]
    assert wrong == []


def test_an_unknown_option_is_one_sentence_and_status_2_at_every_command() -> None:
    found = try_all([[*path, *_least(path), "--no-such-option"] for path in COMMANDS if path])
    wrong = [f for f in found if not ends(f, 2) or not re.search("--no-such-option|required", f.err)]
    assert wrong == []


def _least(path: tuple[str, ...]) -> list[str]:
    """Words for the positional arguments that a command asks for."""
    wanted = [a for a in COMMANDS[path]._actions if not a.option_strings and a.required]
    return [str(next(iter(a.choices))) if a.choices else "1" for a in wanted]


def test_a_home_that_cannot_be_there_is_no_traceback_for_any_command() -> None:
    found = try_all([["--home", "/proc/nowhere", *path] for path in [*ALONE, ("up",), ("worker", "ingest")]])
    assert [f for f in found if f.status not in (0, 1, 2) or "Traceback" in f.err + f.out] == []
    assert [f for f in found if f.err.count("\n") > 1] == []
    assert [f.arguments[-1] for f in found if "up" in f.arguments and not ends(f, 2)] == []


def test_nothing_is_coloured_in_a_pipe(home: Home) -> None:
    commands = [["--home", str(home.folder), *path] for path in ALONE if path != ("doctor",)]
    found = try_all([*commands, ["--help"]], FORCE_COLOR="1", CLICOLOR_FORCE="1", NO_COLOR="")
    assert [f for f in found if "\x1b" in f.out + f.err] == []


def test_json_is_json_and_has_the_same_keys_every_time(home: Home) -> None:
    offer = [path for path in ALONE if "--json" in COMMANDS[path]._option_string_actions]
    assert {("status",), ("doctor",), ("config",), ("identity",), ("quarantine", "ls")} <= set(offer)
    commands = [["--home", str(home.folder), *path, "--json"] for path in offer]
    silent = set()
    for first, second in zip(try_all(commands), try_all(commands), strict=True):
        if not first.out:
            assert ends(first, first.status) and first.status in (1, 2)
            silent.add(first.arguments[2])
            continue
        assert _keys(json.loads(first.out)) == _keys(json.loads(second.out)), first.arguments
        assert first.err == ""
    assert silent <= NEEDING


def _keys(found: object) -> object:
    if isinstance(found, dict):
        return {name: _keys(value) for name, value in found.items()}
    return [_keys(value) for value in found] if isinstance(found, list) else None


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh", "fish"])
def test_completion_knows_every_command_and_every_option(home: Home, shell: str) -> None:
    script = home.edgectl("completion", shell).stdout
    for path, found in COMMANDS.items():
        options = {option for option in found._option_string_actions if option.startswith("--")}
        words = {*path, *options}
        missing = {word for word in words if word not in script and word.lstrip("-") not in script}
        assert missing == set(), path


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("", {"status", "up", "quarantine"}),
        ("st", {"status"}),
        ("--home /tmp st", {"status"}),
        ("quarantine ", {"ls", "show", "requeue", "drop"}),
        ("--config /nowhere quarantine re", {"requeue"}),
        ("quarantine ls --", {"--json", "--help"}),
        ("link ", {"on", "off"}),
        ("worker in", {"ingest"}),
        ("send --pri", {"--priority"}),
    ],
)
def test_fish_offers_what_may_come_next(home: Home, typed: str, offered: set[str]) -> None:
    fish = require_tool("fish")
    script = home.edgectl("completion", "fish").stdout
    asked = f"{script}\ncomplete -C 'edgectl {typed}'"
    answer = subprocess.run(
        [fish, "--no-config", "-c", asked], capture_output=True, text=True, timeout=30,
        env=clean_environment(HOME=str(home.folder)),
    )  # fmt: skip
    found = {line.split("\t")[0] for line in answer.stdout.splitlines()}
    assert answer.stderr == "" and offered <= found, (answer, found)
    if typed == "":
        assert not {"ls", "ingest", "--json"} & found


def test_every_command_explains_itself_in_a_sentence() -> None:
    for path, found in COMMANDS.items():
        text = found.description or ""
        assert text[:1].isupper() and text.endswith("."), (path, text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "required: COMMAND"),
        (("sing",), "invalid choice"),
        (("worker", "gardener"), "invalid choice"),
        (("send", "--priority", "high", "x"), "--priority"),
        (("send", "x", "--retry-for", "nan"), "--retry-for: invalid seconds value: 'nan'"),
        (("send", "x", "--retry-for=-1"), "invalid seconds value"),
        (("send", "this one", "--lines"), "TEXT would be lost beside --lines"),
        (("send", "this one", "--complete-batch", "b"), "TEXT would be lost"),
        (("provision", "--wait", "--timeout", "nan"), "invalid seconds value"),
        (("devcloud", "--https-port", "65536"), "invalid port value"),
        (("devcloud", "--dir", "/tmp/never-made", "--name", "a b"), "name 'a b' must be a host name"),
        (("--config", "/nowhere.toml", "config"), "/nowhere.toml does not exist"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(home: Home, arguments: tuple[str, ...], says: str) -> None:
    failed = home.edgectl(*arguments)
    assert failed.returncode == 2
    assert says in failed.stderr and failed.stderr.count("\n") == 1
    assert "Traceback" not in failed.stderr


def test_a_socket_that_cannot_be_made_is_one_sentence_and_no_crash_report(home: Home) -> None:
    """A container engine makes a folder where the socket to mount is not there yet."""
    home.layout.producer_socket.mkdir()
    for toml, says in (
        ("", f"cannot listen on ipc://{home.layout.producer_socket}: there is a folder, remove it"),
        ('[ingest]\nendpoint = "ipc:///nowhere/x.sock"\n', "/nowhere/x.sock.lock cannot be opened: No such"),
        (f'[ingest]\nendpoint = "ipc:///tmp/{"x" * 110}"\n', ": File name too long"),
    ):
        home.write_config(toml)
        refused = home.edgectl("worker", "ingest")
        assert refused.returncode == 2 and says in refused.stderr, refused.stderr
        assert "Traceback" not in refused.stderr
    assert not (home.layout.log / "crashes.jsonl").exists()


def test_something_else_in_the_place_of_the_stand_ins_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "devcloud.db").write_text("a shopping list" * 100)
    [refused] = try_all([["devcloud", "--dir", str(tmp_path)]])
    assert ends(refused, 2) and "file is not a database; begin anew" in refused.err


def test_a_wrong_setting_stops_every_command_of_an_operator_with_status_2(home: Home) -> None:
    home.write_config('[upload]\nwindow = "wide"\n')
    for command in (["config"], ["worker", "ingest"], ["up"]):
        failed = home.edgectl(*command)
        assert failed.returncode == 2, command
        assert "upload.window = 'wide' is not a whole number" in failed.stderr
        assert "Traceback" not in failed.stderr


def test_config_says_where_each_value_came_from(home: Home) -> None:
    home.write_config("[upload]\nwindow = 7\n")
    found = json.loads(home.edgectl("config", "--json").stdout)["settings"]
    file = str(home.folder / "edge.toml")
    assert found["upload.window"] == {"value": 7, "source": file, "advanced": True}
    assert found["log.level"] == {"value": "INFO", "source": "default", "advanced": False}


def test_config_shows_advanced_settings_that_are_set_and_the_others_when_asked(home: Home) -> None:
    proxy = 'proxy = "http://me:hush-hush@proxy:80"\n'
    home.write_config(f'[upload]\nwindow = 7\n{proxy}[link]\nhours = ["22:00-06:00"]\n')
    told = home.edgectl("config").stdout
    assert "upload.window " in told and "upload.files " not in told and "--advanced" in told
    values = dict(re.findall(r"^(\S+) += (.*?) +# ", told, re.MULTILINE))
    assert values["link.hours"] == '["22:00-06:00"]' and values["upload.proxy"] == '"***"'
    assert "hush" not in told
    every = home.edgectl("config", "--all").stdout
    assert "upload.files " in every and "--advanced" not in every
    plain, example = (home.edgectl("config", "--example", *more).stdout for more in ((), ("--advanced",)))
    assert "#files = 2" in example and "#files = 2" not in plain and "#websockets = false" in plain


@pytest.mark.parametrize("command", ["config", "--help", "completion bash", "status --watch", "doctor"])
def test_a_reader_that_leaves_early_hears_no_complaint(home: Home, command: str) -> None:
    """At the write, and at the last flush; `true` has left before the first word."""
    for reader in ("head -1", "true"):
        piped = subprocess.run(
            f"{sys.executable} -m runtime --home {home.folder} {command} | {reader}",
            shell=True, capture_output=True, text=True, timeout=60, env=clean_environment(),
        )  # fmt: skip
        assert piped.stderr == "", (command, reader)


def test_a_letter_that_the_terminal_does_not_know_is_no_traceback() -> None:
    """A home with an accent, or with bytes that are no UTF-8, on a terminal of 1990."""
    for name in ("é", "\udcff"):
        shown = subprocess.run(
            [sys.executable, "-m", "runtime", "--home", f"/tmp/{name}", "config"],
            capture_output=True, timeout=30, env=clean_environment(PYTHONIOENCODING="ascii"),
        )  # fmt: skip
        assert (shown.returncode, shown.stderr) == (0, b"")
        assert shown.stdout.startswith(b"# home /tmp/\\")


def test_output_that_finds_no_room_is_one_sentence_and_status_1(home: Home) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:  # noqa: PTH123  # a device
        failed = subprocess.run(
            [sys.executable, "-m", "runtime", "--home", str(home.folder), "config"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, env=clean_environment(),
        )  # fmt: skip
    assert (failed.returncode, failed.stderr) == (1, "edgectl: cannot write: No space left on device\n")


@pytest.mark.parametrize("command", [["send", "--lines"], ["status", "--watch"], ["worker", "refresh"]])
def test_ctrl_c_is_no_traceback(home: Home, command: list[str]) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "runtime", "--home", str(home.folder), *command],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=clean_environment(),
    )  # fmt: skip
    try:
        caught = f"/proc/{running.pid}/status"
        eventually(lambda: _waits(Path(caught)), 30, "it is at work")
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
        assert running.returncode == (0 if command[0] == "worker" else 130)
        assert "Traceback" not in err
    finally:
        running.kill()
        running.wait()


def _waits(status: Path) -> bool:
    """Whether the interpreter is up (it catches SIGINT), and has nothing to do."""
    text = status.read_text()
    caught = int(text.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught & 1 << (signal.SIGINT - 1)) and "State:\tS" in text and "VmRSS" in text
