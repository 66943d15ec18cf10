"""Fixtures: a cloud and a home for whoever asks."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import core_effects
from tests.support.depth import deep
from tests.support.harness import Cloud, Home, short_folder

# Where this is set, each of the thousand processes that the tests start compiles all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile(
    "house",
    deadline=None,  # time limits belong to pytest-timeout; a busy machine is not a bug
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
    max_examples=deep(100),
)
settings.load_profile("house")

core_effects.install()

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a job in the background, whose children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name."""
    with short_folder() as path:
        yield path


@pytest.fixture
def cloud(folder: Path) -> Iterator[Cloud]:
    """A stand-in cloud of this test's own."""
    running = Cloud(folder / "cloud")
    try:
        yield running
    finally:
        running.close()


@pytest.fixture
def home(folder: Path) -> Iterator[Home]:
    """A home without a platform."""
    made = Home(folder / "home")
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def device(folder: Path, cloud: Cloud) -> Iterator[Home]:
    """A home that knows its cloud."""
    made = Home(folder / "home", cloud.config_toml())
    try:
        yield made
    finally:
        made.stop()
