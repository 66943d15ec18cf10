"""A gateway at work: messages of leaves go through ingest, upload and the hub, each under its leaf."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from runtime.adapters.process.process import Stop
from runtime.core.ingest import new_names
from runtime.workers.ingest import IngestLoop
from tests.support.harness import Cloud, Home, eventually
from tests.support.store_tools import ObedientClock
from tests.support.upload import ask, backlog, put, uploading


def refused(home: Home, **header: Any) -> str:
    return str(json.loads(ask(home, header, b"x"))["error"]["code"])


def test_leaves_arrive_under_their_ids_and_in_their_order_and_circles_are_cut(
    home: Home, cloud: Cloud
) -> None:
    credentials = uploading(home, cloud, gateway='leaves = ["press-7", "press-8"]')
    own_id = credentials.device_id.split(":")[1]
    payloads = [b"%d" % n for n in range(60)]
    leaves = ["press-7", "press-8", None]
    each = [{"leaf": leaves[n % 3]} if leaves[n % 3] else {} for n in range(60)]
    put(home, {"stream": "weather", "messages": each}, *payloads)
    put(home, {"stream": "weather", "leaf": "press-7", "via": ["hall-1"]}, b"by hall-1")
    sent = home.edgectl("send", "from the command line", "--leaf", "press-8", "--stream", "weather")
    assert sent.returncode == 0, sent.stderr
    assert refused(home, leaf="press-9") == "unknown_leaf"
    assert refused(home, leaf="press-7", via=["hall-1", own_id]) == "loop"
    eventually(lambda: cloud.message_count() == 62 and backlog(home) == 0)
    arrived: dict[str | None, list[bytes]] = {}
    for message in cloud.messages():
        leaf = message.properties.get("source-device-id")
        arrived.setdefault(leaf, []).append(message.payload)
        assert message.properties["stream-name"] == "weather"
        path = None if leaf is None else f"hall-1/{own_id}" if message.payload == b"by hall-1" else own_id
        assert message.properties.get("gateway-path") == path
    assert arrived == {
        "press-7": [*payloads[0::3], b"by hall-1"],
        "press-8": [*payloads[1::3], b"from the command line"],
        None: payloads[2::3],
    }

    def counted() -> bool:
        shown = json.loads(home.edgectl("status", "--json").stdout)["backlog"]
        return (shown["leaves"], shown["new_leaves"]) == (2, 2)

    eventually(counted)


@contextlib.contextmanager
def serving(home: Home, clock: ObedientClock) -> Iterator[tuple[IngestLoop, Callable[..., str]]]:
    """ingest, turn by turn; and a producer that says what became of a message of a leaf."""
    ingest = IngestLoop(home.config, Stop(), clock)
    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.connect(home.config.producer_endpoint())

    def tell(leaf: str) -> str:
        socket.send_multipart([json.dumps({"leaf": leaf}).encode(), b"x"])
        while not socket.poll(1):
            ingest.turn()
        reply = json.loads(socket.recv())
        return "stored" if reply["ok"] else str(reply["error"]["code"])

    try:
        yield ingest, tell
    finally:
        socket.close(0)
        ingest.close()


def test_new_leaves_come_in_at_their_rate_over_all_commits(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(new_names, "NEW_LEAVES_AT_ONCE", 2)
    home.write_config('[gateway]\nauto = true\nleaves = ["listed"]\n[store]\nmin_free_bytes = 0\n')
    clock = ObedientClock()
    with serving(home, clock) as (_, tell):
        assert [tell(f"leaf-{n}") for n in range(3)] == ["stored", "stored", "too_many_leaves"]
        assert [tell("leaf-0"), tell("listed")] == ["stored", "stored"]
        clock.boot += 1.0
        assert [tell("leaf-2"), tell("leaf-3")] == ["stored", "too_many_leaves"]


def test_a_leaf_is_taken_from_the_reload_on_that_names_it(home: Home) -> None:
    home.write_config("[store]\nmin_free_bytes = 0\n")
    with serving(home, ObedientClock()) as (ingest, tell):
        assert tell("press-7") == "unknown_leaf"
        home.write_config('[gateway]\nleaves = ["press-7"]\n[store]\nmin_free_bytes = 0\n')
        ingest._reconfigure(home.config)
        assert tell("press-7") == "stored"
