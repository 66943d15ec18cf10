"""The house rules that a machine can check: who may import what."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import runtime

PACKAGE = Path(runtime.__file__).parent
DEVICE_SIDE = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if path.relative_to(PACKAGE).parts[0] not in ("devcloud", "demo", "bench")
)
CORE = [path for path in DEVICE_SIDE if path.parent.name == "core"]
WORLD = {
    "socket", "sqlite3", "sqlite_utils", "time", "random", "secrets", "os", "logging", "loguru", "zmq",
    "azure", "requests", "subprocess", "threading", "asyncio", "signal",
}  # fmt: skip
PURE_ADAPTERS = {"runtime.adapters", "runtime.workers", "runtime.config", "runtime.cli"}


def imported(path: Path) -> Iterator[str]:
    """Every module that `path` imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", CORE, ids=name)
def test_core_touches_nothing(path: Path) -> None:
    for module in imported(path):
        assert module.split(".")[0] not in WORLD, f"{name(path)} imports {module}"
        assert not any(module.startswith(adapter) for adapter in PURE_ADAPTERS), (
            f"{name(path)} imports {module}"
        )


@pytest.mark.parametrize(
    ("module", "files"),
    [
        ("azure", {"adapters/hub.py", "adapters/dps.py"}),
        (
            "zmq",
            {"adapters/bus.py", "adapters/door.py", "adapters/curve.py", "producer.py", "producer_async.py"},
        ),
        ("requests", {"adapters/https.py", "adapters/files.py"}),
        ("cryptography", {"adapters/vault.py"}),
        ("supervisor", {"adapters/supervisor.py", "adapters/supervisor_plugin.py"}),
    ],
)
def test_one_outside_thing_one_file(module: str, files: set[str]) -> None:
    users = {name(path) for path in DEVICE_SIDE if any(m.split(".")[0] == module for m in imported(path))}
    assert users <= files, f"{module} is imported by {users - files}"


def test_sqlite_stays_with_the_stores() -> None:
    users = {
        name(path)
        for path in DEVICE_SIDE
        if any(m.split(".")[0] in ("sqlite3", "sqlite_utils") for m in imported(path))
    }
    assert all(user.startswith("adapters/") for user in users), users


def test_no_device_module_imports_the_stand_in_at_import_time() -> None:
    for path in DEVICE_SIDE:
        if path.parent.name == "cli":
            continue  # `edgectl devcloud` and `demo` import it when they are called
        assert not any(m.startswith("runtime.devcloud") for m in imported(path)), name(path)


def test_no_module_has_grown_beyond_one_sitting() -> None:
    large = {name(p): n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 450}
    assert not large
