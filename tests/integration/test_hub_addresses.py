"""MQTT to a hub whose name has dead addresses, or whose name servers are dead."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from runtime.adapters.net import dial as dialer
from runtime.adapters.net.dial import PeerAddress
from runtime.core.delivery.events import Cause
from runtime.devcloud.addresses import HUB_PORT
from tests.support.harness import Cloud
from tests.support.upload import Line, acked, losses, register


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    dialer._failed_s.clear()
    dialer._lookups.clear()
    yield
    dialer._failed_s.clear()
    dialer._lookups.clear()


def named(monkeypatch: pytest.MonkeyPatch, *hosts: str, until: threading.Event | None = None) -> None:
    """The hub's name has these addresses, once the name server has answered."""

    def resolve(_host: str, port: int, flags: int = 0) -> list[PeerAddress]:
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "a name")
        if until is not None:
            until.wait(30)
        return [PeerAddress(socket.AF_INET, socket.IPPROTO_TCP, (host, port)) for host in hosts]

    monkeypatch.setattr(dialer, "_resolve", resolve)


@contextlib.contextmanager
def dead(*hosts: str) -> Iterator[None]:
    """Addresses where every SYN is dropped: the queue of what listens there is full."""
    with contextlib.ExitStack() as stack:
        for host in hosts:
            listener = stack.enter_context(socket.socket())
            listener.bind((host, HUB_PORT))
            listener.listen(0)
            for _ in range(8):
                filler = stack.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex((host, HUB_PORT))
        yield


def test_behind_four_dead_addresses_the_hub_is_reached_within_one_attempt(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each had five seconds of the attempt's twenty, so MQTT never connected."""
    hosts = [f"127.78.0.{n}" for n in range(1, 5)]
    named(monkeypatch, *hosts, cloud.facts["address"])
    line = Line(cloud, connect_s=10.0)
    with dead(*hosts):
        began_s = time.monotonic()
        number = line.connect(register(cloud))
        assert time.monotonic() - began_s < 8.0
        line.discard(number)
        began_s = time.monotonic()
        number = line.connect(register(cloud))
        assert time.monotonic() - began_s < 1.0, "the dead ones come last now"
        line.discard(number)


def test_an_address_where_no_tls_begins_is_not_the_first_at_the_next_attempt(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TCP stands (a captive portal, a load balancer with nothing behind it), so the dialer is content."""
    named(monkeypatch, "127.78.0.9", cloud.facts["address"])
    line = Line(cloud)
    with socket.create_server(("127.78.0.9", HUB_PORT)) as listener:
        number = line.hub.open(register(cloud))
        mute, _ = listener.accept()
        with mute:
            mute.settimeout(20)
            assert mute.recv(5), "TLS was begun by us"
            line.discard(number)
        line.discard(line.connect(register(cloud)))


def test_name_servers_that_hang_do_not_keep_a_client_from_being_discarded(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lookup of 56 s outlasted the deadline of discarding: the process left by exit 70 once a minute."""
    answered = threading.Event()
    named(monkeypatch, cloud.facts["address"], until=answered)
    known, line = register(cloud), Line(cloud, connect_s=0.5)
    for _ in range(3):
        began_s = time.monotonic()
        number = line.hub.open(known)
        line.until(lambda seen, n=number: any(e.client == n for e in losses(seen)))
        line.discard(number)
        assert time.monotonic() - began_s < 3.0
    assert all(loss.cause is Cause.UNREACHABLE for loss in losses(line.seen))
    assert "name servers did not answer" in losses(line.seen)[0].reason
    assert sum(thread.name == "lookup" for thread in threading.enumerate()) == 1
    number = line.hub.open(known)
    line.discard(number)  # in the midst of its lookup
    answered.set()
    line.discard(line.connect(known))
    assert not acked(line.seen)
