"""The last valid configuration, kept for workers that start while edge.toml is invalid.

A worker that crashes just when a person saved a mistake must come back. So every valid configuration is saved
in the state folder, and a worker that finds an invalid one uses the saved one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.config import Config
from runtime.core.secret import Secret
from runtime.layout import Layout
from runtime.setting_rule import spelled
from runtime.settings import keys, value_of


def accepted_file(layout: Layout) -> Path:
    """The file that keeps it. It may hold the Provisioning Token, so no other user may read it."""
    return layout.state / "accepted.toml"


def remember(config: Config) -> None:
    """Keep the content of the configuration file. The environment's
    settings are given again at every start.
    """
    target = accepted_file(config.layout)
    content = "".join(_lines(config)).encode() if config.file else b""
    with contextlib.suppress(OSError):  # a full disk: the one before is as good
        if target.exists() and target.read_bytes() == content:  # as bytes: a damaged file may be no text
            return
        fresh = target.with_name(f"{target.name}.{os.getpid()}")
        try:
            fresh.touch(mode=0o600)
            fresh.write_bytes(content)
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)  # each start on a full disk left one behind


def _lines(config: Config) -> Iterator[str]:
    for key in keys():
        if config.origins[key.dotted].source == str(config.file):
            value = value_of(config.settings, key)
            if value is not None:
                yield f"{key.dotted} = {_toml(value)}\n"
    for name, stream in config.settings.stream.items():
        for field in dataclasses.fields(stream):
            yield f"stream.{_toml(name.text)}.{field.name} = {_toml(getattr(stream, field.name))}\n"
    for title, program in config.settings.program.items():
        for field in dataclasses.fields(program):
            if (value := getattr(program, field.name)) is not None:
                yield f"management.program.{_toml(title)}.{field.name} = {_toml(value)}\n"


def _toml(value: Any) -> str:
    """JSON's form of texts, numbers, booleans and lists is also TOML's."""
    written = spelled(value)
    text = json.dumps(written.reveal() if isinstance(written, Secret) else written, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # the one character that TOML wants escaped and JSON does not
