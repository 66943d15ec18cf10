"""Client certificates of devices: a device that presents one is known by its thumbprint, independent of its
content.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from runtime.devcloud.state.database import Database
from runtime.devcloud.tls import authority

_MOST_COMMON_NAME_CHARS = 64  # X.520


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, both PEM; only the certificate's thumbprint is kept."""

    certificate: str
    key: str
    thumbprint: str


class Certificates:
    """Every issued certificate; a device may have several, as it needs while it changes them."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder

    def issue(self, device_id: str, expires_at_s: float | None, now_s: float) -> Issued:
        """Make a certificate for a device of this bare id."""
        made = authority(
            self._folder, "device-ca"
        ).issue_cert(
            "device.invalid",  # some name must be there; no code reads it
            common_name=device_id[:_MOST_COMMON_NAME_CHARS],
            not_after=None if expires_at_s is None else datetime.fromtimestamp(expires_at_s, UTC),
        )
        pem = made.cert_chain_pems[0].bytes().decode()
        thumbprint = self.adopt(ssl.PEM_cert_to_DER_cert(pem), device_id, now_s)
        return Issued(pem, made.private_key_pem.bytes().decode(), thumbprint)

    def adopt(self, der: bytes, device_id: str, now_s: float) -> str:
        """Assign a certificate to this device; a known one keeps its owner. Returns its thumbprint."""
        thumbprint = _thumbprint(der)
        self._database.execute(
            "INSERT INTO certificates (thumbprint, device_id, created_at) VALUES (?, ?, ?)"
            " ON CONFLICT (thumbprint) DO NOTHING",
            *(thumbprint, device_id, now_s),
        )
        return thumbprint

    def owner(self, shown: bytes) -> str | None:
        """Bare id of the enabled device that a certificate (DER, its chain checked by TLS) belongs to."""
        row = self._database.row(
            "SELECT d.id FROM certificates c JOIN devices d ON d.id = c.device_id"
            " WHERE c.thumbprint = ? AND c.revoked_at IS NULL AND d.enabled",
            _thumbprint(shown),
        )
        return row["id"] if row else None

    def revoke(self, device_id: str, now_s: float) -> int:
        """Revoke every certificate of a device. Returns how many."""
        return self._database.change(
            "UPDATE certificates SET revoked_at = ? WHERE device_id = ? AND revoked_at IS NULL",
            *(now_s, device_id),
        )


def shown_by(transport: asyncio.BaseTransport) -> bytes | None:
    """The client's certificate as DER, if it presented one in the handshake."""
    secured: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    return None if secured is None else secured.getpeercert(binary_form=True)


def common_name(der: bytes) -> str:
    """The subject's name."""
    names = x509.load_der_x509_certificate(der).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def _thumbprint(der: bytes) -> str:
    return hashlib.sha256(der).hexdigest()
