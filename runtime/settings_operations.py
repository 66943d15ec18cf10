"""Settings of operations: how the workers are watched, what others read of them, and what is logged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.core import address
from runtime.core.address import Endpoint, TcpEndpoint
from runtime.setting_rule import setting


@dataclass(frozen=True)
class SentinelSettings:
    """When a worker counts as hung, and what the sentinel writes of all this."""

    look_every_s: float = setting(
        5.0, "how often the sentinel looks at every worker", low=0.1, high=60, advanced=True
    )
    hang_after_s: float = setting(
        15.0,
        "a worker without progress for so long is killed and started again; below 4 counts as 4",
        low=1,
        high=3600,
        advanced=True,
    )
    start_grace_s: float = setting(
        60.0,
        "the same for a worker that is busy with its start, or with its store",
        low=1,
        high=3600,
        advanced=True,
    )
    metrics_every_s: float = setting(
        15.0, "how often the metrics file is written; 0 never", low=0, high=3600, advanced=True
    )
    metrics_file: Path | None = setting(
        None,
        "where, for every user to read, as in a collector's folder; default: run/metrics.prom, for our user",
    )
    alarm_restarts: int = setting(
        5, "so many restarts of a worker within 10 min raise an alarm", low=1, advanced=True
    )


@dataclass(frozen=True)
class AlarmSettings:
    """When the runtime calls itself degraded, and which program is told."""

    full_s: float = setting(
        3600.0, "where the store or the disk is full sooner than this; 0 never", low=0, high=2_592_000
    )
    token_s: float = setting(
        172_800.0,
        "where the Registration Token ends sooner than this and its renewal fails; 0 never",
        low=0,
        high=2_592_000,
    )
    quota_s: float = setting(
        0.0, "where a budget of the day for the link is used up sooner than this; 0 never", low=0, high=86_400
    )
    command: tuple[str, ...] = setting(
        (), "program, with its arguments, that gets the beginning and the end of each alarm as JSON on stdin"
    )
    command_every_s: float = setting(
        60.0, "shortest time between two calls for the same alarm", low=1, high=86_400, advanced=True
    )


@dataclass(frozen=True)
class ObserverSettings:
    """The observer: metrics, health and status of this device over HTTP."""

    enabled: bool = setting(False, "serve metrics, health, the status and a page")
    listen: Endpoint = setting(
        TcpEndpoint("127.0.0.1", 9464),
        "where: tcp://ADDRESS:PORT, or ipc:///PATH for a unix socket of the runtime's user and group",
        written=str,
        parse=address.parse_endpoint,
        text=address.ENDPOINT_RULE,
    )
    open_to_network: bool = setting(
        False, "let `listen` name an address that other machines reach; no password is asked there"
    )
    otlp_url: str | None = setting(
        None,
        "collector that gets the metrics by OTLP, as in https://collector.example:4318/v1/metrics",
        pattern=r"https?://[^\s/@]+(/\S*)?",
        text="must be http:// or https://, a host and a path, without a password",
    )
    otlp_every_s: float = setting(60.0, "how often it gets them", low=1, high=86_400, advanced=True)
    otlp_ca_file: Path | None = setting(
        None, "PEM file of the authorities to trust there; default: the system's"
    )


@dataclass(frozen=True)
class LogSettings:
    """The logs of all workers."""

    level: str = setting(
        "INFO", "least severity that is logged", choices=("DEBUG", "INFO", "WARNING", "ERROR")
    )
    format: str = setting(
        "auto",
        "text for a person, json for a machine, auto looks at the terminal",
        choices=("auto", "text", "json"),
    )
    ship: bool = setting(
        False, "send warnings and errors to the cloud as messages of stream `_logs`, within a budget"
    )
    ship_level: str = setting(
        "WARNING", "least severity that is sent", choices=("INFO", "WARNING", "ERROR"), advanced=True
    )
    ship_lines_per_minute: int = setting(60, "most lines sent a minute", low=1, high=10_000, advanced=True)
    ship_bytes_per_day: int = setting(262_144, "most bytes of lines sent a day", low=1024, advanced=True)
    ship_ttl_s: float = setting(
        86_400.0, "a line that could not be sent for so long is given up", low=60, advanced=True
    )
    journal: bool = setting(
        True, "log to systemd's journal, too, where systemd runs the service", advanced=True
    )
