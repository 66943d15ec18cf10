"""Registrars: the ways for a device to become known to a hub, behind one interface.

    platform           with a Registration Token that the operator's approval brought
    mtls               with a client certificate, at the same platform
    connection-string  without any platform: a device key (we sign), a SAS, or a certificate (x509=true)
    dps                Azure's provisioning service assigns the hub; then by key or certificate, as above

A registrar that needs no Registration Token rests on a *basis* instead: a name for the files and settings it
is made of. Another basis (a certificate renewed on disk, another connection string) means registering again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from runtime.adapters.identity import dps
from runtime.adapters.identity.platform_api import platform_client
from runtime.adapters.identity.token_files import fingerprint, secret_at
from runtime.adapters.net.certificate_pair import check_pair, ends_s
from runtime.adapters.net.tls_options import TrustedAuthorities, Waiting
from runtime.adapters.process.clock import Clock, SystemClock
from runtime.adapters.process.known_secrets import hidden
from runtime.core.identity import connection_string
from runtime.core.identity.connection_string import ConnectionString
from runtime.core.identity.platform_answer import Outcome, PlatformAnswer, Registration
from runtime.core.identity.registration_route import (
    CertificateFiles,
    ConnectionStringRoute,
    DpsRoute,
    HubRoute,
    PlatformRoute,
    RegistrationRoute,
)
from runtime.core.moment import CLOCK_SET_BY_S, Moment
from runtime.core.secret import Secret
from runtime.regular_file import read_regular

ASK_AGAIN_S = 86_400.0
"""Pause between registrations by certificate. A certificate needs no renewal, but the service may have moved
us to another hub: it is asked again.
"""


@dataclass(frozen=True)
class ServerClock:
    """The clock by which our signatures are judged, as far as it is known."""

    skew_s: float = 0.0
    """Server's clock minus ours, as last seen."""
    doubted: bool = False
    """True if the server refused what was signed by this clock: the
    registrar asks the server for the time.
    """


class Registrar(Protocol):
    """One way to register."""

    def missing(self) -> str | None:
        """The thing that has to be configured or delivered first, as a sentence; None: nothing."""

    def basis(self) -> str | None:
        """The basis of the identity, or None where that is a Registration Token."""

    def certificate(self) -> Path | None:
        """The client certificate that the registrar uses, where it uses one."""

    def signs(self) -> bool:
        """True if we sign by our own clock, with a key."""

    def register(
        self, token: Secret | None, server_clock: ServerClock = ServerClock()
    ) -> PlatformAnswer[Registration]:
        """Register with the hub; `token` is the Registration Token where there is one."""


def registrar(route: RegistrationRoute, waiting: Waiting = lambda: False) -> Registrar:
    """The registrar for the configured route."""
    match route:
        case ConnectionStringRoute():
            return ByConnectionString(route, waiting=waiting)
        case DpsRoute():
            return ByDps(route, waiting)
        case PlatformRoute():
            return ByPlatform(route, waiting)


def certificate_left_s(way_in: Registrar, now: Moment) -> float | None:
    """Seconds until the client certificate in use ends, by the wall clock; None where none is used."""
    file = way_in.certificate()
    end_s = ends_s(file) if file else None
    return None if end_s is None else end_s - now.wall_s


@dataclass(frozen=True)
class ByPlatform:
    """`platform` and `mtls`: the registration service, asked with a token or with a certificate."""

    route: PlatformRoute
    waiting: Waiting = lambda: False

    def missing(self) -> str | None:
        if self.route.instance is None:
            return "platform.instance is not set"
        return _missing_certificate(self.route.certificate) if self.route.certificate else None

    def basis(self) -> str | None:
        if self.route.certificate is None:
            return None
        return f"mtls {self.route.instance} {_certificate_mark(self.route.certificate)}"

    def certificate(self) -> Path | None:
        return self.route.certificate.certificate if self.route.certificate else None

    def signs(self) -> bool:
        return False

    def register(
        self, token: Secret | None, server_clock: ServerClock = ServerClock()
    ) -> PlatformAnswer[Registration]:
        client = platform_client(self.route, self.waiting)
        answer = client.register(None if self.route.certificate else token)
        if answer.value and answer.value.certificate and answer.value.lifetime_s is None:
            return replace(answer, value=replace(answer.value, lifetime_s=ASK_AGAIN_S))
        return answer


@dataclass(frozen=True)
class ByConnectionString:
    """Registrar of a fixed identity. With a device key each registration signs a SAS; else it
    returns what is configured.
    """

    route: ConnectionStringRoute
    clock: Clock = field(default_factory=SystemClock)
    waiting: Waiting = lambda: False

    def missing(self) -> str | None:
        try:
            known = self._known()
        except ValueError as exc:
            return f"identity.connection_string_file: {exc}"
        if known is None:
            return "identity.connection_string_file is not set, or the file is not there"
        return _missing_certificate(self.route.certificate) if known.x509 else None

    def basis(self) -> str | None:
        text = self.route.inline.text if self.route.inline else secret_at(self.route.location)
        return f"connection-string {fingerprint(text)} {_certificate_mark(self.route.certificate)}"

    def certificate(self) -> Path | None:
        known = self._valid()
        return self.route.certificate.certificate if known and known.x509 else None

    def signs(self) -> bool:
        known = self._valid()
        return known is not None and known.key is not None

    def register(
        self, token: Secret | None, server_clock: ServerClock = ServerClock()
    ) -> PlatformAnswer[Registration]:
        try:
            known = self._known()
            if known is None:
                raise ValueError("there is no connection string")
            server_s = None
            if known.key is not None and server_clock.doubted:
                server_s = _server_time_s(known.hub_host, self.route.hub, self.waiting)
            now_s = _signing_time_s(server_s, server_clock, self.clock)
            return PlatformAnswer(Outcome.OK, self._registration(known, now_s), server_s=server_s)
        except ValueError as exc:
            return PlatformAnswer(Outcome.BAD_REQUEST, reason=str(exc))

    def _registration(self, known: ConnectionString, now_s: float) -> Registration:
        host, device = known.hub_host, known.device_id
        if known.key is not None:
            lifetime_s = self.route.sas_lifetime_s
            sas = hidden(connection_string.sign(host, device, known.key, int(now_s + lifetime_s)))
            return Registration(host, device, lifetime_s, sas)
        if known.sas is not None:  # this runtime cannot renew it; another file can
            return Registration(host, device, None, known.sas)
        files = self.route.certificate
        return Registration(host, device, None, None, (str(files.certificate), str(files.key)))

    def _known(self) -> ConnectionString | None:
        """The connection string in force now, or None where there is none. A file is read again each time.
        Raises ValueError.
        """
        if self.route.inline is not None:
            return self.route.inline
        text = secret_at(self.route.location)
        return hidden(connection_string.parse_direct(text)) if text else None

    def _valid(self) -> ConnectionString | None:
        try:
            return self._known()
        except ValueError:
            return None


@dataclass(frozen=True)
class ByDps:
    """Azure DPS, asked at every renewal: the service may have moved us to another hub."""

    route: DpsRoute
    waiting: Waiting = lambda: False
    clock: Clock = field(default_factory=SystemClock)

    def missing(self) -> str | None:
        if not self.route.id_scope:
            return "identity.dps_id_scope is not set"
        if not self.route.registration_id:
            return "neither identity.dps_registration_id nor device.id is set"
        return None if self._shared_key() else _missing_certificate(self.route.certificate)

    def basis(self) -> str | None:
        who = f"{self.route.host} {self.route.id_scope} {self.route.registration_id}"
        return f"dps {who} {fingerprint(self._shared_key())} {_certificate_mark(self.route.certificate)}"

    def certificate(self) -> Path | None:
        return None if self._shared_key() else self.route.certificate.certificate

    def signs(self) -> bool:
        return self._shared_key() is not None

    def register(
        self, token: Secret | None, server_clock: ServerClock = ServerClock()
    ) -> PlatformAnswer[Registration]:
        try:
            key, server_s = self._key(), None
            if key is not None and server_clock.doubted:
                server_s = _server_time_s(self.route.host, self.route.hub, self.waiting)
            now_s = _signing_time_s(server_s, server_clock, self.clock)
            assigned = dps.assign(self._request(key, now_s - self.clock.wall_s()), self.waiting)
            if not assigned.outcome.good:
                return PlatformAnswer(assigned.outcome, reason=assigned.reason, server_s=server_s)
            host, device = assigned.hub_host, assigned.device_id
            if key is None:
                files = (str(self.route.certificate.certificate), str(self.route.certificate.key))
                return PlatformAnswer(Outcome.OK, Registration(host, device, ASK_AGAIN_S, None, files))
            lifetime_s = self.route.sas_lifetime_s
            sas = hidden(connection_string.sign(host, device, key, int(now_s + lifetime_s)))
            return PlatformAnswer(Outcome.OK, Registration(host, device, lifetime_s, sas), server_s=server_s)
        except ValueError as exc:
            return PlatformAnswer(Outcome.BAD_REQUEST, reason=str(exc))

    def _request(self, key: Secret | None, ahead_s: float) -> dps.DpsRequest:
        files = CertificateFiles() if key else self.route.certificate
        return dps.DpsRequest(
            self.route.host,
            self.route.id_scope or "",
            self.route.registration_id or "",
            key,
            files.certificate,
            files.key,
            self.route.ca_file,
            self.route.proxy,
            self.route.hub.websockets,
            ahead_s if abs(ahead_s) > CLOCK_SET_BY_S else 0.0,
        )

    def _shared_key(self) -> Secret | None:
        return secret_at(self.route.key)

    def _key(self) -> Secret | None:
        """The device's own key."""
        key = self._shared_key()
        if key is None or not self.route.group:
            return key
        return hidden(connection_string.derived_key(key, self.route.registration_id or ""))


def _server_time_s(host: str, route: HubRoute, waiting: Waiting) -> float | None:
    """Ask the hub, or the provisioning service, what time it is."""
    from runtime.adapters.net.https import server_time_s  # late: requests takes its time

    trust = TrustedAuthorities(route.ca_file, proxy=route.proxy)
    return server_time_s(host, route.https_port, trust, waiting)


def _signing_time_s(server_s: float | None, known: ServerClock, ours: Clock) -> float:
    """The current time by the server's clock; by ours where they differ by little, or
    the server's is not known.
    """
    skew_s = known.skew_s if server_s is None else server_s - ours.wall_s()
    return ours.wall_s() + (skew_s if abs(skew_s) > CLOCK_SET_BY_S else 0.0)


def _missing_certificate(files: CertificateFiles) -> str | None:
    for setting, path in (("certificate_file", files.certificate), ("key_file", files.key)):
        if path is None or not path.is_file():
            return f"identity.{setting} is not set, or the file is not there"
    assert files.certificate is not None and files.key is not None
    try:
        check_pair(files.certificate, files.key)
    except (ValueError, OSError) as exc:
        return str(exc)
    return None


def _certificate_mark(files: CertificateFiles) -> str:
    """Mark that tells one certificate from the next without a restart, and one path from another: the hub
    is shown the file at the path of the last registration. While its key is absent the certificate is
    missing.
    """
    try:
        content = read_regular(files.certificate) if files.certificate else b""
    except OSError:
        content = b""
    if not content:
        return "-"
    return hashlib.sha256(f"{files.certificate}\0{files.key}\0".encode() + content).hexdigest()[:16]
