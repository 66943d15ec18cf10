"""The demo's producers, and the ledger of acknowledged messages.

Every payload names its sender and a number that grows by one, so that arrivals can be compared with
acknowledgements. A producer here is written as in any application.
"""

from __future__ import annotations

import json
import threading
import time

from runtime.demo import metrics
from runtime.demo.tally import Name
from runtime.producer import Producer

BURST_SENDERS = 3
BURST_MESSAGES = 50
BURST_EVERY_S = 1.0
RETRY_FOR_S = 120.0  # longer than any fault of the demo keeps ingest down


class AcknowledgedNames:
    """Names of the messages whose acknowledgement a producer holds."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: set[Name] = set()

    def add(self, sender: str, first: int, count: int) -> None:
        with self._lock:
            self._names.update((sender, number) for number in range(first, first + count))

    def names(self) -> set[Name]:
        with self._lock:
            return set(self._names)

    def __len__(self) -> int:
        return len(self._names)


class Senders:
    """One thread that sends this machine's metrics every second, and some that send bursts."""

    def __init__(self, endpoint: str, ledger: AcknowledgedNames) -> None:
        self._endpoint = endpoint
        self._ledger = ledger
        self._enough = threading.Event()
        self.failure: BaseException | None = None
        self._threads = [threading.Thread(target=self._guarded, args=(self._send_metrics, "metrics"))]
        for number in range(BURST_SENDERS):
            self._threads.append(
                threading.Thread(target=self._guarded, args=(self._send_bursts, f"burst-{number}"))
            )

    def start(self) -> None:
        for thread in self._threads:
            thread.daemon = True  # Ctrl-C does not wait for an acknowledgement
            thread.start()

    def stop(self) -> None:
        """Ask all threads to end, and wait until each holds its last acknowledgement."""
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, send: object, sender: str) -> None:
        try:
            send(sender)  # type: ignore[operator]
        except BaseException as exc:
            self.failure = exc

    def _send_metrics(self, sender: str) -> None:
        number = 0
        with Producer(self._endpoint, retry_for_s=RETRY_FOR_S) as producer:
            while not self._enough.is_set():
                for stream, reading in metrics.read().items():
                    body = {"from": sender, "n": number, "at": time.time(), **reading}
                    producer.put(json.dumps(body).encode(), stream=stream, content_type="application/json")
                    self._ledger.add(sender, number, 1)
                    number += 1
                self._enough.wait(1.0)

    def _send_bursts(self, sender: str) -> None:
        number = 0
        with Producer(self._endpoint, retry_for_s=RETRY_FOR_S) as producer:
            while not self._enough.wait(BURST_EVERY_S):
                bodies = [{"from": sender, "n": number + i, "text": "x" * 100} for i in range(BURST_MESSAGES)]
                producer.put_many([json.dumps(body).encode() for body in bodies], stream="burst")
                self._ledger.add(sender, number, len(bodies))
                number += len(bodies)
