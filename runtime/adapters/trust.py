"""What whoever calls a server must say beside the request: whom to believe, and how long to wait.

Apart from `https.py`, which imports `requests`: 11 MB that a worker with nothing to ask does without.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runtime.core.checkup import EXPIRED, NOT_YET_VALID
from runtime.core.proxy import Proxy

SLICE_S = 0.25
"""How often a caller who waits is asked whether it still wants to."""

Waiting = Callable[[], bool]
"""Called while a request is under way; true ends the wait."""


@dataclass(frozen=True)
class Trust:
    """Whom we believe, what we show, and how we get there. Paths are read anew for every request."""

    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    proxy: Proxy | None = None
    """The way there; None: as the environment says (HTTPS_PROXY)."""

    def check(self) -> None:
        """Raise the OSError of a file that cannot be read, which `requests` would hide."""
        for path in (self.ca_file, self.certificate, self.key):
            if path is not None:
                path.open("rb").close()

    def verify(self) -> str | bool:
        """What `requests` calls `verify`: our file, else the system's, else the ones `requests` brings."""
        if self.ca_file:
            return str(self.ca_file)
        system = ssl.get_default_verify_paths()
        return system.cafile or system.capath or True  # the first two are None where they do not exist


def wrong_time(exc: BaseException) -> bool:
    """Whether a certificate was refused for the time by our clock, and for nothing else."""
    return isinstance(exc, ssl.SSLCertVerificationError) and exc.verify_code in (NOT_YET_VALID, EXPIRED)
