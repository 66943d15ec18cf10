"""The tier of decisions starts no process: a test that does belongs to tests/integration."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def no_process() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess.Popen, "__init__", _refuse)
        yield


def _refuse(*_arguments: object, **_options: object) -> None:
    raise AssertionError("a unit test starts a process: it belongs to tests/integration")
