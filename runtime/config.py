"""Configuration: one TOML file, then the environment, checked once and passed in frozen.

The only reader of the file and of `os.environ`. A wrong key, type or value is a ConfigError that names the
key, the value and the rule. An environment variable is `EDGE_<TABLE>_<KEY>`, and wins over the file; an empty
one counts as unset. A name with that prefix that is no setting is a warning: others put some there, too
(Kubernetes names every Service in each container: EDGE_PORT=tcp://... where one is called edge).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.adapters.process.known_secrets import hidden
from runtime.core.address import is_loopback
from runtime.core.secret import Secret
from runtime.errors import ConfigError
from runtime.layout import Layout
from runtime.regular_file import read_regular
from runtime.settings import Rule, Settings, StreamSettings

SYSTEM_FILE = Path("/etc/edge-runtime/edge.toml")
DEVICE_HOME = Path("/var/lib/edge-runtime")
ENV_PREFIX = "EDGE_"
STREAMS = "stream"
RESERVED_ENV = ("EDGE_HOME", "EDGE_CONFIG")
MOST_SHOWN = 200
"""Most characters of a wrong value that are shown."""
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

    def producer_endpoint(self) -> str:
        """The zmq endpoint that producers connect to."""
        return self.settings.ingest.endpoint or f"ipc://{self.layout.producer_socket}"


@dataclass(frozen=True)
class Key:
    """One setting as `config.py` sees it."""

    table: str
    name: str
    kind: Any
    default: Any
    doc: str
    rule: Rule

    @property
    def dotted(self) -> str:
        return f"{self.table}.{self.name}"

    @property
    def variable(self) -> str:
        return f"{ENV_PREFIX}{self.table}_{self.name}".upper()


def keys() -> Iterator[Key]:
    """Every setting, in the order of `settings.py`."""
    for table in _fixed_tables():
        yield from keys_of(table.name, type(table.default))


def keys_of(table: str, section: Any) -> Iterator[Key]:
    """The settings of one table, declared by the dataclass `section`."""
    kinds = typing.get_type_hints(section)
    for item in dataclasses.fields(section):
        yield Key(
            table, item.name, kinds[item.name], item.default, item.metadata["doc"], item.metadata["rule"]
        )


def _fixed_tables() -> Iterator[Any]:
    """Every table but the streams', whose names the user chooses."""
    return (table for table in dataclasses.fields(Settings) if table.name != STREAMS)


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
    for named in (asked, environ.get("EDGE_CONFIG")):
        if named:
            path = Path(named).absolute()
            if not _stands(path):
                raise ConfigError(f"configuration file {path} does not exist")
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
    config = _assembled(environ, layout, path, _read_toml(path) if path else {})
    if contradiction := _contradiction(config.settings):
        raise ConfigError(f"{path or 'environment'}: {contradiction}")
    return config


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
    concern = [key for key in keys() if key.dotted in OF_PRODUCERS]
    mine = {key.variable: environ.get(key.variable, "") for key in concern}
    try:
        table = _read_toml(path).get("ingest", {}) if path else {}
    except ConfigError:
        if file or environ.get("EDGE_CONFIG"):
            raise
        path, table = None, {}
    names = {key.name for key in concern}
    known = {name: value for name, value in table.items() if name in names} if isinstance(table, dict) else {}
    return _assembled(mine, layout, path, {"ingest": known})


def _assembled(environ: Mapping[str, str], layout: Layout, path: Path | None, raw: dict[str, Any]) -> Config:
    streams = raw.pop(STREAMS, {})
    known = {key.dotted: key for key in keys()}
    values: dict[str, Any] = {}
    origins = {name: Origin("default") for name in known}
    if path:
        values = _values(raw, known, path)
        origins |= dict.fromkeys(values, Origin(str(path)))
    for key in known.values():
        text = environ.get(key.variable)
        if text and not _is_a_service(key, text):
            values[key.dotted] = _checked(key, _from_text(key, text), key.variable, base=Path.cwd())
            origins[key.dotted] = Origin(key.variable)
    settings = _build(values, _streams(streams, path))
    return Config(layout, settings, path, origins, tuple(_unknown_variables(environ, [*known.values()])))


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


def _contradiction(settings: Settings) -> str | None:
    """A contradiction that single values do not show: with it ingest would end at every start."""
    ingest = settings.ingest
    if ingest.memory_bytes < 4 * ingest.max_request_bytes:
        return "ingest.memory_bytes must be at least four times ingest.max_request_bytes"
    if ingest.curve_secret_file and not ingest.curve_clients:
        return "ingest.curve_secret_file needs ingest.curve_clients, or producers are asked for no key"
    for endpoint in (ingest.endpoint or "", ingest.tcp_endpoint or ""):
        if endpoint.startswith("tcp://") and not ingest.curve_secret_file and not is_loopback(endpoint):
            return (
                f"ingest: {endpoint} can be reached from outside, and needs ingest.curve_secret_file "
                "(edgectl keys make ingest)"
            )
    return None


def _values(raw: Mapping[str, Any], known: Mapping[str, Key], path: Path) -> dict[str, Any]:
    """Every key of `raw`, checked, by its dotted name."""
    values = {}
    for name, value in _flatten(raw, path):
        if name not in known:
            raise ConfigError(f"{path}: unknown key {name}{_did_you_mean(name, known)}")
        values[name] = _checked(known[name], value, str(path), base=path.parent)
    tables = {name.rpartition(".")[0] for name in known}
    for table in raw.keys() - tables:
        raise ConfigError(f"{path}: unknown table {table}{_did_you_mean(table, tables)}")
    return values


def _streams(raw: Any, path: Path | None) -> dict[str, StreamSettings]:
    if path is None or raw == {}:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: stream is not a table; write [stream.NAME]")
    found = {}
    for name, content in raw.items():
        table = f"{STREAMS}.{name}"
        known = {key.dotted: key for key in keys_of(table, StreamSettings)}
        values = _values({table: content}, known, path)
        found[name] = StreamSettings(
            **{dotted.removeprefix(f"{table}."): value for dotted, value in values.items()}
        )
    return found


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = read_regular(path).decode()
        return tomllib.loads(text.removeprefix("\ufeff"))  # a mark that some editors put there
    except (ValueError, RecursionError) as exc:  # no TOML, no UTF-8, a number of 5,000 digits, 1,000 brackets
        raise ConfigError(f"{path}: not valid TOML: {exc}") from exc
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc


def _flatten(raw: Mapping[str, Any], path: Path) -> Iterator[tuple[str, Any]]:
    for table, content in raw.items():
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: key {table} stands outside a table; write it under [table]")
        for name, value in content.items():
            yield f"{table}.{name}", value


def _did_you_mean(name: str, known: typing.Iterable[str], cutoff: float = 0.6) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]}?" if close else ""


def _printable(text: str) -> str:
    return text if text.isascii() and text.isprintable() else ascii(text)


def _inner_kind(kind: Any) -> Any:
    """`Path | None` means Path."""
    if isinstance(kind, types.UnionType):
        return next(part for part in typing.get_args(kind) if part is not type(None))
    return kind


def _from_text(key: Key, text: str) -> Any:
    """The value that the same text would be in TOML."""
    kind = _inner_kind(key.kind)
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if typing.get_origin(kind) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    for number in (int, float):
        if kind in (int, float) and kind in (number, float):
            try:
                return number(text)
            except ValueError:
                continue
    return text


def _checked(key: Key, value: Any, where: str, base: Path) -> Any:
    kind = _inner_kind(key.kind)
    shown = "***" if kind is Secret else _shown(value)
    if value == "" and kind is not key.kind:
        return None
    converted = _converted(kind, value, base)
    if converted is None:
        raise ConfigError(f"{where}: {key.dotted} = {shown} is not {_kind_in_words(kind)}")
    broken = key.rule.broken_by(converted)
    if broken:
        raise ConfigError(f"{where}: {key.dotted} = {shown} {broken}")
    return converted


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _converted(kind: Any, value: Any, base: Path) -> Any:
    """`value` as `kind`, or None where it is of another type."""
    if isinstance(value, str) and not _is_utf8(value):
        return None  # a variable with other bytes: neither a database nor the log could hold it
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _float(value)
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is bool and isinstance(value, bool):
        return value
    if isinstance(value, str):
        if kind is str:
            return value
        if kind is Path:
            return _path(value, base)
        if kind is Secret:
            return hidden(Secret(value.strip()))
    if (
        typing.get_origin(kind) is tuple
        and isinstance(value, list)
        and all(isinstance(v, str) for v in value)
    ):
        return tuple(value)
    return None


def _float(value: float) -> float | None:
    """None for nan, which would pass every limit, and for what no float can say."""
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer of 400 digits
        return None


def _path(text: str, base: Path) -> Path | None:
    try:
        found = base / Path(text).expanduser() if "\0" not in text else None
    except RuntimeError:  # ~user, whom this machine does not know
        return None
    return found if found is not None and _is_utf8(str(found)) else None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kind_in_words(kind: Any) -> str:
    words = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        Path: "a path",
        Secret: "text",
    }
    return words.get(kind, "a list of texts")


def _build(values: Mapping[str, Any], streams: Mapping[str, StreamSettings]) -> Settings:
    tables: dict[str, Any] = {STREAMS: streams}
    for table in _fixed_tables():
        prefix = f"{table.name}."
        mine = {name.removeprefix(prefix): v for name, v in values.items() if name.startswith(prefix)}
        tables[table.name] = dataclasses.replace(typing.cast(Any, table.default), **mine)
    return Settings(**tables)
