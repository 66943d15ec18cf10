"""Row repair: how a salvage takes over readable rows. A flipped bit shows as a value of a wrong type, too.

Invariant: a store made of repaired rows opens and serves; else the salvage would begin again for ever.
Rows about messages are repaired, or dropped. Messages are kept whatever they hold: their reader sets aside
those that make no sense, and only the others are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.core.ingest.quota import LARGEST_BYTES, NOTHING, TEXTS_BYTES, Amount, countable
from runtime.core.ingest.sequences import Sequences
from runtime.core.ingest.taken_files import TakenFile

LARGEST = 2**62
"""No number of the runtime comes near it, and none that follows it leaves SQLite's integers."""
LARGEST_ID = 2**52
"""No store comes so far in a century. A larger id is damaged, and must not decide where ids go on."""
Row = Sequence[Any]


def is_number(value: object) -> bool:
    """True if it can be an id, or a count of them."""
    return type(value) is int and 0 <= value <= LARGEST


def is_id(value: object) -> bool:
    """True if it can be the id of a message, or the next one."""
    return type(value) is int and 0 <= value <= LARGEST_ID


def _stream(row: Row) -> Row | None:
    number, group, stream = row
    return (number, _text(group), _text(stream)) if is_number(number) else None


def _boot(row: Row) -> Row | None:
    number, boot_id = row
    return row if is_number(number) and isinstance(boot_id, str) else None


def _life(row: Row) -> Row | None:
    first_id, name = row
    return row if is_id(first_id) and isinstance(name, str) else None


def _leaf(row: Row) -> Row | None:
    stream, leaf = row
    return row if is_number(stream) and isinstance(leaf, str) else None


def _loss(row: Row) -> Row | None:
    stream, reason, messages, size, *ids = row
    counts = isinstance(reason, str) and is_number(stream) and type(messages) is int
    return (stream, reason, messages, *(n if is_number(n) else 0 for n in (size, *ids))) if counts else None


def _level(row: Row) -> Row | None:
    """What was ever stored and delivered; what is stored now is counted."""
    stream, priority, _, _, *ever = row
    known = is_number(stream) and countable(priority, 0) and all(type(number) is int for number in ever)
    return (stream, priority, 0, 0, *ever) if known else None


def _ledger(row: Row) -> Row | None:
    number, since_wall_s, stored, delivered, waiting, *cut = row
    counts = all(type(each) is int for each in (stored, delivered, *cut))
    times = since_wall_s is None or type(since_wall_s) in (int, float)
    return (1, since_wall_s, stored, delivered, waiting, *cut) if counts and times and number == 1 else None


def _beside(row: Row) -> Row | None:
    stream, what, messages = row
    return row if isinstance(what, str) and is_number(stream) and is_number(messages) else None


def _loss_entry(row: Row) -> Row | None:
    number, stream, reason, messages, first_id, last_id, *times = row
    known = isinstance(reason, str) and all(map(is_number, (number, stream, first_id, last_id)))
    counts = messages is None or is_number(messages)
    return row if known and counts and all(at is None or type(at) in (int, float) for at in times) else None


def _producer(row: Row) -> Row | None:
    producer, boot, memory, used_boot, used_boot_s = row
    names = isinstance(producer, str) and isinstance(boot, str)
    if not names or not is_number(used_boot) or type(used_boot_s) not in (int, float):
        return None
    try:
        Sequences.unpack(memory)
    except (ValueError, TypeError):
        return None  # forgotten: a repeat may be stored twice, which is better than called stored
    return row


def _text(value: object) -> str | None:
    """A name, with replacement marks where it cannot be decoded."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else None


REPAIRS: Mapping[str, Callable[[Row], Row | None]] = {
    "streams": _stream,
    "boots": _boot,
    "levels": _level,
    "losses": _loss,
    "ledger": _ledger,
    "ledger_beside": _beside,
    "loss_log": _loss_entry,
    "producers": _producer,
    "lives": _life,
    "leaves": _leaf,
}
"""The repair by table: the row as it can be taken over, or None."""


def _most_bytes(values: Mapping[str, Any]) -> int:
    """The most bytes that a message counts for: one flipped bit must not make all others give way to it."""
    payload = values["payload"] if isinstance(values["payload"], bytes) else b""
    if values["file"] is None:
        return len(payload) + TEXTS_BYTES
    taken = TakenFile.unpack(payload)
    return LARGEST_BYTES if taken is None else taken.size_bytes + TEXTS_BYTES


@dataclass
class RowRepair:
    """The messages taken over, and the content of the tables about them, found without a second read."""

    columns: Sequence[str]
    never_null: Collection[str]
    streams: set[int] = field(default_factory=set)
    boots: set[int] = field(default_factory=set)
    levels: dict[tuple[int, int], Amount] = field(default_factory=dict)
    """The amounts taken over, by stream and priority."""
    uncounted: int = 0
    """Messages taken over of which no level can be known."""
    of_streams: Counter[object] = field(default_factory=Counter)
    """Messages taken over, by what their rows say the stream is."""

    def repaired(self, row: Row) -> Row:
        """The row as the schema accepts it: an empty text where NULL is not allowed."""
        named = zip(self.columns, row, strict=True)
        return ["" if value is None and name in self.never_null else value for name, value in named]

    def renumbered(self, number: int, row: Row, name: str | None) -> Row:
        """The row of a message with an impossible id, under a sound one and its old name."""
        values = dict(zip(self.columns, row, strict=True))
        key = values.get("key") or (f"{name}/{values['id']}" if name else None)
        return [*{**values, "id": number, "key": key}.values()]

    def count(self, row: Row) -> None:
        """Count a message that was taken over."""
        values = dict(zip(self.columns, row, strict=True))
        stream, priority, size = values["stream"], values["priority"], values["bytes"]
        if is_number(values["boot"]):
            self.boots.add(values["boot"])
        self.of_streams[stream] += 1
        if is_number(stream):
            self.streams.add(stream)
        if is_number(stream) and countable(priority, size) and size <= _most_bytes(values):
            before = self.levels.get((stream, priority), NOTHING)
            self.levels[stream, priority] = before.plus(Amount(1, size))
        else:
            self.uncounted += 1
