"""The error tree. A branch is named by what the caller does next.

EdgeError
├── Retryable        transient: wait `retry_after_s` (or back off), then try the same again
├── Rejected         the other side will never take this: set it aside, go on with the next
├── NeedsHuman       the program cannot help itself: say it, with the hint, and wait for a change
└── UsageError       a user's mistake: one sentence, exit status 2, never a traceback
    └── ConfigError  the same for a setting: names key, value and rule
"""

from __future__ import annotations

from typing import Any


class EdgeError(Exception):
    """The runtime met a known problem."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").splitlines()[0])

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the values, not by what `__init__` takes: multiprocessing hangs where that fails."""
        return _rebuilt, (type(self), self.args, vars(self))


class Retryable(EdgeError):
    """It may work later."""

    def __init__(self, message: str | None = None, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Rejected(EdgeError):
    """The other side will never accept this."""

    def __init__(self, message: str | None = None, *, code: str = "rejected") -> None:
        super().__init__(message)
        self.code = code


class NeedsHuman(EdgeError):
    """Only a person can change this."""

    def __init__(self, message: str | None = None, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(EdgeError):
    """The command or its input is wrong."""


class ConfigError(UsageError):
    """A setting is wrong."""


def _rebuilt(kind: type[EdgeError], args: tuple[Any, ...], values: dict[str, Any]) -> EdgeError:
    """The error that `EdgeError.__reduce__` took apart."""
    error = kind.__new__(kind, *args)
    vars(error).update(values)
    return error
