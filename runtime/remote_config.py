"""The settings that the cloud desires, as every process reads them beside edge.toml.

The file `state/remote-config.json` is written by the management worker alone. What is in force of it stands
between edge.toml and the environment: it wins over the file, and a variable wins over it. It never makes a
configuration wrong: what cannot be read, breaks a rule or is not allowed is left out as a whole, with a
warning.

`management.remote_settings` allows settings by name. Some it cannot allow: secrets, paths, and the tables
that say who the device is, who may speak to it, and which programs it starts. A person who may write the
twin would else own the machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from runtime.core.management.config_trial import (
    ConfigTrial,
    RemoteConfig,
    TrialOutcome,
    Values,
    values_in_force,
)
from runtime.core.management.names import matches_any
from runtime.core.moment import Moment
from runtime.setting_rule import Key

REMOTE_TABLES = ("log", "link", "upload", "refresh", "provisioning", "store", "sentinel")
"""The tables of which `management.remote_settings` may allow settings."""
TWIN = "twin /runtime/config"
ON_TRIAL = "twin /runtime/config, on trial"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def may_be_remote(key: Key) -> bool:
    """True if the setting may be allowed to the cloud."""
    return key.table in REMOTE_TABLES and not key.secret and key.kind is not Path


def settings_of(values: Values) -> Iterator[tuple[str, Any]]:
    """The settings of a desired value, by their dotted names; a table that is none is one itself."""
    for table, settings in values.items():
        if isinstance(settings, Mapping):
            yield from ((f"{table}.{name}", value) for name, value in settings.items())
        else:
            yield table, settings


def parsed(
    values: Values, keys: Iterable[Key], allowed: Iterable[str], environment: Iterable[str] = ()
) -> tuple[dict[str, Any], list[str]]:
    """The values of the settings, and what is wrong with each that is wrong, in a sentence.

    `environment` names the settings that variables set: another value from the cloud would not count.
    """
    known = {key.dotted: key for key in keys}
    found: dict[str, Any] = {}
    problems: list[str] = []
    for name, written in settings_of(values):
        key = known.get(name)
        if key is None:
            problems.append(f"{name} is no setting")
        elif not (may_be_remote(key) and matches_any(allowed, name)):
            problems.append(f"{name} is not among management.remote_settings")
        elif name in environment:
            problems.append(f"{name} is set by a variable of the environment")
        else:
            try:
                found[name] = key.parse(written, Path.cwd())
            except ValueError as exc:
                problems.append(f"{name} = {key.shown(written)} {exc}")
    return found, problems


def encode_record(record: RemoteConfig) -> bytes:
    trial = record.trial
    return json.dumps(
        {
            "confirmed": record.confirmed,
            "trial": trial
            and {
                "values": trial.values,
                "began": [trial.began.wall_s, trial.began.boot_s, trial.began.boot_id],
                "limit_s": trial.limit_s,
                "number": trial.number,
            },
            "judged": record.judged,
            "outcome": record.outcome,
            "reason": record.reason,
            "reload_owed": record.reload_owed,
        }
    ).encode()


def decode_record(text: bytes) -> RemoteConfig:
    """Raises ValueError where it is none."""
    try:
        fields = json.loads(text)
        trial = fields["trial"]
        if trial is not None:
            trial = ConfigTrial(
                _tables(trial["values"]), Moment(*trial["began"]), trial["limit_s"], trial["number"]
            )
        judged = fields["judged"]
        return RemoteConfig(
            _tables(fields["confirmed"]),
            trial,
            None if judged is None else _tables(judged),
            TrialOutcome(fields["outcome"]),
            fields["reason"],
            fields["reload_owed"],
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise ValueError(f"not a record of remote settings: {exc!r}") from None


def _tables(value: Any) -> Values:
    if not isinstance(value, dict):
        raise TypeError("settings stand in tables")
    return value


def read_record(path: Path) -> RemoteConfig | None:
    """The record, or None where none was ever written. Raises ValueError, OSError."""
    try:
        return decode_record(path.read_bytes())
    except FileNotFoundError:
        return None


def read_in_force(path: Path) -> tuple[Values, str]:
    """The settings of the cloud that hold now, and their origin. Raises ValueError, OSError."""
    record = read_record(path)
    if record is None:
        return {}, TWIN
    boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    values = values_in_force(record, Moment(time.time(), boot_s, _BOOT_ID.read_text().strip()))
    return values, ON_TRIAL if record.trial and values is record.trial.values else TWIN
