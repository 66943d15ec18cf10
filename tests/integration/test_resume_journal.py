"""The resume journal: how far a message in chunks has come is kept over a crash; a torn file says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.adapters.hub.resume_journal import MOST_CHUNKED, Chunked, ResumeJournal
from runtime.adapters.process import checksummed_line
from runtime.core.message import StreamName

STREAM = StreamName(None, "s")


@pytest.fixture
def path(folder: Path) -> Path:
    kept = ResumeJournal(folder / "under-way")
    kept.goes_to("hub/ws:dev")
    kept.reached("p/b/1", Chunked(1000, 7))
    kept.save({STREAM: "A"})
    return folder / "under-way"


def test_the_next_life_knows_what_the_hub_has(path: Path) -> None:
    found = ResumeJournal(path)
    assert (found.destination, found.batches) == ("hub/ws:dev", {STREAM: "A"})
    assert found.chunked("p/b/1") == Chunked(1000, 7)
    assert path.stat().st_mode & 0o077 == 0


def test_a_shorter_text_over_a_longer_one_is_read_as_what_it_says(path: Path) -> None:
    kept = ResumeJournal(path)
    kept.left("p/b/1")
    kept.save({})
    found = ResumeJournal(path)
    assert (found.destination, found.batches, found.chunked("p/b/1")) == ("hub/ws:dev", {}, None)


@pytest.mark.parametrize("damage", [b"", b"\n", b"nonsense", b"00000000 {}\n", b"\xff\xfe"])
def test_a_damaged_file_counts_as_nothing(path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    assert ResumeJournal(path).chunked("p/b/1") is None


def test_a_torn_file_counts_as_nothing(path: Path) -> None:
    whole = path.read_bytes()
    for end in range(len(whole) - 1):
        path.write_bytes(whole[:end])
        assert ResumeJournal(path).destination is None


def test_messages_that_came_to_nothing_do_not_fill_it(path: Path) -> None:
    kept = ResumeJournal(path)
    for n in range(2 * MOST_CHUNKED):
        kept.reached(f"p/c/{n}", Chunked(1000, 1))
    kept.save({})
    assert path.stat().st_size < 100 * MOST_CHUNKED
    assert ResumeJournal(path).chunked(f"p/c/{2 * MOST_CHUNKED - 1}") == Chunked(1000, 1)


@pytest.mark.parametrize(
    ("destination", "another"), [("hub/ws:dev", False), ("hub-2/ws:dev", True), ("hub/ws:dev-2", True)]
)
def test_what_one_hub_has_in_part_another_has_not_even_under_the_same_device_id(
    path: Path, destination: str, another: bool
) -> None:
    """A device that its provisioning service moved to another hub sent only the rest of a message there."""
    kept = ResumeJournal(path)
    assert kept.goes_to(destination) is another
    kept.save({STREAM: "A"})
    assert (ResumeJournal(path).chunked("p/b/1") is None) is another


def test_what_an_earlier_version_wrote_without_the_hub_still_counts(path: Path) -> None:
    said = checksummed_line.read(path)
    checksummed_line.write(path, {**said, "device": "ws:dev"})
    assert ResumeJournal(path).goes_to("hub/ws:dev") is False
    assert ResumeJournal(path).chunked("p/b/1") == Chunked(1000, 7)
