"""upload with streams that pack, against the stand-in: fewer messages, and the same batch files."""

from __future__ import annotations

import json
import time

from runtime.adapters.process.status_file import read_status
from runtime.core.delivery.envelope import Telemetry
from runtime.core.delivery.packing import unpack
from tests.support.harness import Arrived, Cloud, Home, eventually
from tests.support.upload import backlog, put, put_in_force, register

LINES = '[stream.s]\npack = "lines"\n'


def started(home: Home, cloud: Cloud, streams: str, *, upload: bool = True) -> None:
    home.write_config(cloud.config_toml() + streams)
    put_in_force(home.layout, register(cloud))
    home.start_worker("ingest")
    eventually(lambda: home.layout.messages_db.exists())
    if upload:
        home.start_worker("upload")


def singles(messages: list[Arrived]) -> dict[str, bytes]:
    """What arrived in packs and alone, by the ids of single delivery; each of them once."""
    found: dict[str, bytes] = {}
    for message in messages:
        telemetry = Telemetry(message.message_id, message.payload, tuple(message.properties.items()))
        for one in unpack(telemetry) if "#+" in message.message_id else [telemetry]:
            assert one.mid not in found, "a message came twice"
            found[one.mid] = one.payload
    return found


def test_a_backlog_goes_in_packs_and_is_metered_as_the_hub_does(home: Home, cloud: Cloud) -> None:
    started(home, cloud, LINES + 'compression = "none"\n[stream.c]\npack = "concat"\n', upload=False)
    payloads = [f"{n}".encode().ljust(200, b".") for n in range(500)]
    put(home, {"stream": "s"}, *payloads)
    put(home, {"stream": "c"}, *payloads)
    put(home, {"stream": "s", "message_id": "own"}, b"alone")
    home.start_worker("upload")
    eventually(lambda: backlog(home) == 0)
    arrived = cloud.messages()
    assert len(arrived) < 20
    assert sorted(singles(arrived).values()) == sorted([*payloads, *payloads, b"alone"])
    assert cloud.batch_files()["s/"] == b"\n".join([*payloads, b"alone"])
    assert cloud.batch_files("none")["c/"] == b"".join(payloads)
    figures = read_status(home.layout.status_file("upload")) or {}
    eventually(lambda: (read_status(home.layout.status_file("upload")) or {}).get("delivered") == 1001)
    figures = read_status(home.layout.status_file("upload")) or {}
    assert figures["units_today"] == cloud.metered_units()
    assert figures["packing"]["-/s"]["members"] >= 490


def test_a_sequence_says_what_each_message_said_alone_and_the_last_one_that_its_batch_is_whole(
    home: Home, cloud: Cloud
) -> None:
    toml = '[stream.q]\npack = "cbor-seq"\nfold_completion = true\nlinger_s = 60\n'
    started(home, cloud, toml)
    for level in ("1", "2", "2"):
        put(home, {"stream": "q", "batch_id": "b", "properties": {"level": level}}, b"\n" * 50)
    put(home, {"stream": "q", "batch_id": "b", "message_id": "own"}, b"named")
    put(home, {"operation": "complete_batch", "stream": "q", "batch_id": "b"})
    eventually(lambda: backlog(home) == 0)
    (pack,) = cloud.messages()
    assert {"pack": "cbor-seq", "complete-batch": "true", "batch-id": "b"}.items() <= pack.properties.items()
    members = unpack(Telemetry(pack.message_id, pack.payload, tuple(pack.properties.items())))
    about = [dict(one.properties) for one in members]
    assert [one.get("level") for one in about] == ["1", "2", "2", None, None]
    assert about[3]["message-id"] == "own" and about[4]["complete-batch"] == "true"
    assert [one.payload for one in members] == [b"\n" * 50] * 3 + [b"named", b""]


def test_brotli_comes_after_packing_and_the_figures_say_what_it_gains(home: Home, cloud: Cloud) -> None:
    started(home, cloud, LINES + 'compression = "fastest"\n', upload=False)
    payloads = [json.dumps({"sensor": "vibration", "n": n, "unit": "mm/s"}).encode() for n in range(2_000)]
    for start in (0, 1_000):
        put(home, {"stream": "s", "content_type": "application/json"}, *payloads[start : start + 1_000])
    home.start_worker("upload")
    eventually(lambda: backlog(home) == 0)
    arrived = cloud.messages()
    assert {m.system["$.ct"] for m in arrived if "#+" in m.message_id} == {"application/x-ndjson"}
    assert list(singles(arrived).values()) == payloads
    assert cloud.metered_units() < 12
    shown = cloud.call("GET", "/admin/messages")["messages"]
    assert sum(len(m["members"]) or 1 for m in shown) == 2_000


def test_a_message_waits_for_its_pack_no_longer_than_it_may_and_an_urgent_one_not_at_all(
    home: Home, cloud: Cloud
) -> None:
    started(home, cloud, LINES + "linger_s = 1.0\n[link]\nurgent_priority = 9\n")
    put(home, {"stream": "s"}, b"connects")
    eventually(lambda: cloud.message_count() == 1)
    began_s = time.monotonic()
    put(home, {"stream": "s"}, b"first")
    time.sleep(0.3)
    put(home, {"stream": "s"}, b"second")
    put(home, {"stream": "other", "priority": 9}, b"urgent")
    eventually(lambda: cloud.message_count() == 2)
    assert time.monotonic() - began_s < 0.9, "the urgent one waited"
    eventually(lambda: cloud.message_count() == 3)
    assert 0.8 < time.monotonic() - began_s < 1.6
    assert [m.payload for m in cloud.messages()] == [b"connects", b"urgent", b"first\nsecond"]
