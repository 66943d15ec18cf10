"""TLS options of a request to a server: which authorities are trusted, and how long to wait.

Apart from `https.py`, which imports `requests`: 11 MB that a worker without requests does without.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.core.operations.diagnosis import EXPIRED, NOT_YET_VALID
from runtime.core.proxy_url import Proxy
from runtime.regular_file import read_regular

SLICE_S = 0.25
"""Interval at which a waiting caller is asked whether it still wants to wait."""

Waiting = Callable[[], bool]
"""Called while a request is under way; true ends the wait."""


_CERTIFICATE = re.compile(r"-----BEGIN ((?:X509 )?CERTIFICATE)-----\s.*?-----END \1-----", re.DOTALL)


class UnusableFile(OSError):
    """A file on this machine that a connection needs cannot serve. No fault of the other side."""


def authorities(path: Path) -> str:
    """The certificates in a file of authorities, without the text between them. Raises UnusableFile.

    Comments may be of any encoding, and the libraries take ASCII only. A file without a certificate must not
    be handed on: an empty text means to them that nothing was configured, and the system's are trusted.
    """
    try:
        text = read_regular(path).decode("latin-1")
    except OSError as exc:
        raise UnusableFile(f"the file of authorities {path} cannot be read: {exc.strerror}") from exc
    blocks = [match[0] for match in _CERTIFICATE.finditer(text)]
    if not blocks:
        raise UnusableFile(f"the file of authorities {path} holds no certificate in PEM: nothing is trusted")
    pem = "\n".join([*blocks, ""])
    try:
        ssl.create_default_context(cadata=pem)
    except (ssl.SSLError, ValueError) as exc:
        raise UnusableFile(f"the file of authorities {path} holds a certificate that is damaged") from exc
    return pem


@dataclass(frozen=True)
class TrustedAuthorities:
    """The authorities we trust, the certificate we present, and the proxy. Paths are
    read again for every request.
    """

    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    proxy: Proxy | None = None
    """The proxy on the way; None: as the environment says (HTTPS_PROXY)."""

    def check(self) -> None:
        """Raise the OSError of a file that cannot be read, which `requests` would hide."""
        for path in (self.certificate, self.key):
            if path is not None:
                read_regular(path, 1)

    def authorities(self) -> str | None:
        """Our own authorities in PEM, which alone are trusted; None where the system's
        are. Raises UnusableFile.
        """
        return authorities(self.ca_file) if self.ca_file else None

    def verify(self) -> str | bool:
        """The value for `verify` of `requests`: our file, else the system's, else the
        one that `requests` brings.
        """
        if self.ca_file:
            return str(self.ca_file)
        system = ssl.get_default_verify_paths()
        return system.cafile or system.capath or True  # the first two are None where they do not exist


def wrong_time(exc: BaseException) -> bool:
    """True if a certificate was refused for the time by our clock, and for nothing else."""
    return isinstance(exc, ssl.SSLCertVerificationError) and exc.verify_code in (NOT_YET_VALID, EXPIRED)
