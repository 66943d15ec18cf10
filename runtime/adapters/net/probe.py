"""Probe: tests whether the hosts that the runtime talks to can be reached, by the route that the settings
say.

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

from runtime.adapters.net.proxies import ProxyTrouble, dial, in_words
from runtime.adapters.net.tls_options import UnusableFile, authorities
from runtime.adapters.process.known_secrets import hidden
from runtime.core.address import Address, parse_address, parse_host
from runtime.core.operations.diagnosis import Check, judge_certificate, judge_refused_certificate, judge_skew
from runtime.core.proxy_url import Proxy, parse
from runtime.core.secret import Secret
from runtime.errors import ConfigError
from runtime.settings import Settings

DEADLINE_S = 5.0
MQTT_PORT = 8883
HTTPS_PORT = 443


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

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ahead_s: float | None = None

    def platform(self) -> Iterator[Check]:
        """Probe the platform, or the provisioning service in its place."""
        platform, mode = self._settings.platform, self._settings.identity.mode
        if mode == "connection-string":
            return
        if mode != "dps" and platform.instance is None:
            yield Check("platform", "warning", "platform.instance is not set", "messages stay on the device")
            return
        if mode == "dps":
            host, port = Address(parse_host(self._settings.identity.dps_host), self._mqtt_port())
        else:
            host, port = parse_address(platform.instance or "")
        proxy, setting = parse(platform.proxy), "platform.proxy"
        if proxy is None and mode != "dps":
            proxy, setting = _from_environment(host), "HTTPS_PROXY"
        yield _proxy(proxy, setting)
        way = ProbeRoute(host, port or HTTPS_PORT, platform.ca_file, proxy, setting)
        yield self._look(
            f"{'service' if mode == 'dps' else 'platform'} {host}:{way.port}", way, clock=mode != "dps"
        )

    def hub(self, host: str) -> Iterator[Check]:
        """Probe the hub's port for messages, and the one for files where it is another one."""
        upload, platform = self._settings.upload, self._settings.platform
        setting = "upload.proxy" if upload.proxy else "platform.proxy"
        proxy = parse(upload.proxy or platform.proxy)
        if upload.proxy:
            yield _proxy(proxy, setting)
        ca_file, port = upload.ca_file or platform.ca_file, self._mqtt_port()
        messages = self._look(f"hub {host}:{port}", ProbeRoute(host, port, ca_file, proxy, setting))
        files = self._look(
            f"files {host}:{upload.https_port}",
            ProbeRoute(host, upload.https_port, ca_file, proxy, setting),
            clock=True,
        )
        if messages.verdict == "error" and files.verdict != "error" and not upload.websockets:
            messages = replace(messages, remedy=f"{messages.remedy}, or set upload.websockets = true")
        if files.verdict == "error" and messages.verdict != "error" and files.name != messages.name:
            remedy = f"messages flow without it; for file uploads: {files.remedy}"
            files = replace(files, verdict="warning", remedy=remedy)
        yield from (messages, files)

    def clock(self) -> Check:
        """Check of our clock, by the last server that told us its time."""
        return judge_skew(self._ahead_s)

    def _mqtt_port(self) -> int:
        return HTTPS_PORT if self._settings.upload.websockets else MQTT_PORT

    def _look(self, name: str, way: ProbeRoute, *, clock: bool = False) -> Check:
        """Probe name, port and certificate; where the host speaks HTTP, the clock too."""
        try:
            context = ssl.create_default_context(cadata=authorities(way.ca_file) if way.ca_file else None)
            with dial(way.host, way.port, way.proxy, DEADLINE_S) as plain:
                with context.wrap_socket(plain, server_hostname=way.host) as secured:
                    certificate = secured.getpeercert() or {}
                    if clock and (server_s := _date(way.host, secured)) is not None:
                        self._ahead_s = server_s - time.time()
        except ssl.SSLCertVerificationError as exc:
            return judge_refused_certificate(name, exc.verify_code, exc.verify_message, time.time())
        except UnusableFile as exc:
            return Check(name, "error", str(exc), "correct the file, or platform.ca_file and upload.ca_file")
        except OSError as exc:
            return Check(name, "error", *_why_unreachable(exc, way))
        ends = certificate.get("notAfter")
        remaining_s = ssl.cert_time_to_seconds(str(ends)) - time.time() if ends else 0.0
        return judge_certificate(name, remaining_s)


def _from_environment(host: str) -> Proxy | None:
    """The proxy that `requests` would use; one that we cannot read is left to it."""
    if urllib.request.proxy_bypass(host):
        return None
    try:
        return hidden(parse(hidden(Secret(urllib.request.getproxies().get("https", "")))))
    except ConfigError:
        return None


def _proxy(proxy: Proxy | None, setting: str) -> Check:
    if proxy is None:
        return Check("proxy", "ok", "none")
    try:
        dial(proxy.host, proxy.port, None, DEADLINE_S).close()
    except OSError as exc:
        return Check("proxy", "error", f"{proxy}: {exc.strerror or exc}", f"check {setting}")
    return Check("proxy", "ok", f"{proxy} answers, by {setting}")


def _why_unreachable(exc: OSError, way: ProbeRoute) -> tuple[str, str]:
    """The problem in a sentence, with a remedy."""
    if isinstance(exc, ProxyTrouble):
        return f"no way through the {way.proxy}: {in_words(exc)}", f"check {way.setting}, user and password"
    if isinstance(exc, socket.gaierror):
        return f"name not found: {exc.strerror}", f"check DNS: getent hosts {way.host}"
    if isinstance(exc, TimeoutError):
        return f"no answer within {DEADLINE_S:g} s", f"open port {way.port} in the firewall"
    return str(exc.strerror or exc), f"check the address, and port {way.port} on the way"


def _date(host: str, secured: ssl.SSLSocket) -> float | None:
    """The server's Date, over a connection that is already verified."""
    call = http.client.HTTPConnection(host)
    call.sock = secured
    try:
        call.request("HEAD", "/")
        said = call.getresponse().getheader("Date")
        return email.utils.parsedate_to_datetime(said).timestamp() if said else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
