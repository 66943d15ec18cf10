"""Every HTTPS exchange has one deadline for all of it, and one that was cut keeps no other from its turn."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.net import https, probe
from runtime.adapters.net.cuttable import Cutter
from runtime.adapters.net.exchange import BoundedExchanges, NoResult
from runtime.adapters.net.probe import NetworkProbe
from runtime.adapters.net.tls_options import TrustedAuthorities
from runtime.core.address import parse_address
from runtime.core.identity.platform_answer import Outcome
from runtime.settings import PlatformSettings, Settings
from runtime.wiring import hub_route, registration_route
from tests.support.scripted import Says, scripted, trickle_headers

TLS_RECORD = b"\x16\x03\x03\x40\x00"
"""The head of a handshake record of 16 KiB."""


@pytest.fixture
def dribbling() -> Iterator[int]:
    """The port of a server that sends its TLS handshake a byte at a time, and never ends it."""
    over = threading.Event()
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                peer, _ = listening.accept()
                peer.sendall(TLS_RECORD)
                while not over.wait(0.02):
                    peer.sendall(b"\0")
            except OSError:
                if over.is_set():
                    return

    thread = threading.Thread(target=serve)
    thread.start()
    yield int(listening.getsockname()[1])
    over.set()
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_handshake_that_dribbles_is_cut_where_the_platform_is_called(dribbling: int) -> None:
    began_s = time.monotonic()
    failure = https.request("GET", f"https://127.0.0.1:{dribbling}/", b"", None, TrustedAuthorities(), 0.3)
    assert failure == https.Failure(Outcome.TIMED_OUT, "no complete answer within 0.3 s")
    assert time.monotonic() - began_s < 5


def test_an_answer_that_dribbles_is_cut_where_doctor_looks(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte came within the time for a read: `edgectl doctor` never ended."""
    monkeypatch.setattr(probe, "DEADLINE_S", 0.3)
    with scripted(folder) as server:
        server.answer = lambda _: Says(raw=trickle_headers)
        settings = Settings(
            platform=PlatformSettings(instance=parse_address(server.instance), ca_file=server.ca_file)
        )
        began_s = time.monotonic()
        network = NetworkProbe(registration_route(settings), hub_route(settings))
        checks = [check for check in network.platform() if check.name != "proxy"]
    assert [(check.verdict, check.text) for check in checks] == [("error", "no complete answer within 0.6 s")]
    assert time.monotonic() - began_s < 5


def test_an_exchange_that_outlives_its_cut_keeps_the_next_one_waiting_and_no_longer() -> None:
    exchanges, stuck = BoundedExchanges(Cutter()), threading.Event()
    with pytest.raises(NoResult, match="no complete answer within"):
        exchanges.run(0.05, lambda: stuck.wait(10))
    with pytest.raises(NoResult) as caught:
        exchanges.run(0.05, lambda: pytest.fail("two at a time"))
    assert caught.value.outcome is Outcome.TIMED_OUT
    stuck.set()
    assert exchanges.run(10, lambda: "answer") == "answer"


def test_an_exchange_ends_where_its_caller_is_asked_to_stop() -> None:
    exchanges, stuck = BoundedExchanges(Cutter()), threading.Event()
    with pytest.raises(NoResult) as caught:
        exchanges.run(10, lambda: stuck.wait(10), lambda: True)
    assert caught.value.outcome is Outcome.ABANDONED
    stuck.set()
