"""Every answer of the platform, and every way of not answering, ends in a named outcome and in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runtime.adapters.hub.https_api import HubRefusedCall
from runtime.adapters.identity.platform_api import CANCELLED, PlatformClient
from runtime.adapters.net.https import Reply
from runtime.adapters.net.tls_options import TrustedAuthorities
from runtime.core.identity.platform_answer import Outcome, PlatformAnswer, PlatformResult, Registration
from runtime.core.secret import Secret
from tests.support import scripted as s
from tests.support.harness import eventually, short_folder
from tests.support.scripted import Says, Scripted, scripted

PROVISIONING = Secret("provisioning-token-in-full")
REGISTRATION = Secret("registration-token-in-full")
DATE = "Mon, 23 Nov 2026 12:00:00 GMT"
SAS = "SharedAccessSignature=SharedAccessSignature sr=hub%2Fdevices%2Fw%3Ad&sig=c2ln&se=1795464000"
REGISTERED = {
    "connectionString": f"HostName=hub;DeviceId=w:d;{SAS}",
    "iotHubHostName": "hub",
    "connectionStringType": "SharedAccessSignature",
    "connectionStringExpiration": "2026-11-23T12:30:00Z",
    "tokenRemainingLifetime": "29.23:59:59.9947829",
}


@pytest.fixture(scope="module")
def shared() -> Iterator[Scripted]:
    with short_folder() as folder, scripted(folder) as running:
        yield running


@pytest.fixture
def server(shared: Scripted) -> Scripted:
    """Nobody has asked it anything yet, and it knows nothing."""
    shared.asked.clear()
    shared.answer = lambda asked: Says(404)
    return shared


def platform(server: Scripted, timeout_s: float = 5.0) -> PlatformClient:
    return PlatformClient(server.instance, TrustedAuthorities(server.ca_file), timeout_s)


CALLS = {
    "init": lambda p: p.init(PROVISIONING, "dev-1"),
    "complete": lambda p: p.complete(PROVISIONING, "op-1"),
    "refresh": lambda p: p.refresh(PROVISIONING, REGISTRATION),
    "register": lambda p: p.register(REGISTRATION),
}


def ask(call: str, server: Scripted, timeout_s: float = 5.0) -> PlatformAnswer[object]:
    return CALLS[call](platform(server, timeout_s))


def test_init_sends_the_wish_under_the_provisioning_token_and_brings_the_code(server: Scripted) -> None:
    server.answer = lambda asked: Says(
        200,
        {
            "provisioningOperationId": "op",
            "verificationCode": "AB-12",
            "expirationTime": "2026-11-23T13:00:00.1234567Z",
        },
        {"Date": DATE},
    )
    answer = platform(server).init(PROVISIONING, "dev-1")
    assert answer.outcome is Outcome.OK and answer.value is not None
    assert (answer.value.id, answer.value.verification_code) == ("op", "AB-12")
    assert server.asked[0].headers["Authorization"] == "DeviceToken provisioning-token-in-full"
    assert (server.asked[0].method, server.asked[0].path, server.asked[0].body) == (
        "POST",
        "/provisioning-operations/init",
        {"deviceId": "dev-1"},
    )


def test_a_device_without_a_wish_sends_an_empty_object(server: Scripted) -> None:
    platform(server).init(PROVISIONING, None)
    assert server.asked[0].body == {}


def test_registering_tells_hub_device_and_both_lifetimes_by_the_servers_own_clock(server: Scripted) -> None:
    server.answer = lambda asked: Says(200, REGISTERED, {"Date": DATE})
    found = platform(server).register(REGISTRATION).value
    assert found is not None and found.sas is not None
    assert (found.hub_host, found.device_id) == ("hub", "w:d")
    assert found.sas.reveal().startswith("SharedAccessSignature sr=hub%2Fdevices%2Fw%3Ad&sig=c2ln&se=")
    assert found.lifetime_s == 1800
    assert found.token_remaining_s == pytest.approx(30 * 86400, abs=1)


def test_a_token_without_an_end_has_no_lifetime(server: Scripted) -> None:
    server.answer = lambda asked: Says(200, {"registrationToken": "t", "expirationTime": None})
    granted = platform(server).complete(PROVISIONING, "op").value
    assert granted is not None and granted.lifetime_s is None


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        (202, Outcome.NOT_YET),
        (302, Outcome.UNEXPECTED),
        (400, Outcome.BAD_REQUEST),
        (401, Outcome.UNAUTHORIZED),
        (403, Outcome.FORBIDDEN),
        (404, Outcome.UNEXPECTED),
        (410, Outcome.GONE),
        (412, Outcome.PRECONDITION),
        (423, Outcome.DISABLED),
        (429, Outcome.THROTTLED),
        (500, Outcome.UNAVAILABLE),
        (503, Outcome.UNAVAILABLE),
    ],
)
@pytest.mark.parametrize("call", CALLS)
def test_every_status_has_a_name(call: str, status: int, outcome: Outcome, server: Scripted) -> None:
    headers = {"Content-Type": "application/problem+json", "Location": "https://elsewhere/"}
    server.answer = lambda asked: Says(status, {"title": "Sorry", "detail": "because"}, headers)
    answer = ask(call, server)
    assert (answer.outcome, answer.value) == (outcome, None)
    assert answer.reason == f"HTTP {status}: Sorry: because"
    assert len(server.asked) == 1


def test_a_cancelled_operation_is_told_from_an_expired_one_by_the_problem_type(server: Scripted) -> None:
    server.answer = lambda asked: Says(410, {"type": f"https://docs.example.com{CANCELLED}"})
    assert ask("complete", server).outcome is Outcome.CANCELLED
    server.answer = lambda asked: Says(410, {"type": CANCELLED + "NotReally"})
    assert ask("complete", server).outcome is Outcome.GONE


@pytest.mark.parametrize(
    ("told", "expected_s"),
    [("7", 7.0), ("Mon, 23 Nov 2026 12:01:00 GMT", 60.0), ("soon", None), ("-3", None)],
)
def test_retry_after_is_read_as_seconds_or_as_a_date_and_otherwise_ignored(
    told: str, expected_s: float | None, server: Scripted
) -> None:
    server.answer = lambda asked: Says(429, {}, {"Retry-After": told, "Date": DATE})
    assert ask("register", server).retry_after_s == expected_s


@pytest.mark.parametrize(
    "header", [{"Retry-After": "\u00b2"}, {"Date": "Mon, 23 Nov 99999999999 12:00:00 GMT"}]
)
def test_a_refusal_of_the_hub_with_a_header_that_makes_no_sense_is_a_refusal(header: dict[str, str]) -> None:
    """It ended the thread that asks whether the quota is used up: nobody ever heard the answer."""
    refused = HubRefusedCall("file upload", Reply(429, header, b""), "hub:443")
    assert (refused.status, refused.retry_after_s, refused.server_s) == (429, None, None)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"null", b"{", b"\xff\xfe", b"{}", b'{"a":' * 5000, b'{"registrationToken": 3}'],
)
@pytest.mark.parametrize("call", CALLS)
def test_a_good_status_with_a_body_that_is_not_the_contracts_is_garbled(
    call: str, body: bytes, server: Scripted
) -> None:
    server.answer = lambda asked: Says(200, body)
    answer = ask(call, server)
    assert (answer.outcome, answer.value) == (Outcome.GARBLED, None)


@pytest.mark.parametrize("text", ["two words", "two\nlines", "caf\u00e9", "\ud800", "\x1b[2J"])
def test_a_token_that_fits_no_header_is_garbled_and_never_kept(text: str, server: Scripted) -> None:
    server.answer = lambda asked: Says(200, {"registrationToken": text, "expirationTime": None})
    for call in ("complete", "refresh"):
        assert ask(call, server).outcome is Outcome.GARBLED


@pytest.mark.parametrize("code", ["A\ud800B", "A\x1b[2JB", "A\nB"])
def test_a_code_that_no_database_and_no_display_takes_is_garbled(code: str, server: Scripted) -> None:
    server.answer = lambda asked: Says(200, {"provisioningOperationId": "op", "verificationCode": code})
    assert ask("init", server).outcome is Outcome.GARBLED


def test_a_token_that_was_handed_out_is_kept_though_nobody_can_read_when_it_ends(server: Scripted) -> None:
    told = {"registrationToken": "t", "expirationTime": "2026-11-24T12:00:00", "verificationCode": "AB"}
    server.answer = lambda asked: Says(201, {**told, "provisioningOperationId": "op"})
    granted = ask("refresh", server).value
    assert isinstance(granted, PlatformResult) and (granted.token, granted.lifetime_s) == (Secret("t"), None)
    assert ask("init", server).outcome is Outcome.CREATED


@pytest.mark.parametrize("header", ["Date", "Retry-After"])
def test_a_date_beyond_every_calendar_is_no_date(header: str, server: Scripted) -> None:
    server.answer = lambda asked: Says(503, {}, {header: "Mon, 23 Nov 99999999999 12:00:00 GMT"})
    answer = ask("register", server)
    assert (answer.outcome, answer.retry_after_s, answer.server_s) == (Outcome.UNAVAILABLE, None, None)


@pytest.mark.parametrize(
    "change",
    [
        {"connectionString": "HostName=hub"},
        {"connectionString": 7},
        {"connectionString": f"HostName=h b;DeviceId=w:d;{SAS}"},
        {"connectionString": f"HostName={'h' * 300};DeviceId=w:d;{SAS}"},
        {"connectionString": f"HostName=h;DeviceId={'d' * 60_000};{SAS}"},
        {"connectionString": f"HostName=h;DeviceId=w d\u00e9;{SAS}"},
    ],
)
def test_a_registration_that_no_hub_can_be_reached_by_is_garbled_and_not_put_in_force(
    change: dict[str, object], server: Scripted
) -> None:
    server.answer = lambda asked: Says(200, {**REGISTERED, **change})
    assert ask("register", server).outcome is Outcome.GARBLED


def test_dates_that_cannot_be_read_are_not_worth_a_sas_that_is_good(server: Scripted) -> None:
    """A date without its zone, as some libraries write it: the device would never have registered."""
    server.answer = lambda asked: Says(
        200,
        {
            **REGISTERED,
            "connectionString": "HostName=hub;DeviceId=w:d;SharedAccessSignature="
            "SharedAccessSignature sr=h&sig=c2ln&se=1795437000",
            "connectionStringExpiration": "2026-11-23T12:30:00",
            "tokenRemainingLifetime": "a while",
        },
        {"Date": "Mon, 23 Nov 2026 12:00:00 GMT"},
    )
    found = ask("register", server).value
    assert isinstance(found, Registration)
    assert (found.lifetime_s, found.token_remaining_s) == (1795437000 - 1795435200, None)


def test_a_date_beyond_the_sas_s_own_end_does_not_have_it_used_until_the_hub_refuses_it(
    server: Scripted,
) -> None:
    found = {**REGISTERED, "connectionStringExpiration": "2099-01-01T00:00:00Z"}
    server.answer = lambda asked: Says(200, found, {"Date": DATE})
    told = ask("register", server).value
    assert isinstance(told, Registration) and told.lifetime_s == 1795464000 - 1795435200


@pytest.mark.parametrize(
    ("misbehaviour", "outcome"),
    [
        (s.cut_before, Outcome.CUT),
        (s.cut_within, Outcome.CUT),
        (s.not_http, Outcome.CUT),
        (s.endless, Outcome.GARBLED),
        (s.endless_redirect, Outcome.GARBLED),
        (s.hang, Outcome.TIMED_OUT),
        (s.trickle_headers, Outcome.TIMED_OUT),
        (s.trickle_body, Outcome.TIMED_OUT),
    ],
)
def test_a_server_that_misbehaves_costs_one_deadline_and_no_more(
    misbehaviour: object, outcome: Outcome, server: Scripted
) -> None:
    server.answer = lambda asked: Says(raw=misbehaviour)  # type: ignore[arg-type]
    began_s = time.monotonic()
    answer = ask("complete", server, timeout_s=0.4 if outcome is Outcome.TIMED_OUT else 10.0)
    assert answer.outcome is outcome
    assert time.monotonic() - began_s < 5, "whoever hangs here hangs for 15 s, or for ever"


def test_an_overdue_call_leaves_no_thread_behind(server: Scripted) -> None:
    server.answer = lambda asked: Says(raw=s.trickle_headers)
    assert ask("complete", server, timeout_s=0.4).outcome is Outcome.TIMED_OUT
    eventually(lambda: not any(t.name == "https" for t in threading.enumerate()))


def test_a_call_ends_at_once_when_we_are_asked_to_stop(server: Scripted) -> None:
    server.answer = lambda asked: Says(raw=s.hang)
    began_s = time.monotonic()
    patient = PlatformClient(server.instance, TrustedAuthorities(server.ca_file), 10.0, waiting=lambda: True)
    assert patient.register(REGISTRATION).outcome is Outcome.ABANDONED
    assert time.monotonic() - began_s < 8, "and not at the deadline of the call"


def test_a_server_of_another_authority_gets_no_token(server: Scripted, folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    with scripted(other) as stranger:
        trusting = PlatformClient(stranger.instance, TrustedAuthorities(server.ca_file), 5.0)
        assert trusting.register(REGISTRATION).outcome is Outcome.TLS_FAILED
        assert stranger.asked == []


def test_a_certificate_that_has_ended_by_our_clock_is_told_from_one_of_another_authority(
    folder: Path,
) -> None:
    with scripted(folder, ends=datetime(2020, 1, 1, tzinfo=UTC)) as ended:
        answer = PlatformClient(ended.instance, TrustedAuthorities(ended.ca_file), 5.0).register(REGISTRATION)
        assert (answer.outcome, ended.asked) == (Outcome.WRONG_TIME, [])


def test_a_server_that_does_not_speak_tls_gets_no_token(folder: Path, server: Scripted) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        plain.settimeout(5)
        heard: list[bytes] = []

        def serve() -> None:
            connection, _ = plain.accept()
            with connection:
                heard.append(connection.recv(4096))
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        port = plain.getsockname()[1]
        answer = PlatformClient(f"127.0.0.1:{port}", TrustedAuthorities(server.ca_file), 5.0).register(
            REGISTRATION
        )
        thread.join(5)
    assert answer.outcome is Outcome.TLS_FAILED
    assert REGISTRATION.reveal().encode() not in b"".join(heard)


def test_nobody_listening_and_a_name_that_is_not_there_are_told_apart(server: Scripted) -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # and kept, so that nobody else listens there
        port = deaf.getsockname()[1]
        closed = PlatformClient(f"127.0.0.1:{port}", TrustedAuthorities(server.ca_file), 5.0).register(
            REGISTRATION
        )
    assert closed.outcome is Outcome.UNREACHABLE
    nowhere = PlatformClient("no-such-host.invalid", TrustedAuthorities(server.ca_file), 5.0).register(
        REGISTRATION
    )
    assert nowhere.outcome is Outcome.NAME_UNKNOWN


def test_a_missing_file_of_authorities_is_named(folder: Path, server: Scripted) -> None:
    answer = PlatformClient(server.instance, TrustedAuthorities(folder / "gone.pem"), 5.0).register(
        REGISTRATION
    )
    assert answer.outcome is Outcome.NO_CERTIFICATE
    assert "gone.pem" in answer.reason


def test_a_netrc_of_the_machine_never_replaces_the_token(
    server: Scripted, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = folder / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    ask("register", server)
    assert server.asked[0].headers["Authorization"] == "DeviceToken registration-token-in-full"


def test_a_server_that_repeats_our_tokens_does_not_get_them_into_a_reason(server: Scripted) -> None:
    told = f"no {REGISTRATION.reveal()} and no {PROVISIONING.reveal()}\n\x1b[2J" + "x" * 5000
    server.answer = lambda asked: Says(410, {"detail": told})
    reason = ask("refresh", server).reason
    assert "in-full" not in reason
    assert reason.isprintable() and len(reason) <= 300
