"""What stays free on a disk, large or small, and what the doctor says about it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import wiring
from runtime.adapters.store.disk import DiskReserve
from runtime.config import load
from runtime.core.operations.diagnosis import judge_disk

MIB = 1_048_576


@pytest.mark.parametrize(
    ("disk_bytes", "stays_free_bytes"),
    [(64 * MIB, 64 * MIB // 10), (639 * MIB, 639 * MIB // 10), (641 * MIB, 64 * MIB), (10**12, 64 * MIB)],
)
def test_by_default_a_small_disk_keeps_a_tenth_free(
    tmp_path: Path, disk_bytes: int, stays_free_bytes: int
) -> None:
    """A state partition of 64 MiB was refused wholesale: all of it had to stay free."""
    assert wiring.disk_reserve(load({}, home=tmp_path)).bytes_of(disk_bytes) == stays_free_bytes


def test_a_number_that_an_operator_stated_is_kept_as_it_is(tmp_path: Path) -> None:
    stated = load({"EDGE_STORE_MIN_FREE_BYTES": str(64 * MIB)}, home=tmp_path)
    assert wiring.disk_reserve(stated).bytes_of(64 * MIB) == 64 * MIB
    assert DiskReserve(7, 0).bytes_of(1) == 7


def test_the_doctor_asks_for_a_larger_disk_only_where_it_is_too_small() -> None:
    assert judge_disk(50 * MIB, 6 * MIB, 59 * MIB).verdict == "ok"
    small = judge_disk(30 * MIB, 3 * MIB, 32 * MIB)
    assert small.verdict == "warning" and "64 MiB" in small.remedy
    assert judge_disk(2 * MIB, 3 * MIB, 32 * MIB).verdict == "error"
