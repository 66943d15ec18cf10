"""A producer as a process of its own: sends numbered messages and writes down what was acknowledged.

Usage: python -m tests.support.sender ENDPOINT NAME COUNT PAUSE_MS LEDGER
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from runtime.producer import Producer

RETRY_FOR_S = 300.0


def main(endpoint: str, name: str, count: int, pause_ms: float, ledger: Path) -> None:
    """Two streams in turn, so that order is looked at per producer and stream."""
    with (
        Producer(endpoint, retry_for_s=RETRY_FOR_S) as producer,
        ledger.open("w", buffering=1) as acknowledged,
    ):
        for number in range(count):
            stream = f"stream-{number % 2}"
            producer.put(f"{name} {stream} {number}".encode(), stream=stream)
            acknowledged.write(f"{name} {stream} {number}\n")
            time.sleep(pause_ms / 1000)  # a pace, not a wait: messages have to flow while workers die


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5]))
