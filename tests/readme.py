"""The generated part of README.md. `python -m tests.readme` writes it."""

from __future__ import annotations

import re
from pathlib import Path

from runtime.config import Key, keys, keys_of
from runtime.settings import Stream

README = Path(__file__).resolve().parent.parent / "README.md"
_PART = re.compile(r"(<!-- settings -->\n).*?(<!-- /settings -->)", re.DOTALL)


def with_settings(text: str) -> str:
    """`text` with the table of settings as settings.py has them."""
    return _PART.sub(lambda found: found[1] + settings_table() + found[2], text)


def settings_table() -> str:
    rows = [_row(key) for key in (*keys(), *keys_of("stream.NAME", Stream))]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows]) + "\n"


def _row(key: Key) -> str:
    default = "" if key.default is None else f"`{_toml(key.default)}`"
    return f"| `{key.dotted}` | {default} | {key.doc.replace('|', '/')} |"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{v}"' for v in value) + "]"
    return f'"{value}"' if isinstance(value, str | Path) else f"{value}"


if __name__ == "__main__":
    README.write_text(with_settings(README.read_text()))
