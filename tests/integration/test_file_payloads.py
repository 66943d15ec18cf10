"""A file arrives whole and as it is in the spool, or it does not count as uploaded. Its bytes are counted."""

from __future__ import annotations

import errno
import io
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.hub import upload_journal
from runtime.adapters.hub.file_upload import BlockSent, FileOptions, Uploaded, UploadFailed
from runtime.adapters.hub.https_api import HttpsRoute
from runtime.adapters.store.spool import file_state
from runtime.core.delivery.envelope import FileParcel, Telemetry
from runtime.core.delivery.link_budget import FilePermit
from runtime.core.identity.credentials import HubCredentials
from runtime.core.ingest.taken_files import HASHED_BYTES
from runtime.core.secret import Secret
from tests.integration.test_file_upload import BLOCK, Lane, parcel, spooled
from tests.integration.test_upload import blobs
from tests.support.harness import Cloud, eventually
from tests.support.scripted import Asked, Says, Scripted, scripted
from tests.support.upload import register


@pytest.fixture
def lane(cloud: Cloud, folder: Path) -> Lane:
    way = HttpsRoute(Path(cloud.facts["ca_file"]), cloud.facts["https_port"])
    return Lane(FileOptions(folder / "uploads", folder / "spool", way, BLOCK))


class WeakDisk(io.FileIO):
    """Reads half of what is asked for, and at the first read behind that fails once."""

    fails_at: int | None = None

    def read(self, size: int | None = -1) -> Any:
        at, asked, fails_at = self.tell(), size or -1, type(self).fails_at
        if at == fails_at:
            type(self).fails_at = None
            raise OSError(errno.EIO, "Input/output error")
        if fails_at is not None and at < fails_at < at + asked:
            return super().read(fails_at - at)
        return super().read(max(1, asked // 2))


def test_a_read_that_ends_within_a_block_leaves_no_hole_in_the_file(
    cloud: Cloud, lane: Lane, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A passing EIO: the half block counted as a whole one, and the file arrived without the rest."""
    credentials, content = register(cloud), os.urandom(8 * BLOCK + 100)
    clip = spooled(folder, "clip")
    (folder / "spool" / "clip").write_bytes(content)
    monkeypatch.setattr(io, "FileIO", WeakDisk)
    monkeypatch.setattr(WeakDisk, "fails_at", 3 * BLOCK + BLOCK // 3)
    failed = lane.upload(clip, credentials)
    assert isinstance(failed, UploadFailed) and not failed.final, failed
    assert "clip cannot be read" in failed.reason
    before = lane.blocks
    assert isinstance(lane.upload(clip, credentials), Uploaded)
    assert list(blobs(cloud).values()) == [content]
    assert (before, lane.blocks) == (3, 9), "it did not go on from where it was"


@pytest.mark.parametrize("by", ["appending", "overwriting", "shortening"])
@pytest.mark.parametrize("known_by", ["its time", "its hash"])
def test_a_file_that_is_changed_while_it_is_uploaded_is_never_delivered_as_a_mixture(
    cloud: Cloud, lane: Lane, folder: Path, by: str, known_by: str
) -> None:
    """A producer may keep a descriptor of what was taken: half of one state and half of another arrived."""
    credentials, path = register(cloud), folder / "spool" / "clip"
    clip = spooled(folder, "clip")
    path.write_bytes(os.urandom(8 * BLOCK))
    state = path.stat()

    def change() -> None:
        with path.open("r+b") as file:
            match by:
                case "appending":
                    file.seek(0, io.SEEK_END)
                    file.write(b"more")
                case "overwriting":
                    file.write(os.urandom(8 * BLOCK))
                case _:
                    file.truncate(5 * BLOCK + 10)
        if known_by == "its hash":
            os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    lane.before_block(4, change)
    failed = lane.upload(clip, credentials)
    assert isinstance(failed, UploadFailed) and not failed.final, failed
    assert "clip" in failed.reason
    assert blobs(cloud) == {}
    assert isinstance(lane.upload(clip, credentials), Uploaded)
    assert list(blobs(cloud).values()) == [path.read_bytes()]


def test_a_file_that_is_changed_between_two_attempts_begins_with_its_first_block(
    cloud: Cloud, lane: Lane, folder: Path
) -> None:
    credentials, path = register(cloud), folder / "spool" / "clip"
    clip = spooled(folder, "clip")
    path.write_bytes(os.urandom(8 * BLOCK))
    lane.before_block(4, lambda: cloud.faults(http={"PUT /uploads": {"status": 503, "times": 1}}))
    assert isinstance(lane.upload(clip, credentials), UploadFailed)
    path.write_bytes(os.urandom(8 * BLOCK))
    assert isinstance(lane.upload(clip, credentials), Uploaded)
    assert list(blobs(cloud).values()) == [path.read_bytes()]


def test_a_file_that_is_changed_at_every_attempt_is_set_aside_and_does_not_use_the_link_up(
    cloud: Cloud, lane: Lane, folder: Path
) -> None:
    credentials, path = register(cloud), folder / "spool" / "clip"
    clip = spooled(folder, "clip")
    path.write_bytes(os.urandom(2 * BLOCK))
    ended = []
    for _ in range(3):
        lane.before_block(1, lambda: path.write_bytes(os.urandom(2 * BLOCK)))
        ended.append(lane.upload(clip, credentials))
    assert [isinstance(end, UploadFailed) and end.final for end in ended] == [False, False, True]
    assert "changed while it was uploaded" in str(ended[-1])


def taken(folder: Path, content: bytes) -> FileParcel:
    """A file as it is in the spool when its message is acknowledged."""
    path = folder / "spool" / spooled(folder, "clip").blob_name
    path.write_bytes(content)
    with path.open("rb") as file:
        return FileParcel("clip", file_state(file.fileno()).pack(), "clip", Telemetry("m", b""))


@pytest.mark.parametrize("size_bytes", [1_000, HASHED_BYTES + 1], ids=["small", "large"])
@pytest.mark.parametrize("by", ["appending", "overwriting"])
def test_a_file_that_was_changed_after_its_acknowledgement_is_set_aside_and_named(
    cloud: Cloud, lane: Lane, folder: Path, by: str, size_bytes: int
) -> None:
    clip = taken(folder, os.urandom(size_bytes))
    with (folder / "spool" / "clip").open("ab" if by == "appending" else "r+b") as kept:
        kept.write(b"other")
    failed = lane.upload(clip, register(cloud))
    assert isinstance(failed, UploadFailed) and failed.final, failed
    assert "taken" in failed.reason and "clip" in failed.reason
    assert blobs(cloud) == {} and lane.blocks == 0


@pytest.mark.parametrize("size_bytes", [1_000, HASHED_BYTES + 1], ids=["small", "large"])
def test_a_home_that_was_brought_back_from_an_archive_has_the_files_that_were_acknowledged(
    cloud: Cloud, lane: Lane, folder: Path, size_bytes: int
) -> None:
    """Archives keep whole seconds."""
    content = os.urandom(size_bytes)
    clip, path = taken(folder, content), folder / "spool" / "clip"
    second = path.stat().st_mtime_ns // 1_000_000_000 * 1_000_000_000
    os.utime(path, ns=(second, second))
    assert isinstance(lane.upload(clip, register(cloud)), Uploaded)
    assert list(blobs(cloud).values()) == [content]


def test_a_journal_of_a_version_that_kept_no_lengths_costs_the_blocks_and_not_the_file(
    cloud: Cloud, lane: Lane, folder: Path
) -> None:
    credentials, path = register(cloud), folder / "spool" / "clip"
    clip = spooled(folder, "clip")
    path.write_bytes(os.urandom(8 * BLOCK))
    lane.before_block(4, lambda: cloud.faults(http={"PUT /uploads": {"status": 503, "times": 1}}))
    assert isinstance(lane.upload(clip, credentials), UploadFailed)
    kept = folder / "uploads" / "1.json"
    journal = upload_journal.read(kept)
    assert journal is not None and journal.blocks == 4
    journal.sent_bytes, journal.digest, journal.mark = 0, "", ""
    upload_journal.write(kept, journal)
    assert isinstance(lane.upload(clip, credentials), Uploaded)
    assert list(blobs(cloud).values()) == [path.read_bytes()]


def hub_with_storage_at(port: int) -> Callable[[Asked], Says]:
    address = {"hostName": f"127.0.0.1:{port}", "containerName": "files", "sasToken": "?sig=x"}

    def answer(asked: Asked) -> Says:
        if asked.path.partition("?")[0].endswith("/files"):
            return Says(body={"correlationId": "c", "blobName": asked.body["blobName"], **address})
        return Says(204)

    return answer


class SlowStorage:
    """A hub, and a storage that reads a block by and by, at most `most` bytes of it, and then cuts."""

    def __init__(self, server: Scripted, most: int, pause_s: float) -> None:
        self.read_bytes = 0
        self._server, self._most, self._pause_s = server, most, pause_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()
        server.answer = hub_with_storage_at(self.port)

    def close(self) -> None:
        self._listener.close()

    def _serve(self) -> None:
        try:
            while True:
                near, _ = self._listener.accept()
                near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
                host, _, port = self._server.instance.partition(":")
                far = socket.create_connection((host, int(port)))
                threading.Thread(target=self._back, args=(far, near), daemon=True).start()
                with near, far:
                    while self.read_bytes < self._most and (data := near.recv(16_384)):
                        self.read_bytes += len(data)
                        far.sendall(data)
                        time.sleep(self._pause_s)
        except OSError:
            pass

    @staticmethod
    def _back(far: socket.socket, near: socket.socket) -> None:
        try:
            while data := far.recv(16_384):
                near.sendall(data)
        except OSError:
            pass


@pytest.fixture
def server(folder: Path) -> Iterator[Scripted]:
    with scripted(folder) as server:
        yield server


CREDENTIALS = HubCredentials("127.0.0.1", "dev-1", 1, sas=Secret("sas"))


def slow_lane(folder: Path, server: Scripted) -> Lane:
    way = HttpsRoute(server.ca_file, int(server.instance.partition(":")[2]))
    return Lane(FileOptions(folder / "uploads", folder / "spool", way, 8_388_608))


def test_the_bytes_of_a_block_that_fails_are_counted(folder: Path, server: Scripted) -> None:
    """Only what was answered was booked: 33 MB went out of a budget of 1 MB a day."""
    storage = SlowStorage(server, 1_000_000, 0.0)
    lane = slow_lane(folder, server)
    failed = lane.upload(parcel(os.urandom(8_388_608)), CREDENTIALS)
    storage.close()
    assert isinstance(failed, UploadFailed)
    assert f"127.0.0.1:{storage.port} ended the connection" in failed.reason
    counted = sum(event.bytes for event in lane.seen if isinstance(event, BlockSent))
    assert storage.read_bytes <= counted < 8_388_608, counted


def test_a_block_for_which_there_was_no_connection_costs_nothing(folder: Path, server: Scripted) -> None:
    """A budget must not be used up by an outage."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        port = unused.getsockname()[1]
        server.answer = hub_with_storage_at(port)
        lane = slow_lane(folder, server)
        failed = lane.upload(parcel(os.urandom(100_000)), CREDENTIALS)
    assert failed == UploadFailed(1, f"refused at 127.0.0.1:{port}")
    assert sum(event.bytes for event in lane.seen if isinstance(event, BlockSent)) == 0


def test_the_kill_switch_cuts_the_block_under_way(folder: Path, server: Scripted) -> None:
    """598 kB more went out after `edgectl link off`: it took effect with the next block."""
    storage = SlowStorage(server, 1 << 30, 0.01)
    lane = slow_lane(folder, server)
    lane.files.begin(1, parcel(os.urandom(8_388_608)), CREDENTIALS)
    eventually(lambda: storage.read_bytes > 100_000)
    lane.files.set_permit(FilePermit.NONE, off=True)
    began_s = time.monotonic()
    failed = lane.ended()
    assert time.monotonic() - began_s < 2.0
    assert failed == UploadFailed(1, "the link was switched off", barred=True)
    asked = len(server.asked)
    lane.files.forget(1, CREDENTIALS)
    storage.close()
    time.sleep(0.2)  # what must not happen has no event to wait for
    assert len(server.asked) == asked, "the hub was told of it over a link that is switched off"
