"""`edgectl reload` asks every worker by a file in run/, and each worker answers by one of its own.

The request is an id: whatever a worker does, and whenever it comes round, it answers the id that it found. An
answer that cannot be written costs `edgectl reload` its line about that worker, and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from runtime.layout import Layout

_ID = re.compile(r"[0-9a-f]{1,64}")
MOST_BYTES = 256


class ReloadOutcome(StrEnum):
    """A worker's answer to the configuration that it was asked to read."""

    TAKEN = "taken"
    REFUSED = "refused"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class ReloadAnswer:
    """The answer of one worker to one request."""

    request: str
    outcome: ReloadOutcome
    changes: tuple[tuple[str, str, str], ...] = ()
    """Settings that it has taken since the request before this one, with their old and new values."""
    restart: tuple[tuple[str, str, str], ...] = ()
    """Settings that it can take only at its next start."""
    reason: str = ""
    """Why it refused."""


def write_request(layout: Layout, id: str) -> None:
    """Ask every worker of this home. Raises OSError."""
    _write(_request_file(layout), id)


def read_request(layout: Layout) -> str:
    """The id of the last request; empty where there is none that can be read."""
    try:
        with _request_file(layout).open("rb") as file:
            id = file.read(MOST_BYTES).decode(errors="replace").strip()
    except OSError:
        return ""
    return id if _ID.fullmatch(id) else ""


def write_answer(layout: Layout, worker: str, answer: ReloadAnswer) -> None:
    content = {
        "request": answer.request,
        "outcome": answer.outcome.value,
        "changes": answer.changes,
        "restart": answer.restart,
        "reason": answer.reason,
    }
    with contextlib.suppress(OSError):
        _write(_answer_file(layout, worker), json.dumps(content))


def read_answer(layout: Layout, worker: str, request: str) -> ReloadAnswer | None:
    """The answer of `worker` to this request; None while there is none."""
    try:
        answer = json.loads(_answer_file(layout, worker).read_text())
        if answer["request"] != request:
            return None
        changes, restart = (tuple((str(a), str(b), str(c)) for a, b, c in answer[k]) for k in _LISTS)
        outcome, reason = ReloadOutcome(answer["outcome"]), str(answer["reason"])
        return ReloadAnswer(request, outcome, changes, restart, reason)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


_LISTS = ("changes", "restart")


def _request_file(layout: Layout) -> Path:
    return layout.run / "reload"


def _answer_file(layout: Layout, worker: str) -> Path:
    return layout.run / f"{worker}.reload"


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    try:
        fresh.write_text(text)
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
