"""What a worker imports at its start: a small device pays for it in memory and in time."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("worker", "heavy"),
    [
        ("ingest", ["azure", "requests", "sqlite_utils"]),
        ("provisioning", ["azure", "requests", "sqlite_utils", "cryptography"]),
        ("refresh", ["azure", "requests", "sqlite_utils", "cryptography"]),
        ("upload", ["sqlite_utils", "cryptography"]),
        ("sentinel", ["azure", "requests", "sqlite_utils", "zmq"]),
    ],
)
def test_no_worker_starts_with_what_it_may_never_need(worker: str, heavy: list[str]) -> None:
    code = f"import sys, runtime.workers.{worker}; print([m for m in {heavy} if m in sys.modules])"
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert asked.stdout.strip() == "[]"
