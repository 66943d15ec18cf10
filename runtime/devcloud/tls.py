"""A certificate authority of the stand-in's own, and a certificate for its address.

Files in DIR: `ca.pem`, which devices trust; `ca.key` and `server.pem` (key and chain), 0600. They are made
once; another address gets another certificate of the same authority.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from pathlib import Path

import trustme
from cryptography import x509


def server_context(folder: Path, address: str) -> ssl.SSLContext:
    """TLS 1.2 or newer, as `address`."""
    ca_file, ca_key, server = folder / "ca.pem", folder / "ca.key", folder / "server.pem"
    if not (ca_file.exists() and ca_key.exists()):
        ca = trustme.CA(organization_name="Stand-in cloud", organization_unit_name=folder.name)
        _write(ca_key, ca.private_key_pem.bytes())
        _write(ca_file, ca.cert_pem.bytes(), 0o644)
        server.unlink(missing_ok=True)
    if not (server.exists() and _is_for(server, address)):
        ca = trustme.CA.from_pem(ca_file.read_bytes(), ca_key.read_bytes())
        _write(server, ca.issue_cert(address).private_key_and_cert_chain_pem.bytes())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(server)
    return context


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
