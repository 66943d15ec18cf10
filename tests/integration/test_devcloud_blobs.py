"""File upload at the stand-in: strict as the hub and the storage are, and nothing half-written."""

from __future__ import annotations

import base64
import hashlib
import itertools
import socket
import ssl
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import requests

from tests.support.devcloud_client import Client, problem
from tests.support.harness import Cloud, eventually, short_folder

VERSION = {"api-version": "2021-04-12"}
NAMES = (f"dev-blob-{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def shared() -> Iterator[Cloud]:
    with short_folder() as folder:
        running = Cloud(folder / "cloud")
        yield running
        running.close()


class Uploader(Client):
    """A device with a SAS that hands over files."""

    def __init__(self, cloud: Cloud) -> None:
        super().__init__(cloud)
        self.name = next(NAMES)
        self.sas_text = self.sas(self.name)
        self.path = f"/devices/demo%3A{self.name}/files"

    def hub(self, body: Any, tail: str = "", **how: Any) -> requests.Response:
        headers = {"Authorization": self.sas_text, **how.pop("headers", {})}
        how.setdefault("params", VERSION)
        return self.send("POST", self.path + tail, json=body, headers=headers, **how)

    def open(self, blob: str = "file.bin") -> dict[str, Any]:
        answer = self.hub({"blobName": blob})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def notify(self, upload: dict[str, Any], ok: bool = True) -> requests.Response:
        body = {
            "correlationId": upload["correlationId"],
            "isSuccess": ok,
            "statusCode": 200 if ok else 500,
            "statusDescription": "as it went",
        }
        return self.hub(body, "/notifications")

    def put(self, upload: dict[str, Any], data: Any, query: str = "", **headers: str) -> requests.Response:
        where = f"https://{upload['hostName']}/{upload['containerName']}/{quote(upload['blobName'])}"
        sent = {"x-ms-blob-type": "BlockBlob", **{k.replace("_", "-"): v for k, v in headers.items()}}
        url = where + upload["sasToken"] + query
        return requests.put(url, data=data, headers=sent, verify=self.facts["ca_file"], timeout=15)

    def stored(self, upload: dict[str, Any]) -> bytes:
        answer = self.operator("GET", f"/admin/blobs/{quote(upload['blobName'])}")
        assert answer.ok, answer.text
        return answer.content


@pytest.fixture
def device(shared: Cloud) -> Uploader:
    return Uploader(shared)


def hub_code(answer: requests.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["Message"].split(";")[0].removeprefix("ErrorCode:")


def storage_code(answer: requests.Response) -> tuple[int, str]:
    assert answer.headers["content-type"].startswith("application/xml")
    return answer.status_code, answer.headers["x-ms-error-code"]


def test_a_file_goes_up_whole_and_its_upload_is_closed(device: Uploader) -> None:
    upload = device.open("reports/2026 11/ü.bin")
    assert upload.keys() == {"correlationId", "hostName", "containerName", "blobName", "sasToken"}
    assert upload["blobName"] == f"demo:{device.name}/reports/2026 11/ü.bin"
    content = b"\x00\xff" * 300_000
    answer = device.put(upload, content)
    assert answer.status_code == 201
    assert answer.headers["Content-MD5"] == base64.b64encode(hashlib.md5(content).digest()).decode()
    assert (device.notify(upload).status_code, device.notify(upload).status_code) == (204, 400)
    assert device.stored(upload) == content


def test_blocks_become_a_blob_in_the_order_of_the_list_not_of_their_arrival(device: Uploader) -> None:
    upload = device.open()
    ids = [base64.b64encode(f"{n:04}".encode()).decode() for n in range(3)]
    for n in (2, 0, 1):
        assert device.put(upload, bytes([n]) * 5, f"&comp=block&blockid={quote(ids[n])}").status_code == 201
    listed = "".join(f"<Latest>{i}</Latest>" for i in ids)
    document = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{listed}</BlockList>'
    missing = document.replace(ids[1], base64.b64encode(b"0009").decode())
    assert storage_code(device.put(upload, missing, "&comp=blocklist")) == (400, "InvalidBlockList")
    assert device.put(upload, document, "&comp=blocklist").status_code == 201
    assert device.stored(upload) == b"\0" * 5 + b"\1" * 5 + b"\2" * 5


def test_ten_uploads_may_be_open_and_a_failure_that_is_told_makes_room(device: Uploader) -> None:
    uploads = [device.open(f"{n}") for n in range(10)]
    full = device.hub({"blobName": "eleventh"})
    assert hub_code(full) == (403, "DeviceMaximumActiveFileUploadLimitExceeded")
    assert device.notify(uploads[3], ok=False).status_code == 204
    device.open("eleventh")


def test_a_success_without_a_blob_is_not_believed(device: Uploader) -> None:
    upload = device.open()
    assert hub_code(device.notify(upload)) == (400, "InvalidFileUploadCompletionStatus")
    assert device.notify(upload, ok=False).status_code == 204


def test_nobody_notifies_the_upload_of_another_device(device: Uploader, shared: Cloud) -> None:
    upload, stranger = device.open(), Uploader(shared)
    assert hub_code(stranger.notify(upload, ok=False)) == (400, "InvalidFileUploadCorrelationId")


def test_the_hub_refuses_without_a_living_sas_of_this_device(device: Uploader, shared: Cloud) -> None:
    for text in ("", "garbage", device.sas_text[:-3], Uploader(shared).sas_text):
        answer = device.hub({"blobName": "x"}, headers={"Authorization": text})
        assert hub_code(answer) == (401, "IotHubUnauthorizedAccess"), text
    assert hub_code(device.hub({"blobName": "x"}, params={}))[0] == 400
    for body in ({}, {"blobName": ""}, {"blobName": 7}, {"blobName": "x" * 1024}, []):
        assert hub_code(device.hub(body))[0] == 400


def test_a_sas_writes_its_own_blob_and_no_other_and_not_after_its_end(device: Uploader) -> None:
    upload, other = device.open("mine"), device.open("other")
    swapped = {**upload, "sasToken": other["sasToken"]}
    later = {**upload, "sasToken": upload["sasToken"].replace("se=2", "se=3")}
    for forged in (swapped, later, {**upload, "sasToken": "?sr=b"}):
        assert storage_code(device.put(forged, b"x")) == (403, "AuthenticationFailed")
    device.operator("POST", "/admin/lifetimes", {"upload_s": 1})
    try:
        short = device.open("short")
    finally:
        device.operator("POST", "/admin/lifetimes", {"upload_s": 3600})
    eventually(lambda: device.put(short, b"x").status_code == 403)


def test_the_storage_is_as_strict_about_headers_as_the_real_one(device: Uploader) -> None:
    upload = device.open()
    assert storage_code(device.put(upload, b"x", x_ms_blob_type="PageBlob")) == (400, "InvalidHeaderValue")
    assert storage_code(device.put(upload, iter([b"x"]))) == (411, "MissingContentLengthHeader")
    wrong = base64.b64encode(hashlib.md5(b"other").digest()).decode()
    assert storage_code(device.put(upload, b"x", Content_MD5=wrong)) == (400, "Md5Mismatch")
    assert storage_code(device.put(upload, b"x", "&comp=block&blockid=%21"))[0] == 400
    nothing = device.put(upload, b"", "&comp=block&blockid=MDAwMA%3D%3D")
    assert storage_code(nothing) == (400, "InvalidHeaderValue")
    assert storage_code(device.put(upload, b"x", "&comp=page"))[0] == 400
    for document in ("", "<BlockList>", "<Other/>", "<BlockList><Committed>YQ==</Committed></BlockList>"):
        assert storage_code(device.put(upload, document, "&comp=blocklist"))[0] == 400
    assert device.put(upload, b"x").status_code == 201
    assert storage_code(device.put(upload, b"x", If_None_Match="*")) == (409, "BlobAlreadyExists")


def test_an_upload_that_is_cut_leaves_no_blob_behind(device: Uploader, shared: Cloud) -> None:
    upload = device.open()
    context = ssl.create_default_context(cafile=device.facts["ca_file"])
    address = (device.facts["hub_host"], device.facts["https_port"])
    with socket.create_connection(address, 10) as plain:
        with context.wrap_socket(plain, server_hostname=address[0]) as wire:
            target = f"/uploads/{quote(upload['blobName'])}{upload['sasToken']}"
            head = f"PUT {target} HTTP/1.1\r\nHost: x\r\nx-ms-blob-type: BlockBlob\r\n"
            wire.sendall(head.encode() + b"Content-Length: 100000\r\n\r\n" + b"x" * 5_000)
            parts = shared.folder / "blobs"
            eventually(lambda: list(parts.glob("*.part")), 10, "the body begins to arrive")
    eventually(lambda: not list(parts.glob("*.part")), 10, "the half is cleared away")
    assert problem(device.operator("GET", f"/admin/blobs/{quote(upload['blobName'])}"))[0] == 404


def test_a_blob_name_cannot_leave_its_folder(device: Uploader, shared: Cloud) -> None:
    upload = device.open("../../../../escaped")
    direct = requests.Request("PUT", f"https://{upload['hostName']}/", data=b"x").prepare()
    direct.url = (
        f"https://{upload['hostName']}/uploads/{quote(upload['blobName'], safe='')}{upload['sasToken']}"
    )
    direct.headers["x-ms-blob-type"] = "BlockBlob"
    with requests.Session() as session:
        answer = session.send(direct, verify=device.facts["ca_file"], timeout=10)
    assert answer.status_code == 201
    assert not list(shared.folder.parent.rglob("escaped"))
