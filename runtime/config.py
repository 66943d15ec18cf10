"""Configuration: one TOML file, then the environment, checked once and passed in frozen.

The only reader of the file and of `os.environ`. Each wrong key, type or value is one sentence: where it
stands (file and line, or variable), the key, the value unless it is a secret, and the rule. All of them come
in one ConfigError. An environment variable is `EDGE_<TABLE>_<KEY>`, and wins over the file; an empty one
counts as unset. A name with that prefix that is no setting is a warning: others put some there, too
(Kubernetes names every Service in each container: EDGE_PORT=tcp://... where one is called edge).
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import tomllib
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from runtime.contradictions import contradictions, costly
from runtime.core.address import Endpoint, IpcEndpoint
from runtime.core.message import StreamName
from runtime.errors import ConfigError
from runtime.layout import Layout
from runtime.regular_file import read_regular
from runtime.remote_config import parsed, read_in_force
from runtime.setting_rule import ENV_PREFIX, Key, keys_of
from runtime.settings import PROGRAMS, STREAMS, Settings, StreamSettings, keys, tables
from runtime.settings_management import ProgramSettings

SYSTEM_FILE = Path("/etc/edge-runtime/edge.toml")
DEVICE_HOME = Path("/var/lib/edge-runtime")
RESERVED_ENV = ("EDGE_HOME", "EDGE_CONFIG")
MOST_FAULTS = 10
"""Most faults that one error names."""
PROGRAM_TABLES = ("management", PROGRAMS)
OF_PRODUCERS = ("ingest.endpoint", "ingest.max_message_bytes")
"""The settings that a program which only sends has to know."""


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


@dataclass(frozen=True)
class _TomlFile:
    """The configuration file as it was read."""

    path: Path
    text: str
    tables: dict[str, Any]

    def place(self, *parts: str) -> str:
        """`PATH:LINE` of a key, by its table and name; the path alone where the line is not certain."""
        line = _line_of(self.text, parts)
        return f"{self.path}:{line}" if line else str(self.path)


class _Faults:
    """The faults of one configuration, each a sentence: the operator sees all of them at once."""

    def __init__(self) -> None:
        self._sentences: list[str] = []
        self._more = 0

    def add(self, where: Callable[[], str], sentence: str) -> None:
        if len(self._sentences) < MOST_FAULTS:
            self._sentences.append(f"{where()}: {sentence}")
        else:
            self._more += 1

    def check(self) -> None:
        """Raise ConfigError where there is a fault."""
        if not self._sentences:
            return
        rest = [f"and {self._more} more"] if self._more else []
        raise ConfigError("; ".join([*self._sentences, *rest]))


def find_home(environ: Mapping[str, str], asked: Path | None = None) -> Path:
    """The home of the runtime: asked for, EDGE_HOME, the machine's where one is installed, or the user's own.

    Never the current folder, unless by `--home .`: its owner, perhaps another user, would choose our files.
    """
    if asked is not None:
        return asked.absolute()
    if environ.get("EDGE_HOME"):
        return Path(environ["EDGE_HOME"]).absolute()
    if _stands(SYSTEM_FILE):
        return DEVICE_HOME
    return Path(environ.get("XDG_STATE_HOME") or _state_of_user()) / "edge-runtime"


def _state_of_user() -> Path:
    try:
        return Path.home() / ".local/state"
    except RuntimeError as exc:
        raise ConfigError("this user has no home folder; name one with --home or EDGE_HOME") from exc


def find_file(environ: Mapping[str, str], home: Path, asked: Path | None = None) -> Path | None:
    """The configuration file: asked for, EDGE_CONFIG, edge.toml in the home, the system's, or none."""
    for where, named in (("--config", asked), ("EDGE_CONFIG", environ.get("EDGE_CONFIG"))):
        if named:
            path = Path(named).absolute()
            if not _stands(path):
                raise ConfigError(f"{where}: configuration file {path} does not exist")
            return path
    return next((path for path in (home / "edge.toml", SYSTEM_FILE) if _stands(path)), None)


def _stands(path: Path) -> bool:
    """True if the path exists at all; a folder by mistake is reported when it is read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be looked for: {exc.strerror}") from exc
    return True


def load(environ: Mapping[str, str], *, home: Path | None = None, file: Path | None = None) -> Config:
    """Read and check everything. Raises ConfigError."""
    layout = Layout(find_home(environ, home))
    path = find_file(environ, layout.home, file)
    toml = _read_toml(path) if path else None
    config = _assembled(environ, layout, toml)
    return _with_remote(config, environ, toml)


def check_remote(config: Config, environ: Mapping[str, str], values: Mapping[str, Any]) -> list[str]:
    """The faults of settings that the cloud desires, a sentence each."""
    remote, problems = _remote_values(config, environ, values)
    if not problems:
        problems = [sentence for _, sentence in contradictions(_changed(config.settings, remote))]
    return problems


def _with_remote(config: Config, environ: Mapping[str, str], toml: _TomlFile | None) -> Config:
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


def load_as_producer(
    environ: Mapping[str, str], *, home: Path | None = None, file: Path | None = None
) -> Config:
    """As `load`, for a program that only sends: the other settings are not read, so they are never wrong.

    The file may hold tokens, and producers need not be able to read it; an operator may be changing it, and
    the runtime goes on with what it read before. Where it cannot be read, the environment and the defaults
    hold, as the socket in the home. A file that was asked for is read.
    """
    layout = Layout(find_home(environ, home))
    path = find_file(environ, layout.home, file)
    variables = {key.variable: environ.get(key.variable, "") for key in keys() if key.dotted in OF_PRODUCERS}
    try:
        toml = _read_toml(path) if path else None
    except ConfigError:
        if file or environ.get("EDGE_CONFIG"):
            raise
        toml = None
    return _assembled(
        variables, layout, dataclasses.replace(toml, tables=_of_producers(toml)) if toml else None
    )


def _of_producers(toml: _TomlFile) -> dict[str, Any]:
    """The settings in the file that a producer has to know."""
    table = toml.tables.get("ingest", {})
    if not isinstance(table, dict):
        return {}
    return {"ingest": {name: value for name, value in table.items() if f"ingest.{name}" in OF_PRODUCERS}}


def _assembled(environ: Mapping[str, str], layout: Layout, toml: _TomlFile | None) -> Config:
    faults = _Faults()
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
            _parse(key, key.from_text(text), Path.cwd(), partial(str, key.variable), values, faults)
            origins[key.dotted] = Origin(key.variable)
    faults.check()
    settings = _build(values, streams, programs)
    for names, sentence in contradictions(settings):
        sources = dict.fromkeys(origins[name].source for name in names if origins[name].source != "default")
        faults.add(partial(str, " and ".join(sources)), sentence)
    faults.check()
    warnings = (*_unknown_variables(environ, [*known.values()]), *costly(settings))
    return Config(layout, settings, toml.path if toml else None, origins, warnings)


def _parse(
    key: Key, written: Any, base: Path, where: Callable[[], str], values: dict[str, Any], faults: _Faults
) -> None:
    """Add the parsed value to `values`, or what is wrong with it to `faults`."""
    try:
        values[key.dotted] = key.parse(written, base)
    except ValueError as exc:
        reason = str(exc)
        verb = reason.startswith(("must ", "is "))
        faults.add(where, f"{key.dotted} = {key.shown(written)}{' ' if verb else ': '}{reason}")


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
    toml: _TomlFile, above: tuple[str, ...], raw: Mapping[str, Any], known: Mapping[str, Key], faults: _Faults
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
                _parse(key, written, toml.path.parent, where, values, faults)
    return values


def _fixed(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables without those whose names the user chooses."""
    fixed = {name: table for name, table in tables.items() if name != STREAMS}
    owner, below = PROGRAM_TABLES
    if isinstance(fixed.get(owner), dict):
        fixed[owner] = {name: value for name, value in fixed[owner].items() if name != below}
    return fixed


def _named(
    toml: _TomlFile, above: tuple[str, ...], section: Any, faults: _Faults
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


def _read_toml(path: Path) -> _TomlFile:
    try:
        text = read_regular(path).decode().removeprefix("\ufeff")  # a mark that some editors put there
        return _TomlFile(path, text, tomllib.loads(text))
    except (ValueError, RecursionError) as exc:  # no TOML, no UTF-8, a number of 5,000 digits, 1,000 brackets
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc


def _line_of(text: str, parts: tuple[str, ...]) -> int | None:
    """The line of a key in a valid file, or None where it is not certain.

    TOML has many ways to write a key, and its parser says no positions. So the parser is asked: the key
    begins in the last line, of those with its name in it, above which the file is valid and has no such key.
    """
    lines = text.splitlines(keepends=True)
    places = [number for number, line in enumerate(lines) if parts[-1] in line]
    if len(text) > _MOST_SEARCHED_CHARACTERS or len(places) > _MOST_SEARCHED_LINES:
        return None
    starts = [number for number in places if _holds("".join(lines[:number]), parts) is False]
    return starts[-1] + 1 if starts else None


_MOST_SEARCHED_CHARACTERS, _MOST_SEARCHED_LINES = 65_536, 100
"""A larger file is searched for no lines: that would take seconds."""


def _holds(text: str, parts: tuple[str, ...]) -> bool | None:
    """True if `text` has this key, None where it is no valid TOML."""
    try:
        table: Any = tomllib.loads(text)
    except (ValueError, RecursionError):
        return None
    for part in parts:
        if not isinstance(table, dict) or part not in table:
            return False
        table = table[part]
    return True


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
