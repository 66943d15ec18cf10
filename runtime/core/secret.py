"""A secret that cannot be printed by accident: every way of turning it into text but `reveal()` hides it."""

from __future__ import annotations

import re

LONG_ENOUGH = 8
"""Shorter texts are left alone: taking them out would tear up every other word."""
MOST_KNOWN = 100
"""The text of so many secrets is remembered: those that were created or used last."""
_known: dict[str, None] = {}


class Secret:
    """Text that must not reach a log, an error, a metric or a process list."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text
        _remember(text)

    def reveal(self) -> str:
        """Return the text itself, for the one call that has to send or store it."""
        _remember(self._text)
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


def _remember(text: str) -> None:
    """Remember the text for `hide_known`. Any thread may call this: each step is one dict operation."""
    if len(text) < LONG_ENOUGH:
        return
    _known.pop(text, None)
    _known[text] = None
    if len(_known) > MOST_KNOWN:
        _known.pop(next(iter(tuple(_known))), None)


def hide_known(text: str) -> str:
    """Take out the secrets that this process has held, whichever code turned them into plain text since."""
    for secret in tuple(_known):
        text = text.replace(secret, "***")
    return text
