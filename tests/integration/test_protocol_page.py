"""The page of the protocol: its client holds the promise, and what it says of replies is what comes."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.support.harness import Home, short_folder

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "protocol.md").read_text()


@pytest.fixture
def home() -> Iterator[Home]:
    with short_folder() as folder:
        made = Home(folder, "[store]\nmin_free_bytes = 0\n")
        yield made
        made.stop()


def ask(socket: zmq.Socket[bytes], header: dict[str, Any], *payloads: bytes) -> bytes:
    socket.send_multipart([json.dumps(header).encode(), *payloads])
    assert socket.poll(15_000), header
    return socket.recv()


def test_the_client_of_the_page_outlives_restarts_and_lost_replies(home: Home) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    found: dict[str, Any] = {}
    exec(code, found)  # as a reader would
    client = found["Client"](home.config.producer_endpoint(), "page")
    ids: list[int] = []
    first = threading.Thread(target=lambda: ids.append(client.put(b"1", stream="s")))
    first.start()  # ingest does not run yet: the first question is asked in vain
    home.start_worker("ingest")
    first.join(30)
    home.workers["ingest"].kill()
    second = threading.Thread(target=lambda: ids.append(client.put(b"2", stream="s")))
    second.start()
    home.start_worker("ingest")
    second.join(30)
    client.key["sequence"] = 1
    assert [*ids, client.put(b"1", stream="s")] == [1, 2, 1]
    with pytest.raises(ValueError, match="priority must be 0 to 9"):
        client.put(b"3", priority=10)


def test_replies_are_as_the_page_says(home: Home) -> None:
    home.start_worker("ingest")
    key = {"producer": "p", "boot": "b"}
    with zmq.Context.instance().socket(zmq.REQ) as socket:
        socket.linger = 0
        socket.connect(home.config.producer_endpoint())
        assert ask(socket, {**key, "sequence": "1"}, b"a", b"b") == b'{"ok":true,"stored":2,"ids":[1,2]}'
        assert ask(socket, {**key, "sequence": 2}, b"b", b"c") == (
            b'{"ok":true,"stored":2,"ids":[2,3],"repeated":1}'
        )
        gap = json.loads(ask(socket, {**key, "sequence": 9}, b"d"))
        assert (gap["ids"], [one["code"] for one in gap["warnings"]]) == ([4], ["sequence_gap"])
        back = json.loads(ask(socket, {**key, "sequence": 5}, b"e"))
        assert (back["ids"], [one["code"] for one in back["warnings"]]) == ([5], ["sequence_backwards"])
        completion = {**key, "sequence": 10, "operation": "complete_batch", "batch_id": "x"}
        assert json.loads(ask(socket, completion))["ids"] == [6]
        assert (
            json.loads(ask(socket, {"stream": "a\u00e9", "priority": 1.0}, b""))["error"]["code"]
            == "bad_field"
        )
        assert ask(socket, {"stream": "\u00e9", "ttl_s": None, "properties": None}, b"").startswith(
            b'{"ok":true'
        )
        assert ask(socket, {"operation": "ping", "stream": "s"}, b"ignored") == b'{"ok":true,"version":1}'
        refused = ask(socket, {"stream": "s\u00e9\n"}, b"")
        assert refused.isascii() and b": " not in refused.partition(b'"message"')[0]
