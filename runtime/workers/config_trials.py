"""Config trials in the management worker: the record on disk, the check of the rules, and the reload.

The decisions are in `core/management/config_trial.py`. A reload is `edgectl reload` in a process of its own:
it takes seconds, restarts workers, and must not hold up the loop.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from loguru import logger

from runtime.adapters.process.clock import Clock, read_moment
from runtime.config import Config, check_remote, load
from runtime.core.log_events import LogEvent
from runtime.core.log_throttle import LogThrottle
from runtime.core.management.config_trial import (
    ConfigDesired,
    HubAnswered,
    ReloadFinished,
    RemoteConfig,
    SaveRemoteConfig,
    TrialEvent,
    TrialOutcome,
    TrialPolicy,
    TrialState,
    TrialStep,
    TrialTick,
    after,
    described,
    needs_check,
    started,
    wait_s,
)
from runtime.core.management.twin import value_at
from runtime.core.management.twin_record import TwinRecord
from runtime.core.management.twin_sync import TwinPhase, TwinSync
from runtime.core.timer import Timer
from runtime.errors import ConfigError
from runtime.remote_config import encode_record, read_record

ASK_EVERY_S = 15.0
"""While something is on trial the twin is asked so often: an answer is the proof."""
RELOAD_LIMIT_S = 60.0
"""More than `edgectl reload` takes, whatever a worker does."""
LOG_EVERY_S = 600.0
DESIRED_AT = ("runtime", "config")


class Reload(Protocol):
    """A reload under way."""

    def problems(self) -> list[str] | None:
        """What went wrong, a sentence each; None while it is under way."""
        ...

    def close(self) -> None: ...


class ReloadProcess:
    """`edgectl reload` as a process."""

    def __init__(self, config: Config, clock: Clock) -> None:
        words = ["--home", str(config.layout.home), *(["--config", str(config.file)] if config.file else [])]
        self._clock = clock
        self._until_s = clock.boot_s() + RELOAD_LIMIT_S
        self._process = subprocess.Popen(
            [sys.executable, "-m", "runtime", *words, "reload", "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def problems(self) -> list[str] | None:
        if self._process.poll() is None:
            if self._clock.boot_s() < self._until_s:
                return None
            self._process.kill()
        out, err = self._process.communicate()
        try:
            results = json.loads(out)["workers"]
        except (ValueError, KeyError, TypeError):
            said = err.decode(errors="replace").strip().splitlines()
            return [said[-1] if said else f"edgectl reload ended with {self._process.returncode}"]
        return [
            f"{name}: {result['reason'] or result['result']}"
            for name, result in results.items()
            if result["result"] in ("refused", "no answer")
        ]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.communicate()


class ConfigTrials:
    """Tries what the twin desires in /runtime/config."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        *,
        policy: TrialPolicy | None = None,
        reload: Callable[[Config, Clock], Reload] | None = None,
    ) -> None:
        self._config, self._clock, self._begin_reload = config, clock, reload or ReloadProcess
        self._reload: Reload | None = None
        self._throttle = LogThrottle(LOG_EVERY_S)
        self._asked_s = 0.0
        self._ask = Timer(ASK_EVERY_S)
        policy = policy or TrialPolicy(limit_s=config.settings.management.confirm_config_s)
        record = self._read()
        self._state = TrialState(record, policy)
        self._take(started(record, policy, read_moment(clock)))

    def committed(self, before: TwinSync, now: TwinSync) -> bool:
        """Go on with the twin after a turn; true if the twin is to be asked."""
        asked = before.get if now.phase is TwinPhase.LEVEL and now.get is None else None
        self.turn(now.record, asked.since_s if asked else None)
        return self.wants_answer and self._ask.restart_if_due(self._clock.boot_s())

    def turn(self, twin: TwinRecord, asked_s: float | None = None) -> None:
        """Go on with the value that is desired now.

        `asked_s`: when the last question was asked that the hub has answered, by the boot clock.
        """
        if self._reload is not None and (problems := self._reload.problems()) is not None:
            self._reload = None
            self._on(ReloadFinished(problems))
        if twin.desired_version is not None:  # else the hub has not said yet what it desires
            self._desired(value_at(twin.desired, DESIRED_AT))
        if asked_s is not None and asked_s > self._asked_s:
            self._asked_s = asked_s
            self._on(HubAnswered(asked_s))
        self._on(TrialTick())

    def _desired(self, values: Any) -> None:
        values = {} if values is None else values
        if not isinstance(values, Mapping):
            values = {"/runtime/config": values}
        if needs_check(self._state, values):
            self._on(ConfigDesired(values, self._problems(values)))

    @property
    def wants_answer(self) -> bool:
        """True while an answer of the hub would confirm something."""
        return self._state.record.trial is not None and self._state.applied_s is not None

    def section(self) -> dict[str, Any]:
        """What the section `runtime` says of it."""
        return described(self._state.record)

    def wait_s(self) -> float:
        """Seconds until the next turn is due."""
        if self._reload is not None:
            return 0.2
        left_s = wait_s(self._state, read_moment(self._clock))
        return 3600.0 if left_s is None else left_s

    def close(self) -> None:
        if self._reload is not None:
            self._reload.close()

    def _problems(self, values: Mapping[str, Any]) -> list[str]:
        try:
            config = load(os.environ, home=self._config.layout.home, file=self._config.file)
        except ConfigError:  # edge.toml is being changed
            config = self._config
        return check_remote(config, os.environ, values)

    def _on(self, event: TrialEvent) -> None:
        self._take(after(self._state, event, read_moment(self._clock)))

    def _take(self, step: TrialStep) -> None:
        """Carry the actions out, and go on from there; where the disk takes nothing, another turn tries."""
        state, actions = step
        before = self._state.record.outcome
        try:
            for action in actions:
                if isinstance(action, SaveRemoteConfig):
                    _write(self._config.layout.remote_config, encode_record(action.record))
                else:
                    self._reload = self._begin_reload(self._config, self._clock)
        except OSError as exc:
            if self._throttle.times("save", self._clock.boot_s()):
                unsaved = logger.bind(event=LogEvent.REMOTE_CONFIG_NOT_SAVED)
                unsaved.warning("settings from the cloud cannot be saved: {}", exc)
            return
        self._state = state
        if state.record.outcome != before:
            _log_outcome(state.record)

    def _read(self) -> RemoteConfig:
        path = self._config.layout.remote_config
        try:
            return read_record(path) or RemoteConfig()
        except (ValueError, OSError) as exc:
            unread = logger.bind(event=LogEvent.REMOTE_CONFIG_NOT_SAVED)
            unread.warning("{} cannot be read, and what it held is not in force: {}", path, exc)
            return RemoteConfig()


def _log_outcome(record: RemoteConfig) -> None:
    if record.outcome in (TrialOutcome.REFUSED, TrialOutcome.TAKEN_BACK):
        logger.bind(event=LogEvent.REMOTE_CONFIG_NOT_TAKEN).warning(
            "settings from the cloud: {}: {}", record.outcome, record.reason
        )
    else:
        logger.info("settings from the cloud: {}", record.outcome)


def _write(path: Path, content: bytes) -> None:
    """Replace the file: after a power cut it is the old one or this. Raises OSError."""
    fresh = path.with_name(f"{path.name}.new")
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:  # writes all of it, or raises: a full disk may take a part
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
