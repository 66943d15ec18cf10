"""Somebody cleans up under running workers: whoever cannot be found any more starts afresh."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.adapters.bus import DeliveryReporter, Settled
from runtime.producer import Producer
from tests.harness import Home, eventually


def delivery_folder(home: Home) -> Path:
    return home.layout.run


def producer_socket(home: Home) -> Path:
    return home.layout.producer_socket


@pytest.mark.parametrize("cleaned", [delivery_folder, producer_socket])
def test_ingest_leaves_where_its_socket_is_gone_and_the_next_one_is_found(
    home: Home, cleaned: Callable[[Home], Path]
) -> None:
    """Else what is delivered would never leave the store, and both workers would look alive."""
    first = home.start_worker("ingest")
    with Producer(home.config.producer_endpoint(), retry_for_s=30) as producer:
        assert producer.put(b"before") == 1
        path = cleaned(home)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert first.popen.wait(5) == 0
        assert "is not our socket any more" in first.said()
        home.start_worker("ingest")  # supervisord does
        reporter = DeliveryReporter(home.layout, resend_after_s=0.3)
        reporter.report(Settled(delivered=[1]))
        eventually(lambda: reporter.confirmed() == {1})
        assert producer.put(b"after") == 2
        reporter.close()
