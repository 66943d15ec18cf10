"""docs/device.md and the docstrings of the clients: their tables are true, and their examples run."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runtime.device
import runtime.device_async
from runtime.core.management.codes import ManagementCode
from runtime.core.management.exchange import DeviceError, refusal_meaning
from runtime.core.management.protocol import decode_reply, decode_request, encode_reply
from runtime.core.management.replies import (
    AnswerTaken,
    CallHandedOver,
    CommandHandedOver,
    Kept,
    ManagementRefusal,
    ManagementReply,
    TwinValue,
    Watched,
)
from runtime.core.management.requests import (
    AnswerRequest,
    ManagementRequest,
    ReceiveRequest,
    ServeRequest,
    TwinRequest,
    WatchRequest,
)
from runtime.device import Device
from tests.support.harness import short_folder
from tests.support.management_server import management_server
from tests.support.readme import TOP, with_operations

PAGE = (TOP / "docs" / "device.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
EXCHANGES = re.findall(r"^>> (.+)\n<< (.+)$", PAGE, re.MULTILINE)


def docstring_example(module: Any) -> str:
    """The indented part of a module's docstring, or all that looks like code."""
    text = inspect.cleandoc(module.__doc__)
    code = [line[4:] for line in text.splitlines() if line.startswith("    ") or not line]
    return "\n".join(code).strip("\n")


def answered(request: ManagementRequest) -> ManagementReply:
    match request:
        case TwinRequest():
            return TwinValue(3, 1, 1, 0.0, "level")
        case WatchRequest():
            return Watched(9, {"speed": 4})
        case ReceiveRequest():
            return CommandHandedOver(7, 1, "9f", "recipe", 1, 0.4, b'{"size":3}')
        case ServeRequest():
            return CallHandedOver(3, "press.stop", 20.0, b'{"now":true}')
        case AnswerRequest():
            return AnswerTaken(True)
        case _:
            return Kept(1, True)


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops without an end go round once."""
    changes, commands = Device.changes, Device.commands

    def first(loop: Any) -> Any:
        def begin(self: Device, *words: Any, **more: Any) -> Iterator[Any]:
            yield next(loop(self, *words, **more))

        return begin

    monkeypatch.setattr(Device, "changes", first(changes))
    monkeypatch.setattr(Device, "commands", first(commands))
    monkeypatch.setattr(Device, "serve", Device.serve_once)


def names_of(folder: Path) -> dict[str, Any]:
    return {"load": lambda value: value, "Device": lambda: Device(f"ipc://{folder}/management.sock")}


@pytest.mark.parametrize("example", EXAMPLES, ids=[str(n) for n in range(len(EXAMPLES))])
@pytest.mark.usefixtures("once")
def test_every_example_of_the_page_runs(example: str) -> None:
    with short_folder() as folder, management_server(folder, answered) as server:
        exec(example.replace("/var/lib/edge-runtime", str(folder)), {})
        assert server.requests


@pytest.mark.usefixtures("once")
def test_the_example_of_the_docstring_runs() -> None:
    code = docstring_example(runtime.device)
    assert "device.serve()" in code and "@device.method" in code
    with short_folder() as folder, management_server(folder, answered) as server:
        exec(code, names_of(folder))
        kinds = {type(request) for request in server.requests}
    assert {ReceiveRequest, ServeRequest, AnswerRequest, WatchRequest} <= kinds


def test_the_example_of_the_asyncio_docstring_runs() -> None:
    code = docstring_example(runtime.device_async)
    wrapped = "async def main():\n" + textwrap.indent(code.replace("AsyncDevice()", "make()"), "    ")
    wrapped = wrapped.replace('await device.applied(change, "/press")', "await device.applied(change); break")
    with short_folder() as folder, management_server(folder, answered) as server:
        namespace: dict[str, Any] = {
            "make": lambda: runtime.device_async.AsyncDevice(f"ipc://{folder}/management.sock"),
            "load": _loaded,
        }
        exec(f"import asyncio\n{wrapped}\nasyncio.run(main())", namespace)
        assert len(server.of(ReceiveRequest)) == 1


async def _loaded(value: Any) -> Any:
    return value


def frames(text: str) -> list[bytes]:
    """Header and payload, which stand three blanks apart."""
    return [part.encode() for part in text.split("   ")]


@pytest.mark.parametrize(("asked", "reply"), EXCHANGES)
def test_every_exchange_of_the_page_is_the_protocol(asked: str, reply: str) -> None:
    decoded = decode_reply(decode_request(frames(asked)), frames(reply))
    assert not isinstance(decoded, ManagementRefusal)
    again = encode_reply(decoded)
    assert json.loads(again[0]) == json.loads(frames(reply)[0]) and again[1:] == frames(reply)[1:]


def test_the_table_of_operations_is_the_protocols() -> None:
    assert with_operations(PAGE) == PAGE, "run: python -m tests.support.readme"


def test_every_code_has_its_row_with_the_clients_error() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| [^|]+ \| `(\w+)` \|$", PAGE, re.MULTILINE)
    written = {code: error for codes, error in rows for code in re.findall(r"`(\w+)`", codes)}
    assert written == {
        str(code): type(refusal_meaning(ManagementRefusal(code, ""))).__name__ for code in ManagementCode
    }


def test_every_error_of_the_clients_has_its_row() -> None:
    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE.partition("## Errors of the clients")[2], re.MULTILINE))
    kinds = {kind.__name__ for kind in DeviceError.__subclasses__()}
    assert kinds <= rows and kinds <= set(runtime.device.__all__)
