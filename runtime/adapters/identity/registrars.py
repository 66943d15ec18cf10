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
from runtime.adapters.identity.platform_api import PlatformClient
from runtime.adapters.identity.token_files import fingerprint, secret_from
from runtime.adapters.net.certificate_pair import check_pair, ends_s
from runtime.adapters.net.server_time import server_time_s
from runtime.adapters.net.tls_options import TrustedAuthorities, Waiting
from runtime.adapters.process.clock import Clock, SystemClock
from runtime.adapters.process.known_secrets import hidden
from runtime.core.identity import connection_string
from runtime.core.identity.platform_answer import Outcome, PlatformAnswer, Registration
from runtime.core.moment import CLOCK_SET_BY_S, Moment
from runtime.core.proxy_url import parse as parse_proxy
from runtime.core.secret import Secret
from runtime.regular_file import read_regular
from runtime.settings import Settings

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


def registrar(settings: Settings, waiting: Waiting = lambda: False) -> Registrar:
    """The registrar that the configuration chooses."""
    if settings.identity.mode == "connection-string":
        return ByConnectionString(settings, waiting=waiting)
    if settings.identity.mode == "dps":
        return ByDps(settings, waiting)
    return ByPlatform(settings, waiting)


def certificate_left_s(way_in: Registrar, now: Moment) -> float | None:
    """Seconds until the client certificate in use ends, by the wall clock; None where none is used."""
    file = way_in.certificate()
    end_s = ends_s(file) if file else None
    return None if end_s is None else end_s - now.wall_s


@dataclass(frozen=True)
class ByPlatform:
    """`platform` and `mtls`: the registration service, asked with a token or with a certificate."""

    settings: Settings
    waiting: Waiting = lambda: False

    @property
    def _by_certificate(self) -> bool:
        return self.settings.identity.mode == "mtls"

    def missing(self) -> str | None:
        if self.settings.platform.instance is None:
            return "platform.instance is not set"
        return _missing_certificate(self.settings) if self._by_certificate else None

    def basis(self) -> str | None:
        if not self._by_certificate:
            return None
        return f"mtls {self.settings.platform.instance} {_certificate_mark(self.settings)}"

    def certificate(self) -> Path | None:
        return self.settings.identity.certificate_file if self._by_certificate else None

    def signs(self) -> bool:
        return False

    def register(
        self, token: Secret | None, server_clock: ServerClock = ServerClock()
    ) -> PlatformAnswer[Registration]:
        answer = self.platform().register(None if self._by_certificate else token)
        if answer.value and answer.value.certificate and answer.value.lifetime_s is None:
            return replace(answer, value=replace(answer.value, lifetime_s=ASK_AGAIN_S))
        return answer

    def platform(self) -> PlatformClient:
        """The platform's client, for the calls that only the platform offers."""
        mine, files = self.settings.platform, self.settings.identity
        certificate = (files.certificate_file, files.key_file) if self._by_certificate else (None, None)
        assert mine.instance is not None  # `missing` says so first
        trust = TrustedAuthorities(mine.ca_file, *certificate, proxy=hidden(parse_proxy(mine.proxy)))
        return PlatformClient(mine.instance, trust, mine.timeout_s, self.waiting)


@dataclass(frozen=True)
class ByConnectionString:
    """Registrar of a fixed identity. With a device key each registration signs a SAS; else it
    returns what is configured.
    """

    settings: Settings
    clock: Clock = field(default_factory=SystemClock)
    waiting: Waiting = lambda: False

    def missing(self) -> str | None:
        text = self._text()
        if text is None:
            return "identity.connection_string_file is not set, or the file is not there"
        try:
            connection_string.check_direct(text.reveal())
            known = hidden(connection_string.parse(text.reveal()))
        except ValueError as exc:
            return f"identity.connection_string_file: {exc}"
        return _missing_certificate(self.settings) if known.x509 else None

    def basis(self) -> str | None:
        return f"connection-string {fingerprint(self._text())} {_certificate_mark(self.settings)}"

    def certificate(self) -> Path | None:
        text = self._text()
        try:
            known = hidden(connection_string.parse(text.reveal())) if text else None
        except ValueError:
            return None
        return self.settings.identity.certificate_file if known and known.x509 else None

    def signs(self) -> bool:
        text = self._text()
        try:
            return text is not None and hidden(connection_string.parse(text.reveal())).key is not None
        except ValueError:
            return False

    def register(
        self, token: Secret | None, server_clock: ServerClock = ServerClock()
    ) -> PlatformAnswer[Registration]:
        text = self._text()
        try:
            known = hidden(connection_string.parse(text.reveal() if text else ""))
            server_s = None
            if known.key is not None and server_clock.doubted:
                server_s = _asked_for_time(known.hub_host, self.settings, self.waiting)
            now_s = _signing_time_s(server_s, server_clock, self.clock)
            return PlatformAnswer(Outcome.OK, self._registration(known, now_s), server_s=server_s)
        except ValueError as exc:
            return PlatformAnswer(Outcome.BAD_REQUEST, reason=str(exc))

    def _registration(self, known: connection_string.ConnectionString, now_s: float) -> Registration:
        host, device = known.hub_host, known.device_id
        if known.key is not None:
            lifetime_s = self.settings.identity.sas_lifetime_s
            sas = hidden(connection_string.sign(host, device, known.key, int(now_s + lifetime_s)))
            return Registration(host, device, lifetime_s, sas)
        if known.sas is not None:  # this runtime cannot renew it; another file can
            return Registration(host, device, None, known.sas)
        files = self.settings.identity
        return Registration(host, device, None, None, (str(files.certificate_file), str(files.key_file)))

    def _text(self) -> Secret | None:
        mine = self.settings.identity
        return secret_from(mine.connection_string, mine.connection_string_file, "connection-string")


@dataclass(frozen=True)
class ByDps:
    """Azure DPS, asked at every renewal: the service may have moved us to another hub."""

    settings: Settings
    waiting: Waiting = lambda: False
    clock: Clock = field(default_factory=SystemClock)

    def missing(self) -> str | None:
        if not self.settings.identity.dps_id_scope:
            return "identity.dps_id_scope is not set"
        if not self._registration_id():
            return "neither identity.dps_registration_id nor device.id is set"
        return None if self._shared_key() else _missing_certificate(self.settings)

    def basis(self) -> str | None:
        mine = self.settings.identity
        who = f"{mine.dps_host} {mine.dps_id_scope} {self._registration_id()}"
        return f"dps {who} {fingerprint(self._shared_key())} {_certificate_mark(self.settings)}"

    def certificate(self) -> Path | None:
        return None if self._shared_key() else self.settings.identity.certificate_file

    def signs(self) -> bool:
        return self._shared_key() is not None

    def register(
        self, token: Secret | None, server_clock: ServerClock = ServerClock()
    ) -> PlatformAnswer[Registration]:
        mine = self.settings.identity
        try:
            key, server_s = self._key(), None
            if key is not None and server_clock.doubted:
                server_s = _asked_for_time(mine.dps_host, self.settings, self.waiting)
            now_s = _signing_time_s(server_s, server_clock, self.clock)
            found = dps.assign(self._question(key, now_s - self.clock.wall_s()), self.waiting)
            if not found.outcome.good:
                return PlatformAnswer(found.outcome, reason=found.reason, server_s=server_s)
            host, device = found.hub_host, found.device_id
            if key is None:
                files = (str(mine.certificate_file), str(mine.key_file))
                return PlatformAnswer(Outcome.OK, Registration(host, device, ASK_AGAIN_S, None, files))
            sas = hidden(connection_string.sign(host, device, key, int(now_s + mine.sas_lifetime_s)))
            return PlatformAnswer(
                Outcome.OK, Registration(host, device, mine.sas_lifetime_s, sas), server_s=server_s
            )
        except ValueError as exc:
            return PlatformAnswer(Outcome.BAD_REQUEST, reason=str(exc))

    def _question(self, key: Secret | None, ahead_s: float) -> dps.DpsRequest:
        mine = self.settings.identity
        files = (None, None) if key else (mine.certificate_file, mine.key_file)
        ca_file = self.settings.platform.ca_file
        return dps.DpsRequest(
            mine.dps_host,
            mine.dps_id_scope or "",
            self._registration_id() or "",
            key,
            *files,
            ca_file,
            hidden(parse_proxy(self.settings.platform.proxy)),
            self.settings.upload.websockets,
            ahead_s if abs(ahead_s) > CLOCK_SET_BY_S else 0.0,
        )

    def _registration_id(self) -> str | None:
        return self.settings.identity.dps_registration_id or self.settings.device.id

    def _shared_key(self) -> Secret | None:
        mine = self.settings.identity
        return secret_from(mine.dps_key, mine.dps_key_file, "dps-key")

    def _key(self) -> Secret | None:
        """The device's own key."""
        key = self._shared_key()
        if key is None or not self.settings.identity.dps_group:
            return key
        return hidden(connection_string.derived_key(key, self._registration_id() or ""))


def _asked_for_time(host: str, settings: Settings, waiting: Waiting) -> float | None:
    """Ask the hub, or the provisioning service, what time it is."""
    ca_file = settings.upload.ca_file or settings.platform.ca_file
    proxy = hidden(parse_proxy(settings.upload.proxy or settings.platform.proxy))
    return server_time_s(host, settings.upload.https_port, TrustedAuthorities(ca_file, proxy=proxy), waiting)


def _signing_time_s(server_s: float | None, known: ServerClock, ours: Clock) -> float:
    """The current time by the server's clock; by ours where they differ by little, or
    the server's is not known.
    """
    skew_s = known.skew_s if server_s is None else server_s - ours.wall_s()
    return ours.wall_s() + (skew_s if abs(skew_s) > CLOCK_SET_BY_S else 0.0)


def _missing_certificate(settings: Settings) -> str | None:
    for name in ("certificate_file", "key_file"):
        path: Path | None = getattr(settings.identity, name)
        if path is None or not path.is_file():
            return f"identity.{name} is not set, or the file is not there"
    certificate, key = settings.identity.certificate_file, settings.identity.key_file
    assert certificate is not None and key is not None
    try:
        check_pair(certificate, key)
    except (ValueError, OSError) as exc:
        return str(exc)
    return None


def _certificate_mark(settings: Settings) -> str:
    """Mark that tells one certificate from the next without a restart, and one path from another: the hub
    is shown the file at the path of the last registration. While its key is absent the certificate is
    missing.
    """
    path, key = settings.identity.certificate_file, settings.identity.key_file
    try:
        content = read_regular(path) if path else b""
    except OSError:
        content = b""
    if not content:
        return "-"
    return hashlib.sha256(f"{path}\0{key}\0".encode() + content).hexdigest()[:16]
