"""The lock: every distribution on a device, with its version and the hashes of the files it may come from.

`requirements.txt` beside this module is made by `python -m deploy.packaging lock` from pyproject.toml and
constraints.txt, for all targets at once. pip takes nothing whose hash is not in it.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
LOCK_FILE = Path(__file__).with_name("requirements.txt")
EXTRAS = ("compress",)
"""Extras that a package brings. Not `encrypt`: its library is larger than all the rest."""
LEFT_OUT = frozenset({"pip"})
"""Distributions that others name, and that every virtual environment has: sqlite-utils installs plugins."""
NOT_UNPACKED = frozenset({"tzdata"})
"""Distributions that pip asks for, for an installation by hand, and no package holds: dateutil's zones."""
SOURCE_ONLY = frozenset({"paho-mqtt"})
"""Distributions without a wheel. Theirs is made on the builder; they are pure Python."""
HEAD = """\
# What the packages are made of, for every device, with the hash of each file that may be taken.
# Made by: python -m deploy.packaging lock
"""


@dataclass(frozen=True)
class Locked:
    """One distribution of the lock."""

    name: str
    version: str
    hashes: tuple[str, ...]

    def requirement(self) -> str:
        """The lines that pip reads."""
        hashes = "".join(f" \\\n    --hash=sha256:{digest}" for digest in self.hashes)
        return f"{self.name}=={self.version}{hashes}\n"


def normalised(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(text: str) -> list[Locked]:
    """Read a lock. Raises ValueError for a line that is none of its own."""
    joined = re.sub(r"\\\n\s*", " ", text)
    locked = []
    for line in filter(None, (part.split("#")[0].strip() for part in joined.splitlines())):
        match = re.fullmatch(r"([\w.-]+)==(\S+)((?: +--hash=sha256:[0-9a-f]{64})+)", line)
        if not match:
            raise ValueError(f"no locked requirement: {line}")
        locked.append(Locked(match[1], match[2], tuple(re.findall(r"[0-9a-f]{64}", match[3]))))
    return locked


def render(locked: list[Locked]) -> str:
    return HEAD + "".join(each.requirement() for each in sorted(locked, key=lambda each: each.name))


def load() -> list[Locked]:
    return parse(LOCK_FILE.read_text())


def wanted() -> list[str]:
    """The requirements of a device, as pyproject.toml states them."""
    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    return [
        *project["dependencies"],
        *(r for extra in EXTRAS for r in project["optional-dependencies"][extra]),
    ]


def pinned() -> dict[str, str]:
    """The tested versions, by normalised name, as constraints.txt states them."""
    lines = (line.split("#")[0].strip() for line in (TOP / "constraints.txt").read_text().splitlines())
    return {normalised(name): version for name, version in (line.split("==") for line in lines if line)}
