"""ingest with a store that promises too much: shows that the tests of power cuts would notice.

Its argument is a level for `PRAGMA synchronous`; or `credulous`, which believes the page cache at opening.
"""

from __future__ import annotations

import os
import sys

from runtime.adapters import store
from runtime.adapters.process import Stop
from runtime.adapters.store import MessageStore
from runtime.config import load
from runtime.workers import ingest

configure = MessageStore._configure


def weaken(store: MessageStore, max_pages: int | None) -> None:
    configure(store, max_pages)
    store._db.execute(f"PRAGMA synchronous = {sys.argv[1]}")


if __name__ == "__main__":
    if sys.argv[1] == "credulous":
        store.write_again = lambda database: None
    else:
        MessageStore._configure = weaken  # type: ignore[method-assign]
    stop = Stop()
    stop.listen()
    config = load(os.environ)
    config.layout.create()
    ingest.run(config, stop)
