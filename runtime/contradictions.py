"""Contradictions between settings that are right by themselves."""

from __future__ import annotations

from collections.abc import Iterator

from runtime.core.address import TcpEndpoint
from runtime.core.delivery.metering import UNIT_BYTES, units
from runtime.settings import Settings

FILE_COSTS_UNITS = 3
"""A file: its beginning, its end, and the message that links to it."""
PROPERTIES_BYTES = 512
"""What the properties of a chunk add to it, at most about."""
DEAR = 1.5
"""Chunks that cost so many times their payload are warned of."""


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


def costly(settings: Settings) -> Iterator[str]:
    """Settings that look as if they saved, and make the hub's bill larger: a sentence each."""
    from_units = settings.upload.file_from_units
    if 0 < from_units <= FILE_COSTS_UNITS:
        yield (
            f"upload.file_from_units = {from_units} sends as a file, which costs {FILE_COSTS_UNITS} units of "
            f"4 KiB, what costs {from_units} as a message: a file is cheaper from {FILE_COSTS_UNITS + 1} on"
        )
    for name, stream in settings.stream.items():
        chunk_bytes = stream.chunk_bytes
        if chunk_bytes and units(chunk_bytes + PROPERTIES_BYTES) * UNIT_BYTES >= DEAR * chunk_bytes:
            cost = units(chunk_bytes + PROPERTIES_BYTES)
            better = max(1, chunk_bytes // UNIT_BYTES) * UNIT_BYTES - PROPERTIES_BYTES
            yield (
                f"stream.{name.text}.chunk_bytes = {chunk_bytes} costs {cost} x 4 KiB a chunk, since its "
                f"properties count, too: with {better} the same payload costs less"
            )
