"""Core decides and has no effects: by its source, and by what the interpreter hears while it runs.

The second half is in `tests/support/core_effects.py`: it watches every test of this process.
"""

from __future__ import annotations

import ast
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import runtime
from runtime.core.delivery.batches import BatchOrder
from runtime.core.delivery.send_queue import SendQueue
from tests.support.core_effects import CORE, CoreEffect
from tests.support.rooms import tree

PACKAGE = Path(runtime.__file__).parent
MODULES = sorted((PACKAGE / "core").rglob("*.py"))

WORLD = {
    "asyncio", "atexit", "azure", "ctypes", "fcntl", "gc", "glob", "http", "importlib", "inspect", "io",
    "locale", "logging", "loguru", "mmap", "multiprocessing", "os", "platform", "queue", "random",
    "requests", "resource", "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3",
    "sqlite_utils", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib.request",
    "uuid", "warnings", "weakref", "zmq", "zoneinfo",
}  # fmt: skip
"""Modules that read or change what is outside: no module of core imports one."""
BUILTINS = {
    "open", "input", "print", "exec", "eval", "compile", "__import__", "breakpoint", "globals", "id", "hash",
}  # fmt: skip
"""Built-in functions with an effect, or whose answer differs from one process to the next."""
CLOCKS = {
    "wall_s",
    "boot_s",
    "boot_id",
    "synchronised",
    "now",
    "today",
    "utcnow",
    "ctime",
    "localtime",
    "monotonic",
    "perf_counter",
    "time_ns",
}
"""Methods that read the clock, also one that was passed in."""
PATH_METHODS = {
    "absolute", "chmod", "cwd", "exists", "expanduser", "home", "is_dir", "is_file", "iterdir", "lstat",
    "mkdir", "read_bytes", "read_text", "readlink", "rglob", "rmdir", "samefile", "stat", "symlink_to",
    "touch", "unlink", "write_bytes", "write_text",
}  # fmt: skip
"""Methods of `Path` that ask the disk."""
CHANGES = {
    "add", "append", "appendleft", "clear", "discard", "extend", "extendleft", "insert", "pop", "popitem",
    "popleft", "remove", "reverse", "rotate", "setdefault", "sort", "update", "subtract",
}  # fmt: skip
MUTABLE = {"dict", "list", "set", "deque", "Counter", "defaultdict", "OrderedDict", "bytearray"}

EXCEPTIONS = {
    ("core/secret.py", "hash"): "a Secret is a key by its text; the number is compared within one process",
}
CACHES = {
    (
        "core/delivery/envelope.py",
        "_description",
    ): "a property bag but for the message's name, by its content",
    ("core/delivery/envelope.py", "_by_name"): "properties sorted, one tuple for all messages that have them",
    ("core/delivery/envelope.py", "_stream_properties"): "the properties that say the stream, by its names",
    ("core/ingest/message_fields.py", "_plainly"): "a message's description, by its few fields",
    ("core/ingest/protocol.py", "_producer_key"): "a producer's key, by its parts",
}
"""Caches of functions, which remember what they computed: each of a pure function, and bounded."""
CALLBACKS = {
    "core/delivery/batches.py": "caught_up: the read planner's, which is core itself",
    "core/delivery/engine.py": "goes: chooses by the values of over_budget, which is core itself",
    "core/delivery/envelope.py": "open: cuts a piece out of the sealed message; made in the module itself",
    "core/delivery/packs.py": "caught_up: the read planner's, which is core itself",
    "core/delivery/poison.py": "may: what the link budget permits, which is core itself",
    "core/delivery/queue_room.py": "passes, is_urgent: the link budget's",
    "core/delivery/read_planner.py": "fresh_first: a setting; level: counts the send queue",
    "core/delivery/send_queue.py": "passes, may, ready, goes: the link budget's, sender's, packer's",
    "core/delivery/sender.py": "goes: as in engine.py",
    "core/ingest/unfolded_rows.py": "owner_of: looks up an id in the changes of owner that were read",
}
"""Modules that are given a function: whose it is, and why it has no effect."""


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (n for n in names if n in WORLD or n.split(".")[0] in WORLD)


def calls(tree: ast.AST) -> Iterator[str]:
    """Calls with an effect, of a clock, or of the local time zone."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in BUILTINS:
            yield node.func.id
        if isinstance(node.func, ast.Attribute):
            method = node.func.attr
            if method in CLOCKS | PATH_METHODS:
                yield method
            if method == "astimezone" and not node.args:
                yield "astimezone, which reads the local time zone"
            if method == "fromtimestamp" and len(node.args) + len(node.keywords) < 2:
                yield "fromtimestamp, which reads the local time zone"


def module_containers(tree: ast.Module) -> set[str]:
    """Names at the top of the module that are bound to something that can be changed."""
    names = set()
    for node in tree.body:
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        displays = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)
        made = isinstance(value, ast.Call) and ast.unparse(value.func).split("[")[0] in MUTABLE
        if isinstance(value, displays) or made:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def state(tree: ast.Module) -> Iterator[str]:
    """Changes of the module's own state by a function of it."""
    containers = module_containers(tree)
    for function in functions(tree):
        for node in ast.walk(function):
            if isinstance(node, ast.Global):
                yield f"global {', '.join(node.names)}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                changes = node.func.attr in CHANGES and _root(node.func.value) in containers
                yield from [ast.unparse(node.func)] if changes else []
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
                yield from [ast.unparse(node)] if _root(node.value) in containers else []
            if isinstance(node, ast.AugAssign) and _root(node.target) in containers:
                yield ast.unparse(node)


def _root(node: ast.AST) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def caches(tree: ast.AST) -> Iterator[str]:
    """Functions that remember their results."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(
            "cache" in ast.unparse(decorator) for decorator in node.decorator_list
        ):
            yield node.name


def effects(tree: ast.Module) -> list[str]:
    """Everything in the source that no module of core may have."""
    return [*imports(tree), *calls(tree), *state(tree)]


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_module_of_core_has_an_effect_in_its_source(path: Path) -> None:
    found = {effect for effect in effects(tree(path)) if (name(path), effect) not in EXCEPTIONS}
    assert found == set()


def test_every_cache_of_core_is_named_with_its_reason() -> None:
    assert {(name(p), f) for p in MODULES for f in caches(tree(p))} == CACHES.keys()


def test_every_module_of_core_that_is_given_a_function_is_named_with_its_reason() -> None:
    given = {name(path) for path in MODULES if takes_callbacks(tree(path))}
    assert given == CALLBACKS.keys()


def takes_callbacks(tree: ast.AST) -> bool:
    """True if an argument or a field is a function; a constant of the module is none that is given."""
    for node in ast.walk(tree):
        annotations = [node.annotation] if isinstance(node, ast.arg) and node.annotation else []
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            annotations += [part.annotation for part in ast.walk(node) if isinstance(part, ast.AnnAssign)]
        if any("Callable" in ast.unparse(annotation) for annotation in annotations):
            return True
    return False


@pytest.mark.parametrize(
    "source",
    [
        "import time", "from os import environ", "import urllib.request", "print(1)", "open('x')",
        "a = datetime.now(UTC)", "date.today()", "path.read_text()", "Path.home()", "id(x)",
        "datetime.fromtimestamp(1)", "moment.astimezone()",
        "_known = {}\ndef f(x):\n    _known[x] = 1", "_known = []\ndef f(x):\n    _known.append(x)",
        "_n = set()\ndef f(x):\n    _n.discard(x)", "_n = 0\ndef f():\n    global _n",
        "_d = dict()\ndef f():\n    del _d[1]",
        "_d: dict[str, int] = Counter()\ndef f():\n    _d.update(x=1)",
    ],
)  # fmt: skip
def test_an_effect_in_the_source_would_be_noticed(source: str) -> None:
    assert effects(ast.parse(source))


def _opens(stream: object) -> bool:
    return bool(Path(__file__).read_text())


def _connects(stream: object) -> bool:
    socket.socket().close()
    return True


def _asks_a_database(stream: object) -> bool:
    sqlite3.connect(":memory:").close()
    return True


@pytest.mark.parametrize("callback", [_opens, _connects, _asks_a_database])
def test_an_effect_while_core_runs_fails_the_test(callback: Callable[[object], bool]) -> None:
    """Here by a callback, which core must not be given."""
    queue = SendQueue()
    with pytest.raises(CoreEffect):
        list(_through_core(queue, callback))


def _through_core(queue: SendQueue, callback: Callable[[object], bool]) -> Iterator[object]:
    """Have a function of core call `callback`."""
    from runtime.core.delivery.actions import Candidate

    queue.add(Candidate(1, "s"), 0.0)
    yield from queue.turns(0.0, callback)


def test_core_is_where_the_sentry_looks_for_it() -> None:
    assert BatchOrder.admit.__code__.co_filename.startswith(CORE)
