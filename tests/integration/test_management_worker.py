"""The worker management as a process: what it waits for, what `edgectl status` and `doctor` say of it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.status_file import read_status
from runtime.cli.status import render
from runtime.device import Device
from runtime.operations.doctor import examine
from runtime.operations.overview import observe
from tests.support.harness import Home, eventually

ON = "[management]\nenabled = true\n"


@pytest.fixture
def running(home: Home) -> Iterator[Home]:
    home.write_config(ON)
    home.start_worker("management")
    yield home


def device(home: Home) -> Device:
    return Device(f"ipc://{home.layout.management_socket}", retry_for_s=30.0)


def test_status_says_how_far_the_twin_is_and_what_was_not_applied(running: Home) -> None:
    with device(running) as program:
        program.ping()

    def seen() -> dict[str, Any] | None:
        found = observe(running.layout, SystemClock(), settings=running.config.settings)
        return found if found["management"]["twin"] else None

    found = eventually(seen, 10, "the worker beats")
    assert found["management"]["twin"] == "away"
    assert any("managed   twin away" in row.text for row in render(found))


def test_programs_may_open_the_socket_of_the_home(running: Home) -> None:
    with device(running) as program:
        program.ping()
    assert running.layout.management_socket.stat().st_mode & 0o777 == 0o660


def test_a_database_that_was_removed_under_the_worker_is_made_again(running: Home) -> None:
    with device(running) as program:
        program.set("/a", 1)
        running.layout.management_db.unlink()
        program.set("/b", 2)
    with contextlib.closing(sqlite3.connect(running.layout.management_db)) as db:
        ((text,),) = db.execute("SELECT text FROM twin WHERE name = 'wanted'").fetchall()
    assert json.loads(text)["b"] == 2, "what was said to be kept is in the file that is there"


def test_a_row_that_cannot_be_read_costs_the_database_and_not_the_service(running: Home) -> None:
    with device(running) as program:
        program.set("/a", 1)
        running.workers["management"].terminate()
        with contextlib.closing(sqlite3.connect(running.layout.management_db)) as db, db:
            db.execute("UPDATE twin SET text = '{' WHERE name = 'wanted'")
        running.start_worker("management")
        program.set("/b", 2)
    assert (running.layout.state / "management.db.damaged-1").exists()


def test_contradictory_grants_are_waited_for_and_named(home: Home) -> None:
    home.write_config(
        f'{ON}[management.program.a]\nuser = "0"\nreport = ["/x"]\n'
        '[management.program.b]\nuser = "1"\nreport = ["/x/y"]\n'
    )
    home.start_worker("management")

    def waits() -> bool:
        status = read_status(home.layout.status_file("management")) or {}
        return "may both report /x/y" in str(status.get("trouble"))

    eventually(waits, 20, "it says what is wrong")
    checks = [check for check in examine(home.config) if check.name == "management"]
    assert [check.verdict for check in checks] == ["error"] and "may both report" in checks[0].text


def test_doctor_names_a_group_that_is_not_there(home: Home) -> None:
    home.write_config(f'{ON}group = "no-such-group"\n')
    (check,) = (check for check in examine(home.config) if check.name == "management")
    assert "no group no-such-group" in check.text
    home.write_config(ON)
    (check,) = (check for check in examine(home.config) if check.name == "management")
    assert check.verdict == "ok"
