"""CURVE on the producers' TCP door: who holds an allowed key may talk, others are cut off at the handshake.

A key is 40 characters (Z85) in a file of its own: `NAME.secret` (0600) and `NAME.public`. Clients are allowed
by laying their public file into the folder `ingest.curve_clients`; it is looked at anew at every handshake.
"""

from __future__ import annotations

import os
from pathlib import Path

import zmq
from zmq.utils import z85

from runtime.adapters.bus import context
from runtime.errors import ConfigError, UsageError

KEY_CHARACTERS = 40


class KeyGate:
    """Answers libzmq's question, for each handshake, whether this key may come in (ZeroMQ RFC 27)."""

    def __init__(self, clients: Path) -> None:
        self._clients = clients
        self.socket = context().socket(zmq.REP)
        self.socket.bind("inproc://zeromq.zap.01")  # before the door is bound: it is asked at once

    def answer(self) -> None:
        """Answer the handshakes that wait, without waiting."""
        while self.socket.poll(0):
            version, number, _, _, _, mechanism, *credentials = self.socket.recv_multipart()
            allowed = mechanism == b"CURVE" and len(credentials) == 1 and self._knows(credentials[0])
            verdict = (b"200", b"OK") if allowed else (b"400", b"this key is not allowed here")
            self.socket.send_multipart([version, number, *verdict, b"", b""])

    def _knows(self, key: bytes) -> bool:
        allowed = set()
        for file in self._clients.glob("*.public"):
            try:
                allowed.add(read_key(file))
            except ConfigError:
                continue  # one broken file must not lock the others out
        return z85.encode(key) in allowed

    def close(self) -> None:
        self.socket.close(0)


def arm(socket: zmq.Socket[bytes], secret_file: Path) -> None:
    """Make a socket a CURVE server. Before bind."""
    secret = read_key(secret_file)
    socket.curve_secretkey = secret
    socket.curve_publickey = zmq.curve_public(secret)
    socket.curve_server = True
    socket.zap_domain = b"producers"  # with a domain, no KeyGate means: nobody comes in


def read_key(file: Path) -> bytes:
    """The key in a file. Raises ConfigError."""
    try:
        key = file.read_bytes().strip()
    except OSError as exc:
        raise ConfigError(f"cannot read the key file {file}: {exc.strerror}") from exc
    try:
        if len(key) == KEY_CHARACTERS and len(z85.decode(key)) == 32:
            return key
    except (ValueError, KeyError, IndexError):
        pass
    raise ConfigError(f"{file} does not hold a key; make one with edgectl keys make NAME")


def make_keys(name: str, folder: Path) -> tuple[Path, Path]:
    """Write a new pair; the files. Raises UsageError where one is there already."""
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
