"""The time at a server, by the `Date` of its HTTPS side: to sign under a clock that is wrong."""

from __future__ import annotations

from runtime.adapters.net.tls_options import TrustedAuthorities, Waiting
from runtime.core.identity import lifetime

DEADLINE_S = 10.0


def server_time_s(
    host: str, port: int, trust: TrustedAuthorities, waiting: Waiting = lambda: False
) -> float | None:
    """Unix seconds by the server's clock, or None where it cannot be asked. An
    answer with any status will do.
    """
    from runtime.adapters.net import https

    reply = https.request("GET", f"https://{host}:{port}/", b"", None, trust, DEADLINE_S, waiting)
    date = None if isinstance(reply, https.Failure) else reply.headers.get("Date")
    try:
        return lifetime.http_date_s(date) if date else None
    except ValueError:
        return None
