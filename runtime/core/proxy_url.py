"""The URL of the outgoing proxy. Pure; the password stays a secret until it has to be sent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from runtime.core.address import parse_host
from runtime.core.secret import Secret

_PATTERN = r"(http|socks4|socks5h?)://([^:@/\s]+(:[^:@/\s]*)?@)?([^:@/\s]+|\[[0-9a-fA-F:.]+\]):\d{1,5}/?"
RULE = "must be http://, socks4:// or socks5:// [user:password@]host:port, both percent-encoded"


@dataclass(frozen=True)
class Proxy:
    """One proxy. It resolves the names of our hosts itself, whatever its kind: ours may know none of them."""

    text: Secret
    """It as it was written."""
    kind: str
    """http (CONNECT), socks4 or socks5."""
    host: str
    port: int
    user: str | None = None
    password: Secret | None = None

    def __str__(self) -> str:
        return f"{self.kind} proxy {self.host}:{self.port}"

    def url(self) -> str:
        """The URL for `requests`; it holds the password."""
        scheme = {"socks4": "socks4a", "socks5": "socks5h"}.get(self.kind, self.kind)
        password = f":{self._quoted(self.password.reveal())}" if self.password is not None else ""
        who = f"{self._quoted(self.user)}{password}@" if self.user is not None else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{who}{host}:{self.port}"

    def _quoted(self, text: str) -> str:
        """Quote as UTF-8 on the wire, as PySocks does: `requests` would write Latin-1 to an HTTP proxy."""
        return quote(text.encode().decode("latin-1") if self.kind == "http" else text, safe="")


def parse(text: Secret) -> Proxy:
    """Parse the setting. Raises ValueError, never with its text: that may hold a password."""
    try:
        if not re.fullmatch(_PATTERN, text.reveal()):
            raise ValueError
        url = urlsplit(text.reveal())
        host, port = url.hostname, url.port
        parse_host(f"[{host}]" if ":" in str(host) else str(host))
    except ValueError:
        host, port = None, None
    if not host or not port:
        raise ValueError(f"the proxy {RULE}")
    return Proxy(
        text,
        url.scheme.removesuffix("h"),
        host,
        port,
        None if url.username is None else unquote(url.username),
        None if url.password is None else Secret(unquote(url.password)),
    )
