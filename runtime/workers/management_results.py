"""Results of commands on their way to the cloud: read from disk in the order of their ends, sent to ingest.

Each goes under the key (command-results, uuid of the database, number of its end): repeated after a crash of
either side it is stored once.
"""

from __future__ import annotations

from dataclasses import replace

from runtime.adapters.management.database import EndedCommand, ManagementDatabase
from runtime.adapters.management.result_line import KeyedMessages, ResultLine
from runtime.core.ingest.protocol import Refusal, Stored
from runtime.core.management.command_record import ResultStored
from runtime.core.management.command_results import result_message

PRODUCER = "command-results"
MOST_AT_ONCE = 50


class ResultSender:
    """What was sent, and what is to be sent next."""

    def __init__(self, endpoint: str, stream: str) -> None:
        self.line = ResultLine(endpoint)
        self._stream = stream
        self._sent: list[EndedCommand] = []
        self._done: list[ResultStored] = []
        self._singly = False
        """One of the last request was refused: the next ones go one by one, until it is found."""
        self._look = True
        """There may be results on disk that were not sent."""

    def wake(self) -> None:
        """A command ended."""
        self._look = True

    def outcomes(self, database: ManagementDatabase, now_s: float) -> list[ResultStored]:
        """What became of the results that were sent: events, given again until `taken`."""
        reply = self.line.outcome(now_s)
        if isinstance(reply, Stored):
            self._done = [ResultStored(one.command) for one in self._sent]
            self._sent, self._singly, self._look = [], False, True
        elif isinstance(reply, Refusal):
            if len(self._sent) == 1:
                self._done = [ResultStored(self._sent[0].command, f"{reply.message} ({reply.code})")]
            self._singly, self._sent, self._look = True, [], True
        return [replace(one, known=database.command(one.known.seq) or one.known) for one in self._done]

    def taken(self) -> None:
        """The outcomes are on disk."""
        self._done = []

    def send(self, database: ManagementDatabase, now_s: float) -> None:
        """Send the next results, if none are on their way."""
        if self.line.busy or self._done or not self._look:
            return
        ended = _consecutive(database.unsent(1 if self._singly else MOST_AT_ONCE))
        self._sent, self._look = ended, bool(ended)
        if not ended:
            return
        messages = KeyedMessages(
            PRODUCER,
            database.uuid,
            ended[0].number,
            [result_message(one.command) for one in ended],
            self._stream,
            [_properties(one.command.id) for one in ended],
        )
        self.line.send(messages, now_s)

    def wait_s(self, now_s: float) -> float:
        return self.line.wait_s(now_s)

    def close(self) -> None:
        self.line.close()


def _consecutive(ended: list[EndedCommand]) -> list[EndedCommand]:
    """The first ones whose numbers follow each other: one request has one run of them."""
    run = ended[:1]
    for one in ended[1:]:
        if one.number != run[-1].number + 1:
            break
        run.append(one)
    return run


def _properties(id: str) -> dict[str, str]:
    """The correlation id, where it may be a property's value."""
    return {"correlation-id": id} if id.isprintable() and len(id) <= 256 else {}
