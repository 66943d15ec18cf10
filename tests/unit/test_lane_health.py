"""What keeps messages from leaving: failures in a row, and how long the oldest message could have gone."""

from __future__ import annotations

from runtime.core.delivery.lane_health import MOST_LANES, MOST_OF_A_REASON, FailingLanes, OldestWait


def test_failures_in_a_row_are_counted_with_the_last_words_until_it_works_again() -> None:
    lanes = FailingLanes()
    lanes.failed("file", "-/camera", "403 forbidden", 10.0)
    lanes.failed("file", "-/camera", "503 away", 20.0)
    assert lanes.figures() == [
        {"lane": "file", "stream": "-/camera", "failures": 2, "since_boot_s": 10.0, "words": "503 away"}
    ]
    lanes.worked("file", "-/camera")
    assert lanes.figures() == []


def test_only_the_worst_lanes_are_told_and_their_words_are_bounded() -> None:
    lanes = FailingLanes()
    for n in range(3 * MOST_LANES):
        for _ in range(n + 1):
            lanes.failed("file", f"-/s{n}", "x" * 5_000, 0.0)
    found = lanes.figures()
    assert [lane["failures"] for lane in found] == [15, 14, 13, 12, 11]
    assert all(len(lane["words"]) == MOST_OF_A_REASON for lane in found)


def test_the_oldest_message_waits_only_while_it_could_have_gone() -> None:
    wait = OldestWait()
    assert wait.look(7, 0.0, flowing=True) == 0.0
    assert wait.look(7, 10.0, flowing=True) == 10.0
    assert wait.look(7, 500.0, flowing=False) == 10.0
    assert wait.look(7, 600.0, flowing=True) == 10.0, "while the hub was away it could not go"
    assert wait.look(7, 610.0, flowing=True) == 20.0
    assert wait.look(8, 620.0, flowing=True) == 0.0, "another one is the oldest"
    assert wait.look(None, 630.0, flowing=True) == 0.0
    assert wait.look(None, 640.0, flowing=True) == 0.0


def test_a_lane_whose_files_have_all_left_fails_no_more() -> None:
    """They expired, gave way or were set aside, and the device was degraded until another one worked."""
    lanes = FailingLanes()
    for lane, stream in (("files", None), ("file", "-/camera"), ("file", "-/log")):
        lanes.failed(lane, stream, "503 away", 0.0)
    lanes.only({"-/log"})
    assert {lane["stream"] for lane in lanes.figures()} == {None, "-/log"}
    lanes.only(set())
    assert lanes.figures() == []
