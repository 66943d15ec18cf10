"""Device twins: desired and reported properties and tags, with their versions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from runtime.devcloud.state import twin_rules
from runtime.devcloud.state.database import Database
from runtime.devcloud.state.faults import Faults
from runtime.devcloud.state.values import TwinRefused

PROPERTIES = ("desired", "reported")
_COLUMNS = (
    *("desired", "desired_version", "desired_metadata", "reported", "reported_version", "reported_metadata"),
    *("tags", "version"),
)
_NEW: dict[str, Any] = {
    **dict.fromkeys((*PROPERTIES, "tags"), "{}"),
    **{f"{half}_version": 1 for half in PROPERTIES},
    **{f"{half}_metadata": "{}" for half in PROPERTIES},
    "version": 1,
}
"""A twin that was never changed, as a row."""


class Twins:
    """The twin of every device."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, device_id: str) -> dict[str, Any]:
        """The device's view: `{"desired": {..., "$version": n}, "reported": {..., "$version": n}}`."""
        twin = self._row(device_id)
        return {half: {**json.loads(twin[half]), "$version": twin[f"{half}_version"]} for half in PROPERTIES}

    def whole(self, device_id: str) -> dict[str, Any]:
        """The operator's view: tags, both properties with `$metadata`, the twin's version and its etag."""
        twin = self._row(device_id)
        properties = self.get(device_id)
        for half in PROPERTIES:
            properties[half]["$metadata"] = json.loads(twin[f"{half}_metadata"])
        etag = f'"{twin["version"]}"'
        return {
            "tags": json.loads(twin["tags"]),
            "properties": properties,
            "version": twin["version"],
            "etag": etag,
        }

    def document(self, device_id: str, part: str) -> dict[str, Any]:
        """`desired`, `reported` or `tags`, without its version."""
        document: dict[str, Any] = json.loads(self._row(device_id)[part])
        return document

    def patch(
        self, device_id: str, part: str, patch: object, at_s: float, faults: Faults | None = None
    ) -> int | TwinRefused:
        """Merge a patch into `desired`, `reported` or `tags`. Returns the version of that part (for tags:
        of the twin), or the refusal.
        """
        if not isinstance(patch, dict):
            return TwinRefused(400, "a patch is a JSON object")
        broken = twin_rules.broken_rule(patch)
        if broken:
            return TwinRefused(400, broken)
        twin = self._row(device_id)
        document = _merge(json.loads(twin[part]), patch, faults or Faults())
        large = twin_rules.too_large(part, document)
        if large:
            return TwinRefused(400, large)
        twin[part] = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
        twin["version"] += 1
        if part in PROPERTIES:
            twin[f"{part}_version"] += 1
            stamp = _stamp(part, twin[f"{part}_version"], at_s)
            metadata = twin_rules.stamped(json.loads(twin[f"{part}_metadata"]), patch, stamp)
            twin[f"{part}_metadata"] = json.dumps(metadata)
        self._save(device_id, twin)
        version: int = twin[f"{part}_version"] if part in PROPERTIES else twin["version"]
        return version

    def _save(self, device_id: str, twin: Mapping[str, Any]) -> None:
        self._database.execute(
            f"INSERT OR REPLACE INTO twins (device_id, {', '.join(_COLUMNS)})"  # noqa: S608 (names are ours)
            f" VALUES (?{', ?' * len(_COLUMNS)})",
            *(device_id, *(twin[column] for column in _COLUMNS)),
        )

    def _row(self, device_id: str) -> dict[str, Any]:
        return self._database.row("SELECT * FROM twins WHERE device_id = ?", device_id) or dict(_NEW)


def _merge(document: Mapping[str, Any], patch: dict[str, Any], faults: Faults) -> dict[str, Any]:
    patch = twin_rules.altered(patch, faults.twin_altered)
    merge = twin_rules.without_siblings if faults.twin_siblings_lost else twin_rules.merged
    merged: dict[str, Any] = merge(document, patch)
    return merged


def _stamp(half: str, version: int, at_s: float) -> dict[str, Any]:
    moment = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {"$lastUpdated": moment, **({"$lastUpdatedVersion": version} if half == "desired" else {})}
