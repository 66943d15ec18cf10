"""A door that cannot be opened closes no other, is tried again, and is named."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Iterator

import pytest
import zmq

from runtime.adapters.bus.connection_guard import PeerConnection
from runtime.adapters.bus.curve import make_keys
from runtime.adapters.bus.producer_sockets import TRY_AGAIN_S, ProducerSockets
from runtime.adapters.process.status_file import read_status
from runtime.errors import ConfigError, UsageError
from runtime.producer import Producer
from runtime.wiring import listeners
from tests.support.harness import Home, eventually
from tests.support.store_tools import ObedientClock


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """A port that something else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


def port_of(there: socket.socket) -> int:
    return int(there.getsockname()[1])


def answers(where: str) -> bool:
    with Producer(where, retry_for_s=15) as producer:
        producer.ping()
    return True


def test_a_port_that_is_taken_stops_no_producer_at_another_door(home: Home, taken: socket.socket) -> None:
    """ingest ended at every start, so that nobody was served by ipc either."""
    tcp = f"tcp://127.0.0.1:{port_of(taken)}"
    home.write_config(f'[ingest]\ntcp_endpoint = "{tcp}"\n[store]\nmin_free_bytes = 0\n')
    worker = home.start_worker("ingest")
    with Producer(home.config.producer_endpoint(), retry_for_s=30) as producer:
        assert producer.put(b"x") == 1
        status = eventually(lambda: read_status(home.layout.status_file("ingest")))
        assert list(status["closed_doors"]) == [tcp]
        assert status["alarm"] == f"cannot listen on {tcp}: Address already in use"
        taken.close()
        assert answers(tcp)
        assert producer.put(b"y") == 2
    eventually(lambda: "alarm" not in (read_status(home.layout.status_file("ingest")) or {"alarm": 1}))
    assert worker.running()


def doors(home: Home, toml: str, clock: ObedientClock) -> ProducerSockets:
    home.write_config(f"[ingest]\n{toml}\n")
    return ProducerSockets(listeners(home.config), clock)


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("tcp://192.0.2.7:5598", "Cannot assign requested address"),
        ("tcp://nosuchinterface0:5598", "No such device"),
        ("tcp://[2001:db8::7]:5598", "Cannot assign requested address"),
    ],
)
def test_an_address_that_this_machine_does_not_have_yet_is_waited_for(
    home: Home, endpoint: str, why: str
) -> None:
    make_keys("ingest", home.folder)
    (home.folder / "clients").mkdir()
    keys = f'curve_secret_file = "{home.folder}/ingest.secret"\ncurve_clients = "{home.folder}/clients"'
    clock = ObedientClock()
    found = doors(home, f'tcp_endpoint = "{endpoint}"\n{keys}', clock)
    try:
        assert [str(door.endpoint) for door in found.open] == [f"ipc://{home.layout.producer_socket}"]
        assert found.alarm == f"cannot listen on {endpoint}: {why}"
    finally:
        found.close()
    found = doors(home, f'endpoint = "{endpoint}"\n{keys}', clock)  # the only one: deliveries go on
    assert not found.open and found.alarm
    found.close()


def test_a_key_file_that_is_not_there_yet_closes_its_door_alone(home: Home) -> None:
    """As a credential that is mounted late."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{port_of(probe)}"
    (home.folder / "clients").mkdir()
    toml = (
        f'tcp_endpoint = "{endpoint}"\ncurve_secret_file = "{home.folder}/ingest.secret"\n'
        f'curve_clients = "{home.folder}/clients"'
    )
    clock = ObedientClock()
    found = doors(home, toml, clock)
    try:
        assert len(found.open) == 1 and "cannot read the key file" in found.alarm
        make_keys("ingest", home.folder)
        found.ensure_bound()
        assert len(found.open) == 1, "not tried at every turn"
        clock.boot += TRY_AGAIN_S
        found.ensure_bound()
        assert len(found.open) == 2 and not found.alarm
    finally:
        found.close()


def test_a_folder_of_a_path_that_is_not_mounted_yet_closes_its_door_alone(home: Home) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        tcp = f"tcp://127.0.0.1:{port_of(probe)}"
    folder = home.folder / "later"
    clock = ObedientClock()
    found = doors(home, f'endpoint = "ipc://{folder}/in.sock"\ntcp_endpoint = "{tcp}"', clock)
    try:
        assert [str(door.endpoint) for door in found.open] == [tcp] and "cannot be opened" in found.alarm
        folder.mkdir()
        clock.boot += TRY_AGAIN_S
        found.ensure_bound()
        assert len(found.open) == 2
    finally:
        found.close()
        shutil.rmtree(folder)


def test_what_no_waiting_changes_ends_the_start(home: Home) -> None:
    with pytest.raises(ConfigError, match="curve_secret_file"):
        doors(home, 'tcp_endpoint = "tcp://0.0.0.0:1"', ObedientClock())
    held = doors(home, "", ObedientClock())
    try:
        with pytest.raises(UsageError, match="already runs"):
            doors(home, "", ObedientClock())
    finally:
        held.close()


def test_the_loopback_of_ipv6_is_served(home: Home) -> None:
    """Our own check let it pass, and then binding failed for ever: IPv6 is off unless it is asked for."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as probe:
            endpoint = f"tcp://[::1]:{port_of(probe)}"
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    home.write_config(f'[ingest]\ntcp_endpoint = "{endpoint}"\n[store]\nmin_free_bytes = 0\n')
    home.start_worker("ingest")
    with Producer(endpoint, retry_for_s=30) as producer:
        assert producer.put(b"x") == 1
    with zmq.Context.instance().socket(zmq.REQ) as plain:
        plain.linger, plain.ipv6 = 0, True
        plain.connect(endpoint)
        plain.send_multipart([b"{}", b"y"])
        assert plain.poll(15_000) and json.loads(plain.recv())["ids"] == [2]


def test_strangers_by_ipv6_are_not_taken_for_one_another() -> None:
    """All addresses of IPv6 counted as one owner: a crowd of one got the others cut off."""
    mine, other = PeerConnection(3, "[2001:db8::1]:4711", 0), PeerConnection(4, "[2001:db8::2]:4711", 0)
    assert mine.owner != other.owner
    assert PeerConnection(5, "192.0.2.1:4711", 0).owner == PeerConnection(6, "192.0.2.1:4712", 0).owner
    assert PeerConnection(7, "process 12 (user 1000)", 0).owner == "process 12 (user 1000)"


@pytest.mark.parametrize("endpoint", ["ipc://@ingest", "ipc://", "tcp://127.0.0.1", "udp://x:1"])
def test_an_endpoint_that_no_file_mode_guards_or_that_has_no_port_is_refused_in_one_sentence(
    home: Home, endpoint: str
) -> None:
    home.write_config(f'[ingest]\nendpoint = "{endpoint}"\n')
    with pytest.raises(ConfigError, match=r"ingest\.endpoint .* must be ipc://PATH"):
        _ = home.config
