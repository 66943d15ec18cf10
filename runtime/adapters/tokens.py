"""Where tokens come from: a variable, a file, a systemd credential. Read anew on every attempt."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from loguru import logger

from runtime.core.secret import Secret
from runtime.settings import Platform

CREDENTIAL = "provisioning-token"
"""Name of the systemd credential (`LoadCredential=provisioning-token:...`)."""

MAX_BYTES = 65_536


def provisioning_token(settings: Platform, environ: Mapping[str, str] = os.environ) -> Secret | None:
    """The Provisioning Token in force now, or None where none is to be had."""
    return secret_from(settings.provisioning_token, settings.provisioning_token_file, CREDENTIAL, environ)


def registration_token(settings: Platform, environ: Mapping[str, str] = os.environ) -> Secret | None:
    """The Registration Token made by hand that is there now, if any."""
    return secret_from(
        settings.registration_token, settings.registration_token_file, "registration-token", environ
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


def fingerprint(token: Secret | None) -> str | None:
    """Tells two tokens apart without giving either away."""
    return hashlib.sha256(token.reveal().encode()).hexdigest()[:16] if token else None


def is_open_to_others(mode: int) -> bool:
    """Whether users other than owner and group can read it."""
    return bool(mode & 0o007)


@cache
def _warn_once(path: Path) -> None:
    logger.warning("{path} holds a secret and is open to others; chmod 600 {path}", path=path)


def _from_file(path: Path) -> Secret | None:
    """A file that is missing, empty, unreadable or not text holds no token; it may come."""
    try:
        with path.open("rb") as file:
            if is_open_to_others(os.fstat(file.fileno()).st_mode):
                _warn_once(path)
            text = file.read(MAX_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError):
        return None
    return Secret(text) if text else None
