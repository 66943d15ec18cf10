"""Connections by name: every address has its turn, and a lookup that hangs holds no caller."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from runtime.adapters.hub.https_api import HttpsRoute, HubHttps, HubUnreachable
from runtime.adapters.net import dial as dialer
from runtime.adapters.net.dial import PeerAddress, dial
from runtime.core.identity.credentials import HubCredentials
from runtime.core.secret import Secret


@pytest.fixture(autouse=True)
def _nothing_remembered() -> Iterator[None]:
    dialer._failed_s.clear()
    dialer._lookups.clear()
    yield
    dialer._failed_s.clear()
    dialer._lookups.clear()


class Addresses:
    """Addresses that answer, refuse or swallow what comes, at one port, and a resolver that names them."""

    def __init__(self, stack: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self._stack = stack
        self.port = 0
        self.named: list[PeerAddress] = []
        self.lookups = 0
        monkeypatch.setattr(dialer, "_resolve", self._resolve)
        self.free = threading.Event()
        self.free.set()

    def alive(self, host: str) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = self._stack.enter_context(socket.create_server((host, self.port), family=family))
        self.port = listener.getsockname()[1]
        self._name(host)
        return listener

    def refusing(self, host: str) -> None:
        self._name(host)

    def dead(self, host: str) -> socket.socket:
        """Its queue is full: the kernel drops every further SYN, as a broken route would."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = self._stack.enter_context(socket.socket(family))
        listener.bind((host, self.port))
        listener.listen(0)
        self.port = listener.getsockname()[1]
        for _ in range(8):
            filler = self._stack.enter_context(socket.socket(family))
            filler.setblocking(False)
            filler.connect_ex((host, self.port))
        self._name(host)
        return listener

    def _name(self, host: str) -> None:
        if ":" in host:
            self.named.append(PeerAddress(socket.AF_INET6, 6, (host, self.port, 0, 0)))
        else:
            self.named.append(PeerAddress(socket.AF_INET, 6, (host, self.port)))

    def _resolve(self, _host: str, _port: int, flags: int = 0) -> list[PeerAddress]:
        if flags:
            raise socket.gaierror(socket.EAI_NONAME, "a name")
        self.lookups += 1
        self.free.wait(20)
        return list(self.named)


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Addresses]:
    with contextlib.ExitStack() as stack:
        yield Addresses(stack, monkeypatch)


def connects(addresses: Addresses, timeout_s: float = 10.0) -> tuple[str, float]:
    """Where it came out, and after how long."""
    began_s = time.monotonic()
    with dial("hub.test", addresses.port, timeout_s) as made:
        return made.getpeername()[0], time.monotonic() - began_s


def test_a_first_address_that_is_dead_costs_a_moment_and_is_not_the_first_again(
    addresses: Addresses,
) -> None:
    addresses.dead("127.0.0.2")
    addresses.alive("127.0.0.3")
    where, took_s = connects(addresses)
    assert where == "127.0.0.3" and took_s >= dialer.STAGGER_S
    assert connects(addresses)[1] < dialer.STAGGER_S


def test_behind_four_dead_addresses_the_fifth_is_reached_within_a_deadline_of_two_seconds(
    addresses: Addresses,
) -> None:
    for host in ("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"):
        addresses.dead(host)
    addresses.alive("127.0.0.6")
    assert connects(addresses, 2.0)[0] == "127.0.0.6"


def test_an_ipv6_that_is_announced_and_does_not_work_is_followed_by_ipv4_and_not_by_more_of_its_kind(
    addresses: Addresses,
) -> None:
    addresses.dead("::1")
    for _ in range(20):
        addresses.named.append(addresses.named[0])
    addresses.alive("127.0.0.3")
    where, took_s = connects(addresses)
    assert where == "127.0.0.3" and took_s < 3 * dialer.STAGGER_S


def test_an_address_that_refuses_is_not_waited_for(addresses: Addresses) -> None:
    addresses.alive("127.0.0.3")
    addresses.refusing("127.0.0.2")
    addresses.named.reverse()
    where, took_s = connects(addresses)
    assert where == "127.0.0.3" and took_s < dialer.STAGGER_S


def test_where_all_addresses_are_dead_the_deadline_ends_it_and_names_them(addresses: Addresses) -> None:
    addresses.dead("127.0.0.2")
    addresses.dead("127.0.0.3")
    began_s = time.monotonic()
    with pytest.raises(TimeoutError, match=r"127\.0\.0\.2, 127\.0\.0\.3"):
        dial("hub.test", addresses.port, 0.4)
    assert time.monotonic() - began_s < 2.0


def test_where_all_addresses_refuse_it_says_refused(addresses: Addresses) -> None:
    addresses.alive("127.0.0.2").close()
    addresses.refusing("127.0.0.3")
    with pytest.raises(ConnectionRefusedError):
        dial("hub.test", addresses.port, 5.0)


def test_an_address_where_tcp_stood_for_nothing_goes_behind_the_others(addresses: Addresses) -> None:
    addresses.alive("127.0.0.2")
    addresses.alive("127.0.0.3")
    assert connects(addresses)[0] == "127.0.0.2"
    dialer.demote(("127.0.0.2", addresses.port))
    assert connects(addresses)[0] == "127.0.0.3"


def test_name_servers_that_hang_hold_no_caller_beyond_the_deadline_and_one_thread_a_name(
    addresses: Addresses,
) -> None:
    """Each lookup took 56 s: the caller hung for as long, and was taken for hung."""
    addresses.alive("127.0.0.2")
    addresses.free.clear()
    for _ in range(3):
        began_s = time.monotonic()
        with pytest.raises(socket.gaierror, match="name servers did not answer"):
            dial("hub.test", addresses.port, 0.2)
        assert time.monotonic() - began_s < 1.0
    assert addresses.lookups == 1
    addresses.free.set()
    assert connects(addresses)[0] == "127.0.0.2", "the late answer is used"
    assert addresses.lookups == 1
    connects(addresses)
    assert addresses.lookups == 2, "an answer is good for one attempt"


def test_an_attempt_that_was_given_up_ends_at_once_and_condemns_no_address(addresses: Addresses) -> None:
    addresses.dead("127.0.0.2")
    gone = threading.Event()
    threading.Timer(0.1, gone.set).start()
    began_s = time.monotonic()
    with pytest.raises(ConnectionAbortedError):
        dial("hub.test", addresses.port, 20.0, gone.is_set)
    addresses.free.clear()
    with pytest.raises(ConnectionAbortedError):
        dial("hub.test", addresses.port, 20.0, gone.is_set)
    addresses.free.set()
    assert time.monotonic() - began_s < 2.0 and not dialer._failed_s


def test_a_numeric_address_asks_no_name_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with dial("127.0.0.1", listener.getsockname()[1], 5.0) as made:
            assert made.getpeername() == listener.getsockname() and made.gettimeout() == 5.0
    assert not dialer._lookups


def test_a_word_that_is_no_host_name_is_a_name_that_is_not_found() -> None:
    with pytest.raises(socket.gaierror):
        dial("a" * 70 + ".test", 443, 5.0)


def test_where_no_thread_can_be_had_a_lookup_fails_as_a_network_does(
    addresses: Addresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses.alive("127.0.0.2")

    def refuses(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as scarce:
        scarce.setattr(threading.Thread, "start", refuses)
        with pytest.raises(BlockingIOError):
            dial("hub.test", addresses.port, 1.0)
    connects(addresses)


def test_a_request_to_the_hub_without_a_thread_for_its_deadline_fails_as_the_network_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As of a bug of ours, it ended the inquiry's thread, and stood as a class name among the reasons."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    credentials = HubCredentials("127.0.0.1", "w:d", 1, Secret("SharedAccessSignature sr=h&sig=x&se=1"))
    with HubHttps(HttpsRoute(None, 1, None), credentials) as hub:
        with pytest.raises(HubUnreachable, match="no thread can be started now"):
            hub.post("/files", "a file")
