"""TTL: the expiry of a message by its `ttl`, by clocks that may never have been set."""

from __future__ import annotations

import math

from runtime.core.message import StoredMessage
from runtime.core.moment import Moment


def expires_s(message: StoredMessage, now: Moment, *, synchronised: bool) -> float | None:
    """The expiry on the boot clock of `now`; None where it has no ttl, never where its age is unknown.

    A message of unknown age is sent: late is better than lost. A later run may know the age.
    """
    if message.ttl_s is None:
        return None
    at_s = stored_s(message, now, synchronised=synchronised)
    return math.inf if at_s is None else at_s + message.ttl_s


def stored_s(message: StoredMessage, now: Moment, *, synchronised: bool) -> float | None:
    """The time at which it was stored on the boot clock of `now`; None where its age is unknown.

    Within the boot that stored it the boot clock tells. After a reboot only the wall clock can, and only
    where it was synchronised then (else the store has no time of it) and is now: a clock that is months
    behind looks like any other.
    """
    if message.stored_boot_id != now.boot_id and (message.stored_wall_s is None or not synchronised):
        return None
    age_s = now.since(Moment(message.stored_wall_s or 0.0, message.stored_boot_s, message.stored_boot_id))
    return None if age_s is None else now.boot_s - age_s
