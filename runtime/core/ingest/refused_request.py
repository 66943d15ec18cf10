"""A refused request: leaves the decision on it from anywhere, with the reply that its producer gets."""

from __future__ import annotations

from runtime.core.ingest.new_names import Objection
from runtime.core.ingest.protocol import Code, Refusal
from runtime.core.ingest.quota import Eviction
from runtime.core.ingest.taken_files import NotTaken
from runtime.core.message import StreamName

RETRY_FULL_MS = 1_000
RETRY_SOON_MS = 100


class RefusedRequest(Exception):
    """Leaves the decision on one request; carries the reply, and what may give way for its next attempt."""

    def __init__(
        self, code: Code, message: str, retry_after_ms: int | None = None, trim: Eviction | None = None
    ) -> None:
        self.reply = Refusal(code, message, retry_after_ms)
        self.trim = trim


def refuse_if(objection: Objection | None) -> None:
    if objection is not None:
        raise RefusedRequest(*objection)


def where_full(name: StreamName | None, code: Code) -> str:
    return f"stream {name}" if name else "the disk" if code is Code.DISK_FULL else "the store"


def not_taken(why: NotTaken) -> RefusedRequest:
    code = Code.DISK_FULL if why.full else Code.STORE_UNAVAILABLE
    return RefusedRequest(
        code if why.passing else Code.BAD_FIELD, why.reason, RETRY_FULL_MS if why.passing else None
    )
