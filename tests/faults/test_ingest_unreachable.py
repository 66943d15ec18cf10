"""Somebody cleans up under running workers: whoever cannot be found any more makes itself found again."""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from runtime.adapters.bus import sockets
from runtime.adapters.bus.producer_socket import CannotListen, ProducerSocket
from runtime.adapters.bus.sockets import DeliveryReporter, Settled
from runtime.adapters.process.process import AlreadyRuns, Lock, process_state
from runtime.core.address import Listener, parse_endpoint
from runtime.producer import Producer
from tests.support.harness import Home, eventually


def delivery_folder(home: Home) -> Path:
    return home.layout.run


def producer_socket(home: Home) -> Path:
    return home.layout.producer_socket


@pytest.mark.parametrize("cleaned", [delivery_folder, producer_socket])
def test_ingest_whose_socket_is_gone_is_found_again_and_those_connected_notice_nothing(
    home: Home, cleaned: Callable[[Home], Path]
) -> None:
    """Else what is delivered would never leave the store, and both workers would look alive."""
    worker = home.start_worker("ingest")
    with Producer(home.config.producer_endpoint(), retry_for_s=30) as producer:
        assert producer.put(b"before") == 1
        path = cleaned(home)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert producer.put(b"while it is gone") == 2
        with Producer(home.config.producer_endpoint(), retry_for_s=30) as newcomer:
            assert newcomer.put(b"after") == 3
        reporter = DeliveryReporter(home.layout, resend_after_s=0.3)
        reporter.report(Settled(delivered=[1]))
        eventually(lambda: reporter.confirmed() == {1})
        reporter.close()
        assert producer.put(b"and on") == 4
    assert "was gone; made again" in worker.said()
    assert worker.running()


def test_ingest_whose_socket_another_has_taken_leaves_it_to_him_and_says_so(home: Home) -> None:
    worker = home.start_worker("ingest")
    socket = home.layout.producer_socket
    eventually(socket.exists, what="it serves")
    worker.signal(signal.SIGSTOP)  # else it may be the first to come back
    eventually(lambda: process_state(worker.pid) == "stopped")
    for path in (socket, socket.with_name(f"{socket.name}.lock")):
        path.unlink()
    other = ProducerSocket(Listener(parse_endpoint(f"ipc://{socket}"), 1000))
    worker.signal(signal.SIGCONT)
    try:
        assert worker.popen.wait(20) == 2
        assert "already runs here" in worker.said()
    finally:
        other.close()


def test_a_lock_that_cannot_be_had_now_ends_nobody_who_is_connected(home: Home) -> None:
    """A full disk or a missing folder ended ingest: UsageError, though all who were connected were served."""
    folder = home.layout.run / "producers"
    folder.mkdir(mode=0o700, parents=True)
    door = ProducerSocket(Listener(parse_endpoint(f"ipc://{folder}/p"), 1_000_000))
    assert door._bound is not None
    try:
        shutil.rmtree(folder)
        folder.write_text("in the way")
        for _ in range(2):
            door._bound._look_s = 0.0
            door.ensure_bound()
        folder.unlink()
        door._bound._look_s = 0.0
        door.ensure_bound()
        assert sorted(found.name for found in folder.iterdir()) == ["p", "p.lock"]
        with pytest.raises(AlreadyRuns):
            Lock(folder / "p.lock")
    finally:
        door.close()


def test_a_door_for_which_there_is_no_descriptor_is_tried_again(home: Home) -> None:
    """The retry of one that waited ended ingest, and with it all that were open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    sockets.context().socket(zmq.PUB).close()  # what zmq needs for all of them
    lowest = os.open("/", os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        with pytest.raises(CannotListen):
            ProducerSocket(Listener(parse_endpoint(f"ipc://{home.layout.run}/p"), 1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
