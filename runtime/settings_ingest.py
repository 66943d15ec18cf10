"""The settings of ingest's table. See `settings.py`; programs that only send read two of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.core import address
from runtime.core.address import Endpoint, TcpEndpoint
from runtime.setting_rule import setting


@dataclass(frozen=True)
class IngestSettings:
    """The producers' side."""

    endpoint: Endpoint | None = setting(
        None,
        "where producers connect; default: ipc socket ingest.sock in the home folder",
        parse=address.parse_endpoint,
        text=address.ENDPOINT_RULE,
    )
    group: str | None = setting(None, "group that may connect to the producers' socket")
    tcp_endpoint: TcpEndpoint | None = setting(
        None,
        "a second endpoint for producers elsewhere: loopback, or anywhere with CURVE",
        parse=address.parse_tcp_endpoint,
        text=address.TCP_RULE,
    )
    curve_secret_file: Path | None = setting(
        None, "secret key of the TCP endpoint (edgectl keys make); producers then need an allowed key"
    )
    curve_clients: Path | None = setting(None, "folder with the .public files of producers allowed over TCP")
    drop_folder: Path | None = setting(
        None,
        "folder from which files named by producers are taken; copied where it is on another disk",
    )
    commit_messages: int = setting(500, "most messages in one commit", low=1, high=100_000, advanced=True)
    commit_bytes: int = setting(
        524_288, "most payload bytes in one commit, a single larger message aside", low=1024, advanced=True
    )
    max_message_bytes: int = setting(4_194_304, "largest payload of one message", low=1, high=900_000_000)
    max_request_bytes: int = setting(
        8_388_608, "largest request in all its frames", low=1024, high=2_147_483_647, advanced=True
    )
    memory_bytes: int = setting(
        134_217_728,
        "memory that requests on their way may take; above it the connections that send most are cut",
        low=1_048_576,
        advanced=True,
    )
    max_producers: int = setting(
        10_000,
        "producers (by name and boot) that are remembered; beyond it each user or key may have a tenth",
        low=10,
        high=1_000_000,
        advanced=True,
    )
