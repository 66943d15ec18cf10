"""`edgectl logs` shows what happened in the order in which it happened, whatever stands in the files."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.__main__ import main
from runtime.adapters.process.log_files import LogFollower, lines, programs
from runtime.core.operations.log_lines import LogFilter, LogLine, events, since

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()


def entry(second: float, message: str, level: str = "INFO", worker: str = "ingest", **fields: object) -> str:
    stamp = datetime.fromtimestamp(NOON + second, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": stamp, "level": level, "worker": worker, **fields, "message": message})


def read(*text: str, program: str = "ingest") -> list[LogLine]:
    return list(events(program, text, 7.0, UTC))


@given(st.lists(st.text()))
def test_any_lines_at_all_are_shown_and_none_is_lost(text: list[str]) -> None:
    assert "\n".join(event.message for event in read(*text)).count("\n") == max(
        0, sum(1 + line.count("\n") for line in text) - 1
    )


def test_a_traceback_belongs_to_the_line_before_it() -> None:
    first, second = read("stray", entry(1, "a bug", "ERROR", count=3), "Traceback:", "  File x") or ()
    assert (first.message, first.time_s) == ("stray", 7.0)
    assert second == LogLine("ingest", NOON + 1, "ERROR", "a bug\nTraceback:\n  File x", {"count": 3})


def test_each_form_of_a_line_has_its_level() -> None:
    assert [(e.level, e.message) for e in read("12:00:00.000 WARNING upload: away", "edgectl: no home")] == [
        ("WARNING", "away"),
        ("ERROR", "no home"),
    ]
    (own,) = read("2026-01-31 12:00:01,500 WARN exited: upload", program="supervisord")
    assert (own.time_s, own.level, own.message) == (NOON + 1.5, "WARNING", "exited: upload")


@pytest.mark.parametrize(
    "cut", ['{"time":', "{}", '{"time": 5}', "[" * 9_999, '{"time":"x","level":1,"message":2}']
)
def test_a_line_that_was_cut_by_a_full_disk_is_shown_as_it_stands(cut: str) -> None:
    (event,) = read(cut)
    assert event.message == cut


def test_a_reader_gets_what_was_asked_for() -> None:
    log = read(entry(0, "one"), entry(1, "two", "WARNING", code="x"), entry(2, "three", "ERROR"))
    import re

    def shown(**wish: object) -> list[str]:
        return [event.message for event in log if LogFilter(**wish).takes(event)]  # type: ignore[arg-type]

    assert shown() == ["one", "two", "three"]
    assert shown(level="WARNING") == ["two", "three"]
    assert shown(since_s=NOON + 2) == ["three"]
    assert shown(pattern=re.compile("code=x")) == ["two"]


@pytest.mark.parametrize(
    ("text", "wanted_s"),
    [("2h", NOON - 7200), ("30min", NOON - 1800), ("1.5d", NOON - 129_600), ("2026-01-31T12:00:00Z", NOON)],
)
def test_since_takes_a_span_and_a_date(text: str, wanted_s: float) -> None:
    assert since(text, NOON, UTC) == wanted_s


@pytest.mark.parametrize("text", ["", "yesterday", "2 fortnights", "-3h", "9999999"])
def test_since_takes_nothing_else(text: str) -> None:
    with pytest.raises(ValueError):
        since(text, NOON, UTC)


def test_lines_that_are_written_while_a_log_rotates_are_followed(tmp_path: Path) -> None:
    log = tmp_path / "ingest.log"
    log.write_text("old\n")
    follower = LogFollower(tmp_path, ["ingest", "upload"])
    with log.open("a") as out:
        out.write("one\ntw")
    assert follower.new_lines() == {"ingest": ["one"]}
    with log.open("a") as out:
        out.write("o\n")
    log.rename(tmp_path / "ingest.log.1")
    log.write_text("three\n")
    (tmp_path / "upload.log").write_text("first\n")
    assert follower.new_lines() == {"ingest": ["two", "three"], "upload": ["first"]}
    log.write_text("4\n")  # cut in place
    assert follower.new_lines() == {"ingest": ["4"]}
    log.unlink()
    assert follower.new_lines() == {}
    follower.close()


def test_rotated_files_come_first_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "ingest.log.2").write_text("a\n")
    (tmp_path / "ingest.log.1").write_text("b\n")
    (tmp_path / "ingest.log").write_text("c SharedAccessKey=secret\n")
    (tmp_path / "secret").write_text("s\n")
    (tmp_path / "upload.log").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "refresh.log")
    assert programs(tmp_path) == ["ingest", "refresh", "upload"]
    assert list(lines(tmp_path, "ingest")) == ["a", "b", "c SharedAccessKey=***"]
    for wrong in ("upload", "refresh"):
        with pytest.raises(OSError):
            list(lines(tmp_path, wrong))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    (folder / "log").mkdir(parents=True)
    (folder / "log" / "ingest.log").write_text(
        entry(0, "one") + "\n" + entry(2, "three \x1b[31m", "ERROR") + "\n"
    )
    (folder / "log" / "upload.log").write_text(entry(1, "two", worker="upload") + "\n")
    return folder


def run(home: Path, *arguments: str) -> int:
    return main(["--home", str(home), "logs", *arguments])


def test_the_logs_of_all_workers_are_merged_by_time(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(home) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(": ", 1)[1] for line in shown] == ["one", "two", r"three \x1b[31m"]
    assert run(home, "--json", "-n", "1", "--level", "info") == 0
    assert json.loads(capsys.readouterr().out)["message"].startswith("three")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--level", "loud"], "is no level"),
        (["--grep", "("], "is no regular expression"),
        (["--since", "x"], "must read 2h"),
        (["nothing"], "nothing has no log; there are ingest, upload"),
        (["-n", "-1"], "must be 0 or more"),
    ],
)
def test_a_mistake_is_one_sentence(
    home: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(home, *arguments) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_a_log_that_is_a_link_is_refused_in_one_sentence(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "log" / "refresh.log").symlink_to("/etc/hostname")
    assert run(home, "refresh") == 2
    assert "cannot be read" in capsys.readouterr().err
