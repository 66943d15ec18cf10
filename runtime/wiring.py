"""Wiring: the values that core and adapters take, made of the settings.

Settings are a file's tables; a policy, a route or a location is one concern of several tables. Nothing below
the workers knows a table. What management alone takes is made in `wiring_management.py`: every worker imports
this module, and would import the rules of management with it.
"""

from __future__ import annotations

from runtime.adapters.identity.vault import Vault
from runtime.adapters.store.disk import DiskReserve
from runtime.config import Config
from runtime.core.address import Listener
from runtime.core.delivery.link_budget import LinkPolicy
from runtime.core.identity.enrolment import EnrolmentPolicy
from runtime.core.identity.registration_route import (
    CertificateFiles,
    ConnectionStringRoute,
    DpsRoute,
    HubRoute,
    IdentityMode,
    PlatformRoute,
    RegistrationRoute,
    SecretLocation,
)
from runtime.core.identity.renewal import RenewalPolicy
from runtime.settings import Settings

FRAME_SHARE = 4
"""One frame may take this part of the memory for requests: up to there a too large request is answered."""


def listeners(config: Config) -> tuple[Listener, ...]:
    """The producer sockets that ingest opens."""
    ingest = config.settings.ingest
    endpoints = [config.endpoint(), *([ingest.tcp_endpoint] if ingest.tcp_endpoint else [])]
    max_frame_bytes = ingest.memory_bytes // FRAME_SHARE
    return tuple(
        Listener(endpoint, max_frame_bytes, ingest.group, ingest.curve_secret_file) for endpoint in endpoints
    )


def disk_reserve(config: Config) -> DiskReserve:
    """What stays free on the store's disk: a stated number as it is, the default at most a tenth of it."""
    store, origin = config.settings.store, config.origins.get("store.min_free_bytes")
    stated = origin is not None and origin.source != "default"
    return DiskReserve(store.min_free_bytes, store.min_free_inodes, scales=not stated)


def enrolment_policy(settings: Settings) -> EnrolmentPolicy:
    """When provisioning asks."""
    table = settings.provisioning
    return EnrolmentPolicy(table.poll_s, table.retry_max_s, table.cancelled_pause_s)


def renewal_policy(settings: Settings) -> RenewalPolicy:
    """When tokens are renewed."""
    table = settings.refresh
    return RenewalPolicy(table.fraction, table.jitter, table.retry_max_s)


def link_policy(settings: Settings) -> LinkPolicy:
    """The limits of the link."""
    table = settings.link
    return LinkPolicy(
        table.messages_per_s,
        table.bytes_per_s,
        table.messages_per_day,
        table.bytes_per_day,
        table.messages_per_month,
        table.bytes_per_month,
        table.hours,
        table.urgent_priority,
        table.sends_per_s,
        table.reset_spread_s,
        units_per_day=table.units_per_day,
        units_per_month=table.units_per_month,
    )


def platform_route(settings: Settings) -> PlatformRoute:
    """The route to the platform's services."""
    table = settings.platform
    by_certificate = settings.identity.mode is IdentityMode.MTLS
    certificate = _certificate_files(settings) if by_certificate else None
    return PlatformRoute(table.instance, table.ca_file, table.proxy, table.timeout_s, certificate)


def hub_route(settings: Settings) -> HubRoute:
    """The route to the hub: what `upload` leaves out is as for the platform."""
    upload, platform = settings.upload, settings.platform
    return HubRoute(
        upload.ca_file or platform.ca_file,
        upload.https_port,
        upload.websockets,
        upload.proxy or platform.proxy,
        "upload.proxy" if upload.proxy else "platform.proxy",
    )


def registration_route(settings: Settings) -> RegistrationRoute:
    """How the device becomes known to a hub."""
    identity = settings.identity
    match identity.mode:
        case IdentityMode.CONNECTION_STRING:
            return ConnectionStringRoute(
                identity.connection_string,
                SecretLocation(
                    "identity.connection_string", "connection-string", file=identity.connection_string_file
                ),
                _certificate_files(settings),
                identity.sas_lifetime_s,
                hub_route(settings),
            )
        case IdentityMode.DPS:
            return DpsRoute(
                identity.dps_host,
                identity.dps_id_scope,
                identity.dps_registration_id or settings.device.id,
                SecretLocation("identity.dps_key", "dps-key", identity.dps_key, identity.dps_key_file),
                identity.dps_group,
                _certificate_files(settings),
                identity.sas_lifetime_s,
                settings.platform.ca_file,
                settings.platform.proxy,
                hub_route(settings),
            )
        case IdentityMode.PLATFORM | IdentityMode.MTLS:
            return platform_route(settings)


def provisioning_token(settings: Settings) -> SecretLocation:
    """Where the Provisioning Token stands."""
    table = settings.platform
    return SecretLocation(
        "platform.provisioning_token",
        "provisioning-token",
        table.provisioning_token,
        table.provisioning_token_file,
    )


def registration_token(settings: Settings) -> SecretLocation:
    """Where a Registration Token that an operator made by hand stands."""
    table = settings.platform
    return SecretLocation(
        "platform.registration_token",
        "registration-token",
        table.registration_token,
        table.registration_token_file,
    )


def vault(settings: Settings) -> Vault:
    """How tokens rest on disk."""
    return Vault(settings.identity.encrypt, settings.identity.encryption_key_file)


def _certificate_files(settings: Settings) -> CertificateFiles:
    return CertificateFiles(settings.identity.certificate_file, settings.identity.key_file)
