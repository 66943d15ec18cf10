"""Two certificate authorities of the stand-in: for its own address, and for devices without a SAS.

Files in DIR: `ca.pem`, which devices trust; `device-ca.pem`, which signs theirs; `ca.key`, `device-ca.key`
and `server.pem` (key and chain), 0600. They are made once; another address gets another certificate.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from pathlib import Path

import trustme
from cryptography import x509


def server_context(folder: Path, address: str) -> ssl.SSLContext:
    """TLS 1.2 or newer, as `address`. A client may show a certificate; then our device CA must have signed it."""
    authority(folder, "device-ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(_server_certificate(folder, address))
    context.load_verify_locations(folder / "device-ca.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def authority(folder: Path, name: str) -> trustme.CA:
    """The authority of this name, made at its first use."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    if not (certificate.exists() and key.exists()):
        made = trustme.CA(organization_name="Stand-in cloud", organization_unit_name=name)
        _write(key, made.private_key_pem.bytes())
        _write(certificate, made.cert_pem.bytes(), 0o644)
    return trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())


def _server_certificate(folder: Path, address: str) -> Path:
    server, ca = folder / "server.pem", authority(folder, "ca")
    if not (server.exists() and _is_for(server, address)):
        _write(server, ca.issue_cert(address).private_key_and_cert_chain_pem.bytes())
    return server


def _is_for(server: Path, address: str) -> bool:
    names = (
        x509.load_pem_x509_certificate(server.read_bytes())
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    try:
        return ipaddress.ip_address(address) in names.get_values_for_type(x509.IPAddress)
    except ValueError:
        return address in names.get_values_for_type(x509.DNSName)


def _write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Whole or not at all, and never readable by others for an instant."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    fresh.replace(path)
