"""The configuration that last was in order, kept for workers that start while edge.toml is being broken.

A worker that crashes at the moment in which a person saved a mistake must come back. So every good
configuration is written down in the state folder, and a worker that meets a bad one goes on with that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.config import Config, keys
from runtime.core.secret import Secret
from runtime.layout import Layout


def accepted_file(layout: Layout) -> Path:
    """Where it is kept. It may hold the Provisioning Token, and nobody else may read it."""
    return layout.state / "accepted.toml"


def remember(config: Config) -> None:
    """Keep what the configuration file says. What the environment says is said again at every start."""
    target = accepted_file(config.layout)
    content = "".join(_lines(config)).encode() if config.file else b""
    with contextlib.suppress(OSError):  # a full disk: the one before is as good
        if target.exists() and target.read_bytes() == content:  # as bytes: a damaged one may be no text
            return
        fresh = target.with_name(f"{target.name}.{os.getpid()}")
        try:
            fresh.touch(mode=0o600)
            fresh.write_bytes(content)
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)  # each start on a full disk left one


def _lines(config: Config) -> Iterator[str]:
    for key in keys():
        if config.origins[key.dotted].source == str(config.file):
            value = getattr(getattr(config.settings, key.table), key.name)
            if value is not None:
                yield f"{key.dotted} = {_toml(value)}\n"
    for name, stream in config.settings.stream.items():
        for field in dataclasses.fields(stream):
            yield f"stream.{_toml(name)}.{field.name} = {_toml(getattr(stream, field.name))}\n"


def _toml(value: Any) -> str:
    """JSON's way of writing texts, numbers, booleans and lists is also TOML's."""
    plain = value.reveal() if isinstance(value, Secret) else str(value) if isinstance(value, Path) else value
    text = json.dumps(list(plain) if isinstance(plain, tuple) else plain, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # the one character that TOML wants escaped and JSON does not
