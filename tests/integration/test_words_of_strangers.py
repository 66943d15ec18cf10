"""A hub, a proxy, a producer or a platform chooses words, and an operator reads them on a terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.identity.database import IdentityStore
from runtime.adapters.process.clock import SystemClock, read_moment
from runtime.adapters.process.process import Lock
from runtime.adapters.process.status_file import StatusFile
from runtime.adapters.store.writer import MessageStore
from runtime.core.identity.enrolment import Enrolment, EnrolmentState
from runtime.core.identity.platform_answer import PlatformResult
from runtime.core.secret import Secret
from runtime.core.settlement import Settled
from tests.support.harness import Home
from tests.support.store_tools import ObedientClock, keep, put
from tests.support.terminal import in_terminal, plain

HOSTILE = "\x1b[2J\x1b]0;owned\x07no\r\nupload        RUNNING\n\u202eedih\x9b0m"
ROWS = ("link", "keys make k --dir {home}", "config", "identity", "doctor", "status", "provision", "down")


def is_tame(text: str) -> bool:
    """Nothing but what can be seen, and the newlines that are ours."""
    return all(c.isprintable() or c == "\n" for c in plain(text))


def set_aside(home: Home, reason: str) -> None:
    store = MessageStore(home.layout.messages_db, ObedientClock())
    keep(store, put([b"x"], stream="s" * 120))
    store.commit(None, Settled(quarantined=[(1, reason)]))
    store.close()


def test_a_reason_of_the_hub_forges_no_row_of_the_quarantine(home: Home) -> None:
    set_aside(home, HOSTILE)
    listed = home.edgectl("quarantine", "ls").stdout
    assert listed.count("\n") == 2 and is_tame(listed), listed
    assert r"\x1b[2J" in listed and "sss... (" in listed
    assert is_tame(in_terminal(home.folder, "quarantine", "ls", columns=60))
    assert json.loads(home.edgectl("quarantine", "ls", "--json").stdout)["reason"] == HOSTILE


def test_a_reason_without_end_is_cut(home: Home) -> None:
    set_aside(home, "x" * 100_000)
    listed = home.edgectl("quarantine", "ls").stdout
    assert len(listed) < 3_000 and "characters)" in listed


def test_what_a_proxy_says_commands_no_terminal_that_shows_the_status(home: Home) -> None:
    lock = Lock(home.layout.lock("upload"))
    try:
        said = {"state": "down", "last_loss": HOSTILE, "barred": HOSTILE, "alarm": HOSTILE}
        StatusFile(home.layout.status_file("upload"), "upload").progress(said, now=True)
        shown = home.edgectl("status").stdout
        assert is_tame(shown) and shown.count("owned") >= 2
        assert sum(line.startswith("upload") for line in shown.splitlines()) == 1
        assert is_tame(in_terminal(home.folder, "status", columns=60))
    finally:
        lock.release()


@pytest.mark.parametrize("code", ["A" * 5_000, HOSTILE * 3, "\udcff"], ids=["long", "hostile", "no UTF-8"])
@pytest.mark.parametrize("command", ["provision", "identity", "status"])
def test_a_verification_code_of_any_form_is_shown_in_a_terminal_and_no_traceback(
    home: Home, code: str, command: str
) -> None:
    IdentityStore(home.layout).save_enrolment(
        Enrolment(
            EnrolmentState.PENDING,
            "b",
            "op",
            code.encode(errors="replace").decode(),
            at=read_moment(SystemClock()),
        )
    )
    shown = in_terminal(home.folder, command)
    assert "Traceback" not in shown and is_tame(shown) and len(shown) < 8_000


def test_a_code_of_the_usual_length_is_drawn_for_a_telephone(home: Home) -> None:
    IdentityStore(home.layout).save_enrolment(
        Enrolment(EnrolmentState.PENDING, "b", "op", "AB-12", at=read_moment(SystemClock()))
    )
    shown = in_terminal(home.folder, "provision")
    assert "Verification code: AB-12" in shown and "\u2588" in shown


def test_an_argument_that_is_no_command_is_told_in_one_row(home: Home) -> None:
    failed = home.edgectl(HOSTILE.replace("\0", ""))
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1 and is_tame(failed.stderr)


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("command", ROWS)
def test_every_line_fits_the_terminal(home: Home, command: str, columns: int) -> None:
    """But for a word that is longer than the terminal is wide: a path is not cut."""
    home.write_config('[platform]\ninstance = "localhost:1"\n')
    text = plain(in_terminal(home.folder, *command.format(home=home.folder).split(), columns=columns))
    too_long = [line for line in text.splitlines() if len(line) > columns and " " in line.strip()]
    assert text and too_long == []


def test_a_terminal_has_colour_unless_it_is_refused(home: Home) -> None:
    for command in ("status", "doctor"):
        assert "\x1b[3" in in_terminal(home.folder, command)
        refusals: list[dict[str, Any]] = [{"NO_COLOR": "1"}, {"TERM": "dumb"}]
        for refusal in refusals:
            assert "\x1b" not in in_terminal(home.folder, command, **refusal)


def test_a_program_reads_what_provision_link_and_keys_say(home: Home, tmp_path: Path) -> None:
    waiting = json.loads(home.edgectl("provision", "--json").stdout)
    assert waiting == {
        "registered": False, "state": "not begun", "reason": "", "verification_code": None, "device_id": None,
    }  # fmt: skip
    assert json.loads(home.edgectl("link", "off", "--json").stdout)["switched_off"] is True
    keys = json.loads(home.edgectl("keys", "make", "k", "--dir", str(tmp_path), "--json").stdout)
    assert {os.path.basename(path) for path in keys.values()} == {"k.secret", "k.public"}  # noqa: PTH119
    store = IdentityStore(home.layout)
    now = read_moment(SystemClock())
    store.save_provisioned(
        Enrolment(EnrolmentState.PROVISIONED, "b", at=now), PlatformResult(Secret("rt"), None), now, 0.5
    )
    assert json.loads(home.edgectl("provision", "--reset", "--yes", "--json").stdout) == {"forgotten": True}
