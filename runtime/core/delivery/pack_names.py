"""Pack names: the name of a pack says who is in it.

It is the first member's, `#`, and the runs of sequence numbers: `p:b:101#+20` are twenty in a row,
`#+5-2+15` five, two left out, fifteen, `#+20*3` every third number, twenty of them. `#` is in no key's name,
and the `~` that would read better is not allowed in the hub's message ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

MOST_NAME_CHARACTERS = 120
"""The hub allows 128 in a message id."""
MOST_MEMBERS = 1_000
"""Most messages of one pack."""
_COUNTED = re.compile(r"(.*:)(0|[1-9][0-9]{0,18})", re.DOTALL)
_RUN = re.compile(r"\+([1-9]\d*)(?:\*([1-9]\d*))?(?:-(0|[1-9]\d*)(?=\+))?", re.ASCII)
_LEAST_STEPPED = 3
"""A run of every n-th number is worth its step from so many members on."""


class NotAPack(ValueError):
    """A message that claims to be a pack, and cannot be taken apart without guessing."""


def is_counted(mid: str) -> bool:
    """True if a message id ends with a number, so that the name of a pack can say it."""
    return _COUNTED.fullmatch(mid) is not None


def counted(mid: str) -> tuple[str, int]:
    """A message id as what all of its producer's life share, and the number. Raises NotAPack."""
    match = _COUNTED.fullmatch(mid)
    if match is None:
        raise NotAPack(f"the message id {mid!r} has no number")
    return match[1], int(match[2])


def runs(numbers: Sequence[int]) -> Iterator[tuple[int, str]]:
    """The runs of ascending numbers: of each the number of members up to its end, and its text."""
    at = 0
    while at < len(numbers):
        count, step = _run(numbers, at)
        left_out = f"-{numbers[at] - numbers[at - 1] - 1}" if at else ""
        at += count
        yield at, f"{left_out}+{count}" + (f"*{step}" if step > 1 else "")


def _run(numbers: Sequence[int], at: int) -> tuple[int, int]:
    """The number of members of the run that begins there, and its step."""
    if at + 1 == len(numbers):
        return 1, 1
    step = numbers[at + 1] - numbers[at]
    end = at + 1
    while end + 1 < len(numbers) and numbers[end + 1] - numbers[end] == step:
        end += 1
    count = end - at + 1
    return (count, step) if step == 1 or count >= _LEAST_STEPPED else (1, 1)


def numbers_of(first: int, text: str) -> list[int]:
    """The numbers that `runs` has written. Raises NotAPack for any other text."""
    numbers: list[int] = []
    at, next_number = 0, first
    while at < len(text):
        match = _RUN.match(text, at)
        if match is None or len(numbers) + int(match[1]) > MOST_MEMBERS:
            raise NotAPack(f"{text!r} does not count the members of a pack")
        count, step = int(match[1]), int(match[2] or 1)
        numbers += range(next_number, next_number + count * step, step)
        next_number = numbers[-1] + int(match[3] or 0) + 1
        at = match.end()
    if "".join(run for _, run in runs(numbers)) != text:
        raise NotAPack(f"{text!r} is not the one way to write the members of a pack")
    return numbers


def named(first: str, numbers: Sequence[int]) -> tuple[str, int]:
    """The name of a pack whose first member is named `first`, and how many members fit into a name."""
    name, fitting = f"{first}#", 0
    for members, run in runs(numbers):
        if len(name) + len(run) > MOST_NAME_CHARACTERS:
            break
        name, fitting = name + run, members
    return name, fitting


def member_ids(name: str) -> list[str]:
    """The ids of a pack's members, by its name. Raises NotAPack."""
    first, separator, text = name.partition("#")
    if not separator:
        raise NotAPack(f"{name!r} is not the name of a pack")
    prefix, number = counted(first)
    numbers = numbers_of(number, text)
    if len(numbers) < 2:
        raise NotAPack(f"{name!r} names a pack of fewer than two")
    return [f"{prefix}{number}" for number in numbers]
