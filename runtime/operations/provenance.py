"""Provenance: the version, the build behind it and the libraries beside it."""

from __future__ import annotations

import json
import platform
import re
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from runtime import __version__

BUILD_FILE = Path(__file__).resolve().parents[1] / "build.json"
"""Written when a package is built; a checkout has none."""
_OF_BUILD = ("package", "commit", "builder", "built_of_s", "architecture", "debian")


def provenance(build_file: Path = BUILD_FILE) -> dict[str, Any]:
    """The facts of `edgectl version --json`; what no package states is None."""
    build = _build(build_file)
    named = {
        re.sub(r"[-_.]+", "-", each.metadata["Name"]).lower(): each.version
        for each in distributions()
        if each.metadata["Name"]
    }
    return {
        "version": __version__,
        **{name: build.get(name) for name in _OF_BUILD},
        "python": platform.python_version(),
        "dependencies": dict(sorted(named.items())),
    }


def _build(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
