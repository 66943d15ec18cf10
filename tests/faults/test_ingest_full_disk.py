"""A disk that is really full: a small tmpfs where we may mount one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.bus.sockets import DeliveryReporter, Settled
from runtime.adapters.salvage import salvage
from runtime.adapters.salvage.salvage import SalvageReport
from runtime.adapters.store.errors import StoreDamaged, StoreError
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.writer import MessageStore
from runtime.core.message import StoredMessage
from runtime.producer import Full, Producer
from runtime.workers import store_manager
from tests.support.harness import Home, eventually, short_folder
from tests.support.store_tools import ObedientClock, keep, put


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A filesystem of 12 MiB of our own."""
    with short_folder() as folder:
        mounted = os.geteuid() == 0 and (
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=12m,mode=700", "edge-test", str(folder)],
                capture_output=True,
            ).returncode
            == 0
        )
        if not mounted:
            pytest.skip("only root may mount a tmpfs; test_store.py does it with max_page_count")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=False)


def test_enospc_refuses_at_once_keeps_what_is_acknowledged_and_heals_by_itself(small_disk: Path) -> None:
    home = Home(small_disk, "[store]\nmin_free_bytes = 0\nmin_free_inodes = 0\n")
    home.start_worker("ingest")
    try:
        acknowledged: list[int] = []
        with Producer(home.config.producer_endpoint()) as patient:
            patient.ping()  # a busy machine takes longer than 1.5 s to start a worker
        with Producer(home.config.producer_endpoint(), retry_for_s=1.5) as producer:
            filler = small_disk / "filler"
            with pytest.raises(Full, match="disk_full"):
                for number in range(400):
                    if number == 20:  # somebody else takes the rest, behind our back
                        _fill(filler)
                    acknowledged += [i for i in producer.put_many([b"x" * 4_000] * 20) if i is not None]
            assert len(_stored(home)) == len(acknowledged)
            reporter = DeliveryReporter(home.layout, resend_after_s=0.5)
            gone = acknowledged[: len(acknowledged) // 2]
            reporter.report(Settled(delivered=gone))
            eventually(
                lambda: reporter.confirmed() and not reporter.unconfirmed, what="deletes still succeed"
            )
            reporter.close()
            acknowledged = [i for i in acknowledged if i not in set(gone)]
            filler.unlink()
        with Producer(home.config.producer_endpoint(), retry_for_s=30) as producer:  # it heals by itself
            acknowledged += [i for i in producer.put_many([b"y" * 4_000] * 20) if i is not None]
        assert [message.id for message in _stored(home)] == acknowledged
        assert home.workers["ingest"].running()
    finally:
        home.stop()


def test_a_disk_that_is_full_at_the_start_opens_the_store_and_takes_deletes(small_disk: Path) -> None:
    """The ballast is given up for it: opening alone takes 32 KiB, and a store that is shut never drains."""
    home = Home(small_disk, "[store]\nmin_free_bytes = 0\nmin_free_inodes = 0\n")
    home.start_worker("ingest")
    try:
        with Producer(home.config.producer_endpoint(), retry_for_s=30) as producer:
            acknowledged = [
                number for number in producer.put_many([b"x" * 4_000] * 100) if number is not None
            ]
        eventually((home.layout.state / "ballast").exists, what="there is a ballast")
        home.workers["ingest"].terminate()
        _fill(small_disk / "filler")
        home.start_worker("ingest")
        reporter = DeliveryReporter(home.layout, resend_after_s=0.5)
        reporter.report(Settled(delivered=acknowledged[1:]))
        eventually(lambda: reporter.confirmed() and not reporter.unconfirmed, what="deletes succeed")
        reporter.close()
        assert [message.id for message in _stored(home)] == acknowledged[:1]
    finally:
        home.stop()


def _fill(file: Path) -> None:
    """Take every block that is left."""
    with file.open("wb", buffering=0) as out:
        for size in (65_536, 4_096, 1):
            try:
                while out.write(b"\0" * size):
                    continue
            except OSError:
                continue


def _stored(home: Home) -> list[StoredMessage]:
    reader = StoreReader(home.layout.messages_db)
    try:
        return [m for m in reader.after(0, 100_000, 10**9) if isinstance(m, StoredMessage)]
    finally:
        reader.close()


def test_a_salvage_without_room_does_not_begin_again_every_second_and_begins_when_there_is_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It read and wrote the whole store every second, for as long as nobody made room: flash wears."""
    home, clock = Home(small_disk, "[store]\nmin_free_bytes = 0\nmin_free_inodes = 0\n"), ObedientClock()
    store = MessageStore(home.layout.messages_db, clock)
    for _ in range(10):
        keep(store, put([b"x" * 4_000] * 100))
    store.close()
    filler = small_disk / "filler"
    filler.write_bytes(b"x" * 6_000_000)
    begun: list[float] = []

    def counted(*given: Any) -> Iterator[SalvageReport]:
        begun.append(clock.boot)
        return salvage.salvage(*given)

    monkeypatch.setattr(store_manager, "salvage", counted)
    keeper = store_manager.StoreManager(home.config, clock)
    keeper.failed(StoreDamaged("for the test"))

    def wait(seconds: int) -> None:
        for _ in range(seconds):
            clock.boot += 1.0
            keeper.tick()
            while keeper.patience_s(1.0) == 0.0:
                keeper.tick()

    wait(100)
    assert len(begun) <= 8
    assert "no room" in str(keeper.figures()["alarm"])
    with pytest.raises(StoreError, match="no room to salvage"):
        keeper.admission((), Settled())
    filler.unlink()
    wait(3)
    assert keeper.figures()["messages"] == 1_000
    assert "1000 of 1000 salvaged" in str(keeper.figures()["alarm"])
    keeper.close()
