"""A device that is moved to another hub under the same device id, as a provisioning service may do it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.adapters.hub.file_upload import FileOptions, Uploaded
from runtime.adapters.hub.https_api import HttpsRoute
from tests.integration.test_file_upload import BLOCK, Lane, parcel
from tests.integration.test_upload import blobs
from tests.support.harness import Cloud, Home, eventually
from tests.support.upload import backlog, put, put_in_force, register

DEVICE = "press-7"
CHUNKS = 60


@pytest.fixture
def next_cloud(folder: Path) -> Iterator[Cloud]:
    """Another hub, with a storage of its own."""
    running = Cloud(folder / "next")
    try:
        yield running
    finally:
        running.close()


def test_a_file_that_one_hub_has_is_uploaded_for_the_next_hub(
    cloud: Cloud, next_cloud: Cloud, folder: Path
) -> None:
    """The journal said done: the next hub got a link to a file that its storage does not have."""
    for at in (cloud, next_cloud):
        way = HttpsRoute(Path(at.facts["ca_file"]), at.facts["https_port"])
        lane = Lane(FileOptions(folder / "uploads", folder / "spool", way, BLOCK))
        assert isinstance(lane.upload(parcel(b"film"), register(at, DEVICE)), Uploaded)
        assert list(blobs(at).values()) == [b"film"]


def test_a_message_in_chunks_that_one_hub_has_in_part_goes_whole_to_the_next_hub(
    home: Home, cloud: Cloud, next_cloud: Cloud
) -> None:
    """Only what the first hub did not have came to the second one, and the completion of the whole."""
    cloud.faults(ack_delay_ms=10)
    chunked = "[stream.big]\nchunk_bytes = 1000\n"
    home.write_config(cloud.config_toml(upload="window = 4") + chunked)
    put_in_force(home.layout, register(cloud, DEVICE))
    home.start_worker("ingest")
    home.start_worker("upload")
    put(home, {"stream": "big", "message_id": "m1"}, b"x" * (CHUNKS * 1000))
    eventually(lambda: cloud.message_count() > CHUNKS // 3)
    home.workers["upload"].kill()
    home.write_config(next_cloud.config_toml() + chunked)
    put_in_force(home.layout, register(next_cloud, DEVICE))
    home.start_worker("upload")
    eventually(lambda: backlog(home) == 0)
    assert [m.properties.get("chunk-id") for m in next_cloud.messages()] == [
        *(str(n) for n in range(CHUNKS)),
        None,
    ]
