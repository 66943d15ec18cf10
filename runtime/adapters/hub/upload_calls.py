"""HTTPS calls of one file upload: a SAS URI from the hub, blocks to the storage, the result to the hub."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from urllib.parse import quote

from runtime.adapters.hub.https_api import HttpsRoute, HubHttps, HubRefusedCall, HubUnreachable, host_of
from runtime.adapters.hub.upload_journal import Journal
from runtime.core.identity.credentials import HubCredentials

CONTROL_NAME = "control"
"""Name of the control upload where another file was refused: no blob is ever created under it."""


class NameRefused(HubRefusedCall):
    """The hub gives SAS URIs, and none for this file."""


class UploadCalls:
    """The calls of one upload."""

    def __init__(self, route: HttpsRoute, credentials: HubCredentials) -> None:
        self._hub = HubHttps(route, credentials)
        self.billed = 0
        """Calls that the hub took, each of which it bills as a message."""

    def close(self) -> None:
        """Close the connections."""
        self._hub.close()

    def stop(self) -> None:
        """Cut the call under way, and make no further one."""
        self._hub.stop()

    def address(self, blob_name: str, block_bytes: int) -> Journal:
        """Ask for a SAS URI to write to. Raises NameRefused where the hub gives one for another name only."""
        try:
            return self._request_address(blob_name, block_bytes)
        except HubRefusedCall as exc:
            if exc.status == 400 and self.accepts_control_upload():
                raise NameRefused(exc.what, exc.answer, exc.where) from exc
            raise

    def _request_address(self, blob_name: str, block_bytes: int) -> Journal:
        answer = self._hub.post("/files", "file upload", {"blobName": blob_name})
        self.billed += 1
        try:
            body = json.loads(answer)
            name = quote(body["blobName"], safe="/")
            address = f"https://{body['hostName']}/{body['containerName']}/{name}{body['sasToken']}"
            correlation_id = body["correlationId"]
        except (ValueError, LookupError, TypeError) as exc:
            raise OSError("the hub gave no address for the file") from exc
        return Journal(correlation_id, address, body["blobName"], block_bytes, began_wall_s=time.time())

    def accepts_control_upload(self, block: bytes = b"") -> bool:
        """Control of a refusal: a hub without a storage, or a storage that is away, refuses every upload.

        With `block` the storage has to accept it, too: it keeps no block for long that no list makes a blob
        of.
        """
        with contextlib.suppress(OSError, HubRefusedCall):
            self.control_upload(block)
            return True
        return False

    def control_upload(self, block: bytes = b"") -> str:
        """The host of the storage, after a control upload with this block. Raises HubRefusedCall, OSError."""
        other = self._request_address(CONTROL_NAME, 0)
        try:
            if block:
                self.put_block(other, 0, block)
            return host_of(other.address)
        finally:
            self.report_failure(other, "nothing was to be uploaded")

    def put_block(self, journal: Journal, number: int, block: bytes) -> None:
        more = f"&comp=block&blockid={quote(_block_id(number), safe='')}"
        answer = self._hub.put(journal.address + more, block)
        if answer.status != 201:
            raise HubRefusedCall(f"block {number}", answer, host_of(journal.address))

    def commit(self, journal: Journal) -> None:
        """Make a blob of the blocks."""
        ids = "".join(f"<Latest>{_block_id(number)}</Latest>" for number in range(journal.blocks))
        text = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{ids}</BlockList>'
        headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/xml"}
        answer = self._hub.put(journal.address + "&comp=blocklist", text.encode(), headers)
        if answer.status != 201:
            raise HubRefusedCall("block list", answer, host_of(journal.address))

    def report_success(self, journal: Journal) -> None:
        self._notify(journal, True, 200, "uploaded")

    def report_failure(self, journal: Journal, reason: str) -> None:
        """Report a failure if the hub can be reached; a SAS URI without a notification expires by itself."""
        with contextlib.suppress(HubUnreachable, HubRefusedCall):
            self._notify(journal, False, 500, reason[:200])

    def _notify(self, journal: Journal, succeeded: bool, status: int, description: str) -> None:
        body = {
            "correlationId": journal.correlation_id,
            "isSuccess": succeeded,
            "statusCode": status,
            "statusDescription": description,
        }
        self._hub.post("/files/notifications", "notification", body)
        self.billed += 1


def _block_id(number: int) -> str:
    return base64.b64encode(f"{number:08d}".encode()).decode()
