"""Where tokens come from: a variable, a file, a systemd credential. They are read again on every attempt."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path

from loguru import logger

from runtime.adapters.process.known_secrets import hidden
from runtime.core.identity.registration_route import SecretLocation
from runtime.core.log_events import LogEvent
from runtime.core.secret import Secret, fits_header

MAX_BYTES = 65_536


class MissingSecret(StrEnum):
    """Why a source holds no token: the operator's remedy differs."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    GARBLED = "garbled"


@dataclass(frozen=True)
class SecretSource:
    """The content of a setting, a file or a credential: a secret, or why there is none."""

    secret: Secret | None = None
    where: str = ""
    """The path, or the name of the setting or credential."""
    lack: MissingSecret | None = MissingSecret.MISSING
    fault: str = ""
    """The problem there, without the remedy."""


def token_at(location: SecretLocation, environ: Mapping[str, str] = os.environ) -> Secret | None:
    """The token in force there now, or None where there is none that a header can carry."""
    return token_source(location, environ).secret


def token_source(location: SecretLocation, environ: Mapping[str, str] = os.environ) -> SecretSource:
    """The source of a token, with the token if it is there.

    Two lines, or a remark beside the token, are no token: no header takes them, and the error would show
    them.
    """
    source = look(location, environ)
    source = replace(source, where=source.where or location.setting)
    if source.secret is None or fits_header(source.secret):
        return source
    _warn_unsendable(source.where)
    fault = f"{source.where} holds no token: it is not one word of printable ASCII"
    return replace(source, secret=None, lack=MissingSecret.GARBLED, fault=fault)


def secret_at(location: SecretLocation, environ: Mapping[str, str] = os.environ) -> Secret | None:
    """The secret there now, whatever it is made of."""
    return look(location, environ).secret


def look(location: SecretLocation, environ: Mapping[str, str] = os.environ) -> SecretSource:
    """The first source that is set: the setting, its file, or the systemd credential."""
    if location.text:
        return SecretSource(hidden(location.text), lack=None)
    folder = environ.get("CREDENTIALS_DIRECTORY")
    path = location.file or (Path(folder) / location.credential if folder else None)
    return _in_file(path) if path else SecretSource()


def fingerprint(token: Secret | None) -> str | None:
    """A digest that tells two tokens apart without giving either away."""
    return hashlib.sha256(token.reveal().encode()).hexdigest()[:16] if token else None


def is_open_to_others(mode: int) -> bool:
    """True if users other than owner and group can read it."""
    return bool(mode & 0o007)


@cache
def _warn_once(path: Path) -> None:
    logger.bind(event=LogEvent.SECRET_FILE_OPEN).warning(
        "{path} holds a secret and is open to others; chmod 600 {path}", path=path
    )


@cache
def _warn_unsendable(where: str) -> None:
    logger.bind(event=LogEvent.SECRET_FILE_GARBLED).warning(
        "{where} holds no token: it is not one word of printable ASCII", where=where
    )


def _content(path: Path) -> bytes | None:
    """The content of a regular file, None for any other: a pipe that is never written
    to would block the worker.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode):
            return None
        if is_open_to_others(mode):
            _warn_once(path)
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(MAX_BYTES)
    finally:
        os.close(fd)


def _in_file(path: Path) -> SecretSource:
    """Read a file. One that is missing, empty, unreadable or not text holds no token; it may come later."""
    where = str(path)
    try:
        content = _content(path)
        if content is None:
            return SecretSource(None, where, MissingSecret.UNREADABLE, f"{where} is not a regular file")
        text = content.decode("utf-8-sig").strip()
    except (FileNotFoundError, NotADirectoryError):
        return SecretSource(None, where, MissingSecret.MISSING, f"{where} is not there")
    except OSError as exc:
        return SecretSource(None, where, MissingSecret.UNREADABLE, f"{where} cannot be read: {exc.strerror}")
    except UnicodeDecodeError:
        return SecretSource(None, where, MissingSecret.GARBLED, f"{where} holds no token: it is not text")
    if not text:
        return SecretSource(None, where, MissingSecret.MISSING, f"{where} is empty")
    return SecretSource(hidden(Secret(text)), where, None)
