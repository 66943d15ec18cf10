"""Watch of edge.toml: a person's change to it takes effect without a restart.

A change is believed once the file has stayed the same for a while: a half-written one may be valid, too, and
a wished device id that is missing for a second would cost an operator's approval. A file that is wrong is
refused in one sentence, and a file that is gone is no change: the last valid configuration stays in force.
"""

from __future__ import annotations

import os
from pathlib import Path

from loguru import logger

from runtime.adapters.process.clock import Clock
from runtime.adapters.process.last_good_config import accepted_file, remember
from runtime.config import Config, find_file, load
from runtime.errors import ConfigError

SETTLE_S = 1.5
"""A file that stayed the same for so long is no longer being written."""

Mark = tuple[str, int, int, int]
"""Tells one content of the file from another: path, inode, time of the last change, size."""


class WatchedConfig:
    """The configuration in force: `config` changes only in `changed`."""

    def __init__(self, config: Config, clock: Clock, *, silent: bool = False) -> None:
        """Read the file. `silent`: other workers report that it has changed, and remember it."""
        self.config = config
        self._silent = silent
        self._clock = clock
        self._known: Mark | None = None  # it may have changed since `config` was read: it is read once more
        self._settling = self._mark()
        self._since_s = clock.boot_s()

    def changed(self) -> bool:
        """Look at the file; true if `config` is now another one than before."""
        mark, now_s = self._mark(), self._clock.boot_s()
        if mark != self._settling:
            self._settling, self._since_s = mark, now_s
        if mark is None or mark == self._known or now_s - self._since_s < SETTLE_S:
            return False
        self._known = mark
        return self._take(Path(mark[0]))

    def _take(self, file: Path) -> bool:
        try:
            fresh = load(os.environ, home=self.config.layout.home, file=file)
        except ConfigError as exc:
            if not self._silent:
                logger.warning("{reason}; going on with the configuration that was last in order", reason=exc)
            return False
        if fresh.settings == self.config.settings:
            return False
        self.config = fresh
        if not self._silent:
            remember(fresh)
            logger.info("{file} has changed, and counts here from now on", file=file)
        return True

    def _mark(self) -> Mark | None:
        """The file's mark; None where the file is not there."""
        asked = self.config.file
        if asked == accepted_file(self.config.layout):  # edge.toml was invalid when we started
            asked = None
        try:
            file = asked or find_file(os.environ, self.config.layout.home)
            found = file.stat() if file else None
        except (ConfigError, OSError):
            return None
        return (str(file), found.st_ino, found.st_mtime_ns, found.st_size) if found else None
