"""File upload: large payloads go over HTTPS in blocks, and the hub is told the result.

Invariants:

1. An upload that was begun is ended: the hub is notified of success *and* failure. An open one blocks the
   next.
2. The journal (`state/uploads/<id>.json`, 0600: it holds the SAS URI) is written before its content is relied
   on. After a crash an upload goes on with the block it had reached, or is reported as failed. So it does
   where the SAS URI expires: the storage keeps blocks, and the next SAS URI is for the same blob.
3. One block of each upload is in memory, whatever the size of the file.
4. Nothing blocks the caller: each upload has a thread, results come by `drain()`, `fileno()` wakes.

begin --SAS URI--> blocks ... --block list--> committed --notify--> done --link delivered--> forget
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from loguru import logger

from runtime.adapters.hub import upload_journal
from runtime.adapters.hub.event_queue import EventQueue
from runtime.adapters.hub.https_api import HttpsRoute, HubRefusedCall, HubUnreachable, SwitchedOff
from runtime.adapters.hub.payloads import Payload, Replaced, Unreadable, difference, digest_with, opened
from runtime.adapters.hub.resume_journal import same_destination
from runtime.adapters.hub.upload_calls import NameRefused, UploadCalls
from runtime.adapters.hub.upload_journal import Journal
from runtime.adapters.process.threads import start_thread
from runtime.core.delivery.envelope import FileParcel
from runtime.core.delivery.link_budget import FilePermit
from runtime.core.identity.credentials import HubCredentials
from runtime.core.log_events import LogEvent

UNREADABLE_S = 120.0
"""A file that cannot be read for this long is set aside: its stream must not wait for ever."""
REFUSALS = 3
"""Refusals (each at a fresh SAS URI, each followed by a successful control upload) before a file is set
aside."""
CHANGES = 3
"""A file that was changed during this many attempts in a row is set aside."""
_TRANSIENT = (408, 429, 500, 502, 503, 504)
"""Refusals that are not about the upload: it goes on from where it was."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The payload is in the cloud under this name."""

    id: int
    blob_name: str
    destination: str
    """The hub and the device to which it belongs."""


@dataclass(frozen=True, slots=True)
class UploadFailed:
    """The payload is not in the cloud, and the hub was told so if it could be reached."""

    id: int
    reason: str
    final: bool = False
    """True if it would fail the same way again."""
    quota: bool = False
    """True if the hub's daily quota is used up."""
    retry_after_s: float | None = None
    barred: bool = False
    """True if nothing failed: the link may not be used for it now."""


class Barred(Exception):
    """The link may not be used for this file now."""


class FileGate:
    """Gate at which the thread of each upload waits until the link may be used for its next block."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._permit = FilePermit.ALL

    def set_permit(self, permit: FilePermit) -> None:
        """Set the permit: which files may go on from now on."""
        if permit is not self._permit:
            with self._changed:
                self._permit = permit
                self._changed.notify_all()

    def enter(self, urgent: bool) -> None:
        """Wait for permission. Raises Barred where there is none."""
        with self._changed:
            self._changed.wait_for(lambda: urgent or self._permit is not FilePermit.SOON)
            if self._permit is FilePermit.NONE or (self._permit is FilePermit.URGENT and not urgent):
                raise Barred


@dataclass(frozen=True, slots=True)
class BlockSent:
    """These bytes went out, whether the storage kept them or not."""

    id: int
    bytes: int


@dataclass(frozen=True, slots=True)
class HubCalled:
    """The hub took so many calls for this file, which it bills as messages."""

    id: int
    calls: int


FileEvent = Uploaded | UploadFailed | BlockSent | HubCalled


@dataclass(frozen=True)
class FileOptions:
    """Folders of journals and spooled files, and the route to the hub's HTTPS side."""

    journal: Path
    spool: Path
    route: HttpsRoute
    block_bytes: int = 1_048_576


@dataclass(slots=True)
class _Trouble:
    """Failures of one message, over all attempts of this process."""

    unreadable_since_s: float | None = None
    refusals: int = 0
    """Refusals by the storage."""
    changes: int = 0


@dataclass(frozen=True)
class _Task:
    """One attempt: the payload, its route, and the failures of the message so far."""

    id: int
    parcel: FileParcel
    destination: str
    calls: UploadCalls
    options: FileOptions
    may_go_on: Callable[[], None]
    """Waits for permission for the next block. Raises Barred."""
    publish: Callable[[FileEvent], None]
    trouble: _Trouble = field(default_factory=_Trouble)

    @property
    def of(self) -> str:
        return f"{self.destination}/{self.parcel.blob_name}/{self.parcel.fingerprint()}"


class FileUploader(EventQueue[FileEvent]):
    """All file uploads of this process."""

    def __init__(self, options: FileOptions) -> None:
        super().__init__()
        self._options = options
        self._gate = FileGate()
        self._off = False
        self._troubles: dict[int, _Trouble] = {}
        self._at_work: set[UploadCalls] = set()
        """Touched by the uploads' threads: each operation on it is a single one."""

    def set_permit(self, permit: FilePermit, *, off: bool = False) -> None:
        """Set which uploads may send a further block. Any other ends, and goes on from there later.

        `off`: the kill switch. It also cuts the blocks under way, and the hub is not told of the uploads
        given up.
        """
        self._gate.set_permit(permit)
        self._off = off
        if off:
            for calls in self._at_work.copy():
                calls.stop()

    def begin(
        self, id: int, parcel: FileParcel, credentials: HubCredentials, *, urgent: bool = False
    ) -> None:
        """Upload, or go on with an upload that an earlier process began."""
        calls = UploadCalls(self._options.route, credentials)
        self._at_work.add(calls)
        enter = functools.partial(self._gate.enter, urgent)
        trouble = self._troubles.setdefault(id, _Trouble())
        destination = credentials.destination
        task = _Task(id, parcel, destination, calls, self._options, enter, self._publish, trouble)
        try:
            start_thread(self._work, f"upload-{id}", task)
        except BlockingIOError as exc:
            self._at_work.discard(calls)
            calls.close()
            self._publish(UploadFailed(id, str(exc.strerror)))

    def _work(self, task: _Task) -> None:
        """Run one attempt; every outcome becomes an event."""
        try:
            with contextlib.closing(task.calls):
                ended: FileEvent = _Upload(task).ended()
        except HubUnreachable as exc:  # the journal stays: the upload goes on from there
            ended = UploadFailed(task.id, str(exc), barred=isinstance(exc, SwitchedOff))
        except OSError as exc:  # for example, the disk is full
            ended = UploadFailed(task.id, str(exc))
        except Exception as exc:  # any at all: a thread that dies silently would hold its stream for ever
            logger.bind(event=LogEvent.FILE_UPLOAD_BUG).exception("upload of message {}", task.id)
            ended = UploadFailed(task.id, repr(exc))
        self._at_work.discard(task.calls)
        if task.calls.billed:
            self._publish(HubCalled(task.id, task.calls.billed))
        self._publish(ended)

    def forget(self, id: int, credentials: HubCredentials | None) -> None:
        """The message has left: delete its journal, and end an upload that is still open as failed."""
        self._troubles.pop(id, None)
        path = self._options.journal / f"{id}.json"
        journal = upload_journal.read(path)
        with contextlib.suppress(OSError):  # removed at a later start
            path.unlink(missing_ok=True)
        if journal is None or journal.state == "done" or credentials is None or self._off:
            return  # its SAS URI expires without a notification
        arguments = (self._options.route, credentials, journal)
        with contextlib.suppress(BlockingIOError):  # its SAS URI expires without a notification
            start_thread(_report_given_up, f"forget-{id}", *arguments)

    def known(self) -> list[int]:
        """Messages with a journal, of this process or an earlier one."""
        return [int(path.stem) for path in self._options.journal.glob("*.json") if path.stem.isdigit()]


def _report_given_up(route: HttpsRoute, credentials: HubCredentials, journal: Journal) -> None:
    with contextlib.closing(UploadCalls(route, credentials)) as calls:
        calls.report_failure(journal, "given up")


class _Changed(Exception):
    """The blocks that were sent differ from the file's content."""


class _Upload:
    """One attempt at one upload, in its thread."""

    def __init__(self, task: _Task) -> None:
        self._task = task
        self._calls = task.calls
        self._path = task.options.journal / f"{task.id}.json"
        self._journal = upload_journal.read(self._path)

    def ended(self) -> FileEvent:
        """The result: done, refused, or without its file. Errors that may pass escape."""
        id, trouble = self._task.id, self._task.trouble
        try:
            return Uploaded(id, self._upload().blob_name, self._task.destination)
        except HubRefusedCall as exc:
            final = isinstance(exc, NameRefused) or self._refused(exc)
            return UploadFailed(id, str(exc), final, exc.quota, exc.retry_after_s)
        except Barred:  # its place is for an upload that may go on
            return UploadFailed(id, "the link may not be used for it now", barred=True)
        except Unreadable as exc:
            if trouble.unreadable_since_s is None:
                trouble.unreadable_since_s = time.monotonic()
            final = exc.gone or time.monotonic() - trouble.unreadable_since_s >= UNREADABLE_S
            if final:
                self._give_up(str(exc))
            return UploadFailed(id, str(exc), final)
        except Replaced as exc:
            self._give_up(str(exc))
            return UploadFailed(id, str(exc), final=True)
        except _Changed as exc:
            self._give_up(str(exc))
            trouble.changes += 1
            return UploadFailed(id, str(exc), final=trouble.changes >= CHANGES)

    def _upload(self) -> Journal:
        self._task.options.journal.mkdir(mode=0o700, parents=True, exist_ok=True)
        journal = self._current()
        if journal.state == "open":
            journal = self._send()
            self._prove(journal)
            self._calls.commit(journal)
            journal.state = "committed"
            self._save()
        if journal.state == "committed":
            try:
                self._calls.report_success(journal)
            except HubRefusedCall as exc:
                if exc.status not in (400, 404):  # the hub has closed it already; the blob is whole
                    raise
            journal.state = "done"
            self._save()
        return journal

    def _send(self) -> Journal:
        """Send the blocks that the storage does not have; the journal knows all of them then."""
        with opened(self._task.parcel, self._task.options.spool) as payload:
            while True:
                journal = self._current()
                if not journal.goes_on_with(payload.mark):
                    if journal.blocks and journal.digest:
                        logger.bind(event=LogEvent.FILE_CHANGED).warning(
                            "message {}: its file was changed, and is sent from the start", self._task.id
                        )
                    journal.start_over(payload.mark)
                if self._send_from(payload, journal.blocks):
                    return self._current()

    def _send_from(self, payload: Payload, number: int) -> bool:
        """Send the blocks from this number on. False if it was ended by a SAS URI for another blob."""
        journal = self._current()
        for block in payload.blocks(journal.block_bytes, number):
            self._task.trouble.unreadable_since_s = None
            self._task.may_go_on()
            journal = self._current()
            if journal.blocks != number:
                return False
            self._put(journal, number, block)
            number += 1
            journal.blocks = number
            journal.sent_bytes += len(block)
            journal.digest = digest_with(journal.digest, block)
            self._save()
        return True

    def _put(self, journal: Journal, number: int, block: bytes) -> None:
        id = self._task.id
        try:
            self._calls.put_block(journal, number, block)
        except HubUnreachable as exc:
            self._task.publish(BlockSent(id, exc.sent_bytes))
            raise
        except HubRefusedCall:
            self._task.publish(BlockSent(id, len(block)))
            raise
        self._task.publish(BlockSent(id, len(block)))

    def _prove(self, journal: Journal) -> None:
        """Raise _Changed where the blocks together are not the payload."""
        sent = (journal.mark, journal.sent_bytes, journal.block_bytes, journal.digest)
        if wrong := difference(self._task.parcel, self._task.options.spool, *sent):
            raise _Changed(f"file {self._task.parcel.file or self._task.parcel.blob_name}: {wrong}")

    def _current(self) -> Journal:
        """The upload to go on with; one whose SAS URI is too old is ended first.

        It is forgotten only for the next one: until there is another SAS URI, the blocks in the storage are
        known.
        """
        if self._journal is not None and not same_destination(self._journal.of, self._task.of):
            self._give_up("it belongs to another message, device, hub or payload")
        before = self._journal
        if before is not None and (before.state != "open" or before.is_young()):
            return before
        if before is not None:
            self._calls.report_failure(before, "the address has expired")
        self._journal = None  # not on disk: a refused SAS URI is no refused file
        fresh = self._calls.address(self._task.parcel.blob_name, self._task.options.block_bytes)
        fresh.of = self._task.of
        if before is not None and fresh.same_blob(before):
            fresh.go_on_from(before)
        self._journal = fresh
        try:
            self._save()
        except OSError:  # a later process would not know of it, and it would stay open
            self._calls.report_failure(fresh, "the disk is full")
            raise
        return fresh

    def _refused(self, exc: HubRefusedCall) -> bool:
        """True if the file would be refused again.

        Blocks stay in the storage if the refusal may pass; a refused SAS URI is replaced at the next attempt.
        Otherwise all blocks are sent again, as where the storage has lost some.
        """
        journal, trouble = self._journal, self._task.trouble
        if journal is None or journal.state != "open" or exc.status in _TRANSIENT:
            return False
        if exc.status == 403:
            journal.began_wall_s = 0.0
            self._save()
            return False
        self._give_up(str(exc))
        trouble.refusals += 1
        return trouble.refusals >= REFUSALS and self._calls.accepts_control_upload(b"control")

    def _give_up(self, reason: str) -> None:
        if self._journal is not None and self._journal.state == "open":
            self._calls.report_failure(self._journal, reason)
        self._path.unlink(missing_ok=True)
        self._journal = None

    def _save(self) -> None:
        assert self._journal is not None
        upload_journal.write(self._path, self._journal)
