"""Two slots: whatever happens, the chooser starts one that was confirmed, or one that still has tries."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.update.slots import (
    SLOTS,
    TRIES,
    SlotChoice,
    begin_trial,
    booted_slot,
    came_back,
    clear_trial,
    confirm,
    other,
    parse_choice,
    power_on,
)


def test_the_file_is_read_as_it_is_written() -> None:
    choice = SlotChoice("b", "a", 2)
    assert choice.text() == "active=b\ntrial=a\ntries=2\n"
    assert parse_choice(choice.text()) == choice


@pytest.mark.parametrize(
    "text",
    [
        "",
        "active=a\n",
        "active=c\ntrial=\ntries=0\n",
        "active=a\ntrial=x\ntries=0\n",
        "active=a\ntrial=\ntries=\n",
    ],
)
def test_a_damaged_file_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"no (slot|number)"):
        parse_choice(text)


def test_a_slot_that_never_confirms_comes_back_after_its_tries() -> None:
    choice, started = begin_trial(SlotChoice("a"), "b"), []
    for _ in range(TRIES + 2):
        slot, written = power_on(choice)
        choice = written or choice
        started.append(slot)
    assert started == ["b"] * TRIES + ["a", "a"]
    assert came_back(choice, "a")
    assert power_on(clear_trial(choice)) == ("a", None)


def test_a_slot_that_confirms_stays() -> None:
    slot, choice = power_on(begin_trial(SlotChoice("b"), "a"))
    assert choice is not None
    kept = confirm(choice, slot)
    assert kept == SlotChoice("a")
    assert power_on(kept) == ("a", None)
    assert not came_back(kept, "a")


def test_the_active_slot_confirms_nothing_for_the_other() -> None:
    choice = SlotChoice("a", "b", 0)
    assert confirm(choice, "a") == choice
    with pytest.raises(ValueError, match="active"):
        begin_trial(choice, "a")


@given(st.lists(st.sampled_from(["start", "confirm", "apply"]), max_size=30))
def test_a_slot_without_tries_or_confirmation_is_never_started(steps: list[str]) -> None:
    choice, booted, confirmed = SlotChoice("a"), "a", {"a"}
    for step in steps:
        if step == "start":
            booted, written = power_on(choice)
            assert booted in confirmed or written is not None
            choice = written or choice
        elif step == "confirm" and (kept := confirm(choice, booted)) != choice:
            choice = kept
            confirmed = {booted}
        elif step == "apply" and booted == choice.active:
            choice = begin_trial(choice, other(booted))
        assert parse_choice(choice.text()) == choice
        assert choice.active in confirmed


def test_the_kernels_command_line_wins_over_the_choosers_file() -> None:
    assert booted_slot("root=/dev/ubda edge.slot=b ro", "a\n") == "b"
    assert [booted_slot("ro edge.slot=x", f"{slot}\n") for slot in SLOTS] == ["a", "b"]
    assert booted_slot("ro", "none") == ""
    assert power_on(None) == ("a", None)
