"""Addresses: a host with a port, and the endpoints of ZeroMQ.

They are parsed once, with the configuration, and passed on as values; `str` of one is its spelling again.
Every parser raises ValueError with the reason.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

INSTANCE_RULE = "must be host or host:port, without https:// or a path; an IPv6 address stands in [brackets]"
ENDPOINT_RULE = (
    "must be ipc://PATH or tcp://ADDRESS:PORT, with a port from 1 to 65535 "
    "(any user may connect to an abstract ipc://@NAME)"
)
TCP_RULE = "must be tcp://ADDRESS:PORT, with a port from 1 to 65535; an IPv6 address stands in [brackets]"

_LARGEST_PORT = 65_535
_ANY_INTERFACE = "*"


class Address(NamedTuple):
    """A host, by name or number, and its port where one is given."""

    host: str
    port: int | None

    def __str__(self) -> str:
        return _bracketed(self.host) + (f":{self.port}" if self.port is not None else "")


@dataclass(frozen=True)
class IpcEndpoint:
    """A unix socket, by its path."""

    path: str

    def __str__(self) -> str:
        return f"ipc://{self.path}"


@dataclass(frozen=True)
class TcpEndpoint:
    """A TCP port at an address, at an interface, or (`*`) at all of them."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp://{_bracketed(self.host)}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True if it can be reached from this machine alone."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False  # names and interfaces may change what they mean

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host


Endpoint: TypeAlias = IpcEndpoint | TcpEndpoint


@dataclass(frozen=True)
class Listener:
    """A producer socket to be opened: where, and who may connect."""

    endpoint: Endpoint
    max_frame_bytes: int
    """Most bytes of one frame: a larger one ends the connection."""
    group: str | None = None
    """The group that an ipc socket is given to."""
    secret_file: Path | None = None
    """The secret CURVE key of a TCP port; without one only loopback is served."""


def parse_address(text: str) -> Address:
    """Parse `host`, `host:port`, `[IPv6]` or `[IPv6]:port`."""
    parts = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(\d{1,5}))?", text)
    if parts is None:
        raise ValueError("is no host")
    host = parts[1].strip("[]")
    if parts[1].startswith("["):
        ipaddress.IPv6Address(host)
    else:
        host.encode("idna")  # an empty label, or one that is too long, leads nowhere
    return Address(host, None if parts[2] is None else _port(parts[2]))


def parse_host(text: str) -> str:
    """Parse a host that has no port; an IPv6 address loses its brackets."""
    address = parse_address(text)
    if address.port is not None:
        raise ValueError("has a port")
    return address.host


def parse_endpoint(text: str) -> Endpoint:
    """Parse an endpoint on which ingest can listen, as far as its spelling goes."""
    scheme, _, place = text.partition("://")
    if scheme == "tcp":
        return parse_tcp_endpoint(text)
    if scheme != "ipc" or not place or "\0" in place:
        raise ValueError("is no endpoint")
    if place.startswith("@"):
        raise ValueError("is an abstract socket: any local user can connect to it")
    return IpcEndpoint(place)


def parse_tcp_endpoint(text: str) -> TcpEndpoint:
    """Parse `tcp://ADDRESS:PORT`; the address `*` is every interface."""
    scheme, _, place = text.partition("://")
    host, _, port = place.rpartition(":")
    if scheme != "tcp":
        raise ValueError("is no TCP endpoint")
    if host == _ANY_INTERFACE:
        return TcpEndpoint(host, _port(port))
    return TcpEndpoint(parse_address(host).host, _port(port))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) <= _LARGEST_PORT:
        raise ValueError(f"has no port from 1 to {_LARGEST_PORT}")
    return int(text)
