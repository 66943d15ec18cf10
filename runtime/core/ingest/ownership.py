"""Whose a name is: two that call themselves alike are not the same, and neither may speak for the other.

A producer says how it is called and in which boot it is. Anyone who reads that somewhere can say it, too:
were it believed, the next message of the first would be acknowledged as a repeat of the other's and not be
stored. So what is remembered of sequences belongs to the *owner* as well, which nobody can choose: the CURVE
key that came in, or on ipc the user, as the kernel says. All who come by TCP without keys are one.

The messages of both must not have the same name, either, or the cloud takes one for a repeat of the other
(`$.mid`). The first owner that stores something under a name and boot has the plain names,
`producer/boot/sequence`; those of every other owner carry a mark of its own.

On disk both are in the column `boot`, as an older runtime wrote it, so that it may be put back. `@` stands in
no boot that a producer can say:

    boot            remembered before there were owners
    boot@owner      of the owner with the plain names
    boot@@owner     of another

What was remembered without an owner is everyone's: each that comes goes on with a copy of it, so a repeat is
recognised after an upgrade, and what one adds counts for itself.
"""

from __future__ import annotations

import hashlib

from runtime.core.ingest.protocol import ProducerKey

_PLAIN, _APART = "@", "@@"
AFTER_ALL_OWNERS = "A"
"""The character that follows `@`: `boot@...` stands between the two."""


def key_prefix(key: ProducerKey, *, apart: bool) -> str:
    """What the names of its messages begin with."""
    producer, boot, owner = key
    return f"{producer}/{boot}@{_mark(owner)}/" if apart else f"{producer}/{boot}/"


def _mark(owner: str) -> str:
    return hashlib.sha256(owner.encode()).hexdigest()[:12]


def row_boot(key: ProducerKey, *, apart: bool) -> str:
    """The column `boot` of what is remembered under this key."""
    if not key.owner:
        return key.boot
    return f"{key.boot}{_APART if apart else _PLAIN}{key.owner}"


def of_row(producer: str, boot: str) -> tuple[ProducerKey, bool]:
    """The inverse: the key, and whether it stands apart."""
    name, at, owner = boot.partition(_PLAIN)
    apart = bool(at) and owner.startswith(_PLAIN)
    return ProducerKey(producer, name, owner.removeprefix(_PLAIN) if apart else owner), apart
