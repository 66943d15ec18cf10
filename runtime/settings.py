"""Every setting: name, type, default, rule and meaning. Data only; `config.py` reads and checks.

A class is a table of the TOML file, a field is a key in it. Its type is that of the value which the runtime
gets, parsed: see `setting_rule.py`. `advanced` marks what no user has to read about. The tables in
docs/configuration.md and `deploy/edge.toml.example` are held against this file by a test.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from runtime.core import address, leaf
from runtime.core import proxy_url as the_proxy
from runtime.core.address import Address
from runtime.core.delivery import over_budget
from runtime.core.delivery.envelope import Compression
from runtime.core.delivery.over_budget import OverBudget
from runtime.core.delivery.packing import PackFormat
from runtime.core.delivery.read_planner import DrainOrder
from runtime.core.identity import connection_string as the_connection_string
from runtime.core.identity.connection_string import ConnectionString
from runtime.core.identity.registration_route import IdentityMode
from runtime.core.ingest.quota import OverflowPolicy
from runtime.core.message import StreamName
from runtime.core.proxy_url import Proxy
from runtime.core.secret import Secret
from runtime.layout import OPTIONAL_WORKERS
from runtime.setting_rule import Key, keys_of, setting
from runtime.settings_gateway import GatewaySettings
from runtime.settings_ingest import IngestSettings
from runtime.settings_link import LinkSettings
from runtime.settings_management import ManagementSettings, ProgramSettings
from runtime.settings_operations import AlarmSettings, LogSettings, ObserverSettings, SentinelSettings
from runtime.settings_update import UpdateSettings

DEVICE_ID_PATTERN = leaf.DEVICE_ID_PATTERN
STREAMS, PROGRAMS = "stream", "program"
"""Fields of `Settings` with tables named by the user: `[stream.NAME]`, `[management.program.NAME]`."""


@dataclass(frozen=True)
class DeviceSettings:
    """Who this device wishes to be."""

    id: str | None = setting(
        None,
        "device id to ask for; empty lets the platform choose",
        pattern=DEVICE_ID_PATTERN,
        text=leaf.DEVICE_ID_RULE,
    )


@dataclass(frozen=True)
class PlatformSettings:
    """The provisioning and registration services."""

    instance: Address | None = setting(
        None,
        "host of the platform, with :port where it is not 443",
        parse=address.parse_address,
        text=address.INSTANCE_RULE,
    )
    ca_file: Path | None = setting(
        None, "PEM file of the certificate authorities to trust; default: the system's"
    )
    proxy: Proxy | None = setting(
        None,
        "http://, socks4:// or socks5:// [user:password@]host:port; default: HTTPS_PROXY, not for the hub",
        written=Secret,
        parse=the_proxy.parse,
        text=the_proxy.RULE,
    )
    timeout_s: float = setting(10.0, "deadline of one call to the platform", low=0.1, high=120, advanced=True)
    provisioning_token: Secret | None = setting(
        None, "the Provisioning Token; better in a file or a systemd credential"
    )
    provisioning_token_file: Path | None = setting(
        None, "file that holds it; default: the systemd credential provisioning-token"
    )
    registration_token: Secret | None = setting(
        None, "a Registration Token that an operator made by hand; better in a file or a systemd credential"
    )
    registration_token_file: Path | None = setting(
        None, "file that holds it; default: the systemd credential registration-token"
    )


@dataclass(frozen=True)
class IdentitySettings:
    """How the device becomes known to a hub, and how its tokens rest on disk."""

    mode: IdentityMode = setting(
        IdentityMode.PLATFORM,
        "platform: an operator approves; mtls: a client certificate at the platform; connection-string: "
        "no platform; dps: Azure's provisioning service",
    )
    certificate_file: Path | None = setting(
        None, "PEM file of the client certificate, for mtls, dps or a connection string with x509=true"
    )
    key_file: Path | None = setting(None, "PEM file of its private key")
    connection_string: ConnectionString | None = setting(
        None,
        "hub connection string; better in a file",
        written=Secret,
        parse=the_connection_string.parse_direct,
    )
    connection_string_file: Path | None = setting(
        None, "file that holds it; default: the systemd credential connection-string"
    )
    dps_host: str = setting(
        "global.azure-devices-provisioning.net",
        "host of the provisioning service",
        parse=address.parse_host,
        text="must be the name of a host, without a port",
        advanced=True,
    )
    dps_id_scope: str | None = setting(None, "its id scope, 0ne...")
    dps_registration_id: str | None = setting(None, "who we are there; default: device.id")
    dps_key: Secret | None = setting(
        None, "symmetric key; better in a file. Without one the certificate serves"
    )
    dps_key_file: Path | None = setting(None, "file that holds it; default: the systemd credential dps-key")
    dps_group: bool = setting(False, "the key is an enrolment group's, from which the device's is derived")
    hold_backlog_on_identity_change: bool = setting(
        False, "send nothing under another device id than before until `edgectl identity --accept`"
    )
    encrypt: bool = setting(False, "seal tokens at rest with a key; false opens them again")
    encryption_key_file: Path | None = setting(
        None, "file with that key, 32 bytes in base64; default: the systemd credential identity-key"
    )
    sas_lifetime_s: float = setting(
        86_400.0, "lifetime of a SAS that we sign with a device key", low=30, high=31_536_000, advanced=True
    )


@dataclass(frozen=True)
class ProvisioningSettings:
    """How the device waits for an operator's approval."""

    poll_s: float = setting(
        5.0, "how often to ask whether the operator approved", low=0.1, high=3600, advanced=True
    )
    retry_max_s: float = setting(
        300.0, "longest pause between attempts that failed", low=1, high=86400, advanced=True
    )
    cancelled_pause_s: float = setting(
        3600.0,
        "shortest pause before asking again after an operator cancelled",
        low=1,
        high=604_800,
        advanced=True,
    )


@dataclass(frozen=True)
class RefreshSettings:
    """When tokens are renewed."""

    fraction: float = setting(
        0.6,
        "share of a token's lifetime after which it is renewed, on average",
        low=0.05,
        high=0.95,
        advanced=True,
    )
    jitter: float = setting(
        0.5, "share of the lifetime over which a fleet's renewals are spread", low=0, high=0.5, advanced=True
    )
    retry_max_s: float = setting(
        3600.0,
        "longest pause between attempts that failed, while a token still has life",
        low=1,
        high=86400,
        advanced=True,
    )


@dataclass(frozen=True)
class StoreSettings:
    """The limits of the store."""

    max_bytes: int = setting(1_073_741_824, "most payload bytes in the store, in files too", low=4096)
    max_messages: int = setting(10_000_000, "most messages in the store", low=1)
    min_free_bytes: int = setting(
        67_108_864,
        "disk space that stays free for everything else; unless stated, at most a tenth of the disk",
        low=0,
    )
    min_free_inodes: int = setting(1_000, "inodes that stay free for everything else", low=0, advanced=True)
    quarantine_max_bytes: int = setting(
        107_374_182, "most bytes in quarantine, beside the store; beyond it the oldest are dropped", low=4096
    )
    policy: OverflowPolicy = setting(
        OverflowPolicy.REJECT, "what gives way when the store is full; drop-oldest drops about 1 % at a time"
    )
    max_streams: int = setting(
        1_000,
        "most streams with anything stored; beyond it each user or key may have a tenth",
        low=1,
        high=100_000,
        advanced=True,
    )
    stream_max_bytes: int = setting(0, "most bytes in every stream; 0: no such limit", low=0)
    stream_max_messages: int = setting(0, "most messages in every stream; 0: no such limit", low=0)
    stream_policy: OverflowPolicy = setting(OverflowPolicy.REJECT, "what gives way when a stream is full")
    fold_s: float = setting(
        5.0,
        "longest time that deliveries wait to be written down with a message; a power cut may repeat them",
        low=0,
        high=60,
        advanced=True,
    )
    leaf_max_messages: int = setting(
        0, "most messages of every leaf, beyond which they are refused; 0: no such limit", low=0
    )


@dataclass(frozen=True)
class UploadSettings:
    """The way to the hub."""

    window: int = setting(0, "most sends in flight; 0 adapts by itself", low=0, high=10_000, advanced=True)
    ack_timeout_s: float = setting(
        30.0,
        "no acknowledgement, nor bytes that come through, for so long: a new connection",
        low=0.1,
        high=3600,
        advanced=True,
    )
    connect_timeout_s: float = setting(
        20.0, "deadline of one connection attempt", low=0.1, high=300, advanced=True
    )
    retry_max_s: float = setting(
        60.0, "longest pause between attempts that failed", low=0.1, high=86400, advanced=True
    )
    ca_file: Path | None = setting(
        None, "PEM file of the authorities to trust for the hub; default: platform.ca_file"
    )
    https_port: int = setting(
        443, "port of the hub's HTTPS side (file upload)", low=1, high=65535, advanced=True
    )
    keepalive_s: int = setting(25, "the hub hears from us at least so often", low=1, high=1740)
    websockets: bool = setting(False, "MQTT over WebSockets on port 443, where 8883 is blocked")
    proxy: Proxy | None = setting(
        None,
        "the same for the hub and its file uploads; default: platform.proxy",
        written=Secret,
        parse=the_proxy.parse,
        text=the_proxy.RULE,
    )
    site_id: str | None = setting(
        None,
        "site-id that goes with every message",
        pattern=r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,128}",
        text="must be 1 to 128 printable characters",
    )
    file_from_units: int = setting(
        0,
        "send messages of at least so many 4 KiB units as files, which cost 3; 0 only too large ones",
        low=0,
        high=64,
        advanced=True,
    )
    files: int = setting(2, "most file uploads at a time", low=1, high=10, advanced=True)
    block_bytes: int = setting(
        1_048_576,
        "size of the blocks of a file upload, one in memory for each",
        low=65_536,
        high=104_857_600,
        advanced=True,
    )
    backlog_per_s: float = setting(
        50.0, "fresh-first streams: messages of the backlog a second beside the new ones; 0 no limit", low=0
    )
    batch_s: float = setting(
        5.0,
        "a batch with nothing to send for so long gives way to the next one of its stream",
        low=0,
        advanced=True,
    )


@dataclass(frozen=True)
class StreamSettings:
    """One stream, by its name: `[stream.NAME]`, or `[stream."GROUP/NAME"]`."""

    compression: Compression = setting(Compression.NONE, "brotli before upload, where that is smaller")
    pack: PackFormat = setting(
        PackFormat.NONE,
        "join small messages to one of the hub: lines with a newline between them, concat with nothing, "
        "cbor-seq as items with their ids, message ids and times",
    )
    linger_s: float = setting(
        0.0,
        "a message waits so long after it was stored for others to join its pack; 0: only what waits anyway",
        low=0,
        high=86_400,
    )
    pack_units: int = setting(
        16, "most 4 KiB units of a pack; more than one only where more waits", low=1, high=60
    )
    pack_message_id: bool = setting(
        False, "the name of a pack also goes as its message id: for a stream that needs one", advanced=True
    )
    fold_completion: bool = setting(
        False,
        "the completion of a batch goes in the last pack of it, which saves a unit; not tried with the "
        "real platform",
        advanced=True,
    )
    chunk_bytes: int = setting(0, "send larger messages in chunks of this size; 0 never", low=0)
    max_messages: int = setting(0, "most messages of this stream in the store; 0 as many as fit", low=0)
    max_bytes: int = setting(
        0, "most payload bytes of this stream in the store, in files too; 0 as many as fit", low=0
    )
    policy: OverflowPolicy = setting(OverflowPolicy.REJECT, "what gives way when this stream is full")
    drain: DrainOrder = setting(
        DrainOrder.IN_ORDER,
        "fresh-first sends new messages before the backlog, but for streams in batches or chunks",
    )
    over_budget: OverBudget = setting(
        OverBudget(),
        "what gives way where link.units_per_day cannot hold it, even in full packs: wait, drop-lowest, or "
        "sample:N, which keeps one message in N",
        written=str,
        parse=OverBudget.parse,
        text=over_budget.RULE,
    )


@dataclass(frozen=True)
class Settings:
    """All tables."""

    device: DeviceSettings = DeviceSettings()
    platform: PlatformSettings = PlatformSettings()
    identity: IdentitySettings = IdentitySettings()
    provisioning: ProvisioningSettings = ProvisioningSettings()
    refresh: RefreshSettings = RefreshSettings()
    ingest: IngestSettings = IngestSettings()
    store: StoreSettings = StoreSettings()
    upload: UploadSettings = UploadSettings()
    link: LinkSettings = LinkSettings()
    sentinel: SentinelSettings = SentinelSettings()
    alarm: AlarmSettings = AlarmSettings()
    observer: ObserverSettings = ObserverSettings()
    management: ManagementSettings = ManagementSettings()
    gateway: GatewaySettings = GatewaySettings()
    update: UpdateSettings = UpdateSettings()
    log: LogSettings = LogSettings()
    stream: Mapping[StreamName, StreamSettings] = field(default_factory=dict)
    program: Mapping[str, ProgramSettings] = field(default_factory=dict)

    def of_stream(self, name: StreamName) -> StreamSettings:
        """The settings of a stream, the same for all leaves: its own, or the defaults."""
        return self.stream.get(name.without_leaf) or StreamSettings()


def enabled_workers(settings: Settings) -> frozenset[str]:
    """The optional workers that are switched on. The observer ships logs, too."""
    enabled = {name for name in OPTIONAL_WORKERS if getattr(settings, name).enabled}
    return frozenset(enabled | ({"observer"} if settings.log.ship else set()))


def tables() -> Iterator[Any]:
    """Every table but those whose names the user chooses: as fields of `Settings`."""
    return (table for table in dataclasses.fields(Settings) if table.name not in (STREAMS, PROGRAMS))


@cache
def keys() -> tuple[Key, ...]:
    """Every setting of those tables, in the order of this file. To read all the types takes 10 ms."""
    return tuple(key for table in tables() for key in keys_of(table.name, type(table.default)))


def named_tables(settings: Settings) -> Mapping[str, Any]:
    """The tables whose names the user chose, by their dotted names."""
    streams = {f"{STREAMS}.{name.text}": table for name, table in settings.stream.items()}
    return streams | {f"management.{PROGRAMS}.{name}": table for name, table in settings.program.items()}


def value_of(settings: Settings, key: Key) -> Any:
    """The value of one of `keys`."""
    return getattr(getattr(settings, key.table), key.name)
