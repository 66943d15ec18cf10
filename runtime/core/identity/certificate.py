"""The expiry of an X.509 certificate: just enough of its DER to find that one date. Pure.

Python's ssl tells it of a peer's certificate only, and the library that reads any certificate is 17 MB.
"""

from __future__ import annotations

from datetime import UTC, datetime

_VERSION = 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18


def not_after_s(der: bytes) -> float:
    """The certificate's expiry in Unix seconds. Raises ValueError where the bytes are no certificate."""
    try:
        _, at, _ = _element(der, 0)  # Certificate
        _, at, _ = _element(der, at)  # TBSCertificate
        tag, _, end = _element(der, at)
        at = end if tag == _VERSION else at
        for _ in ("serial number", "signature", "issuer"):
            _, _, at = _element(der, at)
        _, at, _ = _element(der, at)  # Validity
        _, _, at = _element(der, at)  # notBefore
        tag, start, end = _element(der, at)
    except IndexError:
        raise ValueError("no certificate") from None
    text = der[start:end].decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no certificate")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """The tag of the element at `at`, where its content starts, and where it ends. Raises IndexError."""
    tag, size, start = der[at], der[at + 1], at + 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(der[at + 2 : start])
    if start + size > len(der):
        raise IndexError(at)
    return tag, start, start + size
