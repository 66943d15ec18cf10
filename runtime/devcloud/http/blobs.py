"""Blob storage as Azure has it, as far as a device needs it: PUT a block blob whole, or in blocks.

The holder of the SAS in the query may write that one blob. Refusals have the storage's own form: XML with a
Code.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from email.utils import formatdate
from urllib.parse import urlencode
from xml.etree import ElementTree

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from runtime.devcloud.http.operators import operator
from runtime.devcloud.http.web import cloud_of, limited_body, now_s, rfc3339
from runtime.devcloud.state import tokens
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.problems import Problem, not_found
from runtime.devcloud.state.uploads import Part

CONTAINER = "uploads"
MOST_NAME_CHARS = 1024
MOST_BLOCKS = 50_000
STORAGE_VERSION = "2021-04-10"
_NEW_BLOCKS = ("Latest", "Uncommitted")


class StorageRefusal(Exception):
    """The storage will not do this."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def sas_token(cloud: Cloud, name: str, expires_at_s: float) -> str:
    """The query with which one blob may be written until `expires`."""
    return "?" + urlencode(_signed(cloud, name, rfc3339(int(expires_at_s)) or ""))


async def put_blob(request: Request) -> Response:
    """PUT a block blob whole, one block of it, or the list that makes a blob of its blocks."""
    name = _allowed_blob(request)
    if "content-length" not in request.headers:
        raise StorageRefusal(411, "MissingContentLengthHeader", "Content-Length is required")
    operation = request.query_params.get("comp")
    if operation == "block":
        return await _put_block(request, name)
    if operation == "blocklist":
        return await _put_block_list(request, name)
    if operation is not None:
        raise StorageRefusal(400, "InvalidQueryParameterValue", "comp is not block or blocklist")
    if request.headers.get("x-ms-blob-type") != "BlockBlob":
        raise StorageRefusal(400, "InvalidHeaderValue", "x-ms-blob-type must be BlockBlob")
    _if_none_match(request, name)
    cloud_of(request).uploads.keep(name, await _received(request), now_s())
    return _created(cloud_of(request), name)


async def _put_block(request: Request, name: str) -> Response:
    block_id = request.query_params.get("blockid", "")
    try:
        valid = 0 < len(base64.b64decode(block_id, validate=True)) <= 64
    except binascii.Error:
        valid = False
    if not valid:
        raise StorageRefusal(400, "InvalidQueryParameterValue", "blockid is not base64 of 1 to 64 bytes")
    if request.headers["content-length"] == "0":
        raise StorageRefusal(400, "InvalidHeaderValue", "a block of 0 bytes; Content-Length")
    part = await _received(request)
    cloud_of(request).uploads.keep_block(name, block_id, part)
    return Response(status_code=201, headers=_storage_headers({"Content-MD5": _md5(part.md5.digest())}))


async def _put_block_list(request: Request, name: str) -> Response:
    _if_none_match(request, name)
    try:
        text = await limited_body(request, 8 * 1024 * 1024)
        root = ElementTree.fromstring(text)  # noqa: S314 (loopback only, bounded above; expat bounds entities)
    except (Problem, ElementTree.ParseError) as exc:
        raise StorageRefusal(400, "InvalidXmlDocument", "the block list is not XML") from exc
    named = [(item.tag, (item.text or "").strip()) for item in root]
    if root.tag != "BlockList" or len(named) > MOST_BLOCKS or any(t not in _NEW_BLOCKS for t, _ in named):
        raise StorageRefusal(400, "InvalidBlockList", "a BlockList holds Latest or Uncommitted blocks")
    if not cloud_of(request).uploads.join(name, [block_id for _, block_id in named], now_s()):
        raise StorageRefusal(400, "InvalidBlockList", "a block was never sent")
    return _created(cloud_of(request), name)


def _allowed_blob(request: Request) -> str:
    """The blob that the SAS in the query lets its holder write. Raises StorageRefusal."""
    name: str = request.path_params["blob"]
    held = {key: request.query_params.get(key, "") for key in ("sv", "sr", "se", "sp", "sig")}
    expected = _signed(cloud_of(request), name, held["se"])
    if not hmac.compare_digest(urlencode(held).encode(), urlencode(expected).encode()):
        raise StorageRefusal(403, "AuthenticationFailed", "the SAS is not for this blob")
    if held["se"] <= (rfc3339(int(now_s())) or ""):  # of one length: they compare as text
        raise StorageRefusal(403, "AuthenticationFailed", "the SAS has expired")
    return name


def _signed(cloud: Cloud, name: str, expires: str) -> dict[str, str]:
    """Query parameters of a SAS for writing one blob until `expires`."""
    fields = {"sv": "2018-03-28", "sr": "b", "se": expires, "sp": "rw"}
    signature = tokens.mint({"blob": f"{CONTAINER}/{name}", **fields}, cloud.secret).partition(".")[2]
    return {**fields, "sig": signature}


def _if_none_match(request: Request, name: str) -> None:
    if request.headers.get("if-none-match") == "*" and cloud_of(request).uploads.blob(name):
        raise StorageRefusal(409, "BlobAlreadyExists", "the blob exists")


async def _received(request: Request) -> Part:
    """The received body, as a file; a Content-MD5 is checked against it."""
    with cloud_of(request).uploads.part() as part:
        async for chunk in request.stream():
            part.write(chunk)
        asked = request.headers.get("content-md5")
        if asked is not None and asked != _md5(part.md5.digest()):
            raise StorageRefusal(400, "Md5Mismatch", "Content-MD5 does not agree with the body")
    return part


def _created(cloud: Cloud, name: str) -> Response:
    blob = cloud.uploads.blob(name)
    assert blob is not None  # its row was written just now
    return Response(
        status_code=201,
        headers=_storage_headers(
            {
                "ETag": f'"0x{blob["md5"][:15].upper()}"',
                "Last-Modified": formatdate(blob["written_at"], usegmt=True),
                "Content-MD5": _md5(bytes.fromhex(blob["md5"])),
                "x-ms-request-server-encrypted": "true",
            }
        ),
    )


def _md5(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _storage_headers(more: dict[str, str]) -> dict[str, str]:
    return {"x-ms-version": STORAGE_VERSION, **more}


async def list_blobs(request: Request) -> Response:
    cloud = operator(request)
    return JSONResponse({"uploads": cloud.uploads.uploads(), "blobs": cloud.uploads.blobs()})


async def get_blob(request: Request) -> Response:
    path = operator(request).uploads.content(request.path_params["blob"])
    if path is None:
        raise not_found("The blob")
    return FileResponse(path, media_type="application/octet-stream")


async def render_storage_refusal(request: Request, exc: Exception) -> Response:
    assert isinstance(exc, StorageRefusal)
    error = f"<Error><Code>{exc.code}</Code><Message>{exc}</Message></Error>"
    headers = _storage_headers({"x-ms-error-code": exc.code})
    return Response(f'<?xml version="1.0" encoding="utf-8"?>{error}', exc.status, headers, "application/xml")


handlers = {StorageRefusal: render_storage_refusal}

routes = [
    Route(f"/{CONTAINER}/{{blob:path}}", put_blob, methods=["PUT"]),
    Route("/admin/blobs", list_blobs),
    Route("/admin/blobs/{blob:path}", get_blob),
]
