"""The table of operations in docs/device.md, from the protocol itself."""

from __future__ import annotations

import dataclasses
from typing import Any

from runtime.core.management import protocol
from runtime.core.management.twin_rules import pointer_text


def operations_table() -> str:
    """A row for each operation: its fields, its payload, and the fields of its reply."""
    lines = ["| operation | fields | payload | reply |", "|---|---|---|---|"]
    for operation, kind in protocol._KINDS.items():
        fields = [_field(field) for field in dataclasses.fields(kind) if field.name not in protocol.PAYLOADS]
        replies = [reply for reply in protocol.REPLIES[kind] if reply]
        reply = ", ".join(f"`{field.name}`" for field in dataclasses.fields(replies[0]))
        kept = "`kept`, " if replies[0].__name__ == "Kept" else ""
        payload = next((f.name for f in dataclasses.fields(kind) if f.name in protocol.PAYLOADS), "")
        lines.append(f"| `{operation}` | {', '.join(fields)} | {payload} | {kept}{reply} |")
    return "\n".join(lines) + "\n"


def _field(field: dataclasses.Field[Any]) -> str:
    if protocol.is_required(field):
        return f"`{field.name}`"
    default: Any = field.default
    default = pointer_text(default) if field.name == "path" else default
    if isinstance(default, tuple):
        default = ", ".join(default)
    shown = "none" if default in (None, "") else f"{default:g}" if isinstance(default, float) else default
    return f"`{field.name}` ({shown})"
