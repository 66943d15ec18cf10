"""Registration route: how this device becomes known to a hub, as it is configured. Values only.

PlatformRoute          `platform` and `mtls`: the registration service, by token or by certificate
ConnectionStringRoute  `connection-string`: no platform; a device key, a SAS or a certificate
DpsRoute               `dps`: Azure's provisioning service, by key or by certificate
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeAlias

from runtime.core.address import Address
from runtime.core.identity.connection_string import ConnectionString
from runtime.core.proxy_url import Proxy
from runtime.core.secret import Secret


class IdentityMode(StrEnum):
    """The setting that chooses the route."""

    PLATFORM = "platform"
    MTLS = "mtls"
    CONNECTION_STRING = "connection-string"
    DPS = "dps"


@dataclass(frozen=True)
class SecretLocation:
    """The places of one secret, in the order in which they count: the setting itself, the file that it names,
    the systemd credential.
    """

    setting: str
    """Its dotted name, for messages."""
    credential: str
    """Name of the systemd credential (`LoadCredential=NAME:...`)."""
    text: Secret | None = None
    file: Path | None = None


@dataclass(frozen=True)
class CertificateFiles:
    """The files of a client certificate and its private key, as far as they are set."""

    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True)
class HubRoute:
    """The route to a hub, whichever it is: the authorities that are trusted there, ports and proxy."""

    ca_file: Path | None = None
    https_port: int = 443
    websockets: bool = False
    proxy: Proxy | None = None
    proxy_setting: str = "platform.proxy"
    """The setting by which a failing proxy is to be corrected."""

    @property
    def mqtt_port(self) -> int:
        return WEBSOCKETS_PORT if self.websockets else MQTT_PORT


MQTT_PORT = 8883
WEBSOCKETS_PORT = 443


@dataclass(frozen=True)
class PlatformRoute:
    """The route to the platform's services."""

    instance: Address | None
    ca_file: Path | None = None
    proxy: Proxy | None = None
    timeout_s: float = 10.0
    certificate: CertificateFiles | None = None
    """Set for `mtls`: the certificate serves in place of a Registration Token."""


@dataclass(frozen=True)
class ConnectionStringRoute:
    """The connection string, and what it takes to sign by its key or to show a certificate."""

    inline: ConnectionString | None
    """Set in the configuration itself; otherwise it is read from the location, again at every attempt."""
    location: SecretLocation
    certificate: CertificateFiles
    sas_lifetime_s: float
    hub: HubRoute


@dataclass(frozen=True)
class DpsRoute:
    """Azure's provisioning service, and who we are there."""

    host: str
    id_scope: str | None
    registration_id: str | None
    key: SecretLocation
    group: bool
    """The key is an enrolment group's, from which the device's own is derived."""
    certificate: CertificateFiles
    sas_lifetime_s: float
    ca_file: Path | None
    proxy: Proxy | None
    hub: HubRoute


RegistrationRoute: TypeAlias = PlatformRoute | ConnectionStringRoute | DpsRoute
