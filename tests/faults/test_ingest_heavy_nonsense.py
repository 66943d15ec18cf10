"""Requests that will be refused take memory and time all the same: a turn takes on only so many bytes."""

from __future__ import annotations

import zmq

from runtime.adapters.bus.producer_socket import REQUESTS_PER_PEER
from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.process import Stop
from runtime.core.ingest.protocol import Code, Refusal
from runtime.workers.ingest import IngestLoop
from tests.support.harness import Home, eventually

SETTINGS = "[ingest]\nmax_message_bytes = 1000\nmax_request_bytes = 40000\ncommit_bytes = 100000\n"
TOO_LARGE = [b"", b"{}", b"x" * 30_000]
PEERS = 5


def test_a_turn_is_over_after_so_many_bytes_also_of_refused_requests(home: Home) -> None:
    home.write_config(SETTINGS)
    ingest = IngestLoop(home.config, Stop(), SystemClock())
    peers = [zmq.Context.instance().socket(zmq.DEALER) for _ in range(PEERS)]
    try:
        for peer in peers:
            peer.connect(home.config.producer_endpoint())
            for _ in range(REQUESTS_PER_PEER):
                peer.send_multipart(TOO_LARGE)
        turns: list[int] = []

        def all_are_taken() -> bool:
            letters = ingest._receive()
            assert all(
                isinstance(said, Refusal) and said.code is Code.MESSAGE_TOO_LARGE for _, said in letters
            )
            turns.append(len(letters))
            return sum(turns) == PEERS * REQUESTS_PER_PEER

        eventually(all_are_taken)
        assert max(turns) <= 4  # 30 kB each: the fourth goes over 100 kB
    finally:
        for peer in peers:
            peer.close(0)
        ingest.close()
