"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.hub_in_thread import HubInThread


@pytest.fixture
def hub(folder: Path) -> Iterator[HubInThread]:
    """The stand-in's hub, in a thread of this test."""
    running = HubInThread(folder / "cloud")
    try:
        yield running
    finally:
        running.close()
