"""The parts list of an artefact (SBOM), as CycloneDX 1.5 JSON: each part with licence and hash."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Any

from deploy.packaging.lock import normalised
from deploy.packaging.targets import Target
from deploy.packaging.tree import Origin
from deploy.packaging.wheels import sha256

_INSIDE = {"libzmq": "MPL-2.0", "libsodium": "ISC", "libbrotli": "MIT"}
"""Libraries that wheels bring along, by the beginning of their file's name, with their licences."""
_OF_CLASSIFIER = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_OF_TEXT = {
    "Apache 2": "Apache-2.0",
    "MIT License": "MIT",
    "BSD": "BSD-3-Clause",
    "Eclipse Public License v2.0 / Eclipse Distribution License v1.0": "EPL-2.0 OR BSD-3-Clause",
}
_OF_DEBIAN = {
    "base-files": "GPL-2.0-or-later",
    "libc6": "LGPL-2.1-or-later",
    "libcrypt1": "LGPL-2.1-or-later",
    "libgcc-s1": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "libpython3": "PSF-2.0",
    "libstdc++6": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "python3": "PSF-2.0",
}
"""Debian packages whose copyright file is prose, by the beginning of their names, with their main licence."""
_LONGEST_NAME = 40
"""What is longer is the first line of a licence's text, not its name."""
Component = dict[str, Any]


def of_package(
    name: str, version: str, target: Target | None, site: Path, wheels: Iterable[Path], origin: Origin
) -> str:
    """The parts list of a Debian package by the metadata in its folder of modules."""
    hashes = {normalised(wheel.name.split("-")[0]): sha256(wheel) for wheel in wheels}
    parts = [*_distributions(site, hashes), *_inner_libraries(site)]
    arch = target.arch if target else "all"
    return document(name, version, f"pkg:deb/edge/{name}@{version}?arch={arch}", parts, origin)


def document(name: str, version: str, purl: str, parts: Iterable[Component], origin: Origin) -> str:
    """A whole CycloneDX document; its serial number follows from what it lists."""
    components = sorted(parts, key=lambda part: str(part["bom-ref"]))
    described: Component = {
        "type": "application", "bom-ref": purl, "name": name, "version": version, "purl": purl,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }  # fmt: skip
    body: dict[str, Any] = {
        "metadata": {
            "component": described,
            "properties": [
                {"name": "edge:commit", "value": origin.commit},
                {"name": "edge:builder", "value": origin.builder},
                {"name": "edge:source-date-epoch", "value": str(origin.epoch_s)},
            ],
        },
        "components": components,
        "dependencies": [{"ref": purl, "dependsOn": [part["bom-ref"] for part in components]}],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    head = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
    }
    return json.dumps({**head, **body}, indent=1) + "\n"


def licences(document: str) -> list[tuple[str, str, str]]:
    """Name, version and licence of every part."""
    return [
        (part["name"], part["version"], _spoken(part["licenses"]))
        for part in json.loads(document)["components"]
    ]


def _spoken(licences: list[dict[str, Any]]) -> str:
    return ", ".join(
        each.get("expression") or each["license"].get("id") or each["license"]["name"] for each in licences
    )


def _distributions(site: Path, hashes: Mapping[str, str]) -> Iterator[Component]:
    for metadata in sorted(site.glob("*.dist-info/METADATA")):
        fields = HeaderParser().parsestr(metadata.read_text(errors="replace"))
        name, version = normalised(str(fields["Name"])), str(fields["Version"])
        part: Component = {
            "type": "library", "name": name, "version": version, "licenses": licence_of(fields),
            "purl": f"pkg:pypi/{name}@{version}", "bom-ref": f"pkg:pypi/{name}@{version}",
        }  # fmt: skip
        if name in hashes:
            part["hashes"] = [{"alg": "SHA-256", "content": hashes[name]}]
        yield part


def licence_of(fields: Message) -> list[dict[str, Any]]:
    """The licence that a distribution's metadata states, as an SPDX name where it has one."""
    if expression := fields["License-Expression"]:
        return [{"expression": str(expression)}]
    stated = str(fields["License"] or "").strip().splitlines()
    classifiers = [str(value) for value in fields.get_all("Classifier", [])]
    last = [value.split(" :: ")[-1] for value in classifiers if value.startswith("License ::")]
    known = [_OF_CLASSIFIER[value] for value in last if value in _OF_CLASSIFIER]
    if known:
        return [{"license": {"id": each}} for each in known]
    if stated and (known_text := _OF_TEXT.get(stated[0])):
        return [{"expression": known_text}] if " " in known_text else [{"license": {"id": known_text}}]
    if stated and re.fullmatch(r"[A-Za-z]+-[\d.]+(-\w+)*|MIT|ISC", stated[0]):
        return [{"license": {"id": stated[0]}}]
    return [{"license": {"name": stated[0] if stated else last[0] if last else "unknown"}}]


def _inner_libraries(site: Path) -> Iterator[Component]:
    """The libraries that a wheel brings beside its modules."""
    for file in sorted(site.glob("*.libs/*.so*")):
        name = re.split(r"[-.]", file.name)[0]
        version = ".".join(re.findall(r"\.so\.(.+)$", file.name)) or "unknown"
        known = next((licence for start, licence in _INSIDE.items() if name.startswith(start)), None)
        licence = {"id": known} if known else {"name": "unknown"}
        yield {
            "type": "library", "name": name, "version": version, "licenses": [{"license": licence}],
            "purl": f"pkg:generic/{name}@{version}", "bom-ref": f"{file.parent.name}/{file.name}",
            "hashes": [{"alg": "SHA-256", "content": sha256(file)}],
        }  # fmt: skip


def of_debian(root: Path, fields: Mapping[str, str], digest: str | None = None) -> Component:
    """A Debian package in an image, with the licences that its copyright file names."""
    name, version = fields["Package"], fields["Version"]
    purl = f"pkg:deb/debian/{name}@{version}?arch={fields['Architecture']}"
    copyright_file = root / "usr/share/doc" / name / "copyright"
    text = copyright_file.read_text(errors="replace") if copyright_file.exists() else ""
    named = sorted({match.strip() for match in re.findall(r"^License: *(\S.*)$", text, re.MULTILINE)})
    named = [each for each in named if len(each) <= _LONGEST_NAME]
    known = next((licence for start, licence in _OF_DEBIAN.items() if name.startswith(start)), None)
    stated: list[dict[str, Any]] = [{"license": {"name": each}} for each in named]
    if not stated:
        words = f"see {copyright_file.relative_to(root)}"
        stated = [{"expression": known}] if known else [{"license": {"name": words}}]
    return {
        "type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl,
        "licenses": stated,
        **({"hashes": [{"alg": "SHA-256", "content": digest}]} if digest else {}),
    }  # fmt: skip
