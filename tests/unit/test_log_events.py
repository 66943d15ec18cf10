"""Every warning and error has a name that stays, and a page says what each means and what to do."""

from __future__ import annotations

import ast
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

import runtime
from runtime.adapters.process import logs
from runtime.adapters.process.journal import MOST_BYTES, SystemdJournal
from runtime.core.log_events import EVENT_TEXTS, LogEvent
from tests.support.readme import EVENTS, with_events
from tests.support.rooms import nodes, source

PACKAGE = Path(runtime.__file__).parent
GRAVE = {"warning", "error", "critical", "exception"}
ELSEWHERE = {"devcloud", "bench", "demo"}
"""No part of a device."""


def grave_calls() -> Iterator[tuple[str, ast.Call]]:
    """(place, call) of every line of a device that is logged as a warning or graver."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.relative_to(PACKAGE).parts[0] in ELSEWHERE:
            continue
        for node in nodes(path):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr not in GRAVE:
                continue
            called = ast.unparse(node.func)  # supervisord's own logger is another
            if "logger" in called and "options.logger" not in called:
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node


def test_every_warning_and_error_carries_its_event() -> None:
    nameless = [place for place, call in grave_calls() if "event=LogEvent." not in ast.unparse(call.func)]
    assert nameless == []


def test_every_event_is_logged_somewhere_and_is_told_on_the_page() -> None:
    code = "".join(source(path) for path in PACKAGE.rglob("*.py"))
    assert [event for event in LogEvent if f"event=LogEvent.{event.name}" not in code] == []
    assert set(EVENT_TEXTS) == set(LogEvent)
    assert all(told.meaning.endswith(".") and told.remedy.endswith(".") for told in EVENT_TEXTS.values())
    assert with_events(EVENTS.read_text()) == EVENTS.read_text(), "run: python -m tests.support.readme"


def test_there_are_calls_to_look_at() -> None:
    assert len(list(grave_calls())) > 50


def test_a_line_for_a_machine_names_its_event(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("upload", form="json")
    logger.bind(event=LogEvent.QUOTA_USED_UP).warning("used up")
    entry = json.loads(capsys.readouterr().err)
    assert (entry["event"], entry["level"]) == ("quota_used_up", "WARNING")
    logger.remove()


def parsed(datagram: bytes) -> dict[str, str]:
    """The fields of a datagram of the journal's native protocol."""
    fields: dict[str, str] = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if equals:
            fields[name.decode()], datagram = value.decode(), rest
        else:
            size = int.from_bytes(rest[:8], "little")
            fields[name.decode()], datagram = rest[8 : 8 + size].decode(), rest[9 + size :]
    return fields


def test_the_journal_gets_priority_fields_and_several_lines_but_no_secret(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(path)
        logs.configure("upload", journal=SystemdJournal(path))
        log = logger.bind(event=LogEvent.QUOTA_USED_UP, key="SharedAccessKey=abc")
        log.error("first\nsecond SharedAccessSignature sr=xyz")
        fields = parsed(journald.recv(1 << 17))
        logger.remove()
    assert fields["PRIORITY"] == "3" and fields["SYSLOG_IDENTIFIER"] == "edge-runtime"
    assert fields["EDGE_EVENT"] == "quota_used_up" and fields["EDGE_WORKER"] == "upload"
    assert fields["MESSAGE"] == "first\nsecond SharedAccessSignature sr=***"
    assert fields["EDGE_KEY"] == "SharedAccessKey=***"


def test_a_journal_that_takes_nothing_holds_up_nobody(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(path)
        journal = SystemdJournal(path)
        for _ in range(2000):  # far more than its queue holds, and it reads none
            journal.write("INFO", "x" * 2 * MOST_BYTES, {"a b": 1})
    journal.write("INFO", "it is gone", {})
    journal.close()
    assert re.fullmatch(r"[a-z_]+", LogEvent.CRASHED)
