"""The plaintexts that must be in no log: each secret is registered here where it enters the process.

`Secret` hides itself, but a library that was given its plaintext may show it in an error. `hidden` registers
a secret as it comes in (from the configuration, a file, the platform, the database, a signature of ours), and
`hide_known` takes its plaintext out of what is about to be logged. A test holds that every secret that a
device reads or makes passes through `hidden`.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
from typing import TypeVar

from runtime.core.secret import Secret

LONG_ENOUGH = 8
"""Shorter texts are left alone: taking them out would tear up every other word."""
MOST_KNOWN = 100
"""The plaintexts of so many secrets, those that came last, stay known after their last `Secret` is gone."""

Value = TypeVar("Value")

_lock = threading.RLock()
_in_use: weakref.WeakValueDictionary[int, Secret] = weakref.WeakValueDictionary()
"""Every registered secret that still exists, however many came after it."""
_latest: dict[str, None] = {}


def hidden(value: Value) -> Value:
    """Return `value` as it is, after registering it, or the secrets in its fields. Any thread may call it."""
    if isinstance(value, Secret):
        _register(value)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            hidden(getattr(value, field.name))
    return value


def _register(secret: Secret) -> None:
    text = secret.reveal()
    if len(text) < LONG_ENOUGH:
        return
    with _lock:
        _in_use[id(secret)] = secret
        _latest.pop(text, None)
        _latest[text] = None
        if len(_latest) > MOST_KNOWN:
            del _latest[next(iter(_latest))]


def hide_known(text: str) -> str:
    """Take out the secrets that this process has held, whichever code turned them into plain text since.

    The longest goes first: a secret may be a part of another one.
    """
    with _lock:
        known = {*_latest, *(secret.reveal() for secret in _in_use.values())}
    for secret in sorted(known, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
