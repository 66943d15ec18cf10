"""The settings of the gateway: which devices behind this one may send through it. See `settings.py`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.core.leaf import DEVICE_ID_PATTERN, DEVICE_ID_RULE
from runtime.setting_rule import setting


def parse_leaves(written: Sequence[str]) -> tuple[str, ...]:
    """The ids of leaves. Raises ValueError."""
    for leaf in written:
        if not re.fullmatch(DEVICE_ID_PATTERN, leaf):
            raise ValueError(f"holds a leaf that is no device id: each {DEVICE_ID_RULE}")
    return tuple(written)


@dataclass(frozen=True)
class GatewaySettings:
    """Devices behind this one (leaves) whose messages go out through it."""

    leaves: tuple[str, ...] = setting(
        (),
        "device ids of the leaves whose messages are taken; others are refused",
        written=tuple[str, ...],
        parse=parse_leaves,
    )
    auto: bool = setting(False, "take the messages of other leaves, too; new ones come in at a limited rate")
    max_leaves: int = setting(1_000, "most leaves with anything stored", low=1, high=10_000, advanced=True)
