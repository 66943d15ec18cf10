"""An overview of a runtime, as `edgectl status --json` shows it, to be changed by a test."""

from __future__ import annotations

from typing import Any


def overview(**changed: Any) -> dict[str, Any]:
    """An overview of a device that has just started, with `changed` parts of it."""
    worker = {
        "state": "RUNNING",
        "restarts": 1,
        "memory_bytes": 40,
        "progress_age_s": 0.5,
        "written_bytes": 9,
    }
    found: dict[str, Any] = {
        "verdict": "healthy",
        "version": "1.0",
        "workers": {"ingest": worker, "upload": {**worker, "state": "BACKOFF", "memory_bytes": None}},
        "backlog": {
            "messages": 3, "bytes": 300, "oldest_age_s": 2.0, "quarantine": 1, "store": "open", "stored": 9,
            "refused": {"disk_full": 2}, "room_bytes": 1000, "dropped": {}, "full_in_s": None,
        },
        "hub": {
            "state": "up", "barred": None, "in_flight": 2, "window": 16, "unconfirmed": 0, "suspects": 0,
            "puback_age_s": None, "oldest_waited_s": 0.0, "losses": 4, "bytes_today": 77, "sent_today": 5,
            "connected_since": "2026-01-31T12:00:00Z", "rate_per_s": 1.5, "last_loss": "", "trouble": "",
            "delivered": 6, "units_today": 7, "units_month": 8,
            "units_by_stream": {"-/a": {"units": 6, "repeat_units": 2, "bytes": 900}},
        },
        "identity": {
            "device_id": "w:d", "skew_s": -0.2, "sas_remaining_s": 60, "registration_remaining_s": None,
            "verification_code": None, "state": "registered", "next": "register", "next_in_s": 33193,
            "trouble": None, "reason": "",
        },
        "disk": {"free_bytes": 5, "total_bytes": 50, "free_inodes": 6, "read_only": False},
        "alarms": [{"worker": "upload", "text": "hung", "name": "hung"}],
        "reasons": ["upload is BACKOFF"],
        "runway": {"full_in_s": "never", "drained_in_s": 12, "quota_in_s": None, "units_a_day": 9},
        "ledger": {
            "stored": 10,
            "delivered": 6,
            "lost": {"expired": 1},
            "difference": 0,
            "streams": [
                {"stream": "a", "stored": 9, "delivered": 5, "requeued": 0, "lost": {"expired": 1}},
                {"stream": "b", "stored": 1, "delivered": 1, "requeued": 2, "lost": {}},
            ],
        },
        "streams": [{"stream": "a", "messages": 3, "bytes": 300}],
    }  # fmt: skip
    return {**found, **changed}
