"""Commands that look at messages on their way: `doctor --deep`, `bundle --upload`, `top` and `tap`."""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.store.writer import MessageStore
from runtime.config import load
from runtime.errors import Retryable
from runtime.operations.end_to_end import examine_deep
from tests.integration.test_upload import blobs
from tests.support.harness import Cloud, Home, eventually
from tests.support.store_tools import keep, put
from tests.support.upload import uploading


def test_with_upload_down_the_test_message_is_waited_for_no_longer_than_asked(home: Home) -> None:
    clock = SystemClock()

    def store() -> int:
        messages = MessageStore(home.layout.messages_db, clock)
        keep(messages, put([b"x"], producer="edgectl-doctor", stream="_doctor"))
        messages.close()
        return 1

    began_s = time.monotonic()
    checks = {check.name: check for check in examine_deep(load({}, home=home.folder), clock, store, 0.2)}
    assert time.monotonic() - began_s < 5
    assert checks["test message"].verdict == "ok" and "message 1" in checks["test message"].text
    assert "no PUBACK within 0.2 s: upload does not run" in checks["delivery"].text
    assert (checks["storage"].verdict, checks["token life"].verdict) == ("warning", "ok")


def test_what_ingest_does_not_take_ends_the_deep_checks(home: Home) -> None:
    def refused() -> int:
        raise Retryable("the disk is full")

    *_, last = examine_deep(load({}, home=home.folder), SystemClock(), refused, 0.2)
    assert (last.name, last.verdict, last.text) == ("test message", "error", "not stored: the disk is full")


def test_a_message_a_bundle_and_their_traces_go_from_end_to_end(home: Home, cloud: Cloud) -> None:
    drop = home.folder / "drop"
    drop.mkdir()
    uploading(home, cloud, ingest=f'drop_folder = "{drop}"')
    answer = home.edgectl("doctor", "--deep", "--json", "--timeout", "30")
    checks = {check["name"]: check for check in json.loads(answer.stdout)}
    assert checks["delivery"]["text"].startswith("PUBACK "), checks["delivery"]
    assert checks["storage"]["text"].endswith("took a block, of which no blob is made"), checks["storage"]
    assert checks["token life"]["text"].startswith("the SAS is valid for ")
    assert all(check["took_s"] >= 0 for check in checks.values())
    arrived = cloud.messages()
    assert [message.properties.get("stream-name") for message in arrived] == ["_doctor"]

    sent = home.edgectl("bundle", "--upload", "--since", "1h")
    assert sent.returncode == 0 and "of stream _support is on disk" in sent.stdout, sent.stderr
    bundle = eventually(
        lambda: [m for m in cloud.messages() if m.properties.get("stream-name") == "_support"]
    )
    assert bundle[0].properties["has-externalized-payload"] == "true"
    (archive,) = blobs(cloud).values()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert "edge-bundle/manifest.json" in tar.getnames()
    assert list(drop.iterdir()) == [] and not list(Path.cwd().glob("edge-bundle-*"))
