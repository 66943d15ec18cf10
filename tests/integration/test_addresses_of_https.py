"""HTTPS to a name of several addresses: a dead one costs an instant, and the reason names host and port."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.hub.https_api import HttpsRoute, HubHttps, HubUnreachable
from runtime.adapters.identity import dps
from runtime.adapters.net import dial as dialer
from runtime.adapters.net import https
from runtime.adapters.net.dial import PeerAddress
from runtime.adapters.net.reasons import OUT_OF_DESCRIPTORS, reason_at
from runtime.adapters.net.tls_options import TrustedAuthorities
from runtime.core.identity.credentials import HubCredentials
from runtime.core.identity.platform_answer import Outcome
from runtime.core.secret import Secret
from tests.support.scripted import Says, Scripted, scripted

CREDENTIALS = HubCredentials("127.0.0.1", "dev-1", 1, sas=Secret("sas"))


@pytest.fixture
def server(folder: Path) -> Iterator[Scripted]:
    with scripted(folder) as server:
        server.answer = lambda asked: Says(200, {})
        yield server


@pytest.fixture
def dead(server: Scripted) -> Iterator[str]:
    """An address that swallows every further SYN, at the server's port."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.9", int(server.instance.partition(":")[2])))
        listener.listen(0)
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield "127.0.0.9"


def named(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """The resolver's answer, whatever it is asked for."""
    dialer._failed_s.clear()

    def resolve(_host: str, port: int, flags: int = 0) -> list[PeerAddress]:
        return [PeerAddress(socket.AF_INET, 6, (host, port)) for host in hosts]

    monkeypatch.setattr(dialer, "_resolve", resolve)


def test_a_first_address_that_is_dead_costs_an_instant_and_not_each_attempt(
    server: Scripted, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken IPv6: registration spent its 10 s on it at every attempt, and the device never registered."""
    named(monkeypatch, dead, dead, "127.0.0.1")
    began_s = time.monotonic()
    found = https.request(
        "PUT", f"https://{server.instance}/x", b"", None, TrustedAuthorities(server.ca_file), 10
    )
    assert isinstance(found, https.Reply), found
    hub = HubHttps(HttpsRoute(server.ca_file, int(server.instance.partition(":")[2])), CREDENTIALS)
    assert hub.put(f"https://{server.instance}/files/x", b"1").status == 200
    hub.close()
    assert time.monotonic() - began_s < 5


def test_addresses_that_are_all_dead_cost_the_deadline_and_are_named(
    server: Scripted, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    named(monkeypatch, dead)
    found = https.request(
        "PUT", f"https://{server.instance}/x", b"", None, TrustedAuthorities(server.ca_file), 0.5
    )
    assert isinstance(found, https.Failure) and found.outcome is Outcome.TIMED_OUT, found


def test_a_port_where_nothing_listens_is_said_in_words_of_ours(server: Scripted) -> None:
    """It read "ConnectionError: HTTPSConnectionPool(...): Max retries exceeded ... [Errno 111]"."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        at = f"127.0.0.1:{unused.getsockname()[1]}"
        found = https.request("PUT", f"https://{at}/x", b"", None, TrustedAuthorities(server.ca_file), 10)
        assert found == https.Failure(Outcome.UNREACHABLE, f"refused at {at}")
        hub = HubHttps(HttpsRoute(server.ca_file, unused.getsockname()[1]), CREDENTIALS)
        with pytest.raises(HubUnreachable, match=f"^refused at {at}$"):
            hub.post("/files", "an address")


def test_a_name_that_is_not_found_is_said_in_words_of_ours(server: Scripted) -> None:
    found = https.request(
        "PUT", "https://nowhere.invalid/x", b"", None, TrustedAuthorities(server.ca_file), 10
    )
    assert isinstance(found, https.Failure) and found.outcome is Outcome.NAME_UNKNOWN, found
    assert found.reason.startswith("the name in nowhere.invalid is not found: ")


@pytest.mark.parametrize(
    ("exc", "words"),
    [
        (OSError(24, "Too many open files"), OUT_OF_DESCRIPTORS),
        (OSError(101, "Network is unreachable"), "no route to h:1"),
        (OSError(113, "No route to host"), "no route to h:1"),
        (ConnectionResetError(104, "reset"), "h:1 ended the connection"),
        (PermissionError(13, "Permission denied", "/etc/key"), "/etc/key: Permission denied"),
        (ValueError("a\nb\x1b[31m"), "h:1: a b [31m"),
        (RuntimeError(), "h:1: no reason given"),
    ],
    ids=str,
)
def test_a_reason_is_one_printable_line(exc: Exception, words: str) -> None:
    assert reason_at(exc, "h:1") == words
    wrapped = RuntimeError("HTTPSConnectionPool(...)")
    wrapped.__cause__ = exc
    if isinstance(exc, OSError):
        assert reason_at(wrapped, "h:1") == words, "the cause counts, not its wrapping"


def test_the_provisioning_service_that_does_not_listen_is_said_in_words_of_ours(server: Scripted) -> None:
    question = dps.DpsRequest("127.0.0.8", "scope", "who", Secret("a2V5"), ca_file=server.ca_file)
    told = dps.assign(question)
    assert (told.outcome, told.reason) == (Outcome.UNREACHABLE, "refused at 127.0.0.8:8883")
