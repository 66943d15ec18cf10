"""Device twins: desired and reported properties, JSON merge patches, versions and limits."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from runtime.devcloud.state.database import Database
from runtime.devcloud.state.values import ConnectionRefused

MOST_BYTES = 32 * 1024
MOST_VALUE_BYTES = 4 * 1024
MOST_DEPTH = 10
_BAD_KEY = re.compile(r"[.$\s\x00-\x1f\ud800-\udfff]")


class Twins:
    """Both halves of every device's twin."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, device_id: str) -> dict[str, Any]:
        """`{"desired": {..., "$version": n}, "reported": {..., "$version": n}}`."""
        twin = self._row(device_id)
        return {
            half: {**json.loads(twin[half]), "$version": twin[f"{half}_version"]}
            for half in ("desired", "reported")
        }

    def patch(self, device_id: str, half: str, patch: object) -> int | ConnectionRefused:
        """Merge a patch into `desired` or `reported`. Returns the new version, or the
        reason of a refusal (400).
        """
        if not isinstance(patch, dict):
            return ConnectionRefused(400, "a patch is a JSON object")
        broken = broken_rule(patch)
        if broken:
            return ConnectionRefused(400, broken)
        twin = self._row(device_id)
        text = json.dumps(merged(json.loads(twin[half]), patch), ensure_ascii=False, separators=(",", ":"))
        if len(text.encode()) > MOST_BYTES:
            return ConnectionRefused(400, f"{half} properties exceed {MOST_BYTES} bytes")
        version: int = twin[f"{half}_version"] + 1
        twin |= {half: text, f"{half}_version": version}
        self._database.execute(
            "INSERT INTO twins (device_id, desired, desired_version, reported, reported_version)"
            " VALUES (?, ?, ?, ?, ?) ON CONFLICT (device_id) DO UPDATE SET desired = excluded.desired,"
            " desired_version = excluded.desired_version, reported = excluded.reported,"
            " reported_version = excluded.reported_version",
            *(
                device_id,
                twin["desired"],
                twin["desired_version"],
                twin["reported"],
                twin["reported_version"],
            ),
        )
        return version

    def _row(self, device_id: str) -> dict[str, Any]:
        found = self._database.row("SELECT * FROM twins WHERE device_id = ?", device_id)
        return found or {"desired": "{}", "desired_version": 1, "reported": "{}", "reported_version": 1}


def merged(target: object, patch: object) -> Any:
    """RFC 7396: null removes a key, an object merges, anything else replaces."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


def broken_rule(value: object, depth: int = 0) -> str | None:
    """The rule of the hub for twin properties that `value` breaks, in words, or None."""
    if isinstance(value, str):
        return _broken_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return "a number is not finite"
    if not isinstance(value, Mapping | list):
        return None
    if depth >= MOST_DEPTH:
        return f"nested deeper than {MOST_DEPTH}"
    if isinstance(value, list):
        return next(filter(None, (broken_rule(item, depth + 1) for item in value)), None)
    for key, inner in value.items():
        if not key or _BAD_KEY.search(key):
            return f"key {key!r} is empty or holds a dot, a dollar sign or a blank"
        broken = broken_rule(inner, depth + 1)
        if broken:
            return broken
    return None


def _broken_text(text: str) -> str | None:
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError:
        return "a string is not valid Unicode"
    return "a string exceeds 4 KiB" if size_bytes > MOST_VALUE_BYTES else None
