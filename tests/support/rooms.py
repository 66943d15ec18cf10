"""The rooms of the code: what each is, and which others it imports. docs/architecture.md shows it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import runtime

PACKAGE = Path(runtime.__file__).parent
MODULES = {
    ".".join(["runtime", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
LAYERS = ("cli", "workers", "operations", "adapters", "core", "devcloud", "demo", "bench")


def room_of(module: str) -> str:
    """The folder of a module, such as `core/ingest`; `.` for those that belong to no layer."""
    return str(MODULES[module].parent.relative_to(PACKAGE))


@cache
def source(path: Path) -> str:
    """The text of a file: read once."""
    return path.read_text()


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Everything in the syntax tree of a file, the module first: parsed once."""
    return list(ast.walk(ast.parse(source(path))))


def tree(path: Path) -> ast.Module:
    """The syntax tree of a file: parsed once."""
    module = nodes(path)[0]
    assert isinstance(module, ast.Module)
    return module


def imported(path: Path) -> Iterator[str]:
    """Every module of ours that `path` imports, wherever in the file."""
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for name in node.names:
                below = f"{node.module}.{name.name}"
                yield below if below in MODULES else node.module


@cache
def arrows() -> dict[str, set[str]]:
    """Of each room the other rooms that it imports."""
    found: dict[str, set[str]] = {room_of(module): set() for module in MODULES}
    for module, path in MODULES.items():
        found[room_of(module)] |= {room_of(target) for target in imported(path)} - {room_of(module)}
    return found


def layers_picture() -> str:
    """One line a layer: those it imports."""
    lines = []
    for layer in LAYERS:
        rooms = {target for room, targets in arrows().items() if _layer(room) == layer for target in targets}
        below = {_layer(room) for room in rooms} - {layer, "."}
        lines.append(f"{layer:<10} ──▶ {'  '.join(name for name in LAYERS if name in below) or 'nothing'}")
    return "\n".join(["```", *lines, "```"]) + "\n"


def rooms_table() -> str:
    """One row a room: what it is, in the words of its package, and which others it imports."""
    rows = ["| room | what is in it | imports |", "|---|---|---|"]
    for room, targets in sorted(arrows().items()):
        if room != "." and len(list((PACKAGE / room).glob("*.py"))) > 1:
            docstring = ast.get_docstring(tree(PACKAGE / room / "__init__.py")) or ""
            said = " ".join(docstring.partition("\n\n")[0].split())
            others = ", ".join(f"`{target}`" for target in sorted(targets - {"."}))
            rows.append(f"| `{room}` | {said} | {others} |")
    return "\n".join(rows) + "\n"


def _layer(room: str) -> str:
    return room.partition("/")[0]
