"""Tokens sealed at rest, where `identity.encrypt` asks for it: a copy of identity.db gives away no token.

    sealed = format byte, nonce, ChaCha20-Poly1305(token, associated data: the row's name)

The key never stands beside the tokens: it comes from a file or a systemd credential (which systemd-creds may
have sealed to the machine's TPM), 32 bytes in base64, and is read again each time. Several lines are several
keys: the first seals, all of them open, so a key is changed by putting the new one above the old one.

A token that no key opens is locked, not lost: every worker waits, the platform is sent no request, and the
right key ends it without a restart. Blocks that a disk freed earlier, and may still keep, are out of our
reach.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.adapters.identity.token_files import secret_at
from runtime.adapters.process.known_secrets import hidden
from runtime.core.identity.registration_route import SecretLocation
from runtime.core.secret import Secret
from runtime.errors import NeedsHuman

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

CREDENTIAL = "identity-key"
"""Name of the systemd credential."""

REMEDY = (
    f"put the key where identity.encryption_key_file says, or into the systemd credential {CREDENTIAL};"
    " without it only `edgectl provision --reset` helps"
)

_FORMAT = b"\x01"
_NONCE_BYTES = 12
_KEY_BYTES = 32


@dataclass(frozen=True)
class Opened:
    """A token that a key opened."""

    secret: Secret
    as_wanted: bool
    """True if it is stored as it would be written now; otherwise it is to be written again."""


@dataclass(frozen=True)
class Keys:
    """The keys available now, in base64."""

    encrypt: bool
    secrets: tuple[Secret, ...] = ()
    trouble: str = ""
    """Why there are no keys."""

    def seal(self, name: str, secret: Secret) -> str | bytes:
        """The form to store for the row `name`. Raises NeedsHuman where
        there is no key though one is wanted.
        """
        if not (self.encrypt and secret):
            return secret.reveal()
        if not self.secrets:
            raise NeedsHuman(self.trouble, hint=REMEDY)
        nonce = os.urandom(_NONCE_BYTES)
        sealed = _cipher(self.secrets[0]).encrypt(nonce, secret.reveal().encode(), name.encode())
        return _FORMAT + nonce + sealed

    def open(self, name: str, stored: str | bytes) -> Opened | None:
        """The plaintext of what was stored for the row `name`, or None where no key opens it."""
        if isinstance(stored, bytes) and stored[:1] != _FORMAT:
            stored = stored.decode(errors="replace")  # a flipped bit turns a text into a blob: it is unsealed
        if isinstance(stored, str):
            return Opened(hidden(Secret(stored)), not (self.encrypt and stored))
        for number, secret in enumerate(self.secrets):
            text = _unsealed(secret, name, stored)
            if text is not None:
                return Opened(text, self.encrypt and number == 0)
        return None

    def locked(self, *, sealed: bool) -> str:
        """Why tokens cannot be used now, or an empty text; `sealed`: there is one that no key opened."""
        if sealed and self.secrets:
            return "the tokens are sealed with another key, or damaged"
        if sealed or self.encrypt:
            return self.trouble
        return ""


@dataclass(frozen=True)
class Vault:
    """The source of the keys."""

    encrypt: bool = False
    key_file: Path | None = None

    def keys(self, environ: Mapping[str, str] = os.environ) -> Keys:
        """Read the keys again: they may come late, and change."""
        location = SecretLocation("identity.encryption_key_file", CREDENTIAL, file=self.key_file)
        content = secret_at(location, environ)
        if content is None:
            return Keys(self.encrypt, trouble="the key that seals the tokens is not there")
        secrets = tuple(hidden(Secret(key)) for key in content.reveal().split())
        if not all(map(_is_key, secrets)):
            return Keys(self.encrypt, trouble=f"a key that seals tokens is not {_KEY_BYTES} bytes in base64")
        if not _installed():
            trouble = (
                "sealed tokens need the extra encrypt: pip install '.[encrypt]' in the runtime's checkout, "
                "or 'FILE.whl[encrypt]' for a wheel"
            )
            return Keys(self.encrypt, trouble=trouble)
        return Keys(self.encrypt, secrets)


def _is_key(secret: Secret) -> bool:
    try:
        return len(base64.b64decode(secret.reveal(), validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False


def _installed() -> bool:
    from importlib.util import find_spec

    return find_spec("cryptography") is not None


def _cipher(secret: Secret) -> ChaCha20Poly1305:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305  # late: 7 MB that few need

    return ChaCha20Poly1305(base64.b64decode(secret.reveal()))


def _unsealed(secret: Secret, name: str, stored: bytes) -> Secret | None:
    from cryptography.exceptions import InvalidTag

    nonce, sealed = stored[1 : 1 + _NONCE_BYTES], stored[1 + _NONCE_BYTES :]
    if stored[:1] != _FORMAT or len(nonce) != _NONCE_BYTES:
        return None
    try:
        return hidden(Secret(_cipher(secret).decrypt(nonce, sealed, name.encode()).decode()))
    except (InvalidTag, ValueError):
        return None
