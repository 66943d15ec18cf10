"""Verification of a minisign signature by the tool `openssl`.

The primitive is never ours: `ca-certificates`, which every device needs, brings `openssl` along, while
`cryptography` (17 MB) is on few devices and `minisign` on hardly any.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from runtime.core.update.minisign import BadSignature, PublicKey, key_for, parse_signature
from runtime.errors import NeedsHuman

TIME_S = 20.0


def verify(content: bytes, signature_text: str, keys: tuple[PublicKey, ...]) -> str:
    """Verify a file's signature; returns its trusted comment. Raises BadSignature, or NeedsHuman without
    `openssl`.
    """
    signature = parse_signature(signature_text)
    key = key_for(signature, keys)
    with tempfile.TemporaryDirectory(prefix="edge-signature-") as name:
        folder = Path(name)
        (folder / "key").write_text(key.pem())
        for message, value in signature.to_verify(content):
            (folder / "message").write_bytes(message)
            (folder / "signature").write_bytes(value)
            if not _is_valid(folder):
                raise BadSignature("the signature is not that of this manifest")
    return signature.trusted_comment


def _is_valid(folder: Path) -> bool:
    command = [
        "openssl", "pkeyutl", "-verify", "-pubin", "-inkey", "key", "-rawin", "-in", "message",
        "-sigfile", "signature",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIME_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NeedsHuman(
            f"the signature cannot be verified: openssl: {exc}",
            hint="install the package openssl (3 or newer)",
        ) from exc
    return done.returncode == 0
