"""Somebody ran `edgectl up` as root in the service's home, or looks at it as somebody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.adapters.process.process import Lock, has_locked
from runtime.errors import UsageError
from tests.support.harness import Home, clean_environment
from tests.support.other_user import edgectl

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
NOBODY = 65534


def as_nobody(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    return edgectl(NOBODY, "--home", str(home.folder), *arguments)


def as_root(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    return edgectl(0, "--home", str(home.folder), *arguments)


@pytest.fixture
def left_by_root(home: Home) -> Home:
    """A home of the service in which root ran once."""
    home.folder.parent.chmod(0o711)
    for folder in (home.folder, home.layout.state, home.layout.run, home.layout.log):
        os.chown(folder, NOBODY, NOBODY)
    for name in ("supervisor", "ingest"):
        home.layout.lock(name).touch(mode=0o600)
    return home


@pytest.mark.parametrize("command", [["up"], ["worker", "ingest"]])
def test_locks_that_root_left_are_one_sentence_with_the_remedy(
    left_by_root: Home, command: list[str]
) -> None:
    refused = as_nobody(left_by_root, *command)
    assert refused.returncode == 2
    assert f"chown -R --no-dereference {NOBODY} {left_by_root.folder}\n" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["provision --reset --yes", "identity --accept"])
@pytest.mark.parametrize("damaged", [False, True])
def test_an_identity_that_a_command_of_root_makes_is_the_services(
    left_by_root: Home, command: str, damaged: bool
) -> None:
    """As the runbook says, with sudo: both workers then waited for somebody to chown the new file."""
    database = left_by_root.layout.identity_db
    if damaged:
        database.touch(mode=0o600)
        database.write_bytes(b"this is no database" * 1000)
        os.chown(database, NOBODY, NOBODY)
    assert "Errno" not in as_root(left_by_root, *command.split()).stderr
    owners = {path.name: path.stat().st_uid for path in left_by_root.layout.state.glob("identity.*")}
    aside = {"identity.db.damaged": NOBODY} if damaged else {}
    assert owners == {"identity.db": NOBODY, "identity.lock": NOBODY, **aside}


def test_doctor_finds_what_root_left_and_names_the_remedy(left_by_root: Home) -> None:
    for see in (as_nobody(left_by_root, "doctor"), as_root(left_by_root, "doctor")):
        assert see.returncode == 2 and "files belong to another user" in see.stdout
        assert f"chown -R --no-dereference {NOBODY} {left_by_root.folder}" in see.stdout
    subprocess.run(["chown", "-R", str(NOBODY), str(left_by_root.folder)], check=True)
    assert "files belong to another user" not in as_root(left_by_root, "doctor").stdout


def test_a_lock_outside_the_folders_of_state_names_itself_and_no_folder_of_others(tmp_path: Path) -> None:
    """That of the producers' socket: `chown -R` of the folder above the home gives all of /var/lib away."""
    tmp_path.chmod(0o711)
    lock = tmp_path / "ingest.sock.lock"
    lock.touch(mode=0o600)
    script = (
        "import os, sys\nfrom runtime.adapters.process.process import *\n"
        "os.setuid(65534); Lock(Path(sys.argv[1]))"
    )
    refused = subprocess.run(
        [sys.executable, "-c", script, str(lock)],
        capture_output=True, text=True, timeout=30, env=clean_environment(),
    )  # fmt: skip
    assert refused.stderr.endswith(f"as root: chown {NOBODY} {lock}\n"), refused.stderr


@pytest.mark.parametrize("command", ["status", "doctor", "up", "down", "send x", "identity", "worker ingest"])
def test_a_home_that_may_not_be_entered_is_one_sentence_for_every_command(home: Home, command: str) -> None:
    home.folder.chmod(0o700)
    told = as_nobody(home, *command.split())
    assert told.returncode in (1, 2) and "Traceback" not in told.stderr
    assert f"{home.folder}/edge.toml: cannot be looked for: Permission denied" in told.stdout + told.stderr


def test_a_producer_sends_without_being_allowed_to_read_the_tokens_of_the_configuration(home: Home) -> None:
    """Of the group edge-producers, on an installed device: `edgectl send` could only end."""
    home.start_worker("ingest")
    assert home.edgectl("send", "x").returncode == 0  # it is up
    home.folder.parent.chmod(0o711)
    home.folder.chmod(0o711)
    home.layout.producer_socket.chmod(0o666)
    (home.folder / "edge.toml").chmod(0o640)
    sent = as_nobody(home, "send", "x")
    assert (sent.returncode, sent.stderr) == (0, "")
    refused = as_nobody(home, "--config", f"{home.folder}/edge.toml", "send", "x")
    assert refused.returncode == 2 and "cannot be read: Permission denied" in refused.stderr
    home.layout.producer_socket.chmod(0o660)
    silent = as_nobody(home, "send", "x", "--retry-for", "0.3")
    assert silent.returncode == 1 and "this user may not connect to it" in silent.stderr


def test_a_current_folder_that_may_not_be_entered_is_no_matter(home: Home, tmp_path: Path) -> None:
    """`sudo -u edge-runtime edgectl doctor`, from /root."""
    tmp_path.chmod(0o700)
    for folder in (home.folder.parent, home.folder):
        folder.chmod(0o755)
    told = edgectl(NOBODY, "--home", str(home.folder), "status", folder=tmp_path)
    assert told.stdout.startswith(("DOWN", "UNKNOWN")) and told.stderr == ""


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("doctor", "not ours to look into"),
        ("down", "may not be read by this user"),
        ("quarantine ls", "cannot be read: Permission denied"),
    ],
)
def test_who_may_not_look_is_told_so_and_not_that_nothing_is_there(
    home: Home, command: str, says: str
) -> None:
    home.layout.messages_db.touch()
    for folder in (home.folder.parent, home.folder):
        Path(folder).chmod(0o711)
    told = as_nobody(home, *command.split())
    assert told.returncode in (1, 2)
    assert says in told.stdout + told.stderr and "Traceback" not in told.stderr


def test_a_lock_writes_no_number_into_the_file_that_a_link_in_its_place_points_to(tmp_path: Path) -> None:
    """The lock of a producers' socket in a folder that others may write, too."""
    precious, lock = tmp_path / "precious", tmp_path / "ingest.sock.lock"
    precious.write_text("all of it")
    lock.symlink_to(precious)
    with pytest.raises(UsageError, match="is a link"):
        Lock(lock)
    assert precious.read_text() == "all of it"


def test_the_holder_of_a_lock_is_known_where_what_it_has_open_may_not_be_seen(tmp_path: Path) -> None:
    """In a user namespace of its own (PrivateUsers=) the service is hidden from its own user outside."""
    held = Lock(tmp_path / "supervisor.lock")
    try:
        assert has_locked(os.getpid(), tmp_path / "supervisor.lock")
        assert not has_locked(os.getppid(), tmp_path / "supervisor.lock")
    finally:
        held.release()
    assert not has_locked(os.getpid(), tmp_path / "supervisor.lock")
