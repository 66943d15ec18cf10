"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.devcloud_client import Client
from tests.support.harness import Cloud, short_folder
from tests.support.hub_in_thread import HubInThread
from tests.support.proxy import FAR_NAME


@pytest.fixture
def far_cloud(folder: Path) -> Iterator[Cloud]:
    """A cloud that goes by a name which no resolver here has."""
    running = Cloud(folder / "far", "--name", FAR_NAME)
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="session")
def devcloud() -> Iterator[Cloud]:
    """One cloud for all tests of its HTTPS side; each brings its own devices and tokens."""
    with short_folder() as folder:
        running = Cloud(folder / "cloud")
        yield running
        running.close()


@pytest.fixture
def client(devcloud: Cloud) -> Iterator[Client]:
    yield Client(devcloud)
    devcloud.no_faults()


@pytest.fixture
def hub(folder: Path) -> Iterator[HubInThread]:
    """The stand-in's hub, in a thread of this test."""
    running = HubInThread(folder / "cloud")
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def limited(client: Client) -> Iterator[Client]:
    """A client whose changes of the hub's limits end with the test."""
    yield client
    client.operator("POST", "/admin/limits", dict.fromkeys(client.operator("GET", "/admin/limits").json()))
