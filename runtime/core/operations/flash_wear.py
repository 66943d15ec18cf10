"""Wear of the flash: the writes of a year at the present rate, and the life used by the disk's own count.

Pure.

An eMMC tells its life by JESD84-B51 (`DEVICE_LIFE_TIME_EST_TYP_A` and `_B`, `PRE_EOL_INFO`), an SSD by SMART.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.core.operations.diagnosis import Check

DAYS_A_YEAR = 365
CYCLES_A_YEAR = 100
"""Times that a year may write the whole disk: a card of 1,000 erase cycles then lasts ten years."""
WORN_PERCENT = 80
END_PERCENT = 100
_LIFE_STEP_PERCENT = 10
_LIFE_STEPS = range(1, 12)
_RESERVE = {2: 80, 3: 90}
"""PRE_EOL_INFO: 80 % and 90 % of the reserved blocks are used up."""
_SMART_LEFT = ("SSD_Life_Left", "Percent_Lifetime_Remain", "Media_Wearout_Indicator", "Wear_Leveling_Count")
"""ATA attributes whose normalised value falls from 100."""


def judge_writes(bytes_a_day: float | None, disk_bytes: int) -> Check:
    """Judge the writes of a year at this rate, which is that of the last hour."""
    if bytes_a_day is None:
        return Check("flash writes", "ok", "not known yet: the runtime has to run for some minutes")
    yearly = bytes_a_day * DAYS_A_YEAR
    text = f"{_size(yearly)} a year at the rate of the last hour"
    if yearly > CYCLES_A_YEAR * disk_bytes:
        times = f"{yearly / disk_bytes:.0f} times the disk"
        remedy = "send several messages in a request, or give the state a larger disk"
        return Check("flash writes", "warning", f"{text}, {times}: a card of 1,000 cycles wears out", remedy)
    return Check("flash writes", "ok", text)


def emmc_used_percent(life_time: str, pre_eol_info: str = "") -> int | None:
    """The life that an eMMC has used, at most, by its two kinds of cells and its reserve; None: not told."""
    steps = [step for word in life_time.split() if (step := _number(word)) in _LIFE_STEPS]
    reserve = _RESERVE.get(_number(pre_eol_info.strip()), 0)
    if not steps:
        return reserve or None
    return max(_LIFE_STEP_PERCENT * max(steps), reserve)


def smart_used_percent(report: Mapping[str, Any]) -> int | None:
    """The life that a disk has used, by `smartctl -j -A`; None: not told."""
    for table, key in (
        ("endurance_used", "current_percent"),
        ("nvme_smart_health_information_log", "percentage_used"),
    ):
        used = _at(report, table, key)
        if isinstance(used, int):
            return used
    attributes = _at(report, "ata_smart_attributes", "table")
    for attribute in attributes if isinstance(attributes, list) else ():
        if _at(attribute, "name") in _SMART_LEFT and isinstance(left := _at(attribute, "value"), int):
            return max(0, 100 - left)
    return None


def judge_life(device: str, used_percent: int) -> Check:
    """Judge the life that a disk says it has used."""
    text = f"{device} has used {used_percent} % of its life by its own count"
    if used_percent >= END_PERCENT:
        return Check("flash life", "error", text, "replace it soon: it may turn read-only at any time")
    if used_percent >= WORN_PERCENT:
        return Check("flash life", "warning", text, "plan its replacement")
    return Check("flash life", "ok", text)


def _at(value: Any, *keys: str) -> Any:
    """The value below these keys; None where there is none."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        return 0


def _size(amount: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1_000:
            return f"{amount:.3g} {unit}"
        amount /= 1_000
    return f"{amount:.3g} TB"
