"""ingest with a store that promises too much: shows that the tests of power cuts would notice.

Its argument is a level for `PRAGMA synchronous`; `credulous` believes the page cache at opening; `hasty`
acknowledges before it commits; `impatient` keeps all promises, and looks at a disk that cannot be read a
hundred times as often, and believes it a hundred times as soon; `curious` only looks so often; `doomed` is
killed at the end of its first commit with a message, before that is on disk. At the level `FULL` it keeps all
its promises.

Its WAL has room from the beginning for a hundred pages only: commits inside of it, and such that lengthen it;
and it folds every forty rows.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from typing import Any

from runtime.adapters.process.process import Stop
from runtime.adapters.store import disk, fold, open_store, writer
from runtime.config import load
from runtime.core.ingest import read_errors, store_state
from runtime.core.ingest.protocol import Ping, Pong
from runtime.workers import ingest

opened: Any = open_store
"""The module, open to changes."""
writing: Any = writer
folding: Any = fold
loop: Any = ingest.IngestLoop
room: Any = disk
configure = opened.configure
store_them, acknowledge = ingest.IngestLoop._store, ingest.IngestLoop._acknowledge


def weaken(db: sqlite3.Connection, max_pages: int | None) -> None:
    configure(db, max_pages)
    db.execute(f"PRAGMA synchronous = {sys.argv[1]}")
    db.execute("PRAGMA wal_autocheckpoint = 300")  # a commit has a page or two: else there would be none


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def acknowledge_first(self: ingest.IngestLoop, pending: list[Any], settled: Any) -> list[Any]:
    """What a store that always works would answer."""
    for peer, request in pending:
        if not isinstance(request, Ping):
            peer.answer(b'{"ok":true,"stored":1,"ids":[1]}')
    return store_them(self, pending, settled)


def answer_pings(self: ingest.IngestLoop, pending: list[Any], replies: list[Any]) -> None:
    pings = [(peer, reply) for peer, reply in zip(pending, replies, strict=True) if reply == Pong()]
    acknowledge(self, [peer for peer, _ in pings], [reply for _, reply in pings])


if __name__ == "__main__":
    room.JOURNAL_LIMIT_BYTES = 409_600
    folding.FOLD_ROWS = 40
    if sys.argv[1] == "credulous":
        opened.write_again = lambda database, alive: None
        opened.ends_early = lambda db, database: False  # a checkpoint would bring it to the disk, too
    elif sys.argv[1] == "hasty":
        loop._store = acknowledge_first
        loop._acknowledge = answer_pings
    elif sys.argv[1] == "doomed":
        writing.insert = die
    elif sys.argv[1] in ("impatient", "curious"):
        read_errors.LOOK_EVERY_S /= 100
        read_errors.LASTING_S /= 100 if sys.argv[1] == "impatient" else 1
        store_state.TRY_OPEN_S /= 10
    else:
        opened.configure = weaken
    stop = Stop()
    stop.listen()
    config = load(os.environ)
    config.layout.create()
    ingest.run(config, stop)
