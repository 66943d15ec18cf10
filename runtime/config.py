"""Configuration: one TOML file, then the environment, checked once and passed in frozen.

The only reader of the file (by `config_file.py`) and of `os.environ`, beside `producer_config.py` for
programs that only send. Each wrong key, type or value is one sentence: where it stands (file and line, or
variable), the key, the value unless it is a secret, and the rule. All of them come in one ConfigError.
An environment variable is `EDGE_<TABLE>_<KEY>`, and wins over the file; an empty one counts as unset. A name
with that prefix that is no setting is a warning: others put some there, too
(Kubernetes names every Service in each container: EDGE_PORT=tcp://... where one is called edge).
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from runtime.config_file import ConfigFaults, TomlFile, find_file, find_home, parse_setting, read_toml
from runtime.contradictions import contradictions, costly
from runtime.core.address import Endpoint, IpcEndpoint
from runtime.core.message import StreamName
from runtime.layout import Layout
from runtime.remote_config import parsed, read_in_force
from runtime.setting_rule import ENV_PREFIX, Key, keys_of
from runtime.settings import PROGRAMS, STREAMS, Settings, StreamSettings, keys, tables
from runtime.settings_management import ProgramSettings

RESERVED_ENV = ("EDGE_HOME", "EDGE_CONFIG")
PROGRAM_TABLES = ("management", PROGRAMS)


@dataclass(frozen=True)
class Origin:
    """The origin of a value: `default`, the name of a variable, or a file."""

    source: str


@dataclass(frozen=True)
class Config:
    """The configuration that a worker gets at its start."""

    layout: Layout
    settings: Settings
    file: Path | None
    origins: Mapping[str, Origin]
    warnings: tuple[str, ...] = ()
    """Sentences about values that the operator may have meant otherwise; nothing depends on them."""

    def endpoint(self) -> Endpoint:
        """The first endpoint of ingest: the configured one, or the socket in the home."""
        return self.settings.ingest.endpoint or IpcEndpoint(str(self.layout.producer_socket))

    def producer_endpoint(self) -> str:
        """The zmq endpoint that producers connect to."""
        return str(self.endpoint())


def load(environ: Mapping[str, str], *, home: Path | None = None, file: Path | None = None) -> Config:
    """Read and check everything. Raises ConfigError."""
    layout = Layout(find_home(environ, home))
    path = find_file(environ, layout.home, file)
    toml = read_toml(path) if path else None
    config = _assembled(environ, layout, toml)
    return _with_remote(config, environ, toml)


def check_remote(config: Config, environ: Mapping[str, str], values: Mapping[str, Any]) -> list[str]:
    """The faults of settings that the cloud desires, a sentence each."""
    remote, problems = _remote_values(config, environ, values)
    if not problems:
        problems = [sentence for _, sentence in contradictions(_changed(config.settings, remote))]
    return problems


def _with_remote(config: Config, environ: Mapping[str, str], toml: TomlFile | None) -> Config:
    """The configuration with the settings of the cloud; where they do not fit without, and a warning."""
    if not config.settings.management.enabled:
        return config
    path = config.layout.remote_config
    try:
        values, source = read_in_force(path)
    except (ValueError, OSError) as exc:
        values, source = {}, ""
        problems = [str(exc)]
    else:
        problems = check_remote(config, environ, values)
    if problems:
        warning = f"{path}: passed over, with all settings that the cloud desires: {'; '.join(problems)}"
        return dataclasses.replace(config, warnings=(*config.warnings, warning))
    remote, _ = _remote_values(config, environ, values)
    origins = {**config.origins, **dict.fromkeys(remote, Origin(source))}
    return dataclasses.replace(config, settings=_changed(config.settings, remote), origins=origins)


def _remote_values(
    config: Config, environ: Mapping[str, str], values: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    by_variable = {key.dotted for key in keys() if config.origins[key.dotted].source == key.variable}
    return parsed(values, keys(), config.settings.management.remote_settings, by_variable)


def _changed(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with these values, by their dotted names."""
    changed = dict[str, Any]()
    for dotted, value in values.items():
        table, _, name = dotted.rpartition(".")
        changed[table] = dataclasses.replace(changed.get(table, getattr(settings, table)), **{name: value})
    return dataclasses.replace(settings, **changed)


def _assembled(environ: Mapping[str, str], layout: Layout, toml: TomlFile | None) -> Config:
    faults = ConfigFaults()
    known = {key.dotted: key for key in keys()}
    values: dict[str, Any] = {}
    streams: dict[StreamName, StreamSettings] = {}
    programs: dict[str, ProgramSettings] = {}
    origins = {name: Origin("default") for name in known}
    if toml:
        values = _values(toml, (), _fixed(toml.tables), known, faults)
        streams = {
            StreamName.parse(name): StreamSettings(**given)
            for name, given in _named(toml, (STREAMS,), StreamSettings, faults)
        }
        programs = {
            name: ProgramSettings(**given)
            for name, given in _named(toml, PROGRAM_TABLES, ProgramSettings, faults)
        }
        origins |= dict.fromkeys(values, Origin(str(toml.path)))
    for key in known.values():
        text = environ.get(key.variable)
        if text and not _is_a_service(key, text):
            parse_setting(key, key.from_text(text), Path.cwd(), partial(str, key.variable), values, faults)
            origins[key.dotted] = Origin(key.variable)
    faults.check()
    settings = _build(values, streams, programs)
    for names, sentence in contradictions(settings):
        sources = dict.fromkeys(origins[name].source for name in names if origins[name].source != "default")
        faults.add(partial(str, " and ".join(sources)), sentence)
    faults.check()
    warnings = (*_unknown_variables(environ, [*known.values()]), *costly(settings))
    return Config(layout, settings, toml.path if toml else None, origins, warnings)


def _unknown_variables(environ: Mapping[str, str], known: list[Key]) -> Iterator[str]:
    """One sentence about all names with our prefix that are no setting."""
    names = {*(key.variable for key in known), *RESERVED_ENV}
    names -= {key.variable for key in known if _is_a_service(key, environ.get(key.variable, ""))}
    unknown = sorted(n for n, text in environ.items() if n.startswith(ENV_PREFIX) and text and n not in names)
    if unknown:
        listed = ", ".join(f"{_printable(name)}{_did_you_mean(name, names, 0.85)}" for name in unknown)
        yield f"environment: no such setting, passed over: {listed}"


def _is_a_service(key: Key, text: str) -> bool:
    """True for a port as Kubernetes writes it: of a Service called edge-upload-https, no setting of ours."""
    return key.name.endswith("_port") and re.match(r"(tcp|udp|sctp)://", text) is not None


def _values(
    toml: TomlFile,
    above: tuple[str, ...],
    raw: Mapping[str, Any],
    known: Mapping[str, Key],
    faults: ConfigFaults,
) -> dict[str, Any]:
    """The valid values of the tables in `raw`, which stand below `above`, by their dotted names."""
    values: dict[str, Any] = {}
    names = {key.table for key in known.values()}
    for table, content in raw.items():
        if not isinstance(content, dict):
            faults.add(
                partial(toml.place, *above, table),
                f"key {table} stands outside a table; write it under [table]",
            )
            continue
        dotted_table = ".".join((*above, table))
        if dotted_table not in names:
            faults.add(
                partial(toml.place, *above, table), f"unknown table {table}{_did_you_mean(table, names)}"
            )
            continue
        for name, written in content.items():
            where = partial(toml.place, *above, table, name)
            key = known.get(f"{dotted_table}.{name}")
            if key is None:
                nearest = _did_you_mean(f"{dotted_table}.{name}", known)
                faults.add(where, f"unknown key {dotted_table}.{name}{nearest}")
            else:
                parse_setting(key, written, toml.path.parent, where, values, faults)
    return values


def _fixed(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables without those whose names the user chooses."""
    fixed = {name: table for name, table in tables.items() if name != STREAMS}
    owner, below = PROGRAM_TABLES
    if isinstance(fixed.get(owner), dict):
        fixed[owner] = {name: value for name, value in fixed[owner].items() if name != below}
    return fixed


def _named(
    toml: TomlFile, above: tuple[str, ...], section: Any, faults: ConfigFaults
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tables below `above`, whose names the user chooses: each name with its valid values."""
    raw: Any = toml.tables
    for part in above:
        raw = raw.get(part, {}) if isinstance(raw, dict) else {}
    title = ".".join(above)
    if not isinstance(raw, dict):
        faults.add(partial(toml.place, *above), f"{title} is not a table; write [{title}.NAME]")
        return
    names: dict[str, str] = {}
    for text, content in raw.items():
        name, table = StreamName.parse(text).text, f"{title}.{text}"
        if name in names:
            faults.add(
                partial(toml.place, *above, text), f"{table} is the {above[-1]} {names[name]!r} once more"
            )
        names.setdefault(name, text)
        known = {key.dotted: key for key in keys_of(table, section)}
        values = _values(toml, above, {text: content}, known, faults)
        yield text, {dotted.removeprefix(f"{table}."): value for dotted, value in values.items()}


def _did_you_mean(name: str, known: typing.Iterable[str], cutoff: float = 0.6) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]}?" if close else ""


def _printable(text: str) -> str:
    return text if text.isascii() and text.isprintable() else ascii(text)


def _build(
    values: Mapping[str, Any],
    streams: Mapping[StreamName, StreamSettings],
    programs: Mapping[str, ProgramSettings],
) -> Settings:
    built: dict[str, Any] = {STREAMS: streams, PROGRAMS: programs}
    for table in tables():
        prefix = f"{table.name}."
        fields = {name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)}
        built[table.name] = dataclasses.replace(table.default, **fields)
    return Settings(**built)
