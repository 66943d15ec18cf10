"""Signing as minisign does it, for tests: the format of its files around `cryptography`'s Ed25519."""

from __future__ import annotations

import base64
import hashlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_ID = b"\1\2\3\4\5\6\7\10"


class SigningKey:
    """A key pair; `public` is what stands in `update.keys`."""

    def __init__(self, id: bytes = _ID) -> None:
        self._key, self.id = Ed25519PrivateKey.generate(), id
        self.public = _text(b"Ed" + id + self._key.public_key().public_bytes_raw())

    def sign(self, content: bytes, comment: str = "a test") -> str:
        """The content of the signature file."""
        signature = self._key.sign(hashlib.blake2b(content, digest_size=64).digest())
        over_comment = self._key.sign(signature + comment.encode())
        return (
            f"untrusted comment: x\n{_text(b'ED' + self.id + signature)}\n"
            f"trusted comment: {comment}\n{_text(over_comment)}\n"
        )


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
