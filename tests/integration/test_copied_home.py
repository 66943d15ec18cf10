"""A home on another machine: its databases get names of their own, its messages and its identity stay."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest
from loguru import logger

from runtime.adapters.management.database import ManagementDatabase
from runtime.adapters.process import machine_names
from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.machine_names import (
    copied_wall_s,
    forget_copy,
    notice_move,
    read_machine,
    read_names,
    was_copied,
)
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.writer import MessageStore
from runtime.cli.status import render
from runtime.core.operations.diagnosis import judge_machine
from runtime.core.operations.machine_identity import MachineIdentity, Move
from runtime.layout import Layout
from runtime.operations.overview import observe
from runtime.workers.store_manager import StoreManager
from tests.support.harness import Home
from tests.support.store_tools import ObedientClock, keep, put

HERE = MachineIdentity("system", frozenset({"card"}), "disk", "filesystem")
THERE = MachineIdentity("system", frozenset({"another"}), "another", "filesystem")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.layout.create()
    return home


def uuid_of(layout: Layout) -> str:
    reader = StoreReader(layout.messages_db)
    reader.open()
    reader.close()
    assert reader.uuid is not None
    return reader.uuid


def opened_by_ingest(home: Home) -> None:
    manager = StoreManager(home.config, ObedientClock())
    manager.close()


def test_a_copied_store_goes_on_under_a_name_of_its_own_with_every_message(home: Home) -> None:
    """Both devices would have given the same ids to different messages of one store."""
    layout = home.layout
    assert notice_move(layout, HERE, 1.0) is Move.FIRST
    store = MessageStore(layout.messages_db, ObedientClock())
    keep(store, put([b"1", b"2"]))
    store.close()
    before = uuid_of(layout)
    opened_by_ingest(home)
    assert uuid_of(layout) == before
    assert notice_move(layout, THERE, 2.0) is Move.COPIED
    lines: list[str] = []
    sink = logger.add(lambda line: lines.append(str(line)), level="CRITICAL", format="{extra[event]}")
    try:
        opened_by_ingest(home)
        after = uuid_of(layout)
        opened_by_ingest(home)
    finally:
        logger.remove(sink)
    assert lines == ["home_copied\n"], "it is said once"
    assert after != before and uuid_of(layout) == after
    reader = StoreReader(layout.messages_db)
    assert reader.backlog().messages == 2
    reader.close()


def test_a_power_cut_between_the_new_name_and_its_note_costs_one_more_name(home: Home) -> None:
    notice_move(home.layout, HERE, 1.0)
    opened_by_ingest(home)
    notice_move(home.layout, THERE, 2.0)
    note = machine_names.copy_note(home.layout.messages_db)
    opened_by_ingest(home)
    after = uuid_of(home.layout)
    note.touch()  # as if the cut came before its removal
    opened_by_ingest(home)
    assert uuid_of(home.layout) != after and not was_copied(home.layout.messages_db)


def test_a_copied_management_database_gives_no_number_again_and_leaves_open_commands_uncertain(
    home: Home,
) -> None:
    layout = home.layout
    notice_move(layout, HERE, 1.0)
    database = ManagementDatabase(layout)
    first = database.uuid
    database.close()
    notice_move(layout, THERE, 2.0)
    database = ManagementDatabase(layout)
    assert database.restored and database.uuid != first
    database.close()
    database = ManagementDatabase(layout)
    assert not database.restored
    database.close()


def test_a_start_that_was_cut_short_finds_the_copy_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    notice_move(home.layout, HERE, 1.0)

    def cut(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine_names, "_write", cut)
    with pytest.raises(OSError):
        notice_move(home.layout, THERE, 2.0)
    monkeypatch.undo()
    assert notice_move(home.layout, THERE, 3.0) is Move.COPIED


def test_the_copy_is_told_until_an_operator_says_what_became_of_the_first(home: Home) -> None:
    layout = home.layout
    notice_move(layout, HERE, 1.0)
    notice_move(layout, THERE, 1_700_000_000.0)
    assert notice_move(layout, THERE, 1_800_000_000.0) is Move.NONE
    assert copied_wall_s(layout) == 1_700_000_000.0
    overview = observe(layout, SystemClock())
    assert overview["machine"] == {"copied_at": "2023-11-14T22:13:20Z"}
    assert any("2023-11-14T22:13:20Z" in row.text for row in render(overview))
    assert judge_machine(copied_wall_s(layout), known=True).verdict == "warning"
    home.edgectl("identity", "--moved")
    assert copied_wall_s(layout) is None and not forget_copy(layout)
    assert notice_move(layout, THERE, 1_900_000_000.0) is Move.NONE


def test_nothing_is_written_while_the_machine_stays_the_same(home: Home) -> None:
    notice_move(home.layout, HERE, 1.0)
    file = machine_names.machine_file(home.layout)
    before = file.stat()
    assert notice_move(home.layout, HERE, 2.0) is Move.NONE
    assert (file.stat().st_mtime_ns, file.stat().st_ino) == (before.st_mtime_ns, before.st_ino)


def test_names_are_read_of_card_disk_and_system_and_kept_hashed_only(home: Home, tmp_path: Path) -> None:
    root = tmp_path / "root"
    device = home.layout.state.stat().st_dev
    numbers = f"{os.major(device)}:{os.minor(device)}"
    disk = root / "sys/devices/mmc0/block/mmcblk0"
    for path, text in (
        ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("sys/class/net/eth0/address", "b8:27:eb:00:00:01\n"),
        ("sys/class/net/eth0/addr_assign_type", "0\n"),
        ("sys/class/net/eth0/device/uevent", ""),
        ("sys/class/net/wlan0/address", "ee:ee:ee:00:00:02\n"),
        ("sys/class/net/wlan0/addr_assign_type", "1\n"),
        ("sys/class/net/wlan0/device/uevent", ""),
        ("sys/class/net/docker0/address", "aa:aa:aa:00:00:02\n"),
        ("sys/class/net/docker0/addr_assign_type", "0\n"),
        ("sys/devices/mmc0/block/mmcblk0/device/cid", "1b534d45423151543020ab0c0d0e0100\n"),
        ("sys/devices/mmc0/block/mmcblk0/mmcblk0p2/partition", "2\n"),
        ("proc/self/mountinfo", f"36 35 {numbers} / / rw - ext4 /dev/mmcblk0p2 rw\n"),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / "sys/dev/block").mkdir(parents=True)
    (root / "sys/dev/block" / numbers).symlink_to(disk / "mmcblk0p2")
    (root / "sys/class/block").mkdir(parents=True)
    (root / "sys/class/block/mmcblk0p2").symlink_to(disk / "mmcblk0p2")
    names = read_names(home.layout.state, root)
    assert names.system and names.disk and names.filesystem and len(names.boards) == 1
    notice_move(home.layout, names, 1.0)
    written = json.dumps(read_machine(home.layout))
    for raw in ("0123456789abcdef", "b8:27:eb", "1b534d45"):
        assert raw not in written


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"copied_wall_s": 1e300}', '{"copied_wall_s": true, "boards": {}}']
)
def test_a_damaged_record_stops_nothing(home: Home, content: str) -> None:
    machine_names.machine_file(home.layout).write_text(content)
    assert copied_wall_s(home.layout) in (None, 1.0)
    notice_move(home.layout, HERE, 2.0)
    assert read_machine(home.layout)["disk"] == "disk"


def test_a_store_of_a_released_version_is_opened_with_the_note(home: Home) -> None:
    """The note is a file beside the store: an older runtime that is brought back ignores it."""
    notice_move(home.layout, HERE, 1.0)
    opened_by_ingest(home)
    notice_move(home.layout, THERE, 2.0)
    with sqlite3.connect(home.layout.messages_db) as db:
        assert db.execute("SELECT count(*) FROM store").fetchone() == (1,)
    db.close()
