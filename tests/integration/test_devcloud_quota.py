"""The stand-in's daily quota: silent over MQTT as the real hub's, named over HTTPS."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import requests

from runtime.devcloud.mqtt.packets import Ack, PacketType, Publish, Subscribe
from runtime.devcloud.state.problems import Problem
from tests.support.harness import Cloud
from tests.support.hub_in_thread import REPORTED, TWIN_RESULTS, HubInThread, messages, payloads
from tests.support.upload import register


def post(cloud: Cloud, sas: str, path: str = "/messages/events", **more: object) -> requests.Response:
    device = sas.partition("%2Fdevices%2F")[2].partition("&")[0].replace("%3A", ":")
    return requests.post(
        f"{cloud.facts['admin_url']}/devices/{device}{path}?api-version=2021-04-12",
        verify=cloud.facts["ca_file"],
        timeout=10,
        **{"headers": {"Authorization": sas}, **more},  # type: ignore[arg-type]  # handed on
    )


def test_the_hub_takes_what_is_left_and_ends_every_connection_at_the_next_message(hub: HubInThread) -> None:
    hub.faults(quota_left=3)
    for _ in range(2):
        with hub.raw() as raw:
            raw.send(*messages(5))
            acked = []
            with pytest.raises(EOFError):  # closed politely, without a word
                while True:
                    acked.append(raw.receive())
    assert acked == [], "the second connection was taken, and nothing on it"
    assert len(payloads(hub)) == 3
    assert hub.end_reasons() == ["the daily quota is used up"] * 2


def test_a_twin_is_not_patched_while_the_quota_is_used_up(hub: HubInThread) -> None:
    hub.faults(quota_left=0)
    with hub.raw() as raw:
        raw.send(Subscribe(1, ((TWIN_RESULTS, 0),)))
        raw.receive()
        raw.send(Publish(REPORTED, b'{"a": 1}', 1, 2))
        answers = [raw.receive(), raw.receive()]
        topics = [a.topic for a in answers if isinstance(a, Publish)]
        assert Ack(PacketType.PUBACK, 2) in answers and topics[0].startswith("$iothub/twin/res/403/")


def test_all_that_passes_counts_against_the_quota_and_nothing_goes_beyond_it(hub: HubInThread) -> None:
    hub.faults(quota_left=3)
    with hub.raw() as raw:
        raw.send(Subscribe(1, ((TWIN_RESULTS, 0),)))
        raw.receive()
        hub.call(lambda: hub.cloud.send_command("demo:dev-2", b"go", {}, 0.0))
        with pytest.raises(Problem) as offline:
            hub.run(hub.cloud.call_method("demo:dev-2", "m", None, 5))
        raw.send(Publish(REPORTED, b'{"a": 1}'), Publish("$iothub/twin/GET/?$rid=1", b""))
        raw.send(Publish("$iothub/twin/GET/?$rid=2", b""))
        assert [raw.receive().topic.split("/")[3] for _ in range(3)] == ["204", "200", "403"]
    with pytest.raises(Problem) as refused:
        hub.call(lambda: hub.cloud.send_command("demo:dev-2", b"go", {}, 0.0))
    assert (offline.value.status, refused.value.status) == (404, 403)


def test_a_message_over_https_is_one_like_any_other(cloud: Cloud) -> None:
    credentials = register(cloud)
    assert credentials.sas is not None
    sas = credentials.sas.reveal()
    named = {"Authorization": sas, "iothub-messageid": "m-1", "iothub-app-n": "7"}
    assert post(cloud, sas, data=b"21.5", headers=named).status_code == 204
    (arrived,) = cloud.messages()
    assert (arrived.device_id, arrived.message_id, arrived.payload) == (credentials.device_id, "m-1", b"21.5")
    assert arrived.properties == {"n": "7"}
    assert post(cloud, sas, headers={}).status_code == 401
    assert post(cloud, sas, data=b"x" * 262_145).status_code == 413


def test_https_says_by_name_that_the_quota_is_used_up(cloud: Cloud) -> None:
    credentials = register(cloud)
    assert credentials.sas is not None
    cloud.faults(quota_left=0)
    for path, body in (("/messages/events", {}), ("/files", {"blobName": "b"})):
        answer = post(cloud, credentials.sas.reveal(), path, json=body)
        assert answer.status_code == 403
        assert json.loads(answer.json()["Message"])["errorCode"] == 403002
    assert cloud.messages() == []


BATCH = {"Content-Type": "application/vnd.microsoft.iothub.json"}


def test_a_batch_over_https_is_taken_whole_and_in_order_or_refused_whole(cloud: Cloud) -> None:
    credentials = register(cloud)
    assert credentials.sas is not None
    sas = credentials.sas.reveal()
    headers = {"Authorization": sas, **BATCH}
    batch: list[Any] = [
        {"body": base64.b64encode(b"\x001").decode(), "properties": {"iothub-app-n": "1"}},
        {"body": "zwei ü", "base64Encoded": False, "properties": {"iothub-messageid": "m-2"}},
        {"body": "Mw==", "base64Encoded": True},
    ]

    def posted(body: Any) -> int:
        return post(cloud, sas, data=json.dumps(body).encode(), headers=headers).status_code

    assert posted(batch) == 204
    arrived = cloud.messages()
    assert [m.payload for m in arrived] == [b"\x001", "zwei ü".encode(), b"3"]
    assert (arrived[0].properties, arrived[1].message_id) == ({"n": "1"}, "m-2")
    wrong: list[Any] = [{}, [], [1], [{"body": 1}], [{"body": "x"}], [{"body": "MQ==", "base64Encoded": 1}]]
    wrong += [[{"body": "MQ==", "properties": {name: "v"}}] for name in ("n", "iothub-app-", "iothub-app-ü")]
    for bad in wrong:
        assert posted(bad) == 400, bad
        assert posted([*batch, *(bad or [bad])] if isinstance(bad, list) else bad) == 400, bad
    assert posted([{"body": "x" * 262_144, "base64Encoded": False}]) == 413
    cloud.faults(quota_left=2)
    assert posted(batch) == 403
    assert posted(batch[:2]) == 204
    assert len(cloud.messages()) == 5
