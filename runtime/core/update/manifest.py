"""The manifest of an update, and what it may do on this device. Pure.

The manifest is what is signed; it holds the sha256 of every part of the bundle. `judge` compares it with the
version that is installed: what is refused, and what the operator has to allow by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

FORMAT = 1
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+~-]{0,79}")
_NUMBERS = re.compile(r"\d+")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"[a-z][a-z0-9.-]{0,60}")
MOST_BYTES = 1 << 34
"""No part is larger than 16 GiB."""


class BundleKind(StrEnum):
    """What an update replaces."""

    TREE = "tree"
    """The program, beside the one in use."""
    IMAGE = "image"
    """The other slot of an image."""


class BadManifest(ValueError):
    """The manifest is not one that this version understands."""


@dataclass(frozen=True, slots=True)
class SchemaRange:
    """The schemas of one database that a version opens: from the oldest to the one that it writes."""

    oldest: int
    writes: int


@dataclass(frozen=True, slots=True)
class BundlePart:
    """One file of the bundle."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a bundle says about itself."""

    version: str
    kind: BundleKind
    architecture: str
    part: BundlePart
    unpacked_bytes: int
    python: str = ""
    """The interpreter that a tree is for, as `3.11`; empty for an image, which brings its own."""
    minimum_version: str = ""
    schemas: Mapping[str, SchemaRange] = field(default_factory=dict)
    commit: str = ""

    def record(self) -> dict[str, Any]:
        """The manifest as JSON has it."""
        return {
            "format": FORMAT,
            "version": self.version,
            "kind": str(self.kind),
            "architecture": self.architecture,
            "python": self.python,
            "minimum_version": self.minimum_version,
            "schemas": {name: [known.oldest, known.writes] for name, known in self.schemas.items()},
            "commit": self.commit,
            "unpacked_bytes": self.unpacked_bytes,
            "part": {"name": self.part.name, "sha256": self.part.sha256, "bytes": self.part.size_bytes},
        }

    def text(self) -> str:
        """The file that is signed."""
        return json.dumps(self.record(), indent=1, sort_keys=True) + "\n"


@dataclass(frozen=True, slots=True)
class InstalledVersion:
    """The version that would be replaced, and what it runs on."""

    version: str
    kind: BundleKind
    architecture: str
    python: str
    schemas: Mapping[str, SchemaRange]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a bundle may do here."""

    refused: tuple[str, ...] = ()
    """Why it cannot be applied; empty: it can."""
    one_way: str = ""
    """Why the version before could not take over again; empty: it could."""
    older: bool = False
    same: bool = False


def parse_manifest(content: bytes) -> Manifest:
    """Read a manifest. Raises BadManifest with what is wrong in it."""
    try:
        record = json.loads(content)
        if record["format"] != FORMAT:
            raise BadManifest(f"the bundle has format {record['format']!r}, this version knows {FORMAT}")
        part = record["part"]
        manifest = Manifest(
            version=_matching(_VERSION, record["version"], "version"),
            kind=BundleKind(record["kind"]),
            architecture=str(record["architecture"]),
            part=BundlePart(
                _matching(_PART, part["name"], "part.name"),
                _matching(_SHA256, part["sha256"], "part.sha256"),
                _size(part["bytes"], "part.bytes"),
            ),
            unpacked_bytes=_size(record["unpacked_bytes"], "unpacked_bytes"),
            python=str(record["python"]),
            minimum_version=str(record["minimum_version"]),
            schemas={str(name): SchemaRange(*map(int, known)) for name, known in record["schemas"].items()},
            commit=str(record["commit"]),
        )
    except BadManifest:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as exc:
        raise BadManifest(f"the manifest cannot be read: {type(exc).__name__} {exc}") from exc
    return manifest


def judge(manifest: Manifest, installed: InstalledVersion) -> Judgement:
    """What the bundle may do on a device with this version."""
    refused = [
        *_wrong_device(manifest, installed),
        *_too_old(manifest, installed),
        *(sentence for name in installed.schemas if (sentence := _gap(manifest, installed, name))),
    ]
    one_way = [
        f"it writes {name} with schema {manifest.schemas[name].writes}, and the installed version opens "
        f"up to {known.writes}"
        for name, known in installed.schemas.items()
        if name in manifest.schemas and manifest.schemas[name].writes > known.writes
    ]
    mine, theirs = version_order(installed.version), version_order(manifest.version)
    return Judgement(tuple(refused), "; ".join(one_way), theirs < mine, manifest.version == installed.version)


def _wrong_device(manifest: Manifest, installed: InstalledVersion) -> list[str]:
    found = []
    if manifest.kind is not installed.kind:
        kinds = {BundleKind.TREE: "a program beside the one in use", BundleKind.IMAGE: "a slot of an image"}
        found.append(f"it is for {kinds[manifest.kind]}, and this device takes {kinds[installed.kind]}")
    if manifest.architecture != installed.architecture:
        found.append(f"it is for {manifest.architecture}, and this device is {installed.architecture}")
    if manifest.python and manifest.python != installed.python:
        found.append(f"it is for Python {manifest.python}, and this device has {installed.python}")
    return found


def _too_old(manifest: Manifest, installed: InstalledVersion) -> list[str]:
    least = manifest.minimum_version
    if least and version_order(installed.version) < version_order(least):
        return [f"it needs version {least} or newer before it, and {installed.version} is installed"]
    return []


def _gap(manifest: Manifest, installed: InstalledVersion, name: str) -> str:
    """The reason why the new version would not open a database of the installed one."""
    here, there = installed.schemas[name], manifest.schemas.get(name)
    if there is None:
        return f"it does not say which schemas of {name} it opens"
    if there.writes < here.writes:
        return f"it opens {name} up to schema {there.writes}, and the installed version writes {here.writes}"
    if there.oldest > here.writes:
        return (
            f"it opens {name} from schema {there.oldest} on, and the installed version writes {here.writes}: "
            "apply a version between first"
        )
    return ""


def version_order(version: str) -> tuple[int, ...]:
    """The numbers of a version, by which two are compared: `1.2.0+r390.gabc` as (1, 2, 0, 390)."""
    release, _, build = version.partition("+")
    numbers = [int(number) for number in _NUMBERS.findall(release)][:4]
    count = re.match(r"r(\d+)", build)
    return (*numbers, *[0] * (4 - len(numbers)), int(count[1]) if count else 0)


def _matching(pattern: re.Pattern[str], value: object, name: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise BadManifest(f"{name} of the manifest is wrong: {str(value)[:80]!r}")
    return value


def _size(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value <= MOST_BYTES:
        raise BadManifest(f"{name} of the manifest is wrong: {str(value)[:80]!r}")
    return value
