"""The content of the producers' package: the clients, and all modules of ours that they import, also late."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TOP = Path(__file__).resolve().parents[2]
CLIENTS = ("runtime.producer", "runtime.producer_async", "runtime.device", "runtime.device_async")
TYPED = TOP / "runtime" / "py.typed"


def files_of(modules: tuple[str, ...]) -> set[Path]:
    """The files of these modules, of the packages they stand in, and of all that they import from here."""
    files: set[Path] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        file = _file_of(name)
        if file is None or file in files:
            continue
        files.add(file)
        waiting += [name.rpartition(".")[0], *_imported(file)]
    return files


def _file_of(module: str) -> Path | None:
    path = TOP.joinpath(*module.split("."))
    places = (path.with_suffix(".py"), path / "__init__.py") if module else ()
    return next((place for place in places if place.exists()), None)


def _imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


class ClientModules(BuildHookInterface):  # type: ignore[type-arg]
    """Adds the modules to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        for file in sorted({*files_of(CLIENTS), TYPED}):
            build_data["force_include"][str(file)] = str(file.relative_to(TOP))
