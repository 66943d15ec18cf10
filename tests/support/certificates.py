"""A client certificate and its key, in every state in which a device may find them."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization


class Pair:
    """Two files in `folder`; a new `Pair` there replaces them."""

    def __init__(self, folder: Path, ends: datetime | None = None) -> None:
        self.certificate, self.key = folder / "client.pem", folder / "client.key"
        self._made = trustme.CA().issue_cert("client.example", not_after=ends)
        self.put_key()
        self.put_certificate()

    def put_key(self) -> None:
        """The key alone."""
        self._made.private_key_pem.write_to_path(str(self.key))

    def put_certificate(self) -> None:
        """The certificate alone."""
        self._made.cert_chain_pems[0].write_to_path(str(self.certificate))

    def seal_key(self) -> None:
        """The same key, with a passphrase."""
        key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        form = serialization.PrivateFormat.PKCS8
        sealed = serialization.BestAvailableEncryption(b"passphrase")
        self.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, sealed))
