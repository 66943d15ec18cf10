"""Finds what ingest would refuse at its start, before a running ingest is ended (`edgectl reload`)."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from runtime.adapters.bus.curve import read_key
from runtime.adapters.process.process import has_open, lock_holder
from runtime.core.address import Listener, TcpEndpoint
from runtime.errors import ConfigError
from runtime.layout import SOCKET_PATH_LIMIT_BYTES, Layout

LISTENS = "0A"
"""TCP_LISTEN, as /proc/net/tcp writes it."""


def check_listeners(listeners: Iterable[Listener], layout: Layout) -> None:
    """Raise ConfigError where a producer socket could not be opened."""
    for listener in listeners:
        if listener.group is not None:
            _check_group(listener.group)
        if not isinstance(listener.endpoint, TcpEndpoint):
            _check_path(Path(listener.endpoint.path))
            continue
        if listener.secret_file is not None:
            read_key(listener.secret_file)
        _check_bind(listener.endpoint, layout)


def _check_group(name: str) -> None:
    try:
        grp.getgrnam(name)
    except KeyError:
        raise ConfigError(
            f"ingest.group = {name!r}: this machine has no such group; groupadd {name}"
        ) from None


def _check_path(path: Path) -> None:
    why = ""
    if len(os.fsencode(path)) > SOCKET_PATH_LIMIT_BYTES:
        why = f"its path is longer than {SOCKET_PATH_LIMIT_BYTES} bytes"
    elif path.is_dir():
        why = "there is a folder, remove it"
    elif not path.parent.is_dir():
        why = f"the folder {path.parent} is not there"
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        why = f"user {os.geteuid()} may not write in {path.parent}"
    if why:
        raise ConfigError(f"cannot listen on ipc://{path}: {why}")


def _check_bind(endpoint: TcpEndpoint, layout: Layout) -> None:
    """Bind there briefly, as ingest would."""
    host, port = endpoint.host, endpoint.port
    if host in {name for _, name in socket.if_nameindex()}:
        return
    family = socket.AF_INET6 if endpoint.is_ipv6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as libzmq does
            probe.bind(("" if host == "*" else host, port))
            probe.listen(1)  # only this fails where another process listens under SO_REUSEADDR, too
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE and _is_ours(port, layout):
            return
        why = "no interface, and no address of this machine" if exc.errno is None else os.strerror(exc.errno)
        raise ConfigError(f"cannot listen on {endpoint}: {exc.strerror or why}") from exc


def _is_ours(port: int, layout: Layout) -> bool:
    """True if the ingest of this home listens at this port."""
    lock = layout.lock("ingest")
    pid = lock_holder(lock)
    if not pid or not has_open(pid, lock):
        return False
    sockets = {f"socket:[{inode}]" for inode in _listening(port)}
    with contextlib.suppress(OSError):
        return any(str(link.readlink()) in sockets for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _listening(port: int) -> Iterator[str]:
    """Inodes of the sockets that listen at this port."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]
