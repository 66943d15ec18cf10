"""Watch of the configuration file: every worker notices a change in the same way, and takes it or refuses it.

Invariants:

1. A change is believed once the file has stayed the same for a while: a half-written one may be valid, too,
   and a wished device id that is missing for a second would cost an operator's approval. `edgectl reload`
   says that the file is whole: it is read at once.
2. A file that is wrong is refused in one sentence, and a file that is gone is no change: the last valid
   configuration stays in force. A bad file never ends a worker.
3. A worker takes the settings that it reads live (`setting_readers.py`); for the others it names the restart
   that they need, and keeps their old values until then.
4. A request is answered once, by id, also by a worker that has just started.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from loguru import logger

from runtime.adapters.process import logs
from runtime.adapters.process.clock import Clock
from runtime.adapters.process.journal import service_journal
from runtime.adapters.process.last_good_config import accepted_file, remember
from runtime.adapters.process.reload_request import ReloadAnswer, ReloadOutcome, read_request, write_answer
from runtime.config import Config, load
from runtime.config_changes import SettingChange, changes_for, without
from runtime.config_file import find_file
from runtime.core.log_events import LogEvent
from runtime.errors import ConfigError

SETTLE_S = 1.5
"""A file that stayed the same for so long is no longer being written."""
LOOK_EVERY_S = 0.5
"""Shortest time between two looks at the file, whatever the worker's loop does."""

Mark = tuple[str, int, int, int]
"""Tells one content of the file from another: path, inode, time of the last change (ctime), size."""


class ConfigWatch:
    """The configuration in force in this worker: `config` changes only in `changed`."""

    def __init__(
        self,
        config: Config,
        worker: str,
        clock: Clock,
        check: Callable[[Config], None] = lambda config: None,
    ) -> None:
        """`check` raises ConfigError where the worker could not start with a configuration."""
        self.config = config
        self._worker = worker
        self._clock = clock
        self._check = check
        self._known: Mark | None = None  # it may have changed since `config` was read: it is read once more
        self._known_remote: Mark | None = None
        self._settling = self._mark()
        self._since_s = clock.boot_s()
        self._look_s = 0.0
        self._answered = ""
        self._taken: list[SettingChange] = []
        """The changes taken since the last request."""
        self._logged: object = None
        """The refusal, or the pending settings, of which the log tells already."""

    def changed(self) -> bool:
        """Look at the file; true if `config` is now another one for this worker. Cheap."""
        now_s = self._clock.boot_s()
        if now_s < self._look_s:
            return False
        self._look_s = now_s + LOOK_EVERY_S
        mark, remote = self._mark(), _mark_of(self.config.layout.remote_config)
        if mark != self._settling:
            self._settling, self._since_s = mark, now_s
        settled = now_s - self._since_s >= SETTLE_S
        request = read_request(self.config.layout)
        asked = request not in ("", self._answered)
        known = (mark is None or mark == self._known) and remote == self._known_remote
        if not asked and (known or not settled):
            return False
        self._known_remote = remote  # always whole: the file is renamed into place
        if settled:  # else it is read once more when it is: the next write may leave the same mark
            self._known = mark
        before = self.config
        answer = self._read(mark, request)
        if asked:
            write_answer(self.config.layout, self._worker, answer)
            self._answered, self._taken = request, []
        return bool(changes_for(self._worker, before, self.config)[0])

    def _read(self, mark: Mark | None, request: str) -> ReloadAnswer:
        try:
            fresh = self._loaded(mark)
            live, pending = changes_for(self._worker, self.config, fresh)
            if live or pending:
                self._check(fresh)
        except ConfigError as exc:
            self._log_once(str(exc), "{}; going on with the configuration that was last in order", str(exc))
            return ReloadAnswer(request, ReloadOutcome.REFUSED, reason=str(exc))
        self._take(fresh, live, pending)
        outcome = ReloadOutcome.TAKEN if self._taken else ReloadOutcome.UNCHANGED
        return ReloadAnswer(request, outcome, _rows(self._taken), _rows(pending))

    def _loaded(self, mark: Mark | None) -> Config:
        if mark is None and self.config.file is not None:
            raise ConfigError(f"{self.config.file} is not there, or cannot be looked for")
        return load(os.environ, home=self.config.layout.home, file=Path(mark[0]) if mark else None)

    def _take(self, fresh: Config, live: list[SettingChange], pending: list[SettingChange]) -> None:
        if fresh.settings != self.config.settings:
            remember(fresh)
        self.config = without(fresh, self.config, pending)
        self._taken += live
        if live:
            logger.info("{}: taken: {}", fresh.file, _listed(live))
        if any(change.setting.startswith("log.") for change in live):
            log = self.config.settings.log
            logs.configure(self._worker, log.level, log.format, service_journal() if log.journal else None)
        if pending:
            text = "{}: counts from the next start of {} on (`edgectl reload` restarts it): {}"
            self._log_once(pending, text, fresh.file, self._worker, _listed(pending))
        else:
            self._logged = None

    def _log_once(self, subject: object, text: str, *values: object) -> None:
        if subject != self._logged:
            logger.bind(event=LogEvent.CONFIGURATION_NOT_TAKEN).warning(text, *values)
        self._logged = subject

    def _mark(self) -> Mark | None:
        """The file's mark; None where the file is not there."""
        asked = self.config.file
        if asked == accepted_file(self.config.layout):  # edge.toml was invalid when we started
            asked = None
        try:
            file = asked or find_file(os.environ, self.config.layout.home)
        except (ConfigError, OSError):
            return None
        return _mark_of(file) if file else None


def _mark_of(file: Path) -> Mark | None:
    """The file's mark; None where it is not there."""
    try:
        status = file.stat()
    except OSError:
        return None
    return str(file), status.st_ino, status.st_ctime_ns, status.st_size


def _listed(changes: Iterable[SettingChange]) -> str:
    return ", ".join(map(str, changes))


def _rows(changes: Iterable[SettingChange]) -> tuple[tuple[str, str, str], ...]:
    return tuple((change.setting, change.old, change.new) for change in changes)
