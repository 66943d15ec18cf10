"""Probe: tests whether the hosts that the runtime talks to can be reached, by the configured routes.

TLS is verified here as everywhere: a Date from an unverified peer is no clock. Where our clock is so wrong
that no certificate is valid, the refusal itself says so.
"""

from __future__ import annotations

import email.utils
import http.client
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from runtime.adapters.net.cuttable import Cutter
from runtime.adapters.net.exchange import BoundedExchanges, NoResult
from runtime.adapters.net.proxies import ProxyTrouble, dial, in_words
from runtime.adapters.net.tls_options import UnusableFile, authorities
from runtime.adapters.process.known_secrets import hidden
from runtime.core.identity.registration_route import (
    ConnectionStringRoute,
    DpsRoute,
    HubRoute,
    PlatformRoute,
    RegistrationRoute,
)
from runtime.core.operations.diagnosis import Check, judge_certificate, judge_refused_certificate, judge_skew
from runtime.core.proxy_url import Proxy, parse
from runtime.core.secret import Secret

DEADLINE_S = 5.0
"""Deadline for a connection; the handshake and an answer after it have as long again."""
HTTPS_PORT = 443
_OPEN_PORT = "open port {} in the firewall"


@dataclass(frozen=True)
class ProbeRoute:
    """The route to one host, and the authorities that are trusted there."""

    host: str
    port: int
    ca_file: Path | None
    proxy: Proxy | None
    setting: str
    """The setting by which a failing proxy is to be corrected."""


class NetworkProbe:
    """One round of probing the network."""

    def __init__(self, registration: RegistrationRoute, hub: HubRoute) -> None:
        self._registration = registration
        self._hub = hub
        self._ahead_s: float | None = None

    def platform(self) -> Iterator[Check]:
        """Probe the platform, or the provisioning service in its place."""
        match self._registration:
            case PlatformRoute():
                yield from self._platform(self._registration)
            case DpsRoute(host=host, ca_file=ca_file, proxy=proxy):
                yield _proxy(proxy, "platform.proxy")
                route = ProbeRoute(host, self._hub.mqtt_port, ca_file, proxy, "platform.proxy")
                yield self._look(f"service {host}:{route.port}", route)
            case ConnectionStringRoute():
                pass

    def _platform(self, platform: PlatformRoute) -> Iterator[Check]:
        if platform.instance is None:
            yield Check("platform", "warning", "platform.instance is not set", "messages stay on the device")
            return
        host, port = platform.instance
        proxy, setting = platform.proxy, "platform.proxy"
        if proxy is None:
            proxy, setting = _from_environment(host), "HTTPS_PROXY"
        yield _proxy(proxy, setting)
        route = ProbeRoute(host, port or HTTPS_PORT, platform.ca_file, proxy, setting)
        yield self._look(f"platform {host}:{route.port}", route, clock=True)

    def hub(self, host: str) -> Iterator[Check]:
        """Probe the hub's port for messages, and the one for files where it is another one."""
        hub = self._hub
        if hub.proxy and hub.proxy_setting == "upload.proxy":
            yield _proxy(hub.proxy, hub.proxy_setting)
        port = hub.mqtt_port
        messages = self._look(
            f"hub {host}:{port}", ProbeRoute(host, port, hub.ca_file, hub.proxy, hub.proxy_setting)
        )
        files = self._look(
            f"files {host}:{hub.https_port}",
            ProbeRoute(host, hub.https_port, hub.ca_file, hub.proxy, hub.proxy_setting),
            clock=True,
        )
        if messages.verdict == "error" and files.verdict != "error" and not hub.websockets:
            messages = replace(messages, remedy=f"{messages.remedy}, or set upload.websockets = true")
        if files.verdict == "error" and messages.verdict != "error" and files.name != messages.name:
            remedy = f"messages flow without it; for file uploads: {files.remedy}"
            files = replace(files, verdict="warning", remedy=remedy)
        yield from (messages, files)

    def clock(self) -> Check:
        """Check of our clock, by the last server that told us its time."""
        return judge_skew(self._ahead_s)

    def _look(self, name: str, route: ProbeRoute, *, clock: bool = False) -> Check:
        """Probe name, port and certificate; where the host speaks HTTP, the clock too."""
        cutter = Cutter()
        try:
            return BoundedExchanges(cutter).run(
                2 * DEADLINE_S, lambda: self._handshake(name, route, cutter, clock=clock)
            )
        except NoResult as exc:
            return Check(name, "error", str(exc), _OPEN_PORT.format(route.port))

    def _handshake(self, name: str, route: ProbeRoute, cutter: Cutter, *, clock: bool) -> Check:
        try:
            context = ssl.create_default_context(cadata=authorities(route.ca_file) if route.ca_file else None)
            with dial(route.host, route.port, route.proxy, DEADLINE_S) as plain:
                cutter.connected(plain)
                with context.wrap_socket(plain, server_hostname=route.host) as secured:
                    cutter.connected(secured)
                    certificate = secured.getpeercert() or {}
                    if clock and (server_s := _date(route.host, secured)) is not None:
                        self._ahead_s = server_s - time.time()
        except ssl.SSLCertVerificationError as exc:
            return judge_refused_certificate(name, exc.verify_code, exc.verify_message, time.time())
        except UnusableFile as exc:
            return Check(name, "error", str(exc), "correct the file, or platform.ca_file and upload.ca_file")
        except OSError as exc:
            return Check(name, "error", *_why_unreachable(exc, route))
        ends = certificate.get("notAfter")
        remaining_s = ssl.cert_time_to_seconds(str(ends)) - time.time() if ends else 0.0
        return judge_certificate(name, remaining_s)


def _from_environment(host: str) -> Proxy | None:
    """The proxy that `requests` would use; one that we cannot read is left to it."""
    if urllib.request.proxy_bypass(host):
        return None
    try:
        return hidden(parse(hidden(Secret(urllib.request.getproxies().get("https", "")))))
    except ValueError:  # also where there is none
        return None


def _proxy(proxy: Proxy | None, setting: str) -> Check:
    if proxy is None:
        return Check("proxy", "ok", "none")
    try:
        dial(proxy.host, proxy.port, None, DEADLINE_S).close()
    except OSError as exc:
        return Check("proxy", "error", f"{proxy}: {exc.strerror or exc}", f"check {setting}")
    return Check("proxy", "ok", f"{proxy} answers, by {setting}")


def _why_unreachable(exc: OSError, route: ProbeRoute) -> tuple[str, str]:
    """The problem in a sentence, with a remedy."""
    if isinstance(exc, ProxyTrouble):
        return (
            f"no way through the {route.proxy}: {in_words(exc)}",
            f"check {route.setting}, user and password",
        )
    if isinstance(exc, socket.gaierror):
        return f"name not found: {exc.strerror}", f"check DNS: getent hosts {route.host}"
    if isinstance(exc, TimeoutError):
        return f"no answer within {DEADLINE_S:g} s", _OPEN_PORT.format(route.port)
    return str(exc.strerror or exc), f"check the address, and port {route.port} on the way"


def _date(host: str, secured: ssl.SSLSocket) -> float | None:
    """The server's Date, over a connection that is already verified."""
    call = http.client.HTTPConnection(host)
    call.sock = secured
    try:
        call.request("HEAD", "/")
        date = call.getresponse().getheader("Date")
        return email.utils.parsedate_to_datetime(date).timestamp() if date else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
