"""The records of settled messages, until ingest has confirmed that the messages were removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from runtime.core.delivery.outgoing import MessageState, Outgoing
from runtime.core.settlement import Settled


class SettledRecords:
    """An outbox of outcomes, and what is known of the messages meanwhile: none of them is sent again."""

    def __init__(self) -> None:
        self._records: dict[int, Outgoing] = {}
        self._unreported: list[Outgoing] = []

    def __len__(self) -> int:
        """Messages whose removal ingest has not confirmed."""
        return len(self._records)

    def __iter__(self) -> Iterator[Outgoing]:
        return iter(self._records.values())

    def __contains__(self, id: int) -> bool:
        return id in self._records

    def get(self, id: int) -> Outgoing | None:
        """The record of a settled message."""
        return self._records.get(id)

    def add(self, message: Outgoing) -> None:
        """Take over the record of a message that was settled just now."""
        self._records[message.candidate.id] = message
        self._unreported.append(message)

    def drain(self) -> Settled:
        """The outcome of the messages that were settled since the last call."""
        records, self._unreported = self._unreported, []
        delivered, aside, dropped = [], [], []
        for message in records:
            match message.state:
                case MessageState.ACKED:
                    delivered.append(message.candidate.id)
                case MessageState.SET_ASIDE:
                    aside.append((message.candidate.id, message.reason))
                case MessageState.EXPIRED | MessageState.SHED:
                    dropped.append((message.candidate.id, message.reason))
                case unsettled:
                    raise AssertionError(unsettled)
        return Settled(delivered, aside, dropped)

    def confirmed(self, ids: Iterable[int]) -> list[Outgoing]:
        """Ingest removed these messages: their records end, and are returned."""
        return [message for id in ids if (message := self._records.pop(id, None)) is not None]
