"""Setting rule: how a setting is declared, and how a value of TOML or of the environment becomes its value.

`settings.py` declares, `config.py` reads the sources, and this module is all that parses in between: what the
rest of the runtime gets is a number, a path, or a value of the core (an address, a proxy, a time window),
never a text to parse again.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from runtime.adapters.process.known_secrets import hidden
from runtime.core.secret import Secret
from runtime.setting_readers import Readers, readers_of

ENV_PREFIX = "EDGE_"
LARGEST = 2**53
"""No number is larger, whatever its setting: SQLite, ZeroMQ, JSON and a float still say it exactly."""
_MOST_SHOWN = 200
"""Most characters of a wrong value that are shown."""


@dataclass(frozen=True)
class Rule:
    """The condition on a value besides its type. `text` says it to the operator."""

    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] | None = None
    pattern: str | None = None
    text: str = ""
    parse: Callable[[Any], object] | None = None
    """Makes the value that the setting has from the one that is written. Raises ValueError."""

    def applied(self, written: Any) -> Any:
        """The setting's value. Raises ValueError with the rule that `written` breaks."""
        if isinstance(written, int | float) and not isinstance(written, bool):
            self._check_number(written)
        else:
            self._check_text(written)
        if self.parse is None:
            return written
        try:
            return self.parse(written)
        except ValueError as exc:
            raise ValueError(self.text or str(exc)) from None  # what the parser was given may be a secret

    def _check_number(self, number: float) -> None:
        if self.low is not None and number < self.low:
            raise ValueError(self.text or f"must be at least {self.low:,}")
        high = LARGEST if self.high is None else self.high
        if number > high:
            raise ValueError(self.text or f"must be at most {high:,}")

    def _check_text(self, written: object) -> None:
        if isinstance(written, str) and self.choices is not None and written not in self.choices:
            raise ValueError(self.text or "must be one of " + ", ".join(self.choices))
        if self.pattern is not None and not re.fullmatch(self.pattern, str(written)):
            raise ValueError(self.text or f"must match {self.pattern}")


def setting(default: Any, doc: str, *, written: Any = None, advanced: bool = False, **rule: Any) -> Any:
    """Declare one setting: its default, its meaning for the operator, and its rule.

    `written`: the type in TOML, where `parse` makes another one of it; a text unless this says otherwise.
    `advanced`: its default suits every device that is known; no user has to read about it.
    """
    metadata = {"doc": doc, "rule": Rule(**rule), "written": written, "advanced": advanced}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Key:
    """One setting: where it stands, what it means, and what it may be."""

    table: str
    name: str
    kind: Any
    """The type that is written in TOML: int, float, bool, str, Path, Secret, or tuple[str, ...]."""
    optional: bool
    default: Any
    doc: str
    rule: Rule
    advanced: bool

    @property
    def dotted(self) -> str:
        return f"{self.table}.{self.name}"

    @property
    def readers(self) -> Readers:
        """The workers that read it."""
        return readers_of(self.dotted)

    @property
    def variable(self) -> str:
        return f"{ENV_PREFIX}{self.table}_{self.name}".upper()

    @property
    def secret(self) -> bool:
        """True if neither its value nor a wrong one may be shown."""
        return self.kind is Secret

    def parse(self, written: Any, base: Path) -> Any:
        """The value, of one of TOML's types; relative paths stand below `base`. Raises ValueError: with what
        is wrong with the value, which the message does not repeat.
        """
        if written == "" and self.optional:
            return None
        converted = _converted(self.kind, written, base)
        if converted is None:
            raise ValueError(f"is not {_KINDS.get(self.kind, 'a list of texts')}")
        return hidden(self.rule.applied(converted))

    def shown(self, written: Any) -> str:
        """A wrong value, as it may stand in an error."""
        if self.secret:
            return "***"
        text = re.sub(r"//[^/@\s]*@", "//***@", repr(written))  # a URL with a password, where a host belongs
        return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."

    def from_text(self, text: str) -> Any:
        """The value that the same text, in a variable of the environment, would be in TOML."""
        if self.kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
        if typing.get_origin(self.kind) is tuple:
            return [part.strip() for part in text.split(",") if part.strip()]
        for number in (int, float):
            if self.kind in (int, float) and self.kind in (number, float):
                try:
                    return number(text)
                except ValueError:
                    continue
        return text


def keys_of(table: str, section: Any) -> Iterator[Key]:
    """The settings of one table, declared by the dataclass `section`."""
    kinds = typing.get_type_hints(section)
    for item in dataclasses.fields(section):
        yield _key(table, item, kinds[item.name])


def _key(table: str, item: dataclasses.Field[Any], kind: Any) -> Key:
    parts = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    value_kind = next(part for part in parts if part is not type(None))
    rule: Rule = item.metadata["rule"]
    written = item.metadata["written"] or (str if rule.parse is not None else value_kind)
    if isinstance(value_kind, type) and issubclass(value_kind, Enum):
        written = str
        rule = _rule_of_enum(value_kind, rule)
    doc, advanced = item.metadata["doc"], item.metadata["advanced"]
    return Key(table, item.name, written, type(None) in parts, item.default, doc, rule, advanced)


def _rule_of_enum(kind: type[Enum], rule: Rule) -> Rule:
    members = {spelled(member): member for member in kind}
    return dataclasses.replace(rule, choices=tuple(members), parse=members.__getitem__)


def spelled(value: Any) -> Any:
    """A value as it is written in TOML. A secret stays a Secret."""
    if isinstance(value, Enum):
        return value.value if isinstance(value, str) else value.name.lower()
    if isinstance(value, list) or (isinstance(value, tuple) and not hasattr(value, "_fields")):
        return [spelled(part) for part in value]
    if value is None or isinstance(value, bool | int | float | str | Secret):
        return value
    return getattr(value, "text", None) or str(value)


_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    Path: "a path",
    Secret: "text",
}


def _converted(kind: Any, written: Any, base: Path) -> Any:
    """`written` as `kind`, or None where it is of another type."""
    if isinstance(written, str):
        return _from_string(kind, written, base)
    if isinstance(written, bool):
        return written if kind is bool else None
    if isinstance(written, int | float):
        return _number(kind, written)
    if typing.get_origin(kind) is tuple and isinstance(written, list):
        return tuple(written) if all(isinstance(part, str) and _is_utf8(part) for part in written) else None
    return None


def _from_string(kind: Any, written: str, base: Path) -> Any:
    if not _is_utf8(written):
        return None  # a variable with other bytes: neither a database nor the log could hold it
    if kind is str:
        return written
    if kind is Path:
        return _path(written, base)
    return hidden(Secret(written.strip())) if kind is Secret else None


def _number(kind: Any, number: float) -> float | None:
    """None for nan, which would pass every limit, and for what no float can say."""
    if kind is int:
        return number if isinstance(number, int) else None
    if kind is not float:
        return None
    try:
        return float(number) if math.isfinite(number) else None
    except OverflowError:  # an integer of 400 digits
        return None


def _path(text: str, base: Path) -> Path | None:
    try:
        path = base / Path(text).expanduser() if "\0" not in text else None
    except RuntimeError:  # ~user, whom this machine does not know
        return None
    return path if path is not None and _is_utf8(str(path)) else None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
