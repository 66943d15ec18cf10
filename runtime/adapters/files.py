"""File upload: large payloads go over HTTPS in blocks, and the hub is told how it went.

Invariants:

1. An upload that was begun is ended: the hub hears of success *and* failure. An open one blocks the next.
2. The journal (`state/uploads/<id>.json`, 0600: it holds the address with its SAS) is written before what it
   speaks of is relied on. After a crash an upload goes on with the block it had reached, or is told failed.
   So it does where the address expires: the storage keeps blocks, and the next address is for the same blob.
3. One block of each upload is in memory, whatever the size of the file.
4. Nothing blocks the caller: each upload has a thread, results come by `take()`, `fileno()` wakes.

    begin --address--> blocks ... --block list--> committed --notify--> done --link delivered--> forget
"""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
from loguru import logger

from runtime.adapters import checked_line
from runtime.adapters.file_gate import Barred, Gate
from runtime.adapters.hub_https import HttpsWay, HubHttps, Refused
from runtime.adapters.tidings import Tidings
from runtime.core.credentials import HubCredentials
from runtime.core.envelope import FileParcel
from runtime.core.link import Passage

ADDRESS_LIFE_S = 3_000.0
"""An address lives about an hour; ten minutes are kept for the last block."""
UNREADABLE_S = 120.0
"""A file that cannot be read for so long is set aside: its stream must not wait for ever."""
REFUSALS = 3
"""So often the storage has to refuse a file, at an address each, and then to take another, to be believed."""
CONTROL_NAME = "control"
"""Asked for where another file was refused: no blob ever comes to be under it."""
_WEATHER = (408, 429, 500, 502, 503, 504)
"""Refusals that are not about us: it goes on from there."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The payload is in the cloud under this name."""

    id: int
    blob_name: str
    device_id: str
    """Whose it is."""


@dataclass(frozen=True, slots=True)
class UploadFailed:
    """It is not, and the hub was told so if it could be reached."""

    id: int
    reason: str
    for_good: bool = False
    """It would fail the same way again."""
    quota: bool = False
    """The hub's daily quota is used up."""
    retry_after_s: float | None = None
    barred: bool = False
    """Nothing failed: the link may not be used for it now."""


@dataclass(frozen=True, slots=True)
class BlockSent:
    """So many bytes went out, whether the storage kept them or not."""

    id: int
    bytes: int


FileEvent = Uploaded | UploadFailed | BlockSent


@dataclass(frozen=True)
class FileOptions:
    """Where things lie, and the way to the hub's HTTPS side."""

    journal: Path
    spool: Path
    way: HttpsWay
    block_bytes: int = 1_048_576


@dataclass(slots=True)
class _Journal:
    """What is known of one upload."""

    correlation_id: str
    address: str
    blob_name: str
    block_bytes: int
    blocks: int = 0
    """Blocks that the storage has."""
    began_wall_s: float = 0.0
    state: str = "open"
    """open, committed (the blob is whole), done (and the hub knows)."""
    of: str = ""
    """Whose it is: the device, the name asked for, and the payload's fingerprint. An id may come round when a
    store is begun anew, and blocks of a compressed payload do not go with blocks of a plain one."""

    def is_young(self) -> bool:
        """Whether its address counts. Where the clock jumped it does not: another one is cheap."""
        return 0 <= time.time() - self.began_wall_s < ADDRESS_LIFE_S

    def same_blob(self, other: _Journal) -> bool:
        """Whether blocks that went to the other address are of this one's blob."""
        return self.of == other.of and self.address.partition("?")[0] == other.address.partition("?")[0]


class Files(Tidings[FileEvent]):
    """All uploads of this process."""

    def __init__(self, options: FileOptions) -> None:
        super().__init__()
        self._options = options
        self._gate = Gate()
        self._unreadable: dict[int, float] = {}
        self._refusals: dict[int, int] = {}

    def let(self, passage: Passage) -> None:
        """Who may go on with a further block. An upload that may not ends, and goes on from there later."""
        self._gate.let(passage)

    def begin(
        self, id: int, parcel: FileParcel, credentials: HubCredentials, *, urgent: bool = False
    ) -> None:
        """Upload, or go on with what a process before us began."""
        upload = _Upload(id, parcel, _Platform(self._options, credentials), self._options, self._tell)
        upload.may_go_on = functools.partial(self._gate.enter, urgent)
        upload.unreadable, upload.refusals = self._unreadable, self._refusals
        upload.device_id = credentials.device_id
        upload.of = f"{credentials.device_id}/{parcel.blob_name}/{parcel.fingerprint()}"
        threading.Thread(target=upload.run, name=f"upload-{id}", daemon=True).start()

    def forget(self, id: int, credentials: HubCredentials | None) -> None:
        """The message has left: its journal goes, and an upload that is still open is ended as failed."""
        self._unreadable.pop(id, None)
        self._refusals.pop(id, None)
        path = self._options.journal / f"{id}.json"
        journal = _read(path)
        path.unlink(missing_ok=True)
        if journal is not None and journal.state != "done" and credentials is not None:
            told = (self._options, credentials, journal)
            threading.Thread(target=_tell_given_up, args=told, name=f"forget-{id}", daemon=True).start()

    def known(self) -> list[int]:
        """Messages with a journal, of this process or one before."""
        return [int(path.stem) for path in self._options.journal.glob("*.json") if path.stem.isdigit()]


def _tell_given_up(options: FileOptions, credentials: HubCredentials, journal: _Journal) -> None:
    with contextlib.closing(_Platform(options, credentials)) as platform:
        platform.tell_failure(journal, "given up")


class _NameRefused(Refused):
    """The hub gives addresses, and none for this file."""


class _Unreadable(Exception):
    """The file in the spool cannot be read."""

    def __init__(self, name: str, why: OSError) -> None:
        self.gone = isinstance(why, FileNotFoundError)
        super().__init__(
            f"the file is gone: {name}" if self.gone else f"file {name} cannot be read: {why.strerror}"
        )


class _Platform:
    """The calls that one upload takes."""

    def __init__(self, options: FileOptions, credentials: HubCredentials) -> None:
        self._hub = HubHttps(options.way, credentials)

    def close(self) -> None:
        """Give the connections back."""
        self._hub.close()

    def address(self, blob_name: str, block_bytes: int) -> _Journal:
        """Ask for an address to write to. Raises _NameRefused where the hub gives one for another name."""
        try:
            return self._ask(blob_name, block_bytes)
        except Refused as exc:
            if exc.status == 400 and self.takes_another():
                raise _NameRefused(exc.what, exc.answer) from exc
            raise

    def _ask(self, blob_name: str, block_bytes: int) -> _Journal:
        answer = self._hub.post("/files", "file upload", {"blobName": blob_name})
        try:
            body = json.loads(answer)
            name = quote(body["blobName"], safe="/")
            address = f"https://{body['hostName']}/{body['containerName']}/{name}{body['sasToken']}"
            correlation_id = body["correlationId"]
        except (ValueError, LookupError, TypeError) as exc:
            raise OSError("the hub gave no address for the file") from exc
        return _Journal(correlation_id, address, body["blobName"], block_bytes, began_wall_s=time.time())

    def takes_another(self, block: bytes = b"") -> bool:
        """The control to a refusal: a hub without a storage, or a storage that is away, refuses everybody.

        With `block` the storage has to take it, too: it keeps none for long that no list makes a blob of.
        """
        with contextlib.suppress(OSError, Refused):
            other = self._ask(CONTROL_NAME, 0)
            try:
                if block:
                    self.put_block(other, 0, block)
                return True
            finally:
                self.tell_failure(other, "nothing was to be uploaded")
        return False

    def put_block(self, journal: _Journal, number: int, block: bytes) -> None:
        more = f"&comp=block&blockid={quote(_block_id(number), safe='')}"
        answer = self._hub.put(journal.address + more, block)
        if answer.status != 201:
            raise Refused(f"block {number}", answer)

    def commit(self, journal: _Journal) -> None:
        """Make a blob of the blocks."""
        ids = "".join(f"<Latest>{_block_id(number)}</Latest>" for number in range(journal.blocks))
        text = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{ids}</BlockList>'
        headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/xml"}
        answer = self._hub.put(journal.address + "&comp=blocklist", text.encode(), headers)
        if answer.status != 201:
            raise Refused("block list", answer)

    def tell_success(self, journal: _Journal) -> None:
        self._notify(journal, True, 200, "uploaded")

    def tell_failure(self, journal: _Journal, reason: str) -> None:
        """As far as the hub can be reached; an address that nobody hears of expires by itself."""
        with contextlib.suppress(requests.RequestException, Refused):
            self._notify(journal, False, 500, reason[:200])

    def _notify(self, journal: _Journal, succeeded: bool, status: int, words: str) -> None:
        body = {
            "correlationId": journal.correlation_id,
            "isSuccess": succeeded,
            "statusCode": status,
            "statusDescription": words,
        }
        self._hub.post("/files/notifications", "notification", body)


class _Upload:
    """One upload, in its thread."""

    may_go_on: Callable[[], None]
    unreadable: dict[int, float]
    """Uploads whose file in the spool could not be read, and since when."""
    refusals: dict[int, int]
    """How often the storage has refused uploads."""
    device_id: str
    of: str

    def __init__(
        self, id: int, parcel: FileParcel, platform: _Platform, options: FileOptions, tell: Any
    ) -> None:
        self._id = id
        self._parcel = parcel
        self._platform = platform
        self._options = options
        self._tell = tell
        self._path = options.journal / f"{id}.json"
        self._journal = _read(self._path)

    def run(self) -> None:
        """Until it is done or has failed; nothing escapes but as an event."""
        try:
            with contextlib.closing(self._platform):
                ended = self._ended()
            self._tell(ended)
        except requests.RequestException as exc:  # the journal stays: it goes on from there
            self._tell(UploadFailed(self._id, type(exc).__name__))
        except OSError as exc:  # the disk is full, or the like
            self._tell(UploadFailed(self._id, str(exc)))
        except Exception as exc:  # any at all: a thread that dies silently would hold its stream for ever
            logger.exception("upload of message {}", self._id)
            self._tell(UploadFailed(self._id, repr(exc)))

    def _ended(self) -> FileEvent:
        """Done, refused, or without its file; what else happens is the weather's, and escapes."""
        try:
            return Uploaded(self._id, self._upload().blob_name, self.device_id)
        except Refused as exc:
            for_good = isinstance(exc, _NameRefused) or self._refused(exc)
            return UploadFailed(self._id, str(exc), for_good, exc.quota, exc.retry_after_s)
        except Barred:  # its place is for one that may go on
            return UploadFailed(self._id, "the link may not be used for it now", barred=True)
        except _Unreadable as exc:
            since_s = self.unreadable.setdefault(self._id, time.monotonic())
            for_good = exc.gone or time.monotonic() - since_s >= UNREADABLE_S
            if for_good:
                self._give_up(str(exc))
            return UploadFailed(self._id, str(exc), for_good)

    def _upload(self) -> _Journal:
        self._options.journal.mkdir(mode=0o700, parents=True, exist_ok=True)
        journal = self._current()
        if journal.state == "open":
            for number, block in self._blocks(journal):
                self.may_go_on()
                journal = self._current()
                self._put(journal, number, block)
                journal.blocks = number + 1
                self._save()
            self._platform.commit(journal)
            journal.state = "committed"
            self._save()
        if journal.state == "committed":
            try:
                self._platform.tell_success(journal)
            except Refused as exc:
                if exc.status not in (400, 404):  # the hub has closed it already; the blob is whole
                    raise
            journal.state = "done"
            self._save()
        return journal

    def _put(self, journal: _Journal, number: int, block: bytes) -> None:
        sent = BlockSent(self._id, len(block))
        try:
            self._platform.put_block(journal, number, block)
        except Refused:
            self._tell(sent)
            raise
        self._tell(sent)

    def _current(self) -> _Journal:
        """The upload to go on with; one whose address is too old is ended first.

        It is forgotten only for the next one: while there is no other address, what the storage has is known.
        """
        if self._journal is not None and self._journal.of != self.of:
            self._give_up("it belongs to another message, device or payload")
        before = self._journal
        if before is not None and (before.state != "open" or before.is_young()):
            return before
        if before is not None:
            self._platform.tell_failure(before, "the address has expired")
        self._journal = None  # not on disk: who is refused an address is not refused the file
        fresh = self._platform.address(self._parcel.blob_name, self._options.block_bytes)
        fresh.of = self.of
        if before is not None and fresh.same_blob(before):
            fresh.blocks, fresh.block_bytes = before.blocks, before.block_bytes
        self._journal = fresh
        try:
            self._save()
        except OSError:  # unknown to a later life it would stay open
            self._platform.tell_failure(fresh, "the disk is full")
            raise
        return fresh

    def _blocks(self, journal: _Journal) -> Iterator[tuple[int, bytes]]:
        """The blocks that are still to be sent; an empty payload has none, and its list names none."""
        step, number = journal.block_bytes, journal.blocks
        if self._parcel.file is None:
            payload = self._parcel.payload
            while number * step < len(payload):
                yield number, payload[number * step : (number + 1) * step]
                number += 1
            return
        with _reading(self._parcel.file):
            file = _open(self._options.spool / self._parcel.file)
        with file:
            file.seek(number * step)
            while True:
                with _reading(self._parcel.file):
                    block = file.read(step)
                if not block:
                    return
                self.unreadable.pop(self._id, None)
                yield number, block
                number += 1

    def _refused(self, exc: Refused) -> bool:
        """What the storage has stays, if it only was the weather; a refused address is replaced next time.

        Else all of it is sent again, as where the storage has lost blocks. Whether it would be refused again.
        """
        journal = self._journal
        if journal is None or journal.state != "open" or exc.status in _WEATHER:
            return False
        if exc.status == 403:
            journal.began_wall_s = 0.0
            self._save()
            return False
        self._give_up(str(exc))
        self.refusals[self._id] = self.refusals.get(self._id, 0) + 1
        return self.refusals[self._id] >= REFUSALS and self._platform.takes_another(b"control")

    def _give_up(self, reason: str) -> None:
        if self._journal is not None and self._journal.state == "open":
            self._platform.tell_failure(self._journal, reason)
        self._path.unlink(missing_ok=True)
        self._journal = None

    def _save(self) -> None:
        assert self._journal is not None
        fresh = self._path.with_suffix(".new")
        checked_line.write(fresh, asdict(self._journal))
        fresh.replace(self._path)


def _read(path: Path) -> _Journal | None:
    """A journal, or None where there is none that can be used."""
    try:
        return _Journal(**checked_line.read(path))
    except TypeError:
        return None


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Tells errors of the spool from those of the network and of the journal."""
    try:
        yield
    except OSError as exc:
        raise _Unreadable(name, exc) from exc


def _open(path: Path) -> FileIO:
    return FileIO(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")


def _block_id(number: int) -> str:
    return base64.b64encode(f"{number:08d}".encode()).decode()
