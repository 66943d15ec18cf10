"""Contradictions between settings that are right by themselves."""

from __future__ import annotations

from collections.abc import Iterator

from runtime.core.address import TcpEndpoint
from runtime.settings import Settings


def contradictions(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Contradictions that single values do not show, with the settings that take part: with one of them
    ingest would end at every start.
    """
    ingest = settings.ingest
    if ingest.memory_bytes < 4 * ingest.max_request_bytes:
        yield (
            ("ingest.memory_bytes", "ingest.max_request_bytes"),
            f"ingest.memory_bytes must be at least four times ingest.max_request_bytes, and "
            f"{ingest.memory_bytes:,} is less than four times {ingest.max_request_bytes:,}",
        )
    if ingest.curve_secret_file and not ingest.curve_clients:
        yield (
            ("ingest.curve_secret_file",),
            "ingest.curve_secret_file needs ingest.curve_clients, or producers are asked for no key",
        )
    for name, endpoint in (("endpoint", ingest.endpoint), ("tcp_endpoint", ingest.tcp_endpoint)):
        if isinstance(endpoint, TcpEndpoint) and not ingest.curve_secret_file and not endpoint.is_loopback:
            yield (
                (f"ingest.{name}",),
                f"ingest.{name} = {endpoint} can be reached from outside, and needs ingest.curve_secret_file "
                "(edgectl keys make ingest)",
            )
    listen = settings.observer.listen
    if isinstance(listen, TcpEndpoint) and not listen.is_loopback and not settings.observer.open_to_network:
        yield (
            ("observer.listen",),
            f"observer.listen = {listen} can be reached from outside, and needs "
            "observer.open_to_network = true",
        )
