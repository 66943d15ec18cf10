"""A part of messages.db that the disk does not give back: for a moment, and for good.

Between ingest and its libc stands a piece of C that lets reads of one message fail with EIO, wherever the
file lies.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.bus.sockets import DeliveryReporter, Settled
from runtime.adapters.store.reader import StoreReader
from runtime.core.message import StoredMessage
from runtime.producer import Producer
from tests.support.harness import Home, Process, eventually, require_tool, short_folder

WORDS = b"nobody will ever read this again"
PATIENT = 30.0


class BadDisk:
    """A home with a store of 40 messages, of which the 20th cannot be read while `fails`."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "home", "[store]\nmin_free_bytes = 0\nmin_free_inodes = 0\n")
        self._shim, self._words = folder / "bad_sector.so", folder / "words"
        source = Path(__file__).parents[1] / "support" / "bad_sector.c"
        build = [require_tool("cc"), "-shared", "-fPIC", "-nostdlib", "-o", str(self._shim), str(source)]
        subprocess.run(build, check=True)
        self.home.start_worker("ingest")
        with Producer(self.home.config.producer_endpoint(), name="p", retry_for_s=PATIENT) as producer:
            for number in range(1, 41):
                assert producer.put((WORDS if number == 20 else b"%d" % number) + b"." * 3_000) == number
        self.home.workers["ingest"].terminate()  # all of it is in the database now, and nothing in its WAL

    def start(self, how: str) -> None:
        """Ingest on this disk (see tests/support/weak_ingest.py)."""
        self.ingest = Process(
            sys.executable, "-m", "tests.support.weak_ingest", how,
            log=self.home.layout.log / "ingest.log", EDGE_HOME=str(self.home.folder),
            LD_PRELOAD=str(self._shim), BAD_SECTOR=str(self._words),
        )  # fmt: skip
        self.home.workers["ingest"] = self.ingest

    def fails(self) -> None:
        self._words.write_bytes(WORDS)

    def is_well(self) -> None:
        self._words.unlink()

    def stored(self) -> list[int]:
        reader = StoreReader(self.home.layout.messages_db)
        found = [m.id for m in reader.after(0, 1_000, 10**9) if isinstance(m, StoredMessage)]
        reader.close()
        return found


def is_confirmed(reporter: DeliveryReporter) -> bool:
    """Asked again and again, it repeats its report, as upload does."""
    reporter.confirmed()
    return not reporter.unconfirmed


@pytest.fixture
def disk() -> Iterator[BadDisk]:
    with short_folder() as folder:
        disk = BadDisk(folder)
        yield disk
        disk.home.stop()


def test_a_part_that_stays_unreadable_is_lost_by_name_and_everything_else_goes_on(disk: BadDisk) -> None:
    """It kept the store unavailable for ever: every restart met the same sector."""
    disk.start("impatient")
    disk.fails()
    reporter = DeliveryReporter(disk.home.layout, resend_after_s=0.2)
    reporter.report(Settled(delivered=range(11, 31)))
    report = disk.home.layout.state / "damaged" / "report.json"
    eventually(lambda: is_confirmed(reporter), 30, "what stays unreadable counts as damaged")
    with Producer(disk.home.config.producer_endpoint(), retry_for_s=PATIENT) as producer:
        assert producer.put(b"after") == 41
    said = json.loads(report.read_text())
    lost = {number for first, last in said["lost_ranges"] for number in range(first, last + 1)}
    assert 20 in lost
    assert lost <= {19, 20, 21}, "only what shared its page"
    assert (said["salvaged"], said["expected"]) == (40 - len(lost), 40)
    assert "messages.db" in said["unreadable"][0]
    assert disk.stored() == [*range(1, 11), *range(31, 42)]
    assert "CRITICAL" in disk.ingest.said()
    reporter.close()


def test_a_part_that_comes_back_was_weather_and_the_store_stays(disk: BadDisk) -> None:
    disk.start("curious")
    disk.fails()
    reporter = DeliveryReporter(disk.home.layout, resend_after_s=0.2)
    reporter.report(Settled(delivered=range(11, 31)))
    eventually(lambda: "a part of messages.db cannot be read" in disk.ingest.said(), 30)
    disk.is_well()
    eventually(lambda: is_confirmed(reporter), 30, "it goes on by itself")
    assert disk.stored() == [*range(1, 11), *range(31, 41)]
    assert not (disk.home.layout.state / "damaged").exists()
    reporter.close()
