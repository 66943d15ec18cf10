"""Warnings reach the store as messages of `_logs`, once, also where ingest was away meanwhile."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.process import Stop
from runtime.adapters.store.reader import StoreReader
from runtime.producer import Producer
from runtime.settings_operations import LogSettings
from runtime.workers import log_shipper
from runtime.workers.heartbeat import Heartbeat
from runtime.workers.log_shipper import LogShipper
from runtime.workers.observer import ObserverLoop
from tests.support.harness import Home


class Clock(SystemClock):
    """The real clock, put forward by a test."""

    ahead_s = 0.0

    def boot_s(self) -> float:
        return super().boot_s() + self.ahead_s


def test_an_observer_that_only_ships_logs_takes_its_turns(home: Home) -> None:
    """It ended at its start: what it imports late was not there."""
    home.write_config("[log]\nship = true\n")
    home.layout.create()
    observer = ObserverLoop(home.config, Heartbeat(home.layout, "observer", Clock(), Stop()), Clock())
    observer.turn()
    observer.close()
    assert "shipping logs" in home.layout.status_file("observer").read_text()


def test_lines_that_ingest_did_not_take_are_stored_later_and_once(home: Home, monkeypatch: Any) -> None:
    monkeypatch.setattr(log_shipper, "PATIENCE_S", 0.1)
    layout, clock = home.layout, Clock()
    layout.create()
    log = layout.log / "upload.log"
    shipper = LogShipper(layout, home.config.producer_endpoint(), LogSettings(ship=True), clock)

    def turn(*texts: str) -> None:
        stamp = datetime.now(UTC).isoformat()
        with log.open("a") as file:
            for text in texts:
                entry = {"time": stamp, "level": "ERROR", "worker": "upload", "message": text}
                file.write(json.dumps(entry) + "\n")
        clock.ahead_s += 1_000.0
        shipper.turn()

    turn("no ingest is there", "nor now")
    ingest = home.start_worker("ingest")
    with Producer(home.config.producer_endpoint(), retry_for_s=30) as patient:
        patient.ping()
    turn("it is there")
    turn()
    shipper.close()
    ingest.close()
    reader = StoreReader(layout.messages_db)
    rows = reader.after(0, 100, 1 << 20)
    reader.close()
    stored = [json.loads(line)["message"] for row in rows for line in row.payload.splitlines()]  # type: ignore[union-attr]
    assert stored == ["no ingest is there", "nor now", "it is there"]
    assert {(row.stream, row.priority, row.ttl_s) for row in rows} == {("_logs", 0, 86_400.0)}  # type: ignore[union-attr]
