"""Every secret that this device knows, so that a support bundle can be searched for it.

A bundle is made of what others wrote: a library's error in a log, a line of a traceback. The secrets are
collected from where they stand (settings, files, the environment, identity.db), in the forms in which they
may have been written. What cannot be read is left out: then the patterns of `bundle_content` are the defence.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runtime import wiring
from runtime.adapters.identity.database import IdentityReader
from runtime.adapters.process.last_good_config import accepted_file
from runtime.config import Config
from runtime.config_file import SYSTEM_FILE
from runtime.core.proxy_url import Proxy
from runtime.core.secret import Secret
from runtime.errors import EdgeError
from runtime.layout import Layout
from runtime.regular_file import read_regular
from runtime.settings import Settings, keys, value_of

MOST_READ_BYTES = 262_144
LEAST_CHARACTERS = 8
"""Shorter lines of a secret file, as those of a PEM file's head, are no secret."""
_NAME = re.compile(r"token|secret|key|passw|credential|signature|proxy|connection", re.IGNORECASE)
_PART = re.compile(
    r"(?:sig|sharedaccesskey|accountkey|sharedaccesssignature|password)=([^;&\\s\"']+)", re.IGNORECASE
)
_USER = re.compile(r"\w://([^/@\s]+)@")
_PUBLIC_FILES = ("ca_file", "certificate_file", "otlp_ca_file")


def known_secrets(layout: Layout, config: Config | None, environ: Mapping[str, str]) -> set[str]:
    """Every secret that can be found, in each form."""
    settings = config.settings if config else None
    texts = {
        *_of_environment(environ),
        *_of_texts(layout, config),
        *_of_identity(layout, settings),
        *(_of_settings(settings) if settings else ()),
        *_of_files(_credentials(environ)),
    }
    return {form for text in texts for form in _forms(text.strip()) if form}


def _of_settings(settings: Settings) -> Iterator[str]:
    """The values of the secret settings, and the content of the files that secret settings name."""
    for key in keys():
        value = value_of(settings, key)
        if key.secret:
            yield from _revealed(value)
        elif key.kind is Path and key.name.endswith("_file") and key.name not in _PUBLIC_FILES and value:
            yield from _of_files([value])


def _revealed(value: Any) -> Iterator[str]:
    """Every secret within a value."""
    if isinstance(value, Secret):
        yield value.reveal()
    elif isinstance(value, Proxy):
        yield from (value.url(), value.text.reveal())
        if value.password is not None:
            password = value.password.reveal()
            yield from (password, f"{value.user}:{password}")
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _revealed(part)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _revealed(getattr(value, field.name))


def _of_environment(environ: Mapping[str, str]) -> Iterator[str]:
    """Values of variables whose name speaks of a secret; of a URL the part with the user."""
    for name, value in environ.items():
        if _NAME.search(name) and name.lower() != "no_proxy" and not re.match(r"/|\w+://", value):
            yield value
        for user in _USER.findall(value):
            yield from (user, *user.split(":")[1:])


def _of_texts(layout: Layout, config: Config | None) -> Iterator[str]:
    """Secret settings as they stand in the files, also where one of them is no valid configuration."""
    secret = "|".join(re.escape(key.name) for key in keys() if key.secret)
    line = re.compile(rf"(?:^|[.\s])(?:{secret})\s*=\s*(?:\"([^\"\n]*)\"|'([^'\n]*)')")
    places = [layout.home / "edge.toml", accepted_file(layout), SYSTEM_FILE]
    for path in {*places, *([config.file] if config and config.file else [])}:
        for found in line.findall(_read(path)):
            yield from filter(None, found)


def _of_identity(layout: Layout, settings: Settings | None) -> Iterator[str]:
    """Tokens of identity.db, and the code that an operator approves by."""
    with suppress(EdgeError, OSError):
        identity = IdentityReader(layout, wiring.vault(settings) if settings else None).read()
        yield from _revealed(identity)
        yield identity.enrolment.verification_code or ""


def _credentials(environ: Mapping[str, str]) -> list[Path]:
    folder = environ.get("CREDENTIALS_DIRECTORY")
    try:
        return list(Path(folder).iterdir()) if folder else []
    except OSError:
        return []


def _of_files(paths: Iterable[Path]) -> Iterator[str]:
    """The lines of secret files."""
    for path in paths:
        for line in _read(path).splitlines():
            if len(line.strip()) >= LEAST_CHARACTERS and "-----" not in line:
                yield line


def _read(path: Path) -> str:
    try:
        return read_regular(path, MOST_READ_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _forms(text: str) -> Iterator[str]:
    """A secret as it may have been written: itself, its parts, quoted once or twice, in base64, in JSON."""
    for part in (text, *_PART.findall(text), *(user.partition(":")[2] for user in _USER.findall(text))):
        quoted = quote(part, safe="")
        yield from (part, quoted, quote(quoted, safe=""), json.dumps(part)[1:-1])
        if len(part) >= LEAST_CHARACTERS:
            yield base64.b64encode(part.encode()).decode()
