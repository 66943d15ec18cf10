"""The verdict on a runtime in one word (healthy, parked, degraded or down), and the reasons for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtime.core.identity import enrolment

LATE_AFTER_S = 15.0
"""A worker's loop comes round every 5 s at the latest; three times that is no accident."""
DISK_FULL_BYTES = 65536
"""A worker needs more than this to report at all: figures may be missing below it."""
GOOD_HUB = ("up", "draining", "parked")
GOOD_IDENTITY = "registered"
SETTLED = (None, enrolment.EnrolmentState.PROVISIONED.value, enrolment.EnrolmentState.NOT_NEEDED.value)
HELD_UP = frozenset(
    phase.value
    for phase in (
        enrolment.EnrolmentState.TOKENLESS,
        enrolment.EnrolmentState.TOKEN_UNREADABLE,
        enrolment.EnrolmentState.TOKEN_GARBLED,
        enrolment.EnrolmentState.TOKEN_REFUSED,
        enrolment.EnrolmentState.REJECTED,
    )
)
"""States of provisioning in which there is nothing to approve: an operator has to correct a fault."""
UNKNOWN = "unknown"
"""The state of a hub or an identity whose worker does not live: the worker's own state says enough."""
HIDDEN = "UNKNOWN"
"""The state of a worker that supervisord does not know, or that this user may not see."""
LIVING = frozenset({"RUNNING", "STARTING", "UNSUPERVISED"})


REFUSED_FOR_US = frozenset(
    {
        "store_full", "stream_full", "disk_full", "too_many_streams", "too_many_producers",
        "too_many_leaves", "leaf_full", "store_unavailable", "internal",
    }
)  # fmt: skip
"""Codes of refusals that no producer can remedy; the others are its own mistakes, and harm it alone."""
FAILURES_TO_DEGRADE = 5
"""Failures in a row that are no accident; each came after a longer pause than the one before."""
WAITED_TOO_LONG_S = 600.0
WAITED_BESIDE_A_FILE_S = 3600.0
"""Where a file is under way the oldest may be that file, on a slow line: its failures are reported anyway."""


@dataclass(frozen=True, slots=True)
class AlarmLimits:
    """Times, in seconds, below which something comes too soon; 0: never."""

    full_s: float = 3600.0
    token_s: float = 172_800.0
    quota_s: float = 0.0


def verdict(overview: Mapping[str, Any]) -> str:
    """Down: no process would restart the workers, or nothing is there. Degraded: any reason at all.

    Unknown: this user may not look, which says nothing about the runtime.

    Parked: all is well, and the link may not be used: by its budget, its hours, the switch, the hub's quota.
    That ends by itself or by the operator who did it; nothing is to be repaired, and no operator to be woken.
    """
    states = {worker["state"] for worker in overview["workers"].values()}
    if overview["supervisor"]["trouble"] and states == {HIDDEN}:
        return "unknown"
    if overview["supervisor"]["trouble"] or not states & LIVING:
        return "down"
    if overview["reasons"]:
        return "degraded"
    return "parked" if overview["hub"]["barred"] else "healthy"


def reasons(overview: Mapping[str, Any], limits: AlarmLimits = AlarmLimits()) -> list[str]:
    """Everything that makes the runtime less than healthy, one sentence each, the gravest first."""
    why = [overview["supervisor"]["trouble"], overview["configuration"]]
    if not overview["supervisor"]["trouble"]:
        blind = overview["disk"]["read_only"]
        why += [_worker(name, worker, blind=blind) for name, worker in overview["workers"].items()]
    why += [f"{alarm['worker']}: {alarm['text']}" for alarm in overview["alarms"]]
    why += [
        _backlog(overview["backlog"], limits.full_s),
        _ledger(overview.get("ledger")),
        _refused(overview["backlog"]),
        _disk(overview["disk"], limits.full_s),
        _identity(overview["identity"]),
        _token(overview["identity"], limits.token_s),
        _quota(overview.get("runway", {}), limits.quota_s),
        _hub(overview["hub"]),
        *_lanes(overview["hub"]),
        _oldest(overview["hub"]),
    ]
    return [sentence for sentence in why if sentence]


def _worker(name: str, worker: Mapping[str, Any], *, blind: bool) -> str:
    if worker["state"] != "RUNNING":
        return f"{name} is {worker['state']}" + (f": {worker['trouble']}" if worker["trouble"] else "")
    if blind:
        return ""  # no worker can report progress
    age_s, uptime_s = worker["progress_age_s"], worker["uptime_s"]
    if age_s is None:
        return f"{name} never reported progress" if uptime_s and uptime_s > LATE_AFTER_S else ""
    return f"{name} has made no progress for {age_s:.0f} s" if age_s > LATE_AFTER_S else ""


def _backlog(backlog: Mapping[str, Any], soon_s: float) -> str:
    if backlog["store"] not in ("open", None):
        return f"store: {backlog['store']}"
    if backlog.get("disk_room_bytes") == 0:
        if backlog.get("room_limit") == "inodes":
            return "store: no free inodes on the disk, which has room for bytes"
        return "store: no room on the disk"
    if backlog.get("room_bytes") == 0 or backlog.get("room_messages") == 0:
        which = "max_messages" if backlog.get("room_messages") == 0 else "max_bytes"
        return f"store: full by its own limit (store.{which})"
    full_in_s: float | None = backlog.get("full_in_s")
    if full_in_s is None or full_in_s >= soon_s:
        return ""
    return f"store: full in {full_in_s / 60:.0f} min at the present rate"


def _ledger(ledger: Mapping[str, Any] | None) -> str:
    """The sentence about a ledger that does not close: a counter is damaged, or there is a bug."""
    difference = (ledger or {}).get("difference")
    return (
        f"ledger: it does not close by {difference} messages (edgectl ledger --check)" if difference else ""
    )


def _refused(backlog: Mapping[str, Any]) -> str:
    lately = {code: n for code, n in backlog.get("refused_lately", {}).items() if code in REFUSED_FOR_US}
    named = ", ".join(f"{count} {code}" for code, count in sorted(lately.items()))
    return f"producers are refused: {named} within the last minute" if named else ""


def _lanes(hub: Mapping[str, Any]) -> list[str]:
    """The lanes that fail again and again while the hub is up, in the words of the other side."""
    failing = [lane for lane in hub.get("failing", ()) if lane["failures"] >= FAILURES_TO_DEGRADE]
    of_all = [lane for lane in failing if lane["lane"] == "files"]
    streams = [lane["stream"] or "-" for lane in failing if lane["lane"] == "file"]
    if of_all:
        whose = f" (streams {', '.join(streams)})" if streams else ""
        failing = [lane for lane in failing if lane["lane"] == "telemetry"]
        return [f"file uploads fail{whose}, {_in_a_row(of_all[0])}", *map(_lane, failing)]
    return [_lane(lane) for lane in failing]


def _lane(lane: Mapping[str, Any]) -> str:
    what = "the file upload" if lane["lane"] == "file" else "the oldest message"
    return f"{what} of stream {lane['stream'] or '-'} fails, {_in_a_row(lane)}"


def _in_a_row(lane: Mapping[str, Any]) -> str:
    reported = f": {lane['words']}" if lane["words"] else ""
    return f"{lane['failures']:.0f} times in a row{reported}"


def _oldest(hub: Mapping[str, Any]) -> str:
    """The sentence about a message that has been the oldest for long though it could have been sent."""
    waited_s = hub.get("oldest_waited_s")
    most_s = WAITED_BESIDE_A_FILE_S if hub.get("uploading") else WAITED_TOO_LONG_S
    if hub["state"] != "up" or waited_s is None or waited_s < most_s:
        return ""
    stream = hub.get("oldest_stream") or "-"
    return f"the oldest message (stream {stream}) has waited for {waited_s / 60:.0f} min with the hub up"


def _disk(disk: Mapping[str, Any], soon_s: float) -> str:
    if disk["read_only"]:
        return "disk: read-only, nothing can be stored"
    if disk["free_bytes"] is not None and disk["free_bytes"] < DISK_FULL_BYTES:
        return "disk: no room left"
    soon = disk["full_in_s"] is not None and disk["full_in_s"] < soon_s
    return f"disk: full in {disk['full_in_s'] / 60:.0f} min at the present rate" if soon else ""


def _identity(identity: Mapping[str, Any]) -> str:
    state, provisioning = identity["state"], identity.get("provisioning")
    code = identity.get("verification_code")
    todo = f"; an operator has to approve {code}" if code else ""
    if provisioning in HELD_UP and state not in (GOOD_IDENTITY, UNKNOWN):
        why = f" ({identity['reason']})" if identity.get("reason") else ""
        return f"identity: {state}; {provisioning}{why}"
    if state != GOOD_IDENTITY:
        return "" if state == UNKNOWN else f"identity: {state}{todo}"
    # a wish other than the one it is registered by waits for an operator
    return "" if provisioning in SETTLED else f"identity: registered, provisioning {provisioning}{todo}"


def _token(identity: Mapping[str, Any], soon_s: float) -> str:
    """The sentence about a Registration Token that nears its end while its renewal fails."""
    left_s, trouble = identity.get("registration_remaining_s"), identity.get("trouble")
    if left_s is None or left_s >= soon_s or not trouble:
        return ""
    return f"identity: the Registration Token ends in {left_s / 3600:.0f} h and its renewal fails: {trouble}"


def _quota(runway: Mapping[str, Any], soon_s: float) -> str:
    left_s = runway.get("quota_in_s")
    if not isinstance(left_s, int | float) or left_s >= soon_s:
        return ""
    return f"link: a budget of the day is used up in {left_s / 60:.0f} min at the present rate"


def _hub(hub: Mapping[str, Any]) -> str:
    if hub["state"] in (*GOOD_HUB, UNKNOWN):
        return f"hub: {hub['trouble']}" if hub.get("trouble") else ""
    return f"hub: {hub['state']}" + (f" ({hub['last_loss']})" if hub["last_loss"] else "")
