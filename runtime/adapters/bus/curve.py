"""CURVE on the producers' TCP sockets: an allowed key may connect, others are cut off at the handshake.

A key is 40 characters (Z85) in a file of its own: `NAME.secret` (0600) and `NAME.public`. Clients are allowed
by laying their public file into the folder `ingest.curve_clients`; it is read again for every handshake, and
once a second for connected clients: a connection may outlive the right to it.
"""

from __future__ import annotations

import os
from pathlib import Path

import zmq
from zmq.utils import z85

from runtime.adapters.bus.sockets import context
from runtime.errors import ConfigError, UsageError
from runtime.regular_file import read_regular

ASKED_AT = "inproc://zeromq.zap.01"
"""The endpoint that libzmq asks, in each context (ZeroMQ RFC 27)."""
KEY_CHARACTERS = 40
HANDSHAKES_AT_ONCE = 16
"""A client that connects without end must not keep connected clients from their turn."""
LOOK_EVERY_S = 1.0


class KeyGate:
    """Answers libzmq's question, for each handshake, if this key is allowed (ZeroMQ RFC 27).

    From then on every message carries its key, as "User-Id".
    """

    def __init__(self, clients: Path) -> None:
        self._clients = clients
        self.socket = context().socket(zmq.REP)
        self._allowed: set[bytes] = set()
        self._look_s = 0.0
        self.socket.bind(ASKED_AT)  # before the producer socket is bound: it is asked at once

    def answer(self) -> None:
        """Answer the handshakes that wait, without waiting; a few, and the rest in the next turn."""
        for answered in range(HANDSHAKES_AT_ONCE):
            if not self.socket.poll(0):
                return
            if not answered:
                self._look()
            version, number, _, _, _, mechanism, *credentials = self.socket.recv_multipart()
            key = z85.encode(credentials[0]) if mechanism == b"CURVE" and len(credentials) == 1 else b""
            verdict = (b"200", b"OK") if key in self._allowed else (b"400", b"this key is not allowed here")
            self.socket.send_multipart([version, number, *verdict, key, b""])

    def admits(self, key: str, now_s: float) -> bool:
        """True if a client that connected with this key may stay connected."""
        if now_s >= self._look_s:
            self._look_s = now_s + LOOK_EVERY_S
            self._look()
        return key.encode() in self._allowed

    def _look(self) -> None:
        try:
            files = list(self._clients.iterdir())
        except FileNotFoundError:
            files = []  # no client is allowed any more
        except OSError:  # no file can be opened now, for example: the allowed keys stay
            return
        self._allowed = set()
        for file in files:
            if file.suffix != ".public":
                continue
            try:
                self._allowed.add(read_key(file))
            except ConfigError:
                continue  # one broken file must not lock the others out

    def close(self) -> None:
        self.socket.unbind(ASKED_AT)  # libzmq's reaper does it later, and the next gate finds it taken
        self.socket.close(0)


def arm(socket: zmq.Socket[bytes], secret_file: Path) -> None:
    """Make a socket a CURVE server. Before bind."""
    secret = read_key(secret_file)
    socket.curve_secretkey = secret
    socket.curve_publickey = zmq.curve_public(secret)
    socket.curve_server = True
    socket.zap_domain = b"producers"  # with a domain, no KeyGate means: no client is admitted


def read_key(file: Path) -> bytes:
    """The key in a file. Raises ConfigError."""
    try:
        key = read_regular(file).strip()
    except OSError as exc:
        raise ConfigError(f"cannot read the key file {file}: {exc.strerror}") from exc
    try:
        if len(key) == KEY_CHARACTERS and len(z85.decode(key)) == 32:
            return key
    except (ValueError, KeyError, IndexError):
        pass
    raise ConfigError(f"{file} does not hold a key; make one with edgectl keys make NAME")


def make_keys(name: str, folder: Path) -> tuple[Path, Path]:
    """Write a new key pair and return its files. Raises UsageError where one is there already."""
    public, secret = zmq.curve_keypair()
    files = folder / f"{name}.secret", folder / f"{name}.public"
    for file, key, mode in zip(files, (secret, public), (0o600, 0o644), strict=True):
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except OSError as exc:
            raise UsageError(f"cannot write {file}: {exc.strerror}") from exc
        with os.fdopen(descriptor, "wb") as out:
            out.write(key + b"\n")
    return files
