"""A local user plants files in a folder, and root, or another user, runs `edgectl` there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.process.home_owner import OVERFLOW_UID
from tests.support.harness import Home, clean_environment, eventually, kill_tree
from tests.support.other_user import command_as, edgectl

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
MALLORY, VICTIM = 54_321, 54_322
COMMANDS = (
    "status", "status --json", "doctor", "identity", "identity --accept", "provision",
    "provision --reset --yes", "quarantine ls", "quarantine drop --all", "link", "link off", "config", "down",
    "reload", "worker ingest", "worker sentinel", "up",
)  # fmt: skip
"""Each that opens files in a home."""


def give(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user, follow_symlinks=False)


def owners(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_uid for path in folder.rglob("*")}


@pytest.fixture
def planted(home: Home) -> Home:
    """A home that belongs to Mallory; she may plant what she likes in it."""
    home.folder.parent.chmod(0o711)
    give(home.folder, MALLORY)
    return home


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[Path]:
    """A file of root's that Mallory would like to have."""
    file = tmp_path / "shadow"
    file.write_text("root:hash")
    file.chmod(0o600)
    yield file
    assert file.lstat().st_uid == 0 and file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == "root:hash"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shadow"]


def link(place: Path, target: Path) -> None:
    place.unlink(missing_ok=True)
    place.symlink_to(target)
    os.chown(place, MALLORY, MALLORY, follow_symlinks=False)


@pytest.mark.parametrize("command", ["identity --accept", "provision --reset --yes", "status", "doctor"])
def test_root_gives_no_file_away_through_a_link_in_a_home_of_another_user(
    planted: Home, secret: Path, command: str
) -> None:
    for name in ("identity.lock", "identity.db", "accepted.toml"):
        link(planted.layout.state / name, secret)
    told = edgectl(0, "--home", str(planted.folder), *command.split())
    assert "Traceback" not in told.stderr
    assert set(owners(planted.folder).values()) == {MALLORY}


def test_root_makes_no_file_through_a_dangling_link_in_a_home_of_another_user(
    planted: Home, secret: Path
) -> None:
    for name in ("identity.db", "identity.lock"):
        link(planted.layout.state / name, secret.with_name("cron-job"))
    edgectl(0, "--home", str(planted.folder), "identity", "--accept")


def test_switching_the_link_off_as_root_writes_through_no_link_of_another_user(
    planted: Home, secret: Path
) -> None:
    edgectl(0, "--home", str(planted.folder), "link", "off")
    made = [path for path in planted.layout.state.iterdir() if "lock" not in path.name]
    assert made and {path.lstat().st_uid for path in made} == {MALLORY}
    for path in made:
        link(path, secret)
    told = edgectl(0, "--home", str(planted.folder), "link", "off")
    assert "Traceback" not in told.stderr


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c not in ("up", "worker sentinel", "worker ingest")]
)
def test_no_command_of_roots_leaves_a_file_of_roots_in_a_home_of_another_user(
    planted: Home, command: str
) -> None:
    told = edgectl(0, "--home", str(planted.folder), *command.split())
    assert "Traceback" not in told.stderr
    assert set(owners(planted.folder).values()) == {MALLORY}


def test_a_worker_that_root_starts_in_a_home_of_another_user_runs_as_that_user(planted: Home) -> None:
    worker = subprocess.Popen(
        command_as(0, "--home", str(planted.folder), "worker", "ingest"),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environment(),
    )  # fmt: skip
    try:
        eventually(planted.layout.status_file("ingest").exists, 30, "ingest is up")
        status = Path(f"/proc/{worker.pid}/status").read_text()
        uids, gids = status.partition("Uid:")[2].split()[:4], status.partition("Gid:")[2].split()[:4]
        assert {*uids, *gids} == {str(MALLORY)}
        assert status.partition("Groups:")[2].partition("\n")[0].strip() == ""
        assert set(owners(planted.folder).values()) == {MALLORY}
    finally:
        kill_tree(worker.pid)
        worker.wait(10)


def test_a_supervisord_conf_in_the_current_folder_makes_no_home_of_it(planted: Home, secret: Path) -> None:
    planted.layout.supervisord_conf.write_text("[supervisord]\n")
    link(planted.layout.state / "identity.lock", secret)
    told = edgectl(0, "config", folder=planted.folder)
    assert f"home {planted.folder}" not in told.stdout
    told = edgectl(0, "--home", ".", "config", folder=planted.folder)
    assert f"home {planted.folder}" in told.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_a_home_of_another_user_is_refused_in_one_sentence(planted: Home, command: str) -> None:
    planted.folder.chmod(0o777)
    refused = edgectl(VICTIM, "--home", str(planted.folder), *command.split())
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert f"home {planted.folder} belongs to user {MALLORY}, not to you" in refused.stderr
    assert set(owners(planted.folder).values()) == {MALLORY}


def test_a_home_behind_a_link_of_another_user_is_refused_to_root(home: Home) -> None:
    """The link shows to a good home of root's now, and elsewhere in a moment."""
    home.folder.parent.chmod(0o711)
    stranger = home.folder.with_name(f"{home.folder.name}-link")
    stranger.symlink_to(home.folder)
    try:
        os.chown(stranger, MALLORY, MALLORY, follow_symlinks=False)
        refused = edgectl(0, "--home", str(stranger), "link", "off")
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1
        assert f"{stranger}, on the way to {stranger}, belongs to user {MALLORY}" in refused.stderr
    finally:
        stranger.unlink()


@pytest.mark.parametrize("whose", [0, VICTIM])
def test_a_home_in_a_folder_of_another_user_is_refused_to_root(home: Home, whose: int) -> None:
    inner = home.folder / "inner"
    inner.mkdir()
    os.chown(inner, whose, whose)
    os.chown(home.folder, MALLORY, MALLORY)
    refused = edgectl(0, "--home", str(inner), "status")
    assert refused.returncode == 2
    assert f"{home.folder}, on the way to {inner}, belongs to user {MALLORY}" in refused.stderr


def test_a_new_home_in_a_folder_of_another_user_becomes_that_users(planted: Home) -> None:
    made = planted.folder / "new"
    told = edgectl(0, "--home", str(made), "link", "off")
    assert told.returncode == 0, told.stderr
    assert set(owners(planted.folder).values()) == {MALLORY}


def test_folders_of_two_users_in_one_home_are_refused_to_root(planted: Home) -> None:
    os.chown(planted.layout.run, VICTIM, VICTIM)
    refused = edgectl(0, "--home", str(planted.folder), "status")
    assert refused.returncode == 2
    assert f"belong to user {MALLORY} and user {VICTIM}" in refused.stderr


def test_a_state_folder_of_another_user_in_a_home_of_roots_is_entered_as_that_user(
    home: Home, secret: Path
) -> None:
    home.folder.parent.chmod(0o711)
    os.chown(home.layout.state, MALLORY, MALLORY)
    link(home.layout.state / "identity.lock", secret)
    edgectl(0, "--home", str(home.folder), "identity", "--accept")


@pytest.mark.parametrize(("mode", "group"), [(0o777, 0), (0o1777, 0), (0o771, MALLORY)])
def test_a_home_that_others_may_write_in_is_refused_to_root(home: Home, mode: int, group: int) -> None:
    os.chown(home.layout.state, 0, group)
    home.layout.state.chmod(mode)
    refused = edgectl(0, "--home", str(home.folder), "identity", "--accept")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert f"chmod go-w {home.layout.state}" in refused.stderr
    home.layout.state.chmod(0o700)
    assert edgectl(0, "--home", str(home.folder), "identity").returncode == 1


def test_a_producer_of_another_user_sends_into_the_services_home(planted: Home) -> None:
    """The installed default: the home is the service's, the socket its group's."""
    planted.folder.chmod(0o711)
    silent = edgectl(VICTIM, "--home", str(planted.folder), "send", "x", "--retry-for", "0.2")
    assert silent.returncode == 1 and "belongs to" not in silent.stderr


def test_a_home_of_user_nobody_is_no_home_of_root_in_disguise(home: Home) -> None:
    """What a container shows for an owner it cannot name is, outside of one, a user as any other."""
    home.folder.parent.chmod(0o711)
    os.chown(home.folder, OVERFLOW_UID, OVERFLOW_UID)
    refused = edgectl(VICTIM, "--home", str(home.folder), "status")
    assert refused.returncode == 2 and "not to you" in refused.stderr
