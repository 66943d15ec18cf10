"""A setting switches a program on and off; an operator's stop stands."""

from __future__ import annotations

import pytest

from runtime.core.operations.optional_programs import Switch, switches

ON, OFF = [Switch("observer", on=True)], [Switch("observer", on=False)]


@pytest.mark.parametrize(
    ("enabled", "state", "began", "withheld", "wanted"),
    [
        (True, "STOPPED", False, False, ON),
        (True, "STOPPED", True, False, []),  # supervisorctl stop
        (True, "STOPPED", True, True, ON),  # off until now
        (True, "RUNNING", True, False, []),
        (True, "BACKOFF", True, True, []),
        (True, "STOPPING", True, True, []),
        (False, "STOPPED", False, True, []),
        (False, "STARTING", True, True, []),  # supervisorctl waits until it runs
        (False, "RUNNING", True, False, OFF),
        (False, "BACKOFF", True, False, OFF),
        (False, "STOPPING", True, False, []),
        (True, "FATAL", True, False, []),  # the judge of health starts it again
    ],
)
def test_each_state_has_its_answer(
    enabled: bool, state: str, began: bool, withheld: bool, wanted: list[Switch]
) -> None:
    names = {"observer"}
    found = switches(names if enabled else (), {"observer": (state, began)}, names if withheld else ())
    assert found == wanted
