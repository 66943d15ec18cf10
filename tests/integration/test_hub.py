"""The line to the hub, by the real azure-iot-device over real TLS, against the stand-in."""

from __future__ import annotations

import socket
import threading
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from azure.iot.device.common.mqtt_transport import MQTTTransport

from runtime.adapters.hub import discard_deadline
from runtime.adapters.hub import mqtt_client as hub_adapter
from runtime.adapters.hub.paho_wire import KEEPALIVE_RAN_OUT, PahoWire, Reach
from runtime.core.delivery.envelope import Telemetry
from runtime.core.delivery.events import Acked, Cause, Closed, Connected
from runtime.core.identity.credentials import HubCredentials
from runtime.core.secret import Secret
from runtime.devcloud import addresses
from tests.support.certificates import Pair
from tests.support.harness import Cloud, eventually
from tests.support.upload import Line, acked, losses, register


def message(number: int, payload: bytes = b"x") -> Telemetry:
    return Telemetry(f"m-{number}", payload, (("n", str(number)), ("stream-name", "é/ü&=")), "text/plain")


def test_many_in_flight_arrive_in_the_order_of_the_calls_and_each_is_acknowledged(cloud: Cloud) -> None:
    line = Line(cloud)
    line.connect(register(cloud))
    for number in range(500):
        line.hub.send(number, message(number))
    line.until(lambda seen: len(acked(seen)) == 500)
    assert sorted(acked(line.seen)) == list(range(500))  # type: ignore[type-var]
    arrived = eventually(lambda: (m := cloud.messages())[499:] and m)
    assert [m.message_id for m in arrived] == [f"m-{n}" for n in range(500)]
    assert arrived[7].properties == {"n": "7", "stream-name": "é/ü&="}
    line.discard(1)


def test_what_is_sent_together_waits_for_its_end_and_arrives_in_order(cloud: Cloud) -> None:
    """As much as two TLS records take, with one message that is larger than a record by itself."""
    line = Line(cloud)
    line.connect(register(cloud))
    sizes = [100, 9_000, 9_000, 40_000, 100, 100]
    with line.hub.together():
        for number, size in enumerate(sizes[:2]):
            line.hub.send(number, message(number, b"x" * size))
        time.sleep(0.05)
        assert not line.hub.drain(), "nothing of a block is sent before it is full, or at its end"
        for number, size in enumerate(sizes[2:], 2):
            line.hub.send(number, message(number, b"x" * size))
    line.until(lambda seen: len(acked(seen)) == len(sizes))
    line.hub.send(6, message(6))
    line.until(lambda seen: len(acked(seen)) == 7)
    assert [m.message_id for m in cloud.messages()] == [f"m-{n}" for n in range(7)]
    line.discard(1)


def test_without_the_librarys_inside_everything_still_arrives_in_order(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PahoWire, "find", classmethod(lambda cls, *_: None))
    line = Line(cloud)
    line.connect(register(cloud))
    for number in range(50):
        line.hub.send(number, message(number))
    line.until(lambda seen: len(acked(seen)) == 50)
    assert [m.message_id for m in cloud.messages()] == [f"m-{n}" for n in range(50)]
    assert cloud.messages()[7].properties == {"n": "7", "stream-name": "é/ü&="}
    line.discard(1)


def _without_callback(self: object, topic: str, payload: bytes, qos: int = 1) -> None:
    raise AssertionError("called in a way it does not know")


@pytest.mark.parametrize(
    ("of", "name", "instead"),
    [
        (MQTTTransport, "publish", _without_callback),
        (MQTTTransport, "publish", None),
        (paho.Client, "max_inflight_messages_set", None),
        (paho.Client, "_send_puback", None),
    ],
)
def test_a_part_of_the_library_that_has_changed_makes_upload_slow_and_not_deaf(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, of: type, name: str, instead: object
) -> None:
    """With another signature of publish every send failed, and every connection with it, for good."""
    if instead is None:
        monkeypatch.delattr(of, name)
    else:
        monkeypatch.setattr(of, name, instead)
    client = hub_adapter._build(register(cloud), hub_adapter.HubOptions(Path(cloud.facts["ca_file"])))
    assert PahoWire.find(client, Reach(), print) is None
    client.shutdown()


def test_the_library_still_has_what_the_wire_relies_on(cloud: Cloud) -> None:
    """A new version that moves an attribute makes upload slow, not wrong: this is where it is noticed."""
    line = Line(cloud)
    line.connect(register(cloud))
    client = line.hub._client
    assert client is not None and client.wire is not None, "azure-iot-device has moved its transport"
    assert client.wire._paho._max_inflight_messages == 0, "paho has moved its ceiling"
    assert client.wire.socket is not None
    assert client.wire.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    for name in (
        "_create_socket_connection",
        "loop_misc",
        "_do_on_disconnect",
        "_packet_queue",
        "_sock_send",
    ):
        assert hasattr(paho.Client, name), f"paho has moved {name}"
        assert getattr(client.wire._paho, name).__module__ == PahoWire.__module__
    assert paho.MQTT_ERR_KEEPALIVE == KEEPALIVE_RAN_OUT
    assert hasattr(client.wire._paho, "_thread"), "paho has moved its network thread"
    line.discard(1)


def test_a_sas_that_is_expired_by_the_local_clock_is_left_to_the_hub_to_judge(cloud: Cloud) -> None:
    credentials = register(cloud)
    assert credentials.sas is not None
    text = credentials.sas.reveal()
    old = text[: text.index("&se=")] + "&se=1000000000"
    line = Line(cloud)
    line.hub.open(replace(credentials, sas=Secret(old)))
    line.until(lambda seen: bool(losses(seen)))
    assert losses(line.seen)[0].cause is Cause.REFUSED
    assert "expired" not in losses(line.seen)[0].reason, "it was the library that refused, not the hub"
    line.discard(1)


def test_a_hub_that_refuses_by_code_is_told_apart_from_one_that_is_away(cloud: Cloud) -> None:
    credentials = register(cloud)
    line = Line(cloud)
    for code, cause in ((5, Cause.REFUSED), (4, Cause.REFUSED), (3, Cause.BUSY)):
        cloud.faults(refuse_connect_code=code)
        number = line.hub.open(credentials)
        line.until(lambda seen, n=number: any(e.client == n for e in losses(seen)))
        assert losses(line.seen)[-1].cause is cause, losses(line.seen)
        assert "Error" not in losses(line.seen)[-1].reason, "the name of a class"
        line.discard(number)
    cloud.hub(up=False)
    number = line.hub.open(credentials)
    line.until(lambda seen: any(e.client == number for e in losses(seen)))
    assert losses(line.seen)[-1].cause is Cause.UNREACHABLE
    assert losses(line.seen)[-1].reason == f"refused at {cloud.facts['hub_host']}:{addresses.HUB_PORT}"
    line.discard(number)


@pytest.mark.parametrize("mode", ["abrupt", "polite"])
def test_a_dropped_connection_under_load_is_one_loss_and_the_next_client_connects(
    cloud: Cloud, mode: str
) -> None:
    """Ten drops with 64 in flight: the library's thread dies of some of them, and it must not matter."""
    credentials = register(cloud)
    cloud.faults(ack_delay_ms=20)
    line = Line(cloud)
    for _ in range(10):
        number = line.connect(credentials)
        for n in range(64):
            line.hub.send(n, message(n, b"x" * 2000))
        cloud.drop(mode)
        line.until(lambda seen, n=number: any(e.client == n for e in losses(seen)))
        line.hub.send(99, message(99))
        line.discard(number)
    assert len(losses(line.seen)) == 10
    assert all(e.cause is Cause.DROPPED for e in losses(line.seen))


def test_a_discarded_client_says_nothing_more(cloud: Cloud) -> None:
    credentials = register(cloud)
    cloud.faults(withhold_acks=True)
    line = Line(cloud)
    number = line.connect(credentials)
    for n in range(20):
        line.hub.send(n, message(n))
    eventually(lambda: cloud.message_count() == 20)
    line.hub.discard()
    cloud.no_faults()  # whatever it hears yet
    line.until(lambda seen: Closed(number) in seen)
    second = line.connect(credentials)
    line.hub.send("last", message(1))
    line.until(lambda seen: Acked(second, "last") in seen)
    assert acked(line.seen) == ["last"]
    line.discard(second)


def within(module: str) -> Callable[[threading.Event], None]:
    """What a thread dies of that runs code of this module."""

    def die(when: threading.Event) -> None:
        when.wait(10)
        raise BrokenPipeError("late")

    return types.FunctionType(die.__code__, {**globals(), "__name__": module})


def test_a_thread_of_anybody_else_costs_no_connection_when_it_dies_and_is_told_to_who_asked_before(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one hook for all threads of a process, and the line took every death for its own."""
    told: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: told.append(args.exc_value))
    line, at_once = Line(cloud), threading.Event()
    number = line.connect(register(cloud))
    at_once.set()
    other = threading.Thread(target=within("somebody.else"), args=[at_once])
    other.start()
    other.join(10)
    line.hub.send("still there", message(1))
    line.until(lambda seen: Acked(number, "still there") in seen)
    assert (losses(line.seen), [str(exc) for exc in told]) == ([], ["late"])
    line.discard(number)


def test_a_thread_that_a_discarded_client_left_behind_dies_without_harm_to_the_present_one(
    cloud: Cloud,
) -> None:
    """Late in dying, it told of a broken pipe: the connection that stands was cut for it."""
    die = within("paho.mqtt.client")
    credentials, line = register(cloud), Line(cloud)
    line.discard(line.connect(credentials))
    now = threading.Event()
    late = threading.Thread(target=die, args=[now])
    late.start()
    second = line.connect(credentials)
    now.set()
    late.join(10)
    line.hub.send("still there", message(1))
    line.until(lambda seen: Acked(second, "still there") in seen)
    assert losses(line.seen) == []
    own = threading.Thread(target=die, args=[now])
    own.start()
    line.until(lambda seen: bool(losses(seen)))
    assert losses(line.seen)[0].client == second, "its own threads still count"
    line.discard(second)


def test_a_silent_hub_is_let_go_of_within_the_deadline(cloud: Cloud) -> None:
    """TCP stays open and nothing answers: neither a connect under way nor a live client may hang us."""
    credentials = register(cloud)
    line = Line(cloud)
    number = line.connect(credentials)
    cloud.faults(silent=True)
    for n in range(20):
        line.hub.send(n, message(n))
    began_s = time.monotonic()
    line.discard(number)
    silent = line.hub.open(credentials)
    time.sleep(0.5)  # there is no fact to wait for: nothing happens, and that is the point
    assert Connected(silent) not in line.seen
    line.discard(silent)
    assert time.monotonic() - began_s < hub_adapter.DISCARD_DEADLINE_S
    cloud.no_faults()
    line.discard(line.connect(credentials))


@pytest.mark.parametrize("ends", [True, False], ids=["thawed", "hung"])
def test_a_process_that_was_frozen_while_it_discarded_is_not_taken_for_hung(
    monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """A paused container: when it goes on, every deadline is over before anything could happen."""
    left = threading.Event()
    monkeypatch.setattr(discard_deadline, "_give_up", lambda number: left.set())
    monkeypatch.setattr(discard_deadline, "THAW_S", 0.3)
    deadline = discard_deadline.ExitDeadline(0.0, 1)
    if ends:
        deadline.cancel()
    assert left.wait(0.6) is not ends


def test_a_hub_that_never_begins_tls_is_let_go_of_whatever_the_keepalive_is(cloud: Cloud) -> None:
    """The next attempt waited for as long as the keep-alive: half an hour, on a link that costs."""
    line, known = Line(cloud, keepalive_s=1740), register(cloud)
    assert known.sas is not None
    sas = Secret(known.sas.reveal().replace(known.hub_host, "127.77.0.1"))
    with socket.create_server(("127.77.0.1", addresses.HUB_PORT)) as listener:
        listener.settimeout(20)
        number = line.hub.open(replace(known, hub_host="127.77.0.1", sas=sas))
        deaf, _ = listener.accept()
        with deaf:
            deaf.settimeout(20)
            assert deaf.recv(5), "TLS was begun by us"
            line.discard(number)
            while deaf.recv(4_096):
                pass
    line.discard(line.connect(known))


def test_a_certificate_serves_instead_of_a_sas(cloud: Cloud, folder: Path) -> None:
    path = f"/workspaces/{cloud.facts['workspace']}/devices/certificates/create"
    made = cloud.call("POST", path, {"deviceId": "dev-x509"})
    certificate, key = folder / "device.pem", folder / "device.key"
    certificate.write_text(made["certificate"])
    key.write_text(made["privateKey"])
    device = f"{cloud.facts['workspace']}:dev-x509"
    line = Line(cloud)
    line.connect(
        HubCredentials(cloud.facts["hub_host"], device, generation=1, certificate=certificate, key=key)
    )
    line.hub.send("x", message(1))
    line.until(lambda seen: acked(seen) == ["x"])
    assert cloud.messages()[0].device_id == device
    line.discard(1)


def test_a_key_with_a_passphrase_is_refused_by_name_and_nobody_is_asked_for_it(
    cloud: Cloud, folder: Path
) -> None:
    pair = Pair(folder)
    pair.seal_key()
    line = Line(cloud)
    line.hub.open(
        HubCredentials(cloud.facts["hub_host"], "w:d", 1, certificate=pair.certificate, key=pair.key)
    )
    line.until(lambda seen: bool(losses(seen)))
    assert losses(line.seen)[0].cause is Cause.LOCAL
    assert "sealed with a passphrase" in losses(line.seen)[0].reason
    line.discard(1)


def test_a_hub_that_falls_silent_while_nothing_is_sent_is_noticed_by_the_keepalive(cloud: Cloud) -> None:
    line = Line(cloud, keepalive_s=1)
    line.connect(register(cloud))
    cloud.faults(silent=True)
    line.until(lambda seen: bool(losses(seen)))
    assert losses(line.seen)[0].cause is Cause.OVERDUE
    assert "our keep-alive" in losses(line.seen)[0].reason
    line.discard(1)


def test_a_reason_names_the_place_and_what_happened_and_no_class_of_a_library(cloud: Cloud) -> None:
    """An operator reads it: "ConnectionFailedError: Could not connect to IoTHub <- ... [Errno 111]"."""
    credentials = register(cloud)
    line = Line(cloud)
    where = f"{credentials.hub_host}:8883"
    cloud.hub(up=False)
    line.hub.open(credentials)
    line.until(lambda seen: len(losses(seen)) == 1)
    assert losses(line.seen)[0].reason == f"refused at {where}"
    line.discard(1)
    cloud.hub(up=True)
    cloud.faults(refuse_connect_code=5)
    line.hub.open(credentials)
    line.until(lambda seen: len(losses(seen)) == 2)
    assert losses(line.seen)[1].reason.startswith(f"{where}: ")
    assert "Error" not in losses(line.seen)[1].reason and "<-" not in losses(line.seen)[1].reason
    line.discard(2)
