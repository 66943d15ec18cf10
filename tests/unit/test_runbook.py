"""The runbook has an entry for everything that `edgectl status` may say is wrong: collected from the code."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from types import ModuleType

import pytest
from supervisor.states import ProcessStates, getProcessStateDescription

from runtime.core.delivery import link_budget
from runtime.core.delivery.connection import ConnectionState
from runtime.core.delivery.events import Cause
from runtime.core.identity import enrolment, renewal
from runtime.core.operations import health, verdict
from runtime.operations import overview
from runtime.workers import store_manager
from tests.support.runbook import chapter

NIGHT = chapter("It is three in the morning")
"""What a person reads who has no time."""
WELL = {
    renewal.RegistrationState.REGISTERED,
    enrolment.EnrolmentState.PROVISIONED,
    enrolment.EnrolmentState.NOT_NEEDED,
}


def states() -> Iterator[str]:
    """Every state that is no good news, by the words that status shows."""
    yield from (
        phase.value for phase in (*renewal.RegistrationState, *enrolment.EnrolmentState) if phase not in WELL
    )
    yield from (phase.value for phase in ConnectionState if phase.value not in verdict.GOOD_HUB)
    yield from (cause.value for cause in Cause)
    codes = (vars(ProcessStates)[name] for name in vars(ProcessStates) if name.isupper())
    yield from (getProcessStateDescription(code) for code in codes)
    yield from ("UNSUPERVISED", "DOWN")


def sentences(module: ModuleType, *functions: str) -> Iterator[str]:
    """The fixed words of what these functions put together, of two words at least."""
    for found in ast.walk(ast.parse(inspect.getsource(module))):
        if not isinstance(found, ast.FunctionDef) or found.name not in functions:
            continue
        docstring = ast.get_docstring(found, clean=False)
        for piece in ast.walk(found):
            if isinstance(piece, ast.Constant) and isinstance(piece.value, str) and piece.value != docstring:
                words = piece.value.strip(" :;,()")
                if len(words.split()) > 1:
                    yield words


SAID = {
    *sentences(verdict, "_worker", "_backlog", "_ledger", "_disk", "_identity", "_hub"),
    *sentences(health, "_alarms_of"),
    *sentences(link_budget, "shut"),
    *(words.partition(" (")[0] for words in sentences(store_manager, "_alarm")),
}


@pytest.mark.parametrize("state", sorted(set(states()) - {"RUNNING", "UNKNOWN"}))
def test_every_state_has_an_entry(state: str) -> None:
    assert re.search(rf"`[^`]*{re.escape(state.partition(':')[0].partition(',')[0])}[^`]*`", NIGHT), state


@pytest.mark.parametrize("words", sorted(SAID))
def test_every_sentence_has_an_entry(words: str) -> None:
    assert words.partition(";")[0] in NIGHT, words


def test_the_collectors_find_what_there_is() -> None:
    """Else a function by another name would need no entry."""
    assert {"store: no room on the disk", "nothing helped; it is left to the service manager"} <= SAID
    assert "has made no progress for" in SAID and len(SAID) >= 8
    assert "configuration" in inspect.signature(overview.observe).parameters and "`configuration: " in NIGHT
