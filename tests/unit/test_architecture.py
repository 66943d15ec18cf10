"""The house rules that a machine can check: who may import what."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import runtime
from tests.support.rooms import nodes

PACKAGE = Path(runtime.__file__).parent
DEVICE_SIDE = sorted(
    path
    for path in PACKAGE.rglob("*.py")
    if path.relative_to(PACKAGE).parts[0] not in ("devcloud", "demo", "bench")
)
CORE = [path for path in DEVICE_SIDE if path.relative_to(PACKAGE).parts[0] == "core"]
WORLD = {
    "socket", "sqlite3", "sqlite_utils", "time", "random", "secrets", "os", "logging", "loguru", "zmq",
    "azure", "requests", "subprocess", "threading", "asyncio", "signal",
}  # fmt: skip
PURE_ADAPTERS = {"runtime.adapters", "runtime.workers", "runtime.config", "runtime.cli"}


@cache
def imported(path: Path) -> tuple[str, ...]:
    """Every module that `path` imports, wherever in the file."""
    modules: list[str] = []
    for node in nodes(path):
        if isinstance(node, ast.Import):
            modules += (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            modules.append(node.module or "")
    return tuple(modules)


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
        ("azure", {"adapters/hub/mqtt_client.py", "adapters/identity/dps.py"}),
        (
            "zmq",
            {
                "adapters/bus/sockets.py",
                "adapters/bus/hub_line.py",
                "adapters/bus/producer_socket.py",
                "adapters/management/program_socket.py",
                "adapters/management/result_line.py",
                "adapters/bus/curve.py",
                "device.py",
                "device_async.py",
                "device_client.py",
                "producer.py",
                "producer_async.py",
            },
        ),
        ("requests", {"adapters/net/https.py", "adapters/hub/https_api.py"}),
        ("cryptography", {"adapters/identity/vault.py"}),
        (
            "supervisor",
            {
                "adapters/supervisor/internals.py",
                "adapters/supervisor/main.py",  # starts it
            },
        ),
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
    assert all(user.startswith("adapters/") or user == "operations/doctor.py" for user in users), users


ROOMS = {
    "core": {"core", "errors"},
    "core/delivery": {"core", "errors", "core/ingest"},  # a stored message keeps the fields that it came with
    "core/identity": {"core", "errors"},
    "core/ingest": {"core", "errors"},
    "core/management": {"core", "errors"},
    "core/update": {"core", "errors"},
    "core/operations": {"core", "errors", "core/identity"},  # health judges what identity is waiting for
    "adapters": set[str](),
    **{
        f"adapters/{room}": {"core", "errors", "layout", "regular_file", "adapters/process", "adapters/net"}
        for room in ("bus", "hub", "identity", "net", "process", "salvage", "store", "supervisor", "update")
    },
    "workers": {
        "core",
        "adapters",
        "config",
        "remote_config",
        "settings",
        "settings_operations",
        "wiring",
        "wiring_management",
        "errors",
        "layout",
    },
    "adapters/management": {"core", "errors", "layout", "adapters/bus", "adapters/process", "adapters/store"},
    "operations": {
        "core",
        "adapters",
        "config",
        "config_file",
        "settings",
        "settings_update",
        "setting_rule",
        "wiring",
        "wiring_management",
        "errors",
        "layout",
        "regular_file",
    },
}
"""What each room may import of the package, beside itself; a room stands for those below it, but to a room of
core, `core` is what lies in that folder itself."""
EXCEPTIONS = {
    ("adapters/hub/payloads.py", "adapters/store"),  # a file is read where the store keeps it
    ("adapters/process/config_watch.py", "config_changes"),
    ("adapters/process/config_watch.py", "config_file"),
    ("adapters/process/config_watch.py", "config"),  # the two that read and write edge.toml itself
    ("adapters/process/last_good_config.py", "config"),
    ("adapters/process/last_good_config.py", "setting_rule"),
    ("adapters/process/last_good_config.py", "settings"),
    ("workers/log_shipper.py", "producer"),  # logs go the way of every message
    ("operations/update_probe.py", "producer"),  # a version is proven by a message like every other
    ("workers/sentinel_metrics.py", "operations"),
    ("workers/built_in_methods.py", "operations"),  # the cloud sees what `edgectl status` shows
    ("workers/observer.py", "operations"),  # what it serves is what `edgectl status` shows
    ("workers/metrics_push.py", "operations"),  # and what it pushes
}


def room_of(module: str) -> str:
    """`runtime.core.ingest.quota` stands in core/ingest, `runtime.config` in config."""
    parts = module.split(".")[1:] or ["runtime"]
    inner = (
        parts[0] in ("core", "adapters", "devcloud") and (PACKAGE / parts[0] / "/".join(parts[1:2])).is_dir()
    )
    return "/".join(parts[:2]) if inner and len(parts) > 1 else parts[0]


def arrows() -> Iterator[tuple[str, str, str]]:
    """(file, its room, a room that it imports), of all rooms that have rules."""
    for path in DEVICE_SIDE:
        own = room_of("runtime." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts))
        if own in ROOMS:
            yield from (
                (name(path), own, there)
                for module in imported(path)
                if module.startswith("runtime.") and (there := room_of(module)) != own
            )


def allowed(own: str, there: str) -> bool:
    return (
        there in ROOMS[own]
        or (there.split("/")[0] in ROOMS[own] and not own.startswith("core/"))
        or (own, there) == ("adapters/salvage", "adapters/store")
    )


def test_every_room_imports_only_what_it_may() -> None:
    broken = {(file, there) for file, own, there in arrows() if not allowed(own, there)}
    assert broken - EXCEPTIONS == set()
    assert EXCEPTIONS - broken == set(), "an exception that is none any more"


def test_no_class_name_means_two_things() -> None:
    """A stranger who reads `Refused` or `Hub` in one room must not think of that of another."""
    places: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.iter_child_nodes(nodes(path)[0]):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(name(path))
    assert {known: files for known, files in places.items() if len(files) > 1} == {}


def test_nobody_but_the_command_line_imports_workers_or_operations() -> None:
    for path in DEVICE_SIDE:
        if name(path).split("/")[0] in ("cli", "workers", "operations"):
            continue
        assert not any(m.startswith(("runtime.workers", "runtime.operations")) for m in imported(path)), name(
            path
        )


def test_no_device_module_imports_the_stand_in_at_import_time() -> None:
    for path in DEVICE_SIDE:
        if path.parent.name == "cli":
            continue  # `edgectl devcloud` and `demo` import it when they are called
        assert not any(m.startswith("runtime.devcloud") for m in imported(path)), name(path)


OWN_OUTPUT = {"cli/terminal.py", "cli/completion.py"}
"""The edge to the terminal itself, and a script for a shell. The stand-in is no part of a device."""


@pytest.mark.parametrize(
    "path", [p for p in DEVICE_SIDE if p.parent.name == "cli" and "devcloud" not in p.name], ids=name
)
def test_a_command_says_everything_by_way_of_the_terminal(path: Path) -> None:
    """Words of others are made printable there; a bare `print` hands them on as they are."""
    calls = [ast.unparse(node.func) for node in nodes(path) if isinstance(node, ast.Call)]
    bare = [call for call in calls if re.fullmatch(r"print|sys.std(out|err).write", call)]
    assert not bare or name(path) in OWN_OUTPUT


UNVERIFIED = re.compile(
    r"unverified|CERT_NONE|CERT_OPTIONAL|insecure|disable_warnings|_stdlib_context|PROTOCOL_"
)


def unverified_tls(path: Path) -> Iterator[str]:
    """What could make a TLS connection to someone whose certificate nobody checked."""
    for node in nodes(path):
        words = [getattr(node, "attr", ""), getattr(node, "id", "")]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " not in node.value:
            words.append(node.value)
        yield from (word for word in words if UNVERIFIED.search(word))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "SSLContext":
            yield "SSLContext, which verifies nothing unless told; create_default_context does"
        if isinstance(node, ast.keyword) and node.arg in ("verify", "check_hostname", "assert_hostname"):
            yield from _falsehood(node.arg, node.value)
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if getattr(target, "attr", "") in ("verify", "check_hostname", "verify_mode"):
                    yield from _falsehood(ast.unparse(target), node.value)


def _falsehood(name: str, value: ast.expr) -> Iterator[str]:
    if isinstance(value, ast.Constant) and not value.value:
        yield f"{name} = {value.value}"


@pytest.mark.parametrize("path", DEVICE_SIDE, ids=name)
def test_tls_is_verified_always(path: Path) -> None:
    assert not list(unverified_tls(path))


@pytest.mark.parametrize(
    "line",
    [
        "ssl._create_unverified_context()",
        "ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)",
        "context.verify_mode = ssl.CERT_NONE",
        "context.check_hostname = False",
        "session.verify = False",
        "requests.get(url, verify=False)",
        "urllib3.PoolManager(cert_reqs='CERT_NONE')",
        "client.tls_insecure_set(True)",
    ],
)
def test_unverified_tls_would_be_noticed(line: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(line)
    assert list(unverified_tls(tmp_path / "module.py"))


def test_no_module_has_grown_beyond_one_sitting() -> None:
    large = {name(p): n for p in PACKAGE.rglob("*.py") if (n := len(p.read_text().splitlines())) > 450}
    assert not large
