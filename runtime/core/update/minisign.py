"""Minisign's files: a public key, and the signature of a file. Pure; a tool verifies the signature itself.

A signature file has four lines: a comment, base64 of algorithm, key id and signature, a trusted comment, and
base64 of the signature over the former signature and that comment. `ED` signs BLAKE2b-512 of the file.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

_KEY_ALGORITHM, _SIGNATURE_ALGORITHM = b"Ed", b"ED"
_ID_BYTES, _KEY_BYTES, _SIGNATURE_BYTES = 8, 32, 64
_TRUSTED = "trusted comment: "
KEY_RULE = "must be public keys of minisign: the second line of its .pub file, 56 letters that begin with RW"
_SPKI = bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410)."""


class BadSignature(ValueError):
    """The signature is not one that counts here."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 key with the id by which signatures name it."""

    id: bytes
    key: bytes

    def pem(self) -> str:
        """The key as OpenSSL reads it."""
        text = base64.b64encode(_SPKI + self.key).decode()
        return f"-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n"


@dataclass(frozen=True, slots=True)
class Signature:
    """The signature of one file."""

    key_id: bytes
    signature: bytes
    trusted_comment: str
    comment_signature: bytes

    def to_verify(self, content: bytes) -> tuple[tuple[bytes, bytes], ...]:
        """(message, its Ed25519 signature), of which all have to be valid."""
        digest = hashlib.blake2b(content, digest_size=64).digest()
        comment = self.signature + self.trusted_comment.encode()
        return (digest, self.signature), (comment, self.comment_signature)


def parse_public_key(text: str) -> PublicKey:
    """Read a key as minisign prints it, in one line. Raises ValueError."""
    raw = _decoded(text.strip())
    if len(raw) != 2 + _ID_BYTES + _KEY_BYTES or raw[:2] != _KEY_ALGORITHM:
        raise ValueError(KEY_RULE)
    return PublicKey(raw[2 : 2 + _ID_BYTES], raw[2 + _ID_BYTES :])


def parse_signature(text: str) -> Signature:
    """Read a signature file. Raises BadSignature."""
    lines = text.splitlines()
    if len(lines) < 4 or not lines[2].startswith(_TRUSTED):
        raise BadSignature("the signature is no file of minisign")
    try:
        raw, comment_signature = _decoded(lines[1]), _decoded(lines[3])
    except ValueError as exc:
        raise BadSignature("the signature is no file of minisign") from exc
    if raw[:2] != _SIGNATURE_ALGORITHM:
        raise BadSignature("the signature is not of minisign's present kind (ED); sign it without -l")
    body = raw[2:]
    if len(body) != _ID_BYTES + _SIGNATURE_BYTES or len(comment_signature) != _SIGNATURE_BYTES:
        raise BadSignature("the signature has a wrong length")
    return Signature(body[:_ID_BYTES], body[_ID_BYTES:], lines[2].removeprefix(_TRUSTED), comment_signature)


def key_for(signature: Signature, keys: tuple[PublicKey, ...]) -> PublicKey:
    """The key that the signature names. Raises BadSignature where it is none of ours."""
    for key in keys:
        if key.id == signature.key_id:
            return key
    named = signature.key_id[::-1].hex().upper()
    raise BadSignature(f"it is signed by the key {named}, which is none of update.keys")


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as exc:
        raise ValueError(KEY_RULE) from exc
