"""The twin and methods at the stand-in's hub: strict where the real one is, and wrong on request."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest
from azure.iot.device import MethodResponse, exceptions

from runtime.devcloud.mqtt.packets import Ack, PacketType, Publish, Subscribe, Unsubscribe
from runtime.devcloud.state.problems import Problem
from runtime.devcloud.state.values import TwinRefused
from tests.support.harness import eventually
from tests.support.hub_in_thread import (
    ABRUPT,
    COMMANDS,
    DESIRED,
    DEVICE,
    REPORTED,
    TWIN_RESULTS,
    HubInThread,
    Raw,
    messages,
)

GET = "$iothub/twin/GET/?$rid=g-1"
METHODS = "$iothub/methods/POST/#"


def listening(hub: HubInThread, *channels: str) -> Raw:
    raw = hub.raw()
    raw.send(Subscribe(1, tuple((channel, 0) for channel in channels)))
    raw.receive()
    return raw


def desire(hub: HubInThread, patch: dict[str, Any]) -> int | TwinRefused:
    return hub.call(lambda: hub.cloud.patch_desired(DEVICE, patch, time.time()))


def reported(hub: HubInThread) -> dict[str, Any]:
    return hub.call(lambda: hub.cloud.twins.document(DEVICE, "reported"))


def publish(topic: str, **patch: Any) -> Publish:
    return Publish(topic, json.dumps(patch).encode())


# -- strictness --------------------------------------------------------------------------------------------


def test_a_report_beyond_the_hubs_size_formula_is_refused_and_changes_nothing(hub: HubInThread) -> None:
    with listening(hub, TWIN_RESULTS) as raw:
        raw.send(publish(REPORTED, **{f"k{n}": 1 for n in range(2000)}))
        assert raw.receive().topic.endswith("$version=2")
        raw.send(publish(REPORTED, **{f"l{n}": 1 for n in range(1000)}))
        refusal = raw.receive()
        assert refusal.topic == "$iothub/twin/res/400/?$rid=r-1"
        assert "by the hub's formula" in json.loads(refusal.payload)["message"]
        raw.send(publish(REPORTED, k0=None))
        assert raw.receive().topic.endswith("$version=3")


def test_a_replaced_document_is_published_as_its_difference(hub: HubInThread) -> None:
    desire(hub, {"a": {"b": 0, "c": 2}, "d": 1})
    with listening(hub, DESIRED) as raw:
        replaced = {"a": {"b": 1}}
        assert hub.call(lambda: hub.cloud.replace_desired(DEVICE, replaced, time.time())) == 3
        change = raw.receive()
        assert change.topic == "$iothub/twin/PATCH/properties/desired/?$version=3"
        assert json.loads(change.payload) == {"a": {"b": 1, "c": None}, "d": None, "$version": 3}
    assert isinstance(
        hub.call(lambda: hub.cloud.replace_desired(DEVICE, {"a": None}, time.time())), TwinRefused
    )


def test_tags_and_metadata_are_the_operators_alone(hub: HubInThread) -> None:
    desire(hub, {"a": 1})
    with listening(hub, DESIRED, TWIN_RESULTS) as raw:
        hub.call(lambda: hub.cloud.twins.patch(DEVICE, "tags", {"site": "x"}, time.time()))
        raw.send(Publish(GET, b""))
        assert json.loads(raw.receive().payload) == {
            "desired": {"a": 1, "$version": 2},
            "reported": {"$version": 1},
        }
    whole = hub.call(lambda: hub.cloud.twins.whole(DEVICE))
    assert (whole["tags"], whole["version"], whole["etag"]) == ({"site": "x"}, 3, '"3"')
    assert whole["properties"]["desired"]["$metadata"]["a"]["$lastUpdatedVersion"] == 2


def test_every_twin_request_is_logged_with_its_answer_and_its_flaw(hub: HubInThread) -> None:
    with listening(hub, TWIN_RESULTS) as raw:
        for packet in (
            publish(REPORTED, a=1),
            publish(REPORTED, b=None),
            Publish(REPORTED, b"{"),
            Publish(GET, b""),
        ):
            raw.send(packet)
            raw.receive()
    logged = [(row["request"], row["status"], row["flaw"]) for row in hub.rows("twin_requests")]
    assert logged == [
        ("PATCH", 204, ""),
        ("PATCH", 204, "removes what is not there"),
        ("PATCH", 400, ""),
        ("GET", 200, ""),
    ]


# -- wrong on request --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "code"), [(429, 429001), (403, 403002), (500, 500001)])
def test_a_refusal_changes_nothing_and_comes_as_often_as_asked(
    hub: HubInThread, status: int, code: int
) -> None:
    fault = {"status": status, "times": 1}
    hub.faults(twin={"GET": fault, "PATCH": fault})
    with listening(hub, TWIN_RESULTS) as raw:
        raw.send(publish(REPORTED, a=1), Publish(GET, b""))
        answers = [raw.receive(), raw.receive()]
        assert [answer.topic.split("/")[3] for answer in answers] == [str(status)] * 2
        assert json.loads(answers[0].payload)["errorCode"] == code
        assert reported(hub) == {}
        raw.send(publish(REPORTED, a=1), Publish(GET, b""))
        assert [raw.receive().topic.split("/")[3] for _ in range(2)] == ["204", "200"]


def test_a_report_may_be_taken_and_refused_in_one_and_an_answer_be_nonsense(hub: HubInThread) -> None:
    hub.faults(twin={"PATCH": {"status": 500, "applied": True}, "GET": {"body": "<html>"}})
    with listening(hub, TWIN_RESULTS) as raw:
        raw.send(publish(REPORTED, a=1), Publish(GET, b""))
        assert raw.receive().topic.split("/")[3] == "500"
        assert raw.receive().payload == b"<html>"
    assert reported(hub) == {"a": 1}


def test_a_lost_answer_leaves_the_report_in_the_twin(hub: HubInThread) -> None:
    hub.faults(twin={"PATCH": {"lost": True, "times": 1}, "GET": {"lost": True, "times": 1}})
    with listening(hub, TWIN_RESULTS) as raw:
        raw.send(publish(REPORTED, a=1), Publish(GET, b""))
        assert raw.is_silent_for(0.1)
        assert reported(hub) == {"a": 1}
        raw.send(Publish(GET, b""))
        assert json.loads(raw.receive().payload)["reported"] == {"a": 1, "$version": 2}


def test_a_delayed_answer_lets_others_pass(hub: HubInThread) -> None:
    hub.faults(twin={"GET": {"delay_s": 0.2, "times": 1}})
    with listening(hub, TWIN_RESULTS) as raw:
        raw.send(Publish(GET, b""), publish(REPORTED, a=1))
        assert [raw.receive().topic.split("/")[3] for _ in range(2)] == ["204", "200"]


def test_the_connection_may_end_instead_of_an_answer(hub: HubInThread) -> None:
    hub.faults(twin={"PATCH": {"drop": True}})
    with listening(hub, TWIN_RESULTS) as raw:
        raw.send(publish(REPORTED, a=1))
        with pytest.raises(ABRUPT):
            raw.receive()
    assert reported(hub) == {"a": 1}


def test_values_may_be_altered_and_siblings_lost(hub: HubInThread) -> None:
    with listening(hub, TWIN_RESULTS) as raw:
        hub.faults(twin_altered={"a": {"speed": 7}})
        raw.send(publish(REPORTED, a={"speed": 3, "mode": "m"}))
        assert raw.receive().topic.endswith("$version=2")
        assert reported(hub) == {"a": {"speed": 7, "mode": "m"}}
        hub.faults(twin_siblings_lost=True)
        raw.send(publish(REPORTED, a={"never": None}))
        assert raw.receive().topic.endswith("$version=3")
    assert reported(hub) == {"a": {}}


def test_changes_of_desired_properties_may_be_lost_or_come_twice(hub: HubInThread) -> None:
    with listening(hub, DESIRED) as raw:
        hub.faults(desired_lost=True)
        desire(hub, {"a": 1})
        hub.faults(desired_repeated=True, desired_delay_s=0.05)
        desire(hub, {"a": 2})
        assert [json.loads(raw.receive().payload)["$version"] for _ in range(2)] == [3, 3]
        assert raw.is_silent_for(0.1)


@pytest.mark.parametrize(
    ("where", "packet"),
    [
        ("subscribe", Subscribe(2, ((COMMANDS, 1),))),
        ("puback", Ack(PacketType.PUBACK, 1)),
        ("twin-get", Publish(GET, b"")),
        ("twin-patch", Publish(REPORTED, b'{"a": 1}')),
        ("method-answer", Publish("$iothub/methods/res/200/?$rid=1", b"{}")),
    ],
)
def test_the_hub_drops_the_connection_at_the_packet_that_was_asked_for(
    hub: HubInThread, where: str, packet: Any
) -> None:
    hub.faults(drop_at=where)
    with hub.raw() as raw:
        raw.send(*messages(1))
        assert raw.receive() == Ack(PacketType.PUBACK, 1)
        raw.send(packet)
        with pytest.raises(ABRUPT):
            raw.receive()
    assert reported(hub) == {}
    assert hub.end_reasons() == [f"dropped at {where}, on request"]


# -- the basic tier ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "packet",
    [
        Subscribe(2, ((COMMANDS, 1),)),
        Subscribe(2, ((TWIN_RESULTS, 0),)),
        Unsubscribe(2, (DESIRED,)),
        Publish(GET, b""),
        Publish(REPORTED, b'{"a": 1}', 1, 2),
        Publish("$iothub/methods/res/200/?$rid=1", b"{}"),
    ],
    ids=lambda packet: str(packet)[:50],
)
def test_the_basic_tier_takes_telemetry_and_ends_the_connection_at_anything_else(
    hub: HubInThread, packet: Any
) -> None:
    with listening(hub, COMMANDS, DESIRED):
        pass
    hub.call(lambda: hub.cloud.change_limits({"tier": "basic"}))
    hub.call(lambda: hub.cloud.send_command(DEVICE, b"go", {}, time.time()))
    with hub.raw() as raw:  # its session was subscribed before
        desire(hub, {"a": 1})
        raw.send(*messages(1))
        assert raw.receive() == Ack(PacketType.PUBACK, 1)
        assert raw.is_silent_for(0.05)
        raw.send(packet)
        raw.assert_dropped()
    assert "the basic tier" in (hub.end_reasons()[-1] or "")
    assert len(hub.messages()) == 1 and reported(hub) == {}


def test_a_twin_request_on_the_basic_tier_costs_the_published_sdk_its_connection(hub: HubInThread) -> None:
    hub.call(lambda: hub.cloud.change_limits({"tier": "basic"}))
    with hub.client() as client:
        client.connect()
        client.send_message("telemetry")
        with pytest.raises(Exception, match=r"cancelled before SUBACK|not currently connected"):
            client.patch_twin_reported_properties({"a": 1})
        eventually(lambda: not client.connected)
    assert len(hub.messages()) == 1


# -- methods -----------------------------------------------------------------------------------------------


def calling(hub: HubInThread, *arguments: Any) -> Future[Any]:
    """A call of a method under way."""
    outcome: Future[Any] = Future()

    def call() -> None:
        try:
            outcome.set_result(hub.run(hub.cloud.call_method(DEVICE, *arguments)))
        except Exception as exc:
            outcome.set_exception(exc)

    threading.Thread(target=call, daemon=True).start()
    return outcome


def problem_of(outcome: Future[Any]) -> tuple[int, str]:
    problem = outcome.exception(10)
    assert isinstance(problem, Problem)
    return problem.status, problem.kind


def test_a_method_of_a_device_that_does_not_listen_fails_at_once(hub: HubInThread) -> None:
    assert problem_of(calling(hub, "m", None, 30.0)) == (404, "hub/deviceNotOnline")
    with hub.raw():
        assert problem_of(calling(hub, "m", None, 30.0, 0.05)) == (404, "hub/deviceNotOnline")


def test_a_method_waits_for_its_device_to_listen(hub: HubInThread) -> None:
    outcome = calling(hub, "m", {"a": 1}, 10.0, 10.0)
    with listening(hub, METHODS) as raw:
        call = raw.receive()
        assert call.topic.startswith("$iothub/methods/POST/m/?$rid=") and call.payload == b'{"a": 1}'
        raw.send(Publish(f"$iothub/methods/res/7/?$rid={call.topic.partition('$rid=')[2]}", b"[1]"))
        assert outcome.result(10) == (7, b"[1]")


def test_a_method_without_an_answer_times_out_and_a_late_one_is_dropped(hub: HubInThread) -> None:
    with listening(hub, METHODS) as raw, hub.raw("demo:dev-2") as stranger:
        outcome = calling(hub, "m", None, 0.2)
        request_id = raw.receive().topic.partition("$rid=")[2]
        answer = Publish(f"$iothub/methods/res/200/?$rid={request_id}", b"{}", 1, 9)
        stranger.send(answer)  # another device's answer is none
        assert stranger.receive() == Ack(PacketType.PUBACK, 9)
        assert problem_of(outcome) == (504, "hub/gatewayTimeout")
        raw.send(answer)
        assert raw.receive() == Ack(PacketType.PUBACK, 9)


def test_a_payload_beyond_the_limit_is_refused_on_either_way(hub: HubInThread) -> None:
    assert problem_of(calling(hub, "m", "x" * 128 * 1024, 5.0))[0] == 413
    with hub.raw() as raw:
        raw.send(Publish("$iothub/methods/res/200/?$rid=1", bytes(128 * 1024 + 1)))
        raw.assert_dropped()


def test_the_published_sdk_with_a_handler_that_raises_lets_the_caller_wait_in_vain(hub: HubInThread) -> None:
    def handler(request: Any) -> None:
        if request.name == "bug":
            raise ZeroDivisionError
        client.send_method_response(MethodResponse.create_from_method_request(request, 200, {"ok": True}))

    with hub.client() as client:
        client.connect()
        client.on_method_request_received = handler
        assert calling(hub, "good", None, 10.0, 10.0).result(10)[0] == 200
        assert problem_of(calling(hub, "bug", None, 0.3)) == (504, "hub/gatewayTimeout")
        client.on_method_request_received = None  # unsubscribes
        assert problem_of(calling(hub, "good", None, 10.0)) == (404, "hub/deviceNotOnline")


@pytest.mark.parametrize("status", [400, 403, 429, 500])
def test_the_published_sdk_tells_of_a_refused_report_and_not_which_refusal(
    hub: HubInThread, status: int
) -> None:
    """A value that is refused for ever looks like one that is to be sent again."""
    hub.faults(twin={"PATCH": {"status": status}})
    with hub.client() as client:
        client.connect()
        with pytest.raises(exceptions.ClientError) as caught:
            client.patch_twin_reported_properties({"a": 1})
    assert str(status) not in str(caught.value)
