"""The difference between two configurations: the settings, with their old and new values, for each worker."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from runtime.config import Config
from runtime.core.message import StreamName
from runtime.setting_rule import Key, keys_of, spelled
from runtime.settings import Settings, StreamSettings, keys, named_tables, tables, value_of
from runtime.settings_management import ProgramSettings

MOST_SHOWN = 60
"""Characters of a value that are shown."""
_PROGRAM = "management.program."
SECRET = "***"  # noqa: S105 shown in place of a secret


@dataclass(frozen=True, slots=True)
class SettingChange:
    """One setting that differs. Of a secret neither value is known here."""

    setting: str
    old: str
    new: str

    def __str__(self) -> str:
        if self.old == self.new == SECRET:
            return f"{self.setting} changed"
        return f"{self.setting} {self.old} -> {self.new}"


def changes_for(worker: str, old: Config, new: Config) -> tuple[list[SettingChange], list[SettingChange]]:
    """The changes that this worker takes while it runs, and those that it takes at its next start."""
    live, restart = [], []
    for key, before, after in _differences(old.settings, new.settings):
        change = SettingChange(
            key.dotted, *((SECRET, SECRET) if key.secret else (_text(before), _text(after)))
        )
        if worker in key.readers.live:
            live.append(change)
        if worker in key.readers.restart:
            restart.append(change)
    return live, restart


def without(new: Config, old: Config, pending: Iterable[SettingChange]) -> Config:
    """`new`, but with the values of `old` for the settings of `pending`: they count from a restart on."""
    names = {change.setting for change in pending}
    fixed, kept = {table.name for table in tables()}, dict[str, Any]()
    streams, programs = dict(new.settings.stream), dict(new.settings.program)
    for key, before, _ in _differences(old.settings, new.settings):
        if key.dotted not in names:
            continue
        if key.table in fixed:
            table = kept.get(key.table) or getattr(new.settings, key.table)
            kept[key.table] = dataclasses.replace(table, **{key.name: before})
        elif key.table.startswith(_PROGRAM):
            name = key.table.removeprefix(_PROGRAM)
            program = programs.get(name) or ProgramSettings()
            programs[name] = dataclasses.replace(program, **{key.name: before})
        else:
            stream = StreamName.parse(key.table.removeprefix("stream."))
            settings = streams.get(stream) or StreamSettings()
            streams[stream] = dataclasses.replace(settings, **{key.name: before})
    changed = dataclasses.replace(new.settings, stream=streams, program=programs, **kept)
    return dataclasses.replace(new, settings=changed)


def _differences(old: Settings, new: Settings) -> Iterator[tuple[Key, Any, Any]]:
    for key in keys():
        before, after = value_of(old, key), value_of(new, key)
        if before != after:
            yield key, before, after
    tables_before, tables_after = named_tables(old), named_tables(new)
    for name in dict.fromkeys([*tables_before, *tables_after]):
        section = ProgramSettings if name.startswith(_PROGRAM) else StreamSettings
        pair = [tables.get(name) or section() for tables in (tables_before, tables_after)]
        for key in keys_of(name, section):
            before, after = (getattr(table, key.name) for table in pair)
            if before != after:
                yield key, before, after


def _text(value: object) -> str:
    text = "not set" if value is None else str(spelled(value))
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
