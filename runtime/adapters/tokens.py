"""Where tokens come from: a variable, a file, a systemd credential. Read anew on every attempt."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from loguru import logger

from runtime.core.secret import Secret, fits_header
from runtime.settings import Platform

CREDENTIAL = "provisioning-token"
"""Name of the systemd credential (`LoadCredential=provisioning-token:...`)."""

MAX_BYTES = 65_536


def provisioning_token(settings: Platform, environ: Mapping[str, str] = os.environ) -> Secret | None:
    """The Provisioning Token in force now, or None where none is to be had."""
    mine = settings.provisioning_token, settings.provisioning_token_file
    return _sendable(secret_from(*mine, CREDENTIAL, environ), mine[1], "platform.provisioning_token")


def registration_token(settings: Platform, environ: Mapping[str, str] = os.environ) -> Secret | None:
    """The Registration Token made by hand that is there now, if any."""
    mine = settings.registration_token, settings.registration_token_file
    return _sendable(
        secret_from(*mine, "registration-token", environ), mine[1], "platform.registration_token"
    )


def secret_from(
    text: Secret | None, file: Path | None, credential: str, environ: Mapping[str, str] = os.environ
) -> Secret | None:
    """A secret out of the first place that is set: the setting, its file, or the systemd credential."""
    if text:
        return text
    if file:
        return _from_file(file)
    folder = environ.get("CREDENTIALS_DIRECTORY")
    return _from_file(Path(folder) / credential) if folder else None


def _sendable(token: Secret | None, file: Path | None, setting: str) -> Secret | None:
    """Two lines or a remark beside the token are none: they fit no header, and the error would show them."""
    if token is None or fits_header(token):
        return token
    _warn_unsendable(str(file or setting))
    return None


def fingerprint(token: Secret | None) -> str | None:
    """Tells two tokens apart without giving either away."""
    return hashlib.sha256(token.reveal().encode()).hexdigest()[:16] if token else None


def is_open_to_others(mode: int) -> bool:
    """Whether users other than owner and group can read it."""
    return bool(mode & 0o007)


@cache
def _warn_once(path: Path) -> None:
    logger.warning("{path} holds a secret and is open to others; chmod 600 {path}", path=path)


@cache
def _warn_unsendable(where: str) -> None:
    logger.warning("{where} holds no token: it is not one word of printable ASCII", where=where)


def _from_file(path: Path) -> Secret | None:
    """A file that is missing, empty, unreadable or not text holds no token; it may come."""
    try:
        with path.open("rb") as file:
            if is_open_to_others(os.fstat(file.fileno()).st_mode):
                _warn_once(path)
            text = file.read(MAX_BYTES).decode("utf-8-sig").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return Secret(text) if text else None
