"""Addresses as the settings spell them: a host with a port, and the endpoints of ZeroMQ.

One parse for all: what passes here with the configuration is what doctor, ingest and the connection guard
read. Every function raises ValueError with the reason.
"""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

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


def parse_address(text: str) -> Address:
    """Parse `host`, `host:port`, `[IPv6]` or `[IPv6]:port`."""
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(\d{1,5}))?", text)
    if found is None:
        raise ValueError("is no host")
    host = found[1].strip("[]")
    if found[1].startswith("["):
        ipaddress.IPv6Address(host)
    else:
        host.encode("idna")  # an empty label, or one that is too long, leads nowhere
    return Address(host, None if found[2] is None else _port(found[2]))


def parse_host(text: str) -> str:
    """Parse a host that has no port."""
    found = parse_address(text)
    if found.port is not None:
        raise ValueError("has a port")
    return found.host


def check_endpoint(text: str) -> None:
    """Raise ValueError where ingest cannot listen on this endpoint, as far as its spelling goes."""
    scheme, _, place = text.partition("://")
    if scheme == "tcp":
        parse_tcp_endpoint(text)
    elif scheme != "ipc" or not place or "\0" in place:
        raise ValueError("is no endpoint")
    elif place.startswith("@"):
        raise ValueError("is an abstract socket: any local user can connect to it")


def parse_tcp_endpoint(text: str) -> tuple[str, int]:
    """The address and the port of `tcp://ADDRESS:PORT`; `*` is every interface."""
    scheme, _, place = text.partition("://")
    host, _, port = place.rpartition(":")
    if scheme != "tcp":
        raise ValueError("is no TCP endpoint")
    if host == _ANY_INTERFACE:
        return host, _port(port)
    return parse_address(host).host, _port(port)


def is_loopback(endpoint: str) -> bool:
    """True if a TCP endpoint can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(parse_tcp_endpoint(endpoint)[0]).is_loopback
    except ValueError:
        return False  # names and interfaces may change what they mean


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) <= _LARGEST_PORT:
        raise ValueError(f"has no port from 1 to {_LARGEST_PORT}")
    return int(text)
