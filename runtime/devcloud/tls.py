"""Two certificate authorities of the stand-in: for its own address, and for devices without a SAS.

Files in DIR: `ca.pem`, which devices trust; `device-ca.pem`, which signs theirs; `ca.key`, `device-ca.key`
and `server.pem` (key and chain), 0600. They are made once; other addresses or names get another certificate.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from runtime.devcloud.files import write_whole


def server_context(folder: Path, *names: str) -> ssl.SSLContext:
    """Context for TLS 1.2 or newer, for these addresses and names. A client may present a
    certificate of our device CA.
    """
    authority(folder, "device-ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(_server_certificate(folder, names))
    context.load_verify_locations(folder / "device-ca.pem")
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def authority(folder: Path, name: str) -> trustme.CA:
    """The authority of this name, created at its first use."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    if not (certificate.exists() and key.exists()):
        made = trustme.CA(organization_name="Stand-in cloud", organization_unit_name=name)
        write_whole(key, made.private_key_pem.bytes().decode())
        write_whole(certificate, made.cert_pem.bytes().decode(), 0o644)
    return trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())


def _server_certificate(folder: Path, names: tuple[str, ...]) -> Path:
    server, ca = folder / "server.pem", authority(folder, "ca")
    if not (server.exists() and _serves(server, ca, names)):
        write_whole(server, ca.issue_cert(*names).private_key_and_cert_chain_pem.bytes().decode())
    return server


def _serves(server: Path, ca: trustme.CA, names: tuple[str, ...]) -> bool:
    """True if the certificate is for all of these and of this authority."""
    certificate = x509.load_pem_x509_certificate(server.read_bytes())
    subject = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    known = {str(name.value) for name in subject}
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(ca.cert_pem.bytes()))
    except InvalidSignature:
        return False
    return known >= set(names)
