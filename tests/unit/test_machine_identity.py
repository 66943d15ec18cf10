"""Was a home copied to another machine? Every kind of move that the four names can tell apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.operations.machine_identity import MachineIdentity, Move, compare, from_json, merged

HERE = MachineIdentity("system", frozenset({"card-1", "card-2"}), "disk", "filesystem")


def other(**names: object) -> MachineIdentity:
    fields = {"system": "system", "boards": HERE.boards, "disk": "disk", "filesystem": "filesystem", **names}
    return MachineIdentity(**fields)  # type: ignore[arg-type]


BOARD = frozenset({"another card"})
NO_BOARD = frozenset[str]()


@pytest.mark.parametrize(
    ("now", "move"),
    [
        (HERE, Move.NONE),
        (other(system="reinstalled"), Move.REINSTALLED),
        (other(boards=BOARD), Move.NONE),  # the disk was put into another machine, or its card was replaced
        (other(boards=frozenset({"card-2", "new"})), Move.NONE),
        (other(system="reinstalled", boards=BOARD), Move.REINSTALLED),  # a data disk in another machine
        (other(disk="larger", filesystem="fresh"), Move.NONE),  # a disk was replaced
        (other(disk="card 2", boards=BOARD), Move.COPIED),  # copied block by block, with its machine-id
        (other(disk="card 2", boards=BOARD, system="its own"), Move.COPIED),
        (other(disk="card 2", boards=NO_BOARD), Move.COPIED),
        (other(disk="", boards=BOARD), Move.COPIED),  # a virtual machine and its template
        (other(disk="", boards=BOARD, system="its own"), Move.COPIED),
        (other(disk="", boards=NO_BOARD, system="reinstalled"), Move.REINSTALLED),
        (other(disk="", boards=NO_BOARD, filesystem="fresh"), Move.COPIED),
        (other(disk="", boards=NO_BOARD, filesystem="", system="its own"), Move.COPIED),
        (other(disk="", boards=NO_BOARD, filesystem=""), Move.NONE),
        (MachineIdentity(), Move.NONE),  # a container that sees nothing of its machine
    ],
)
def test_a_copy_is_noticed_and_a_reinstalled_machine_is_the_same_device(
    now: MachineIdentity, move: Move
) -> None:
    assert compare(HERE, now) is move


def test_the_first_start_has_nothing_to_compare_with() -> None:
    assert compare(None, HERE) is Move.FIRST


NAMES = st.sampled_from(["", "a", "b"])
MACHINES = st.builds(
    MachineIdentity, NAMES, st.frozensets(st.sampled_from(["x", "y"])), NAMES, NAMES
)  # fmt: skip


@given(MACHINES, MACHINES)
def test_the_start_after_any_start_finds_nothing_new(before: MachineIdentity, now: MachineIdentity) -> None:
    kept = merged(before, now, compare(before, now))
    assert compare(kept, now) is Move.NONE
    assert from_json(kept.as_json()) == kept


@given(MACHINES)
def test_what_is_unknown_for_once_makes_no_copy(machine: MachineIdentity) -> None:
    blind = merged(machine, MachineIdentity(), compare(machine, MachineIdentity()))
    assert compare(blind, machine) is Move.NONE


@pytest.mark.parametrize("record", [{}, {"boards": 3, "disk": None}, {"boards": [1]}])
def test_a_damaged_record_is_read_as_unknown(record: dict[str, object]) -> None:
    assert compare(from_json(record), HERE) is not None
