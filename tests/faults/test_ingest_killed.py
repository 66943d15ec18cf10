"""SIGKILL of ingest at random moments under load: acknowledged = distinct stored, no gap, no repeat."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from runtime.adapters.store.reader import StoreReader
from runtime.operations.ledger_report import report
from runtime.producer import Producer
from tests.support.harness import Home, eventually, short_folder

KILLS = int(os.environ.get("EDGE_TEST_KILLS", "40"))  # 200 in the long run
PRODUCERS = 8


class Sender(threading.Thread):
    """A keyed producer that notes every acknowledgement it holds."""

    def __init__(self, endpoint: str, name: str, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self.acknowledged: list[tuple[int, bytes]] = []
        self._endpoint, self.sender_name, self._over = endpoint, name, over
        self._random = random.Random(name)

    def run(self) -> None:
        number = 0
        with Producer(
            self._endpoint, name=self.sender_name, retry_for_s=None, answer_timeout_s=0.3
        ) as producer:
            while not self._over.is_set():
                count = self._random.choice((1, 1, 5))
                payloads = [f"{self.sender_name}/{number + i}".encode() for i in range(count)]
                ids = producer.put_many(payloads, stream=self.sender_name)
                number += len(payloads)
                assert None not in ids, "a repeat came back without its id"
                self.acknowledged += [(i, p) for i, p in zip(ids, payloads, strict=True) if i is not None]


@pytest.mark.timeout(300)
def test_whatever_moment_ingest_is_killed_at_nothing_acknowledged_is_lost_or_doubled() -> None:
    chance = random.Random(20261123)
    with short_folder() as folder:
        home = Home(folder, "[store]\nmin_free_bytes = 0\n")
        endpoint, over = home.config.producer_endpoint(), threading.Event()
        home.start_worker("ingest")
        senders = [Sender(endpoint, f"p{number}", over) for number in range(PRODUCERS)]
        for sender in senders:
            sender.start()
        for _ in range(KILLS):
            before = sum(len(s.acknowledged) for s in senders)
            eventually(lambda held=before: sum(len(s.acknowledged) for s in senders) > held + 20)
            time.sleep(chance.random() * 0.05)  # the random moment, not a wait
            home.workers["ingest"].kill()
            home.start_worker("ingest")
        over.set()
        for sender in senders:
            sender.join(30)
        home.stop()
        _compare(home.layout.messages_db, senders)


def _compare(path: Path, senders: list[Sender]) -> None:
    db = sqlite3.connect(path)
    rows = db.execute("SELECT id, payload, key FROM messages ORDER BY id").fetchall()
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()
    reader = StoreReader(path)
    counted = reader.backlog().messages
    reader.close()
    acknowledged = {(number, payload) for sender in senders for number, payload in sender.acknowledged}
    stored = {(number, payload) for number, payload, _ in rows}
    assert acknowledged == stored
    assert report(path, check=True).wrong == []
    assert len({payload for _, payload in stored}) == len(rows) == counted
    for sender in senders:
        mine = [payload for _, payload, key in rows if key.startswith(f"{sender.sender_name}/")]
        assert mine == [f"{sender.sender_name}/{n}".encode() for n in range(len(mine))], "out of order"


def test_a_reply_that_is_lost_is_asked_for_again_and_stored_once() -> None:
    """Ingest is stopped after the request was sent; it hears it several times when it wakes up."""
    with short_folder() as folder:
        home = Home(folder, "[store]\nmin_free_bytes = 0\n")
        ingest = home.start_worker("ingest")
        with Producer(home.config.producer_endpoint(), answer_timeout_s=0.1, retry_for_s=30) as producer:
            producer.ping()
            ingest.signal(signal.SIGSTOP)
            threading.Timer(1.0, lambda: ingest.signal(signal.SIGCONT)).start()
            assert producer.put(b"once") == 1
            assert producer.put(b"next") == 2
        home.stop()
