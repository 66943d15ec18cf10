"""Pack trial: rules for packs as a person tries them on the command line, `pack=lines,linger=10s`. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runtime.core.delivery.envelope import Compression
from runtime.core.delivery.packing import PackFormat

RULE = (
    "write pack=lines|concat|cbor-seq|none, linger=10s, units=16, compression=none|fastest|smallest, "
    "per-day=8640"
)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, None: 1.0, "m": 60.0, "h": 3600.0}
MOST_LINGER_S = 86_400.0
MOST_UNITS = 60
MOST_UNITS_PER_DAY = 10**9


@dataclass(frozen=True, slots=True)
class PackTrial:
    """What is tried of every stream; None: as the settings say."""

    format: PackFormat | None = None
    linger_s: float | None = None
    units: int | None = None
    compression: Compression | None = None
    units_per_day: int | None = None

    @classmethod
    def parse(cls, text: str) -> PackTrial:
        """Parse the text. Raises ValueError with what is wrong."""
        given: dict[str, object] = {}
        for part in text.split(","):
            name, equals, value = part.strip().partition("=")
            if not equals or name not in _PARSERS:
                raise ValueError(f"{part.strip()!r}: {RULE}")
            field, parse = _PARSERS[name]
            if field in given:
                raise ValueError(f"{name} is there twice")
            try:
                given[field] = parse(value)
            except (ValueError, KeyError):
                raise ValueError(f"{part.strip()!r}: {RULE}") from None
        return cls(**given)  # type: ignore[arg-type]  # each by the parser of its field


def _linger_s(text: str) -> float:
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else -1.0
    if not 0 <= seconds <= MOST_LINGER_S:
        raise ValueError(text)
    return seconds


def _units(text: str) -> int:
    units = int(text)
    if not 1 <= units <= MOST_UNITS:
        raise ValueError(text)
    return units


def _units_per_day(text: str) -> int:
    units = int(text)
    if not 0 <= units <= MOST_UNITS_PER_DAY:
        raise ValueError(text)
    return units


_PARSERS = {
    "pack": ("format", PackFormat),
    "linger": ("linger_s", _linger_s),
    "units": ("units", _units),
    "per-day": ("units_per_day", _units_per_day),
    "compression": ("compression", lambda text: Compression[text.upper()]),
}
