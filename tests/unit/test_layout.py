"""Where files and sockets of a runtime live."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.errors import UsageError
from runtime.layout import LARGEST_PID, SOCKET_PATH_LIMIT_BYTES, Layout


def test_the_longest_home_that_is_taken_has_room_for_every_socket_under_the_largest_process_number(
    tmp_path: Path,
) -> None:
    home, longest = str(tmp_path), ""
    while len(home) < SOCKET_PATH_LIMIT_BYTES:
        home += "/é" if len(os.fsencode(home)) % 2 else "/e"
        try:
            Layout(Path(home)).create()
        except UsageError:
            break
        longest = home
    assert longest and longest != home
    sockets = [f"{longest}/run/supervisor.sock.{LARGEST_PID}", f"{longest}/run/provisioning.hints"]
    assert max(len(os.fsencode(path)) for path in sockets) <= SOCKET_PATH_LIMIT_BYTES


def test_a_home_whose_socket_fits_only_under_a_small_process_number_is_refused(tmp_path: Path) -> None:
    """supervisord binds `supervisor.sock.PID`: a start failed where the number had seven digits."""
    room = SOCKET_PATH_LIMIT_BYTES - len(f"/run/supervisor.sock.{LARGEST_PID}") - len(os.fsencode(tmp_path))
    Layout(tmp_path / ("x" * (room - 1))).create()
    with pytest.raises(UsageError, match="needs 108 bytes of at most 107"):
        Layout(tmp_path / ("x" * room)).create()
