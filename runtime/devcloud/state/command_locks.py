"""Locks of commands: a command that was handed to a device is kept from all others until it is settled.

A lock lives in memory, and ends by time, with the connection that holds it, or with the stand-in's process.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple


class CommandLock(NamedTuple):
    """A command in the care of one receiver."""

    seq: int
    token: str
    until_s: float
    """Unix time at which the lock ends."""


class CommandLocks:
    """The locks of all commands."""

    def __init__(self) -> None:
        self._by_seq: dict[int, CommandLock] = {}

    def lock(self, seq: int, until_s: float) -> CommandLock:
        """Lock a command, in place of any lock that has ended."""
        lock = self._by_seq[seq] = CommandLock(seq, secrets.token_hex(16), until_s)
        return lock

    def is_locked(self, seq: int, now_s: float) -> bool:
        """True if the command is in the care of a receiver."""
        lock = self._by_seq.get(seq)
        return lock is not None and lock.until_s > now_s

    def of_token(self, token: str, now_s: float) -> CommandLock | None:
        """The lock with this token, or None where it has ended."""
        return next((k for k in self._by_seq.values() if k.token == token and k.until_s > now_s), None)

    def release(self, lock: CommandLock) -> None:
        """End a lock; one that was replaced by another since is left alone."""
        if self._by_seq.get(lock.seq) == lock:
            del self._by_seq[lock.seq]
