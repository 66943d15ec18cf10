"""Ownership of names: two producers of one name are not the same, and neither may act for the other.

A producer states its name and its boot. Another user that reads them somewhere can state them, too: were they
believed, the next message of the first would be acknowledged as a repeat of the other's and not be stored. So
the remembered sequences belong to the *owner* as well, which no producer can choose: the CURVE key that came
in, or on ipc the user, as the kernel says. All producers that come by TCP without keys are one owner.

The messages of both must not have the same name, either, or the cloud takes one for a repeat of the other
(`$.mid`). The first owner that stores a message under a name and boot has the plain names,
`producer/boot/sequence`; those of every other owner carry a mark of its own.

On disk both are in the column `boot`, as an older runtime wrote it, so that it may be put back. `@` occurs in
no boot that a producer can state:

    boot            remembered before there were owners
    boot@owner      of the owner with the plain names
    boot@@owner     of another

Sequences remembered without an owner belong to every owner: each one goes on with a copy of them, so a repeat
is recognised after an upgrade, and the sequences that one adds count for itself.
"""

from __future__ import annotations

import hashlib

from runtime.core.ingest.protocol import ProducerKey

_PLAIN, _APART = "@", "@@"
AFTER_ALL_OWNERS = "A"
"""The character that follows `@`: `boot@...` stands between the two."""


def key_prefix(key: ProducerKey, *, apart: bool) -> str:
    """The prefix of the names of its messages."""
    producer, boot, owner = key
    return f"{producer}/{boot}@{_mark(owner)}/" if apart else f"{producer}/{boot}/"


def _mark(owner: str) -> str:
    return hashlib.sha256(owner.encode()).hexdigest()[:12]


def row_boot(key: ProducerKey, *, apart: bool) -> str:
    """The column `boot` of the sequences remembered under this key."""
    if not key.owner:
        return key.boot
    return f"{key.boot}{_APART if apart else _PLAIN}{key.owner}"


def of_row(producer: str, boot: str) -> tuple[ProducerKey, bool]:
    """The inverse of `row_boot`: the key, and true if its names carry a mark."""
    name, at, owner = boot.partition(_PLAIN)
    apart = bool(at) and owner.startswith(_PLAIN)
    return ProducerKey(producer, name, owner.removeprefix(_PLAIN) if apart else owner), apart
