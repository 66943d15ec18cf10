"""The settings in force as plain values, without secrets, for `edgectl config` and a support bundle."""

from __future__ import annotations

import dataclasses
from typing import Any

from runtime.config import Config
from runtime.setting_rule import Key, spelled
from runtime.settings import keys, value_of


def settings_report(config: Config) -> dict[str, dict[str, Any]]:
    """Every setting by its name: its value, where it came from, and if it is an advanced one."""
    return {
        key.dotted: {
            "value": shown(config, key),
            "source": config.origins[key.dotted].source,
            "advanced": key.advanced,
        }
        for key in keys()
    }


def streams_report(config: Config) -> dict[str, dict[str, Any]]:
    """The settings of the streams that have a table of their own."""
    return {
        name.text: {field.name: spelled(getattr(stream, field.name)) for field in dataclasses.fields(stream)}
        for name, stream in config.settings.stream.items()
    }


def shown(config: Config, key: Key) -> Any:
    """The value as it is written in TOML; of a secret only that there is one."""
    value = value_of(config.settings, key)
    return "***" if key.secret and value is not None else spelled(value)
