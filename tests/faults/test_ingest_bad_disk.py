"""A disk that fails and is well again: refused at once meanwhile, and all goes on by itself afterwards.

strace, attached for a while, lets the calls of a running ingest fail as a disk would (to anybody who may
trace). Where we may mount, a real ext4 gives up under it, and is mounted again.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from runtime.adapters.bus.sockets import DeliveryReporter, Settled
from runtime.adapters.store.reader import StoreReader
from runtime.core.message import StoredMessage
from runtime.producer import Full, NoAnswer, NotStored, Producer, Unavailable
from tests.support.harness import Home, eventually, mount_ext4, require_tool, short_folder
from tests.support.upload import refusal

SETTINGS = "[store]\nmin_free_bytes = 0\nmin_free_inodes = 0\n"
DISK_BYTES = 32 * 1024 * 1024


class Sender:
    """A keyed producer that knows what was acknowledged, and what may or may not be stored."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._patient = Producer(home.config.producer_endpoint(), retry_for_s=60, answer_timeout_s=2)
        self.acknowledged: list[tuple[int, bytes]] = []
        self.refused: set[bytes] = set()
        self._number = 0

    def put(self) -> None:
        payload = self._next()
        number = self._patient.put(payload)
        assert number is not None
        self.acknowledged.append((number, payload))

    def is_refused(self, error: type[NotStored]) -> None:
        """An answer, not silence."""
        payload = self._next()
        self.refused.add(payload)
        assert isinstance(refusal(self._home, payload), error)

    def _next(self) -> bytes:
        self._number += 1
        return f"message {self._number}".encode()

    def compare(self, home: Home, delivered: set[int]) -> None:
        """Nothing acknowledged is missing, nothing is there twice, nothing was made up."""
        reader = StoreReader(home.layout.messages_db)
        found = [(m.id, m.payload) for m in reader.after(0, 10_000, 10**9) if isinstance(m, StoredMessage)]
        reader.close()
        assert {each for each in self.acknowledged if each[0] not in delivered} <= set(found)
        payloads = [payload for _, payload in found]
        assert len(set(payloads)) == len(payloads)
        assert set(payloads) <= {payload for _, payload in self.acknowledged} | self.refused

    def close(self) -> None:
        self._patient.close()


def _served(producer: Producer) -> bool:
    """Whether ingest is up: while it starts nobody answers, which is not what is tested here."""
    try:
        producer.ping()
    except NoAnswer:
        return False
    return True


@contextlib.contextmanager
def weather(home: Home, calls: str, error: str, suffixes: Sequence[str] = ("", "-wal")) -> Iterator[None]:
    """For a while these calls on the store's files fail in the running ingest."""
    files = [f"--trace-path={home.layout.messages_db}{suffix}" for suffix in suffixes]
    attached = home.folder / "attached"
    with attached.open("wb") as said:
        tracing = subprocess.Popen(
            [require_tool("strace"), "-f", "-p", str(home.workers["ingest"].pid), *files,
             "-e", f"trace={calls}", "-e", f"inject={calls}:error={error}", "-o", "/dev/null"],
            stdout=said, stderr=said,
        )  # fmt: skip
    try:
        eventually(lambda: "attached" in attached.read_text() or tracing.poll() is not None)
        if tracing.poll() is not None:
            pytest.skip(f"we may not trace here: {attached.read_text().strip()}")
        yield
    finally:
        tracing.send_signal(signal.SIGINT)  # lets go of it
        tracing.wait(20)


@pytest.mark.parametrize(
    ("calls", "error", "refusal"),
    [
        ("fdatasync", "EIO", Unavailable),
        ("pwrite64", "EROFS", Unavailable),
        ("pwrite64", "ENOSPC", Full),
    ],
)
def test_a_disk_that_fails_refuses_at_once_and_what_was_meant_to_happen_happens_afterwards(
    home: Home, calls: str, error: str, refusal: type[NotStored]
) -> None:
    home.write_config(SETTINGS)
    home.start_worker("ingest")
    sender = Sender(home)
    for _ in range(5):
        sender.put()
    reporter = DeliveryReporter(home.layout, resend_after_s=0.3)
    with weather(home, calls, error):
        sender.is_refused(refusal)
        reporter.report(Settled(delivered=[1, 2]))
        sender.is_refused(refusal)
        assert not reporter.confirmed(), "confirmed, and not on disk"
    for _ in range(5):
        sender.put()
    eventually(lambda: reporter.confirmed() or not reporter.unconfirmed, what="deletes go on by themselves")
    reporter.close()
    sender.close()
    sender.compare(home, delivered={1, 2})
    assert home.workers["ingest"].running(), "it was to wait out the weather"


@pytest.mark.parametrize("killed", [False, True])
def test_a_commit_that_failed_and_is_found_later_never_passes_for_another_message(
    home: Home, killed: bool
) -> None:
    """The flush fails, the producer gives up, and the frames are there when the store is opened again."""
    home.write_config(SETTINGS)
    home.start_worker("ingest")
    with Producer(home.config.producer_endpoint(), retry_for_s=0.9, answer_timeout_s=20) as producer:
        eventually(lambda: _served(producer))
        with weather(home, "fdatasync", "EIO"), pytest.raises((Unavailable, NoAnswer)) as refused:
            producer.put(b"in doubt")
        if killed:
            home.workers["ingest"].kill()
            home.start_worker("ingest")
        producer._retry_for_s = 60.0
        number = producer.put(b"acknowledged")
        request = refused.value.request
        assert request is not None, "whether it is stored is not known"
        (doubtful,) = producer.resend(request)
    reader = StoreReader(home.layout.messages_db)
    found = [(m.id, m.payload) for m in reader.after(0, 10_000, 10**9) if isinstance(m, StoredMessage)]
    reader.close()
    assert found == sorted([(number, b"acknowledged"), (doubtful, b"in doubt")])


FRAMES_INDEXED = 4_062
"""Of the WAL, by the first 32 KiB of its index; for the next frame the index grows, on disk."""
FRAME_BYTES = 4_096 + 24


def test_a_commit_whose_index_found_no_room_is_in_doubt_and_never_passes_for_another_message(
    home: Home,
) -> None:
    """SQLite makes the index longer when the frames are on disk already: a crash of all then finds them."""
    home.write_config(SETTINGS)
    home.start_worker("ingest")
    wal = home.layout.messages_db.with_name("messages.db-wal")
    with Producer(home.config.producer_endpoint(), retry_for_s=60, answer_timeout_s=20) as producer:
        producer.put(b"first")
        with _held_snapshot(home):  # so that the WAL only grows
            while (room := FRAMES_INDEXED - wal.stat().st_size // FRAME_BYTES) > 8:
                producer.put(bytes(1_000_000 if room > 300 else 4_000))
            with weather(home, "pwrite64", "ENOSPC", ["-shm"]):
                producer._retry_for_s = 0.9  # told to come back in a second, it gives up
                refused, number = _first_refused(producer)
                home.workers["ingest"].kill()
        home.start_worker("ingest")
        producer._retry_for_s = 60.0
        acknowledged = producer.put(b"acknowledged")
        assert refused.request is not None, "whether it is stored is not known"
        (doubtful,) = producer.resend(refused.request)
    reader = StoreReader(home.layout.messages_db)
    found = [(m.id, m.payload) for m in reader.after(0, 10_000, 10**9) if isinstance(m, StoredMessage)]
    reader.close()
    assert (acknowledged, b"acknowledged") in found, "acknowledged, and another message is in its place"
    assert [id for id, payload in found if payload == b"%d" % number] == [doubtful]


@contextlib.contextmanager
def _held_snapshot(home: Home) -> Iterator[None]:
    """A reader that is killed as everybody else: one that closes as the last tidies the WAL away."""
    script = (
        "import sqlite3, sys, time\ndb = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "db.execute('BEGIN')\ndb.execute('SELECT id FROM messages').fetchall()\n"
        "print('held', flush=True)\ntime.sleep(100)"
    )
    command = [sys.executable, "-c", script, str(home.layout.messages_db)]
    reader = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    try:
        assert reader.stdout.readline() == "held\n"
        yield
    finally:
        reader.kill()
        reader.communicate()


def _first_refused(producer: Producer) -> tuple[NotStored, int]:
    """Put until one is refused: what with, and which it was."""
    for number in range(40):
        try:
            producer.put(b"%d" % number)
        except NotStored as error:
            return error, number
    pytest.fail("the index never had to grow")


@pytest.fixture
def real_disk() -> Iterator[tuple[Home, Path]]:
    """A home whose state lies on an ext4 of its own; and the image to mount again."""
    with short_folder() as folder:
        home, image = Home(folder / "home", SETTINGS), folder / "image"
        try:
            mount_ext4(image, home.layout.state, DISK_BYTES)
            home.layout.state.chmod(0o700)
            yield home, image
        finally:
            home.stop()
            subprocess.run(["umount", "-l", str(home.layout.state)], check=False, capture_output=True)


def test_a_file_system_that_gives_up_has_everything_that_was_acknowledged_and_read_only_is_weather(
    real_disk: tuple[Home, Path],
) -> None:
    home, image = real_disk
    state = str(home.layout.state)
    home.start_worker("ingest")
    sender = Sender(home)
    for _ in range(20):
        sender.put()
    subprocess.run(["mount", "-o", "remount,abort", state], check=True)  # what ext4 does after an error
    sender.is_refused(Unavailable)
    sender.is_refused(Unavailable)
    home.workers["ingest"].kill()  # no ext4 that gave up is well again before it was mounted anew
    subprocess.run(["umount", state], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), state], check=True)
    subprocess.run(["mount", "-o", "remount,ro", state], check=True)
    home.start_worker("ingest")
    sender.is_refused(Unavailable)
    subprocess.run(["mount", "-o", "remount,rw", state], check=True)
    for _ in range(5):
        sender.put()  # and goes on, without a restart
    sender.compare(home, delivered=set())
    sender.close()
