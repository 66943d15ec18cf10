"""docs/architecture.md against the code: its rooms, its state machines, and the errors of its store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from enum import Enum
from graphlib import TopologicalSorter

import pytest

from runtime.adapters.store import errors
from runtime.core.delivery.connection import ConnectionState
from runtime.core.delivery.outgoing import MessageState
from runtime.core.identity import enrolment
from runtime.core.identity.enrolment import Enrolment, EnrolmentPolicy, EnrolmentState, Wish
from runtime.core.identity.platform_answer import (
    Outcome,
    PlatformAnswer,
    PlatformResult,
    ProvisioningOperation,
)
from runtime.core.identity.renewal import RegistrationState
from runtime.core.management.command_record import COMMAND_TRANSITIONS, CommandState
from runtime.core.management.twin_sync import TRANSITIONS, TwinPhase
from runtime.core.moment import Moment
from runtime.core.secret import Secret
from tests.support.readme import ARCHITECTURE, with_rooms, with_states
from tests.support.rooms import arrows

PAGE = ARCHITECTURE.read_text()
Arrows = set[tuple[str, str]]


def chapter(title: str) -> str:
    return PAGE.partition(f"### {title}\n")[2].partition("\n#")[0]


def drawn(title: str) -> Arrows:
    assert not re.search(r" --> .*:.*[:;]", chapter(title)), "mermaid ends a label there"
    return set(re.findall(r"^ +([A-Z_]+) --> ([A-Z_]+):", chapter(title), re.MULTILINE))


def test_the_rooms_and_who_imports_whom_are_as_drawn() -> None:
    assert with_rooms(PAGE) == PAGE, "run: python -m tests.support.readme"


def test_the_states_are_drawn_as_the_tables_have_them() -> None:
    assert with_states(PAGE) == PAGE, "run: python -m tests.support.readme"


NOW = Moment(1e9, 1e3, "boot")
WISH, ANOTHER = Wish("platform.example", "token", "press-7"), Wish("platform.example", "token", "press-8")


def answers(
    call: enrolment.Call,
) -> Iterator[PlatformAnswer[ProvisioningOperation] | PlatformAnswer[PlatformResult]]:
    """Everything that can come of a call."""
    for outcome in Outcome:
        for own in (True, False):
            if not outcome.good:
                yield PlatformAnswer[PlatformResult](outcome, own=own)
            elif call is enrolment.Call.INIT:
                yield PlatformAnswer(outcome, ProvisioningOperation("operation", "AB-12"), own=own)
            else:
                yield PlatformAnswer(outcome, PlatformResult(Secret("token"), None), own=own)


def after_any_fact(record: Enrolment) -> Iterator[Enrolment]:
    """The record in the light of every fact, and after every answer to what is asked next."""
    for wish in (WISH, ANOTHER):
        yield enrolment.settled(record, wish, has_token=True, granted=record.basis)
        yield enrolment.settled(record, wish, has_token=False)
    asking = enrolment.settled(record, WISH, has_token=False)
    call = enrolment.next_step(asking, WISH, False, NOW).call
    if call is not None and asking.state is record.state:
        for refusals in (0, 100):
            for answer in answers(call):
                yield enrolment.after(
                    replace(asking, refusals=refusals), call, answer, EnrolmentPolicy(), NOW, 0.5
                )


def test_an_enrolment_goes_from_state_to_state_as_drawn() -> None:
    found: Arrows = set()
    met, ahead = set(), [Enrolment(basis=WISH.basis())]
    while ahead:
        record = ahead.pop()
        mark = (record.state, record.operation_id, record.basis)
        if mark not in met:
            met.add(mark)
            for later in after_any_fact(record):
                ahead.append(later)
                found |= {(record.state.name, later.state.name)} if later.state is not record.state else set()
    assert found == drawn("Enrolment at the platform")


@pytest.mark.parametrize(
    ("title", "table"),
    [("The twin", TRANSITIONS), ("A command", COMMAND_TRANSITIONS)],
    ids=["the twin", "a command"],
)
def test_management_goes_from_state_to_state_as_drawn(title: str, table: dict[Enum, set[Enum]]) -> None:
    """The models in test_twin_sync.py and test_command_queue.py hold the code to these tables."""
    ways = {(one.name, other.name) for one, others in table.items() for other in others if one is not other}
    assert drawn(title) == ways


def test_every_state_is_on_the_page() -> None:
    for title, states in (
        ("Enrolment at the platform", EnrolmentState),
        ("Registration at the platform", RegistrationState),
        ("A message on its way out", MessageState),
        ("The connection to the hub", ConnectionState),
        ("The twin", TwinPhase),
        ("A command", CommandState),
    ):
        named = set(re.findall(r"\b[A-Z_]{2,}\b", chapter(title)))
        assert set(states.__members__) - named == set(), title


def test_every_error_of_the_store_has_its_row() -> None:
    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.StoreError) and kind is not errors.StoreError
    }
    assert set(re.findall(r"^\| `(\w+)` \|", chapter("The store"), re.MULTILINE)) == kinds


def test_no_two_rooms_import_each_other_in_a_circle() -> None:
    """What lies at the top of a layer is no room of it: `config`, `devcloud/server.py`."""
    tops = {".", "devcloud"}
    rooms = {room: targets - tops for room, targets in arrows().items() if room not in tops}
    TopologicalSorter(rooms).prepare()  # raises CycleError, which names them
