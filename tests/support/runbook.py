"""The runbook as tests read it."""

from __future__ import annotations

import re
from pathlib import Path

RUNBOOK = (Path(__file__).resolve().parents[2] / "deploy/RUNBOOK.md").read_text()


def chapter(title: str) -> str:
    """What stands under this heading."""
    return RUNBOOK.partition(f"## {title}\n")[2].partition("\n## ")[0]


def documented_keys(command: str) -> set[str]:
    """Every key of what this command prints as JSON."""
    return set(re.findall(r"^\| `([\w.]+)`", chapter(f"The keys of `{command}`"), re.MULTILINE))
