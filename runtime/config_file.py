"""The configuration file: where it stands, what is in it, and how a fault in it is said.

It knows no setting, so that a program which only sends reads its endpoint without the other tables
(`producer_config.py`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import ConfigError
from runtime.regular_file import read_regular
from runtime.setting_rule import Key

SYSTEM_FILE = Path("/etc/edge-runtime/edge.toml")
DEVICE_HOME = Path("/var/lib/edge-runtime")
MOST_FAULTS = 10
"""Most faults that one error names."""


@dataclass(frozen=True)
class TomlFile:
    """The configuration file as it was read."""

    path: Path
    text: str
    tables: dict[str, Any]

    def place(self, *parts: str) -> str:
        """`PATH:LINE` of a key, by its table and name; the path alone where the line is not certain."""
        line = _line_of(self.text, parts)
        return f"{self.path}:{line}" if line else str(self.path)


class ConfigFaults:
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


def parse_setting(
    key: Key, written: Any, base: Path, where: Callable[[], str], values: dict[str, Any], faults: ConfigFaults
) -> None:
    """Add the parsed value to `values`, or what is wrong with it to `faults`."""
    try:
        values[key.dotted] = key.parse(written, base)
    except ValueError as exc:
        reason = str(exc)
        verb = reason.startswith(("must ", "is "))
        faults.add(where, f"{key.dotted} = {key.shown(written)}{' ' if verb else ': '}{reason}")


def read_toml(path: Path) -> TomlFile:
    try:
        text = read_regular(path).decode().removeprefix("\ufeff")  # a mark that some editors put there
        return TomlFile(path, text, tomllib.loads(text))
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
