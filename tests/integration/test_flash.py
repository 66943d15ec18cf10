"""`edgectl doctor` on the flash: the writes of a year, and its life where the device tells it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.process.status_file import StatusFile
from runtime.core.operations.flash_wear import emmc_used_percent, judge_life, judge_writes, smart_used_percent
from runtime.operations import flash
from runtime.operations.flash import check_flash
from tests.support.harness import Home


@pytest.mark.parametrize(
    ("life_time", "pre_eol_info", "used"),
    [
        ("0x01 0x02\n", "0x01\n", 20),
        ("0x0b 0x01\n", "0x01\n", 110),
        ("0x00 0x03", "", 30),
        ("0x01 0x01", "0x03", 90),
        ("0x00 0x00", "0x02", 80),
        ("0x00 0x00", "0x00", None),
        ("nonsense", "nonsense", None),
    ],
)
def test_the_life_of_an_emmc_is_the_worse_of_what_it_tells(
    life_time: str, pre_eol_info: str, used: int | None
) -> None:
    assert emmc_used_percent(life_time, pre_eol_info) == used


@pytest.mark.parametrize(
    ("report", "used"),
    [
        ({"nvme_smart_health_information_log": {"percentage_used": 7}}, 7),
        ({"endurance_used": {"current_percent": 3}}, 3),
        ({"ata_smart_attributes": {"table": [{"name": "Wear_Leveling_Count", "value": 94}]}}, 6),
        ({"ata_smart_attributes": {"table": [{"name": "Power_On_Hours", "value": 94}, 7]}}, None),
        ({"ata_smart_attributes": 7, "endurance_used": []}, None),
        ({}, None),
    ],
)
def test_the_life_of_a_disk_is_read_from_any_of_the_reports_of_smart(
    report: dict[str, Any], used: int | None
) -> None:
    assert smart_used_percent(report) == used


def test_writes_are_judged_by_the_size_of_the_disk() -> None:
    assert judge_writes(1e9, 16 * 10**9).text == "365 GB a year at the rate of the last hour"
    worn = judge_writes(13e9, 16 * 10**9)
    assert worn.verdict == "warning" and "297 times the disk" in worn.text
    assert judge_writes(None, 1).verdict == "ok"
    assert [judge_life("mmcblk0", used).verdict for used in (70, 80, 99, 100)] == [
        "ok", "warning", "warning", "error",
    ]  # fmt: skip


def test_the_doctor_follows_a_partition_on_a_mapping_down_to_the_card(home: Home, tmp_path: Path) -> None:
    beat = {"rates": {"written_bytes": [100.0, 50.0]}}
    StatusFile(home.layout.status_file("sentinel"), "sentinel").progress(beat)
    card = tmp_path / "sys" / "mmcblk0"
    (card / "device").mkdir(parents=True)
    (card / "device" / "life_time").write_text("0x02 0x09\n")
    (card / "mmcblk0p2").mkdir()
    (card / "mmcblk0p2" / "partition").write_text("2\n")
    mapping = tmp_path / "sys" / "dm-0"
    (mapping / "slaves").mkdir(parents=True)
    (mapping / "slaves" / "mmcblk0p2").symlink_to(card / "mmcblk0p2")
    number = home.layout.state.stat().st_dev
    (tmp_path / f"{os.major(number)}:{os.minor(number)}").symlink_to(mapping)
    writes, life = check_flash(home.layout, tmp_path)
    assert writes.text == "1.58 GB a year at the rate of the last hour"
    assert (life.verdict, life.text) == ("warning", "mmcblk0 has used 90 % of its life by its own count")


@pytest.mark.parametrize("answer", ["report", "no JSON", "silence"])
def test_smartctl_is_asked_where_it_is_installed_and_never_waited_for(
    answer: str, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = json.dumps({"nvme_smart_health_information_log": {"percentage_used": 101}})
    script = {"report": f"echo '{report}'; exit 4", "no JSON": "echo denied", "silence": "exec sleep 60"}
    command = tmp_path / "smartctl"
    command.write_text(f"#!/bin/sh\n{script[answer]}\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(flash, "SMARTCTL_S", 0.2 if answer == "silence" else 30.0)
    disk = tmp_path / "null"  # /dev/null is there
    disk.mkdir()
    number = home.layout.state.stat().st_dev
    (tmp_path / f"{os.major(number)}:{os.minor(number)}").symlink_to(disk)
    _, *life = check_flash(home.layout, tmp_path)
    assert [check.verdict for check in life] == (["error"] if answer == "report" else [])
