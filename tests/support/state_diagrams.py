"""The state diagrams of docs/architecture.md, drawn from the tables in the code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from runtime.core.delivery import connection, outgoing
from runtime.core.delivery.connection import ConnectionState
from runtime.core.delivery.outgoing import SETTLED, MessageState
from runtime.core.delivery.transitions import Table
from runtime.core.ingest import store_state

Arrow = tuple[str, str, str]
"""The state before, the state after, and what leads there."""
OUTSIDE = "[*]"


def message_states() -> str:
    """The states of a message on its way out."""
    begin = (OUTSIDE, MessageState.QUEUED.name, "read from the store")
    ends = [(state.name, OUTSIDE, "ingest has removed it") for state in SETTLED]
    return _drawn([begin, *_arrows(outgoing.TRANSITIONS), *ends])


def connection_states() -> str:
    """The states of a client."""
    return _drawn([(OUTSIDE, ConnectionState.DOWN.name, ""), *_arrows(connection.TRANSITIONS)])


def store_states() -> str:
    """The states of messages.db; a step that leads back to its own state is left out."""
    by_way: dict[tuple[str, str], list[str]] = {}
    for (before, event), following in store_state.TRANSITIONS.items():
        for after in following:
            if after is not before:
                by_way.setdefault((before.__name__, after.__name__), []).append(event.__name__)
    arrows = [(*way, " or ".join(events)) for way, events in by_way.items()]
    return _drawn([(OUTSIDE, store_state.Opening.__name__, ""), *arrows])


def _arrows(table: Table[Any]) -> list[Arrow]:
    return [
        (before.name, after.name, why)
        for before, following in table.items()
        for after, why in following.items()
    ]


def _drawn(arrows: Iterable[Arrow]) -> str:
    lines = []
    for before, after, why in arrows:
        assert not re.search("[:;#]", why), f"mermaid ends a label there: {why}"
        lines.append(f"    {before} --> {after}" + (f": {why}" if why else ""))
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"]) + "\n"
