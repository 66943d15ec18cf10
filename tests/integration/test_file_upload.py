"""File upload against the stand-in's storage: what a journal is good for, and what not."""

from __future__ import annotations

import itertools
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.hub import file_upload as files_adapter
from runtime.adapters.hub import https_api, upload_journal
from runtime.adapters.hub.file_upload import (
    BlockSent,
    FileEvent,
    FileOptions,
    FileUploader,
    Uploaded,
    UploadFailed,
)
from runtime.adapters.hub.https_api import HttpsRoute, HubUnreachable
from runtime.adapters.hub.upload_calls import UploadCalls
from runtime.adapters.process import checksummed_line
from runtime.core.delivery.envelope import FileParcel, Telemetry
from runtime.core.delivery.link_budget import FilePermit
from runtime.core.identity.credentials import HubCredentials
from runtime.core.secret import Secret
from tests.integration.test_upload import blobs, uploads
from tests.support.harness import Cloud, eventually
from tests.support.scripted import Asked, Says, hang, scripted, trickle_body, trickle_headers
from tests.support.upload import register

BLOCK = 65_536
BLOCKS = 12


class Lane:
    """Files, and what it told."""

    def __init__(self, options: FileOptions) -> None:
        self.files = FileUploader(options)
        self.seen: list[FileEvent] = []

    def upload(
        self, parcel: FileParcel, credentials: HubCredentials, id: int = 1, within_s: float = 30
    ) -> FileEvent:
        """Begin, and wait for the end."""
        before = len(self.seen)
        self.files.begin(id, parcel, credentials)
        return self.ended(before, within_s)

    def before_block(self, number: int, do: Callable[[], Any]) -> None:
        """In its turn, once: however busy the machine, the file is not through before that."""
        enter, at = self.files._gate.enter, itertools.count()

        def enter_and_do(urgent: bool) -> None:
            if next(at) == number:
                do()
            enter(urgent)

        self.files._gate.enter = enter_and_do  # type: ignore[method-assign]

    def ended(self, before: int = 0, within_s: float = 30) -> FileEvent:
        """Wait for an end that is told behind so many events."""
        deadline_s = time.monotonic() + within_s
        while not self.seen[before:] or not isinstance(self.seen[-1], Uploaded | UploadFailed):
            assert time.monotonic() < deadline_s, self.seen
            select.select([self.files], [], [], 1.0)
            self.seen += self.files.drain()
        return self.seen[-1]

    @property
    def blocks(self) -> int:
        return sum(isinstance(event, BlockSent) for event in self.seen)


@pytest.fixture
def lane(cloud: Cloud, folder: Path) -> Lane:
    way = HttpsRoute(Path(cloud.facts["ca_file"]), cloud.facts["https_port"])
    return Lane(FileOptions(folder / "uploads", folder / "spool", way, BLOCK))


def parcel(payload: bytes, name: str = "clip") -> FileParcel:
    return FileParcel(name, payload, None, Telemetry("m", b""))


def _cut_half_way(
    lane: Lane, payload: bytes, credentials: HubCredentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends there."""
    put_block = UploadCalls.put_block

    def cut(platform: Any, journal: Any, number: int, block: bytes) -> None:
        if number == BLOCKS // 2:
            raise HubUnreachable("cut")
        put_block(platform, journal, number, block)

    with monkeypatch.context() as patch:
        patch.setattr(UploadCalls, "put_block", cut)
        assert isinstance(lane.upload(parcel(payload), credentials), UploadFailed)


def states(cloud: Cloud) -> list[str]:
    return [upload["state"] for upload in uploads(cloud)]


def test_a_file_that_takes_longer_than_its_address_lives_is_not_begun_again(
    cloud: Cloud, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow line it never came to its end: each address expired in the midst of the file."""
    monkeypatch.setattr(upload_journal, "ADDRESS_LIFE_S", 0.3)
    cloud.faults(http={"PUT /uploads": {"delay_s": 0.1}})
    payload = os.urandom(BLOCKS * BLOCK)
    assert isinstance(lane.upload(parcel(payload), register(cloud)), Uploaded)
    assert list(blobs(cloud).values()) == [payload]
    assert lane.blocks == BLOCKS, "blocks that the storage had were sent again"
    assert states(cloud)[-1] == "succeeded" and set(states(cloud)[:-1]) == {"failed"}
    assert len(states(cloud)) > 2


@pytest.mark.parametrize("status", [401, 503])
def test_an_outage_longer_than_an_address_lives_costs_no_block_of_a_file(
    cloud: Cloud, lane: Lane, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """The old address was forgotten before there was another one: the file began anew with block 0."""
    credentials, payload = register(cloud), os.urandom(BLOCKS * BLOCK)
    _cut_half_way(lane, payload, credentials, monkeypatch)
    cloud.faults(http={"POST /devices": {"status": status}})
    monkeypatch.setattr(upload_journal, "ADDRESS_LIFE_S", 0.0)
    for _ in range(2):
        assert isinstance(lane.upload(parcel(payload), credentials), UploadFailed)
    monkeypatch.setattr(upload_journal, "ADDRESS_LIFE_S", 3_000.0)
    cloud.no_faults()
    lane.seen.clear()
    assert isinstance(lane.upload(parcel(payload), credentials), Uploaded)
    assert lane.blocks == BLOCKS - BLOCKS // 2, "blocks that the storage had were sent again"
    assert list(blobs(cloud).values()) == [payload]


@pytest.mark.parametrize(("status", "told"), [(403, ["failed", "succeeded"]), (503, ["succeeded"])])
def test_a_refusal_in_the_midst_costs_one_block_and_not_the_file(
    cloud: Cloud, lane: Lane, status: int, told: list[str]
) -> None:
    """A refused address is replaced by another for the same blob; a busy storage is asked again."""
    credentials, payload = register(cloud), os.urandom(BLOCKS * BLOCK)
    refused: dict[str, Any] = {"PUT /uploads": {"status": status, "times": 1}}
    lane.before_block(3, lambda: cloud.faults(http=refused))
    lane.files.begin(1, parcel(payload), credentials)
    failed = lane.ended()
    assert isinstance(failed, UploadFailed) and not failed.final
    assert isinstance(lane.upload(parcel(payload), credentials), Uploaded)
    assert lane.blocks == BLOCKS + 1, "what was refused went out, too: no budget was charged for it"
    assert (list(blobs(cloud).values()), states(cloud)) == ([payload], told)


@pytest.mark.parametrize("way", [trickle_headers, trickle_body, hang])
@pytest.mark.parametrize("who", ["the hub", "the storage"])
def test_who_answers_a_byte_at_a_time_does_not_hold_a_place_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch, who: str, way: Any
) -> None:
    """Each byte came within the time for a read: two such files, and no other was uploaded any more."""
    monkeypatch.setattr(https_api, "ANSWER_S", 0.3)
    with scripted(folder) as server:
        host, _, port = server.instance.partition(":")
        address = {"correlationId": "c", "hostName": server.instance, "containerName": "files"}

        def answer(asked: Asked) -> Says:
            if asked.method == "POST" and who == "the storage":
                return Says(body={**address, "blobName": "clip", "sasToken": "?sig=x"})
            return Says(raw=way)

        server.answer = answer
        lane = Lane(FileOptions(folder / "uploads", folder, HttpsRoute(server.ca_file, int(port)), BLOCK))
        failed = lane.upload(parcel(b"1"), HubCredentials(host, "dev-1", 1, sas=Secret("sas")), within_s=3)
    assert isinstance(failed, UploadFailed), failed
    assert failed.reason.startswith(f"{host}:{port}: no complete answer within"), failed


def test_a_hub_that_gives_nobody_an_address_costs_time_and_no_message(cloud: Cloud, lane: Lane) -> None:
    """No storage at the hub (400, as if it were the file's fault): every file went to quarantine at once."""
    credentials = register(cloud)
    cloud.faults(http={"POST /devices": {"status": 400, "times": 2}})
    failed = lane.upload(parcel(b"film"), credentials)
    assert isinstance(failed, UploadFailed) and not failed.final, failed
    assert isinstance(lane.upload(parcel(b"film"), credentials), Uploaded)


def test_a_name_that_the_hub_refuses_while_it_takes_others_is_set_aside(cloud: Cloud, lane: Lane) -> None:
    cloud.faults(http={"POST /devices": {"status": 400, "times": 1}})
    failed = lane.upload(parcel(b"film"), register(cloud))
    assert isinstance(failed, UploadFailed) and failed.final, failed
    assert states(cloud) == ["failed"], "the control was left open"
    assert blobs(cloud) == {}


def test_a_storage_that_refuses_a_file_is_believed_the_third_time(cloud: Cloud, lane: Lane) -> None:
    """409 while a container is made anew, a proxy's 400: the message went to quarantine at the first one."""
    credentials = register(cloud)
    cloud.faults(http={"PUT /uploads": {"status": 409, "times": 2}})
    for _ in range(2):
        failed = lane.upload(parcel(b"film"), credentials)
        assert isinstance(failed, UploadFailed) and not failed.final, failed
    assert isinstance(lane.upload(parcel(b"film"), credentials), Uploaded)
    cloud.faults(http={f"PUT /uploads/{credentials.device_id}/other": {"status": 409}})
    ended = [lane.upload(parcel(b"film", "other"), credentials, 2) for _ in range(3)]
    assert [isinstance(end, UploadFailed) and end.final for end in ended] == [False, False, True]
    assert "open" not in states(cloud)


def test_a_storage_that_refuses_every_file_costs_time_and_no_file(cloud: Cloud, lane: Lane) -> None:
    """A container that is made anew takes half a minute: each file went to quarantine after a few seconds."""
    credentials = register(cloud)
    cloud.faults(http={"PUT /uploads": {"status": 409}})
    for _ in range(5):
        failed = lane.upload(parcel(b"film"), credentials)
        assert isinstance(failed, UploadFailed) and not failed.final, failed
    cloud.faults(http={"PUT /uploads": None})
    assert isinstance(lane.upload(parcel(b"film"), credentials), Uploaded)
    assert "open" not in states(cloud), "a control was left open"
    assert list(blobs(cloud).values()) == [b"film"]


@pytest.mark.parametrize("status", [400, 412])
def test_a_file_whose_block_list_is_never_taken_is_not_uploaded_for_ever(folder: Path, status: int) -> None:
    """As if the blocks were lost each time: the whole file went again and again, over a link that costs."""
    with scripted(folder) as server:
        host, _, port = server.instance.partition(":")

        def answer(asked: Asked) -> Says:
            if asked.method == "PUT":
                return Says(status if "comp=blocklist" in asked.path else 201)
            name = asked.body.get("blobName", "")
            address = {"hostName": server.instance, "containerName": "files", "sasToken": "?sig=x"}
            return Says(body={"correlationId": "c", "blobName": name, **address})

        server.answer = answer
        lane = Lane(FileOptions(folder / "uploads", folder, HttpsRoute(server.ca_file, int(port)), BLOCK))
        credentials = HubCredentials(host, "dev-1", 1, sas=Secret("sas"))
        ended = [lane.upload(parcel(b"film"), credentials) for _ in range(3)]
    assert [isinstance(end, UploadFailed) and end.final for end in ended] == [False, False, True]


def test_an_address_that_is_none_is_asked_for_again(cloud: Cloud, lane: Lane) -> None:
    credentials = register(cloud)
    for body in ("<html>", "{}", "[]"):
        cloud.faults(http={"POST /devices": {"status": 200, "body": body, "times": 1}})
        failed = lane.upload(parcel(b"film"), credentials)
        assert failed == UploadFailed(1, "the hub gave no address for the file"), failed
    assert isinstance(lane.upload(parcel(b"film"), credentials), Uploaded)


def test_a_file_without_content_arrives(cloud: Cloud, lane: Lane, folder: Path) -> None:
    """The storage takes no block of 0 bytes: the message went to quarantine."""
    (folder / "spool").mkdir()
    (folder / "spool" / "empty").touch()
    nothing = FileParcel("empty", b"", "empty", Telemetry("m", b""))
    assert isinstance(lane.upload(nothing, register(cloud)), Uploaded), lane.seen
    assert list(blobs(cloud).values()) == [b""]
    assert states(cloud) == ["succeeded"]


def test_who_may_not_use_the_link_gives_up_its_place_and_goes_on_later_and_the_urgent_pass(
    cloud: Cloud, lane: Lane
) -> None:
    """A file of the backlog held its place through the closed hours, and an urgent one waited for it."""
    credentials, payload = register(cloud), os.urandom(BLOCKS * BLOCK)
    lane.before_block(3, lambda: lane.files.set_permit(FilePermit.URGENT))
    lane.files.begin(1, parcel(payload), credentials)
    barred = lane.ended()
    assert isinstance(barred, UploadFailed) and not barred.final
    assert lane.blocks == 3
    lane.seen, before = [], lane.blocks
    lane.files.begin(2, parcel(b"fire", "alarm"), credentials, urgent=True)
    eventually(lambda: list(blobs(cloud).values()) == [b"fire"])
    eventually(lambda: [event.id for event in lane.files.drain() if isinstance(event, Uploaded)] == [2])
    lane.files.set_permit(FilePermit.ALL)
    assert isinstance(lane.upload(parcel(payload), credentials), Uploaded)
    assert before + lane.blocks == BLOCKS
    assert set(blobs(cloud).values()) == {b"fire", payload}


def test_a_hub_that_cannot_hear_of_the_success_does_not_get_the_file_again(cloud: Cloud, lane: Lane) -> None:
    credentials, payload = register(cloud), os.urandom(BLOCKS * BLOCK)
    told = f"POST /devices/{credentials.device_id}/files/notifications"
    cloud.faults(http={told: {"status": 503, "times": 1}})
    assert isinstance(lane.upload(parcel(payload), credentials), UploadFailed)
    assert isinstance(lane.upload(parcel(payload), credentials), Uploaded)
    assert (lane.blocks, states(cloud)) == (BLOCKS, ["succeeded"])


def test_blocks_that_the_storage_has_lost_are_sent_again(cloud: Cloud, lane: Lane, folder: Path) -> None:
    credentials, payload = register(cloud), os.urandom(BLOCKS * BLOCK)
    cloud.faults(http={"PUT /uploads": {"status": 503, "times": 1}})
    assert isinstance(lane.upload(parcel(payload), credentials), UploadFailed)
    assert isinstance(lane.upload(parcel(payload), credentials), Uploaded)
    path = folder / "uploads" / "2.json"
    journal = checksummed_line.read(folder / "uploads" / "1.json")
    other = parcel(payload, "other")
    address = journal["address"].replace("clip", "other")
    mine = {"state": "open", "blocks": 5, "of": journal["of"].replace("clip", "other"), "address": address}
    checksummed_line.write(path, {**journal, **mine, "began_wall_s": 0.0})
    failed = lane.upload(other, credentials, 2)
    assert isinstance(failed, UploadFailed) and not failed.final, failed
    assert isinstance(lane.upload(other, credentials, 2), Uploaded)
    assert set(blobs(cloud).values()) == {payload} and len(blobs(cloud)) == 2


@pytest.mark.parametrize("reached", [3, BLOCKS])
def test_a_payload_that_is_packed_otherwise_after_a_restart_is_not_mixed_with_what_went_before(
    cloud: Cloud, lane: Lane, reached: int
) -> None:
    """Compression was switched on in between: half of the blob was plain, and the message said brotli."""
    credentials, plain, packed = register(cloud), os.urandom(BLOCKS * BLOCK), os.urandom((BLOCKS - 1) * BLOCK)
    busy: dict[str, Any] = {"PUT /uploads": {"status": 503, "times": 1}}
    if reached < BLOCKS:
        lane.before_block(reached, lambda: cloud.faults(http=busy))
    lane.files.begin(1, parcel(plain), credentials)
    assert isinstance(lane.ended(), Uploaded) is (reached == BLOCKS)
    assert isinstance(lane.upload(parcel(packed), credentials), Uploaded)
    assert list(blobs(cloud).values()) == [packed]
    assert "open" not in states(cloud)


@pytest.mark.parametrize("who", ["another message", "another device"])
def test_a_journal_of_another_is_not_taken_for_this_ones(cloud: Cloud, lane: Lane, who: str) -> None:
    """Ids come round in a store begun anew: the message was told to lie where another's payload does."""
    credentials, old, new = register(cloud), os.urandom(1000), os.urandom(1000)
    assert isinstance(lane.upload(parcel(old), credentials), Uploaded)
    if who == "another device":
        credentials = register(cloud)
    again = lane.upload(parcel(new, "clip" if who == "another device" else "new"), credentials)
    assert isinstance(again, Uploaded)
    assert blobs(cloud)[again.blob_name] == new


def test_a_flipped_bit_in_a_journal_mixes_no_blocks_of_a_file(
    cloud: Cloud, lane: Lane, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks were cut at other places from there on: the blob was another file, and counted as delivered."""
    credentials, payload = register(cloud), os.urandom(BLOCKS * BLOCK)
    _cut_half_way(lane, payload, credentials, monkeypatch)
    journal = folder / "uploads" / "1.json"
    text = journal.read_text()
    assert f'"block_bytes": {BLOCK}' in text
    journal.write_text(text.replace(f'"block_bytes": {BLOCK}', f'"block_bytes": {BLOCK - 4}'))
    ended = lane.upload(parcel(payload), credentials)
    assert isinstance(ended, Uploaded), ended
    assert list(blobs(cloud).values()) == [payload]


def spooled(folder: Path, name: str) -> FileParcel:
    (folder / "spool").mkdir(exist_ok=True)
    return FileParcel(name, b"", name, Telemetry("m", b""))


def test_a_journal_that_cannot_be_kept_costs_an_attempt_and_no_message(
    cloud: Cloud, lane: Lane, folder: Path
) -> None:
    """A file where its folder was: the payload was called gone, and the message went to quarantine."""
    credentials, clip = register(cloud), spooled(folder, "clip")
    (folder / "spool" / "clip").write_bytes(b"film")
    (folder / "uploads").write_bytes(b"")
    failed = lane.upload(clip, credentials)
    assert isinstance(failed, UploadFailed) and not failed.final, failed
    (folder / "uploads").unlink()
    assert isinstance(lane.upload(clip, credentials), Uploaded), "the folder comes back by itself"


def test_an_upload_that_cannot_be_written_down_is_not_left_open(
    cloud: Cloud, lane: Lane, folder: Path
) -> None:
    """On a full disk each attempt opened one more, until the hub allowed no further ones."""
    credentials = register(cloud)
    (folder / "uploads" / "1.new").mkdir(parents=True)
    failed = lane.upload(parcel(b"film"), credentials)
    assert isinstance(failed, UploadFailed) and not failed.final, failed
    assert states(cloud) == ["failed"]


def test_a_refusal_that_cannot_be_written_down_does_not_hold_the_stream_for_ever(
    cloud: Cloud, lane: Lane, folder: Path
) -> None:
    """The disk was full when the storage refused: the thread died, and nobody heard of it."""
    cloud.faults(http={"PUT /uploads": {"status": 403, "delay_s": 1.0, "times": 1}})
    lane.files.begin(1, parcel(b"film"), register(cloud))
    eventually(lambda: (folder / "uploads" / "1.json").exists())
    (folder / "uploads").rename(folder / "away")
    (folder / "uploads").write_bytes(b"")
    eventually(lambda: lane.files.drain())


def test_a_file_that_cannot_be_read_is_set_aside_in_the_end(
    cloud: Cloud, lane: Lane, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad sector below a spooled file: its stream waited for ever."""
    credentials, clip = register(cloud), spooled(folder, "clip")
    (folder / "spool" / "clip").mkdir()  # opens, and fails to be read
    failed = lane.upload(clip, credentials)
    assert isinstance(failed, UploadFailed) and not failed.final, failed
    monkeypatch.setattr(files_adapter, "UNREADABLE_S", 0.0)
    failed = lane.upload(clip, credentials)
    assert isinstance(failed, UploadFailed) and failed.final, failed
    assert "clip cannot be read" in failed.reason
    assert "open" not in states(cloud)


def test_a_file_that_is_gone_is_named(cloud: Cloud, lane: Lane, folder: Path) -> None:
    failed = lane.upload(spooled(folder, "clip"), register(cloud))
    assert failed == UploadFailed(1, "the file is gone: clip", final=True)
    assert "open" not in states(cloud)


def test_a_journal_that_cannot_be_removed_ends_nobody(lane: Lane, folder: Path) -> None:
    """At each start upload swept it away, and died of that: nothing was delivered any more."""
    (folder / "uploads" / "7.json").mkdir(parents=True)
    for id in lane.files.known():
        lane.files.forget(id, None)
    assert lane.files.known() == [7]
