"""A client certificate and its private key on disk, checked before a library tries them.

OpenSSL asks the terminal for the passphrase of a sealed key, wherever it finds one: a worker that was started
from a shell would wait for ever. And a certificate that was renewed is of no use before its key is there.
"""

from __future__ import annotations

import base64
import re
import ssl
from pathlib import Path

from runtime.core.identity.certificate import not_after_s
from runtime.regular_file import read_regular

PEM = r"(?s)-----BEGIN CERTIFICATE-----(.*?)-----END"
"""The first certificate is ours, the others are its chain."""


def check_pair(certificate: Path, key: Path) -> None:
    """Raise ValueError where they cannot be used, OSError with its path where one cannot be read."""
    for path in (certificate, key):
        read_regular(path, 1)  # OpenSSL's own error names no file, and OpenSSL would wait for a pipe
    try:
        context = ssl.create_default_context(cafile=certificate)  # no `cafile`: the system's, 20 ms of CPU
        context.load_cert_chain(certificate, key, _no_passphrase)
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            raise ValueError(f"{key} is not the key of {certificate}") from None
        raise ValueError(
            f"{certificate} and {key} are no certificate and key in PEM ({exc.reason or 'unreadable'})"
        ) from None


def ends_s(certificate: Path) -> float | None:
    """Unix seconds of the certificate's end; None where it cannot be read."""
    try:
        block = re.search(PEM, read_regular(certificate).decode("latin-1"))
        return not_after_s(base64.b64decode(block[1])) if block else None
    except (OSError, ValueError):
        return None


def _no_passphrase() -> str:
    raise ValueError(
        "the private key is sealed with a passphrase, and there is nobody to ask: store it without"
    )
