"""Rehearsal of a one-way update: the whole runtime on a copy of the store, in a home of its own.

A version that writes a schema which the version before cannot open would leave it without a store. So it has
no trial in the home: it shows on a copy that it starts, migrates and stores. The service runs on meanwhile.
The copy has no identity: nothing is sent.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runtime.adapters.process.clock import Clock
from runtime.adapters.store.snapshot import copy_store
from runtime.config import Config, load
from runtime.errors import EdgeError
from runtime.layout import Layout
from runtime.operations.update_probe import probe

FOLDER = "rehearsal"
"""In the home: the copy has to lie where the store's user may write, and there is room for it."""
SPARE_BYTES = 8_000_000
STOP_S = 45.0
LOOK_EVERY_S = 0.5


def rehearse(config: Config, clock: Clock, version: str, wait_s: float) -> str:
    """The reason why this version does not work on a copy of the store; empty: it does."""
    layout, scratch = config.layout, Layout(config.layout.home / FOLDER)
    if lacking := _lacking_bytes(layout):
        return f"{lacking / 1e6:.1f} MB of room are missing for a copy of the store"
    shutil.rmtree(scratch.home, ignore_errors=True)
    try:
        scratch.create()
        (scratch.home / "edge.toml").touch()  # else the device's own, with its identity and its socket
        if layout.messages_db.exists():
            copy_store(layout.messages_db, scratch.messages_db)
        if layout.ids_given.exists():
            shutil.copyfile(layout.ids_given, scratch.ids_given)
        environment = _environment(config, scratch)
        with _running(scratch, environment) as process:
            copied = load(environment, home=scratch.home)
            copied = dataclasses.replace(copied, settings=dataclasses.replace(
                copied.settings, update=config.settings.update))  # fmt: skip
            return _outcome(copied, clock, version, wait_s, process)
    except (EdgeError, OSError) as exc:
        return str(exc)
    finally:
        shutil.rmtree(scratch.home, ignore_errors=True)


def _outcome(
    config: Config, clock: Clock, version: str, wait_s: float, process: subprocess.Popen[bytes]
) -> str:
    until_s, reason = time.monotonic() + wait_s, "it was not tried"
    while time.monotonic() < until_s:
        if process.poll() is not None:
            return f"it ended with exit status {process.returncode}"
        probed = probe(config, clock, version)
        if not probed.reason or probed.crash_loop:
            return probed.reason
        reason = probed.reason
        time.sleep(LOOK_EVERY_S)
    return f"not within {wait_s:.0f} s: {reason}"


@contextmanager
def _running(scratch: Layout, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`edgectl up` of this version there, stopped at the end whatever comes."""
    edgectl = Path(sys.executable).parent / "edgectl"
    with (scratch.log / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [str(edgectl), "--home", str(scratch.home), "up"],
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environment(config: Config, scratch: Layout) -> dict[str, str]:
    """Nothing of the device's settings but how much the store may hold: the copy has to find room."""
    store = config.settings.store
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("EDGE_", "NOTIFY_"))}
    return {
        **plain,
        "EDGE_HOME": str(scratch.home),
        "EDGE_STORE_MAX_BYTES": str(store.max_bytes),
        "EDGE_STORE_MAX_MESSAGES": str(store.max_messages),
    }


def _lacking_bytes(layout: Layout) -> int:
    """The copy, and as much again for its migration."""
    size = layout.messages_db.stat().st_size if layout.messages_db.exists() else 0
    return max(0, 2 * size + SPARE_BYTES - shutil.disk_usage(layout.state).free)
