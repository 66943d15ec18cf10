"""run/ leads to a tmpfs: of this user alone, emptied at a start, and made again where it is gone."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.process import run_folder
from runtime.adapters.process.run_folder import KEPT, NO_TMPFS, SHARED_MEMORY, prepare, restore
from runtime.cli.up import refuse_read_only
from runtime.layout import Layout
from tests.support.harness import short_folder


@pytest.fixture
def tmpfs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's runtime folder of this test alone."""
    if not run_folder.is_volatile(SHARED_MEMORY):
        pytest.skip("there is no tmpfs at /dev/shm")
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    with short_folder(SHARED_MEMORY) as base:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
        monkeypatch.setattr(run_folder, "SHARED_MEMORY", base / "missing")
        yield base


@pytest.fixture
def run(folder: Path) -> Path:
    layout = Layout(folder / "home")
    layout.create()
    layout.run.rmdir()
    return layout.run


def test_run_leads_to_a_private_folder_of_the_users_runtime_folder(run: Path, tmpfs: Path) -> None:
    assert prepare(run) == ""
    target = run.readlink()
    assert target.parent == tmpfs / "edge-runtime" and target.name.startswith("run-")
    assert run.stat().st_mode & 0o777 == target.parent.stat().st_mode & 0o777 == 0o700
    Layout(run.parent).create()  # as each worker does
    assert prepare(run) == "" and run.readlink() == target, "the link stays"


def test_the_folder_of_systemd_comes_first(run: Path, tmpfs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare(run) == ""
    before = run.readlink()
    (run / "sentinel.status").write_text("{}")
    systemd = tmpfs / "edge-runtime.service"
    systemd.mkdir(mode=0o700)
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{systemd}:/run/other")
    assert prepare(run) == ""
    assert run.readlink().parent == systemd and (run / "sentinel.status").is_file()
    assert not before.exists(), "what it led to before is removed"


def test_a_start_after_a_reboot_is_not_taken_for_one_on_a_read_only_disk(run: Path, tmpfs: Path) -> None:
    """Once it was, and the service never started again: systemd makes its folder, and not what is in it."""
    assert prepare(run) == ""
    shutil.rmtree(run.readlink())
    layout = Layout(run.parent)
    layout.create()
    refuse_read_only(layout)
    assert prepare(run) == "" and run.is_dir()


def test_after_a_reboot_the_link_stays_and_its_folder_is_made_again(run: Path, tmpfs: Path) -> None:
    """Nothing is written to the flash at a boot."""
    prepare(run)
    inode, target = run.lstat().st_ino, run.readlink()
    shutil.rmtree(target.parent)
    Layout(run.parent).create()
    assert prepare(run) == ""
    assert (run.lstat().st_ino, run.readlink()) == (inode, target) and target.is_dir()


def test_a_folder_of_an_older_version_is_taken_over(run: Path, tmpfs: Path) -> None:
    run.mkdir(mode=0o700)
    for name in (*KEPT, "ingest.status", "supervisord.pid"):
        (run / name).write_text(name)
    assert prepare(run) == ""
    assert run.is_symlink() and _names(run) == sorted(KEPT)
    assert [path.name for path in run.parent.iterdir() if "run" in path.name] == ["run"]


def test_what_a_runtime_left_behind_is_removed_at_the_next_start(run: Path, tmpfs: Path) -> None:
    prepare(run)
    for name in (*KEPT, "ingest.status", "reload"):
        (run / name).write_text("{}")
    (run / "upload.folder-7").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(run / "supervisor.sock"))
    prepare(run)
    assert _names(run) == sorted(KEPT)


def test_a_copy_of_a_home_gets_a_folder_of_its_own(run: Path, tmpfs: Path) -> None:
    """It would empty the folder of a runtime that works, and bind its sockets."""
    prepare(run)
    (run / "ingest.status").touch()
    copy = run.parent.with_name("copy")
    shutil.copytree(run.parent, copy, symlinks=True)
    assert prepare(copy / "run") == ""
    assert (run / "ingest.status").exists() and (copy / "run").readlink() != run.readlink()
    assert prepare(run) == "" and run.readlink().exists()


def _names(run: Path) -> list[str]:
    return sorted(path.name for path in run.iterdir() if path.name != "home")


def test_folders_of_runtimes_that_are_gone_are_removed_and_no_others(run: Path, tmpfs: Path) -> None:
    prepare(run)
    base, past_s = run.readlink().parent, time.time() - 2 * run_folder.LEFT_BEHIND_S
    gone, living, fresh = (base / f"run-{name}" for name in ("gone", "living", "fresh"))
    for path in (gone, living, fresh):
        path.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(living / "supervisor.sock"))
        listening.listen()
        for path in (gone, living, run.readlink()):
            os.utime(path, (past_s, past_s))
        prepare(run)
    assert (gone.exists(), living.exists(), fresh.exists(), run.exists()) == (False, True, True, True)


def test_a_link_to_a_folder_that_others_may_enter_is_not_followed(run: Path, tmpfs: Path) -> None:
    foreign = tmpfs / "foreign"
    foreign.mkdir(mode=0o755)
    (foreign / "link.json").write_text("planted")
    run.symlink_to(foreign)
    assert prepare(run) == ""
    assert run.readlink() != foreign and not (run / "link.json").exists()
    assert (foreign / "link.json").read_text() == "planted", "nor is anything there removed"


def test_a_link_in_the_place_of_the_base_is_not_followed(run: Path, tmpfs: Path) -> None:
    """/dev/shm may be written by all: another user may have been there before us."""
    planted = tmpfs / "planted"
    planted.mkdir(mode=0o700)
    (tmpfs / "edge-runtime").symlink_to(planted)
    assert prepare(run) == NO_TMPFS
    assert run.is_dir() and not run.is_symlink() and not any(planted.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_base_of_another_user_is_not_used(run: Path, tmpfs: Path) -> None:
    base = tmpfs / "edge-runtime"
    base.mkdir(mode=0o700)
    os.chown(base, 12345, 12345)
    assert prepare(run) == NO_TMPFS
    assert not any(base.iterdir())


def test_a_private_folder_that_an_operator_chose_stays(run: Path, tmpfs: Path) -> None:
    chosen = tmpfs / "chosen"
    chosen.mkdir(mode=0o700)
    run.symlink_to(chosen)
    assert prepare(run) == "" and run.readlink() == chosen


def test_without_a_tmpfs_run_is_a_folder_and_the_reason_is_said(
    run: Path, tmpfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(run)
    shutil.rmtree(run.readlink())
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run.parent))  # private, and on the disk
    run.parent.chmod(0o700)
    monkeypatch.setattr(run_folder, "_VOLATILE", ())
    assert prepare(run) == NO_TMPFS
    assert run.is_dir() and not run.is_symlink() and run.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_vanishes_under_a_runtime_is_made_again(
    run: Path, tmpfs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's runtime folder goes with the last session: then run/ leads elsewhere."""
    prepare(run)
    target = run.readlink()
    shutil.rmtree(target)
    restore(run)
    assert run.is_dir() and run.readlink() == target
    shutil.rmtree(target.parent)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(run_folder, "SHARED_MEMORY", tmpfs)
    restore(run)
    assert run.is_dir() and run.readlink().parent == tmpfs / f"edge-runtime-{os.geteuid()}"
    run.unlink()
    restore(run)
    assert run.is_dir() and not run.is_symlink()
