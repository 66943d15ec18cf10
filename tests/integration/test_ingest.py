"""ingest as a real process, seen through real sockets."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.adapters.bus import producer_socket
from runtime.adapters.bus.curve import ASKED_AT, HANDSHAKES_AT_ONCE, KeyGate, make_keys, read_key
from runtime.adapters.bus.sockets import DeliveryReporter, Settled
from runtime.adapters.process.status_file import read_status
from runtime.adapters.store.reader import StoreReader
from runtime.config import load
from runtime.core.address import Listener, parse_endpoint
from runtime.core.message import StoredMessage
from runtime.producer import Curve, Full, NoAnswer, NotStored, Producer, Unavailable
from tests.support.harness import Home, eventually, short_folder
from tests.support.upload import refusal

SMALL = "max_message_bytes = 10000\nmax_request_bytes = 40000\n"


@pytest.fixture
def home() -> Iterator[Home]:
    with short_folder() as folder:
        made = Home(folder, f"[ingest]\n{SMALL}[store]\nmin_free_bytes = 0\n")
        yield made
        made.stop()


@pytest.fixture
def ingest(home: Home) -> Home:
    home.start_worker("ingest")
    return home


def endpoint(home: Home) -> str:
    return load({}, home=home.folder).producer_endpoint()


def wait_until_served(home: Home) -> None:
    """A worker needs its time to start, more than an impatient producer of a test grants it."""
    with Producer(endpoint(home), retry_for_s=30) as patient:
        patient.ping()


def connect(home: Home, kind: int = zmq.REQ, where: str | None = None) -> zmq.Socket[bytes]:
    socket = zmq.Context.instance().socket(kind)
    socket.linger = 0
    socket.connect(where or endpoint(home))
    return socket


def ask(socket: zmq.Socket[bytes], *frames: bytes, timeout_s: float = 15) -> dict[str, Any]:
    socket.send_multipart(frames)
    assert socket.poll(int(timeout_s * 1000)), f"no reply to {frames!r}"
    return dict(json.loads(socket.recv()))


def stored(home: Home) -> list[StoredMessage]:
    reader = StoreReader(home.layout.messages_db)
    try:
        return [m for m in reader.after(0, 100_000, 10**9) if isinstance(m, StoredMessage)]
    finally:
        reader.close()


def test_the_smallest_client_there_is(ingest: Home) -> None:
    sock = connect(ingest)
    sock.send_multipart([b'{"stream": "weather"}', b"21.5"])
    assert sock.poll(15_000)
    assert json.loads(sock.recv()) == {"ok": True, "stored": 1, "ids": [1]}
    assert [(m.stream, m.payload) for m in stored(ingest)] == [("weather", b"21.5")]
    sock.close()


def test_every_malformed_request_gets_a_reply_and_the_next_one_is_served(ingest: Home) -> None:
    sock = connect(ingest)
    for frames, code in (
        ((b"",), "bad_header"),
        ((b"{}",), "wrong_payloads"),
        ((b"\xff", b"x"), "bad_header"),
        ((b'{"nope": 1}', b"x"), "unknown_field"),
        ((b"{}", b"x" * 10_001), "message_too_large"),
        ((b"{}", *[b"x" * 9_000] * 5), "request_too_large"),
        ((b"{}", *[b""] * 1_001), "request_too_large"),
    ):
        assert ask(sock, *frames)["error"]["code"] == code
    assert ask(sock, b"{}", b"good")["ok"]
    assert len(stored(ingest)) == 1
    sock.close()


def test_a_dealer_without_the_empty_frame_is_told_so(ingest: Home) -> None:
    sock = connect(ingest, zmq.DEALER)
    assert ask(sock, b"{}", b"x")["error"]["code"] == "bad_envelope"
    sock.close()


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(frames=st.lists(st.binary(max_size=200), min_size=1, max_size=6))
def test_any_frames_at_all_are_answered(shared_ingest: Home, frames: list[bytes]) -> None:
    sock = connect(shared_ingest)
    assert "ok" in ask(sock, *frames)
    sock.close()


@pytest.fixture(scope="module")
def shared_ingest() -> Iterator[Home]:
    with short_folder() as folder:
        home = Home(folder, f"[ingest]\n{SMALL}[store]\nmin_free_bytes = 0\n")
        home.start_worker("ingest")
        yield home
        home.stop()


def test_only_the_owner_and_its_group_reach_the_socket_and_only_the_owner_the_rest(ingest: Home) -> None:
    ask(connect(ingest), b'{"operation": "ping"}')
    modes = {
        path: stat.S_IMODE(path.stat().st_mode)
        for path in (ingest.layout.producer_socket, ingest.layout.delivery_socket, ingest.layout.state)
    }
    assert list(modes.values()) == [0o660, 0o600, 0o700]


def test_a_second_ingest_on_the_same_endpoint_refuses_and_says_why(ingest: Home) -> None:
    ask(connect(ingest), b'{"operation": "ping"}')
    with short_folder() as folder:
        other = Home(folder, f'[ingest]\nendpoint = "{endpoint(ingest)}"\n')
        second = other.start_worker("ingest")
        assert second.popen.wait(20) == 2
        assert "already runs" in second.said()
    assert ask(connect(ingest), b"{}", b"x")["ok"]


def test_a_stale_socket_is_no_obstacle(ingest: Home) -> None:
    ask(connect(ingest), b'{"operation": "ping"}')
    ingest.workers["ingest"].kill()
    assert ingest.layout.producer_socket.exists()
    ingest.start_worker("ingest")
    assert ask(connect(ingest), b"{}", b"x")["ok"]


def test_what_upload_reports_leaves_the_store_and_is_confirmed(ingest: Home) -> None:
    with Producer(endpoint(ingest)) as producer:
        producer.put_many([b"x"] * 10)
        reporter = DeliveryReporter(ingest.layout, resend_after_s=0.3)
        reporter.report(Settled(delivered=[1, 2, 3], dropped=[(4, "expired")], quarantined=[(5, "poison")]))
        confirmed: set[int] = set()
        eventually(lambda: confirmed.update(reporter.confirmed()) or len(confirmed) == 5)
        assert not reporter.unconfirmed
        assert [m.id for m in stored(ingest)] == [6, 7, 8, 9, 10]
        ingest.workers["ingest"].kill()
        reporter.report(Settled(delivered=[6]))  # nobody is there to hear it
        ingest.start_worker("ingest")
        eventually(lambda: 6 in reporter.confirmed())
        reporter.close()


def test_one_that_floods_and_never_reads_does_not_keep_others_waiting(ingest: Home) -> None:
    flood = connect(ingest, zmq.DEALER)
    flood.sndhwm = 10_000
    with Producer(endpoint(ingest)) as producer:
        producer.ping()
        waits = []
        for _ in range(30):
            for _ in range(100):
                try:
                    flood.send_multipart([b"", b"{}", b"x" * 5_000], zmq.NOBLOCK)
                except zmq.Again:
                    break
            start = time.monotonic()
            producer.put(b"mine")
            waits.append(time.monotonic() - start)
    flood.close()
    assert sorted(waits)[15] < 0.5
    assert len([m for m in stored(ingest) if m.payload == b"mine"]) == 30


def test_memory_stays_flat_over_many_strangers_and_much_nonsense(ingest: Home) -> None:
    def visit(times: int) -> int:
        for number in range(times):
            sock = connect(ingest)
            ask(sock, *((b"nonsense" * 100,) if number % 2 else (b"{}", b"x" * 9_999, b"y" * 10_001)))
            sock.close()
        status = Path(f"/proc/{ingest.workers['ingest'].pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))

    before_kib = visit(200)
    assert visit(600) - before_kib < 4_000


def test_a_full_store_tells_the_producer_to_wait_and_takes_it_when_there_is_room() -> None:
    with short_folder() as folder:
        home = Home(folder, "[store]\nmax_messages = 5\nmin_free_bytes = 0\n")
        home.start_worker("ingest")
        wait_until_served(home)
        with Producer(endpoint(home), retry_for_s=30, name="p") as producer:
            producer.put_many([b"x"] * 5)
            refused = refusal(home, b"no room")
            assert isinstance(refused, Full) and "store_full" in str(refused)
            reporter = DeliveryReporter(home.layout)
            reporter.report(Settled(delivered=[1]))
            eventually(lambda: reporter.confirmed())
            assert producer.put(b"room") == 6
            reporter.close()
        eventually(lambda: (read_status(home.layout.status_file("ingest")) or {}).get("messages") == 5)
        home.stop()


def test_a_disk_below_its_reserve_refuses_at_once_and_deletes_still_succeed() -> None:
    with short_folder() as folder:
        home = Home(folder)
        home.start_worker("ingest")
        wait_until_served(home)
        with Producer(endpoint(home), retry_for_s=30) as producer:
            producer.put(b"x")
            home.workers["ingest"].kill()
            home.write_config(f"[store]\nmin_free_bytes = {2**53}\n")
            home.start_worker("ingest")
            wait_until_served(home)
            sock = connect(home)
            for _ in range(500):  # what is free inside the file may be used up first
                answer = ask(sock, b"{}", b"x" * 1_000)
                if not answer["ok"]:
                    break
            assert answer["error"]["code"] == "disk_full"
            sock.close()
            reporter = DeliveryReporter(home.layout)
            reporter.report(Settled(delivered=[1]))
            eventually(lambda: reporter.confirmed())
            reporter.close()
        home.stop()


def test_over_tcp_only_an_allowed_key_is_let_in() -> None:
    with short_folder() as folder:
        (folder / "clients").mkdir()
        make_keys("ingest", folder)
        make_keys("friend", folder)
        make_keys("stranger", folder)
        (folder / "clients" / "friend.public").write_bytes((folder / "friend.public").read_bytes())
        with zmq.Context.instance().socket(zmq.REP) as probe:
            port = probe.bind_to_random_port("tcp://127.0.0.1")
        where = f"tcp://127.0.0.1:{port}"
        home = Home(
            folder / "home",
            f'[ingest]\ntcp_endpoint = "{where}"\ncurve_secret_file = "{folder}/ingest.secret"\n'
            f'curve_clients = "{folder}/clients"\n[store]\nmin_free_bytes = 0\n',
        )
        home.start_worker("ingest")

        def keys(name: str) -> Curve:
            server = read_key(folder / "ingest.public")
            return Curve(server, read_key(folder / f"{name}.public"), read_key(folder / f"{name}.secret"))

        with Producer(where, curve=keys("friend"), retry_for_s=15) as friend:
            assert friend.put(b"hello") == 1
            (folder / "clients" / "friend.public").unlink()
            friend._retry_for_s = 0.1
            eventually(
                lambda: refused_as(friend, Unavailable, "not_allowed"), what="who is off the list is out"
            )
        for refused in (keys("stranger"), None):
            with Producer(where, curve=refused, retry_for_s=1.0) as stranger, pytest.raises(NoAnswer):
                stranger.put(b"let me in")
        assert {m.payload for m in stored(home)} == {b"hello"}
        home.stop()


TCP_REPAIR = 19
UNACKNOWLEDGED_AT = 24
"""In the kernel's struct tcp_info."""


def vanishing(port: int, routing_id: bytes) -> socket.socket:
    """A REQ socket that can go without a goodbye: closed in repair it says nothing."""
    there = socket.create_connection(("127.0.0.1", port), timeout=20)
    there.sendall(b"\xff" + bytes(7) + b"\x01\x7f\x03\x00NULL".ljust(24, b"\0") + bytes(32))
    there.recv(64, socket.MSG_WAITALL)
    said = ((b"Socket-Type", b"REQ"), (b"Identity", routing_id))
    ready = b"\x05READY" + b"".join(
        bytes([len(name)]) + name + len(value).to_bytes(4, "big") + value for name, value in said
    )
    there.sendall(bytes([4, len(ready)]) + ready)
    there.recv(2 + len(b"\x05READY"), socket.MSG_WAITALL)
    there.sendall(b"\x01\x00\x01\x02{}\x00\x01x")
    return there


def unacknowledged(connection: socket.socket) -> int:
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, UNACKNOWLEDGED_AT + 4)
    return int.from_bytes(info[UNACKNOWLEDGED_AT:], sys.byteorder)


def test_a_producer_that_comes_back_after_a_power_cut_is_heard_under_its_own_routing_id(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its old connection stood for ever, and whoever comes under the id of another is not heard."""
    monkeypatch.setitem(producer_socket.KEEPALIVE, zmq.TCP_KEEPALIVE_IDLE, 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    where = f"tcp://127.0.0.1:{port}"
    ours = producer_socket.ProducerSocket(Listener(parse_endpoint(where), 1_000))
    back = None
    try:
        gone = vanishing(port, b"me")
        eventually(lambda: [frames for _, frames in ours.receive()] == [[b"{}", b"x"]])
        eventually(
            lambda: unacknowledged(gone) == 0, what="or what is on its way would tell that nobody is there"
        )
        try:
            gone.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
        except PermissionError:
            pytest.skip("only root may close without a goodbye")
        gone.close()

        def heard() -> bool:
            nonlocal back
            if back is None or not back.poll(200):
                if back is not None:
                    back.close(0)
                back = zmq.Context.instance().socket(zmq.REQ)
                back.routing_id = b"me"
                back.connect(where)
                back.send_multipart([b"{}", b"back"])
            ours.socket.poll(200)
            return any(frames == [b"{}", b"back"] for _, frames in ours.receive())

        eventually(heard)
    finally:
        if back is not None:
            back.close(0)
        ours.close()


def refused_as(producer: Producer, kind: type[NotStored], code: str) -> bool:
    """Whether the next message is refused so."""
    try:
        producer.put(b"hello")
    except NotStored as error:
        return isinstance(error, kind) and code in str(error)
    return False


def test_keys_that_cannot_be_looked_at_stay_allowed(tmp_path: Path) -> None:
    """Else a moment without a free file would turn everybody away."""
    clients = tmp_path / "clients"
    clients.mkdir()
    make_keys("friend", clients)
    key = read_key(clients / "friend.public").decode()
    gate = KeyGate(clients)
    try:
        assert gate.admits(key, 1.0)
        clients.rename(tmp_path / "elsewhere")
        clients.symlink_to(clients)  # a folder that cannot be read
        assert gate.admits(key, 3.0)
        clients.unlink()
        clients.mkdir()
        assert not gate.admits(key, 5.0)
    finally:
        gate.close()


def test_with_the_folder_of_keys_every_right_goes(tmp_path: Path) -> None:
    """Who removed it to shut everybody out let all of them in until the next start, anew too."""
    clients = tmp_path / "clients"
    clients.mkdir()
    make_keys("friend", clients)
    key = read_key(clients / "friend.public").decode()
    with contextlib.closing(KeyGate(clients)) as gate:
        assert gate.admits(key, 1.0)
        shutil.rmtree(clients)
        assert not gate.admits(key, 3.0)


def test_a_gate_can_be_set_up_again_at_once(tmp_path: Path) -> None:
    """Its place was given free by another thread, some time later."""
    for _ in range(300):
        KeyGate(tmp_path).close()


def test_knocking_without_end_keeps_nobody_from_being_served(tmp_path: Path) -> None:
    """Every handshake that waited was answered first, and each read every key: a flood had no end."""
    gate = KeyGate(tmp_path)
    knocking = [zmq.Context.instance().socket(zmq.REQ) for _ in range(3 * HANDSHAKES_AT_ONCE)]
    for each in knocking:
        each.connect(ASKED_AT)
        each.send_multipart([b"1.0", b"1", b"producers", b"127.0.0.1", b"", b"CURVE", b"k" * 32])
    try:
        for turn in (1, 2, 3):
            gate.answer()
            assert sum(1 for socket in knocking if socket.poll(0)) == turn * HANDSHAKES_AT_ONCE
        assert {socket.recv_multipart()[2] for socket in knocking} == {b"400"}
    finally:
        for socket in (*knocking, gate):
            socket.close()


def test_tcp_that_can_be_reached_from_outside_needs_keys() -> None:
    with short_folder() as folder:
        home = Home(folder, '[ingest]\ntcp_endpoint = "tcp://0.0.0.0:1"\n')
        worker = home.start_worker("ingest")
        assert worker.popen.wait(20) == 2
        assert "curve_secret_file" in worker.said()
        home.stop()


def test_a_damaged_store_is_salvaged_while_producers_only_wait() -> None:
    with short_folder() as folder:
        home = Home(folder, "[store]\nmin_free_bytes = 0\n")
        home.start_worker("ingest")
        with Producer(endpoint(home), retry_for_s=30) as producer:
            for _ in range(40):
                producer.put_many([b"x" * 1_000] * 25)
            assert home.workers["ingest"].terminate() == 0
            with home.layout.messages_db.open("r+b") as file:
                file.seek(4096 * 120)
                file.write(b"\xa5" * 4096 * 2)
            home.start_worker("ingest")
            producer.put(b"before anybody looked")
            reporter = DeliveryReporter(home.layout, resend_after_s=0.3)
            reporter.report(Settled(delivered=list(range(1, 1_001))))  # walks over the damage
            report = home.layout.state / "damaged" / "report.json"
            eventually(
                lambda: reporter.confirmed() is not None and report.exists()
            )  # repeated, as upload does
            assert producer.put(b"after") is not None
            reporter.close()
        status = eventually(
            lambda: (read_status(home.layout.status_file("ingest")) or {}).get("alarm"),
            what="an alarm is raised",
        )
        assert "damaged" in status
        assert b"after" in [m.payload for m in stored(home)]
        home.stop()
