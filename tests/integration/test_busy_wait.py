"""A wait that stays awake at first: it ends with what is readable, and else with its time."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from runtime.adapters.bus.sockets import wait_readable


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.mark.parametrize("spin_s", [0.001, 60.0])
def test_a_wait_that_stays_awake_ends_with_its_time(pipe: tuple[int, int], spin_s: float) -> None:
    began_s = time.monotonic()
    assert wait_readable([pipe[0]], 0.02, spin_s) == []
    assert 0.015 <= time.monotonic() - began_s < 10


@pytest.mark.parametrize("spin_s", [0.0, 60.0])
def test_a_wait_ends_with_what_is_readable(pipe: tuple[int, int], spin_s: float) -> None:
    os.write(pipe[1], b"x")
    assert wait_readable([pipe[0]], 60.0, spin_s) == [pipe[0]]
