"""A secret that cannot be printed by accident: every way of turning it into text but `reveal()` hides it.

Where a secret enters the process it is registered, so that no log shows its plaintext either: see
`adapters/process/known_secrets.py`.
"""

from __future__ import annotations

import re


class Secret:
    """Text that must not reach a log, an error, a metric or a process list."""

    __slots__ = ("__weakref__", "_text")

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself, for the one call that has to send or store it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is not pickled")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __bool__(self) -> bool:
        return bool(self._text)


def fits_header(secret: Secret) -> bool:
    """True if a header can carry it: a library that refuses a header shows all of it in its error."""
    return re.fullmatch(r"[!-~]+", secret.reveal()) is not None
