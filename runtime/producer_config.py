"""What a program that only sends has to know of the configuration: two settings, and no others.

The other tables are not read, so they are never wrong, and a package for producers needs no module of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from runtime.config_file import ConfigFaults, TomlFile, find_file, find_home, parse_setting, read_toml
from runtime.core.address import Endpoint, IpcEndpoint
from runtime.errors import ConfigError
from runtime.layout import Layout
from runtime.setting_rule import Key, keys_of
from runtime.settings_ingest import IngestSettings


@dataclass(frozen=True)
class ProducerConfig:
    """Where producers connect, and the largest payload that ingest takes."""

    endpoint: Endpoint
    max_message_bytes: int


def load_as_producer(
    environ: Mapping[str, str], *, home: Path | None = None, file: Path | None = None
) -> ProducerConfig:
    """Read the two settings. Raises ConfigError.

    The file may hold tokens, and producers need not be able to read it; an operator may be changing it, and
    the runtime goes on with what it read before. Where it cannot be read, the environment and the defaults
    hold, as the socket in the home. A file that was asked for is read.
    """
    layout = Layout(find_home(environ, home))
    path = find_file(environ, layout.home, file)
    try:
        toml = read_toml(path) if path else None
    except ConfigError:
        if file or environ.get("EDGE_CONFIG"):
            raise
        toml = None
    values = dict[str, Any]()
    faults = ConfigFaults()
    for key in _keys():
        if toml and key.name in (table := _table(toml)):
            place = partial(toml.place, key.table, key.name)
            parse_setting(key, table[key.name], toml.path.parent, place, values, faults)
        if text := environ.get(key.variable):
            parse_setting(key, key.from_text(text), Path.cwd(), partial(str, key.variable), values, faults)
    faults.check()
    endpoint, max_message_bytes = (values.get(key.dotted, key.default) for key in _keys())
    return ProducerConfig(endpoint or IpcEndpoint(str(layout.producer_socket)), max_message_bytes)


def _keys() -> Iterator[Key]:
    """The settings, in the order of the fields of ProducerConfig."""
    known = {key.name: key for key in keys_of("ingest", IngestSettings)}
    return (known[name] for name in ("endpoint", "max_message_bytes"))


def _table(toml: TomlFile) -> Mapping[str, Any]:
    table = toml.tables.get("ingest")
    return table if isinstance(table, dict) else {}
