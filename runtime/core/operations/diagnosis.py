"""The diagnosis of `edgectl doctor` by its measurements: ok, warning or error, each with a remedy. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from runtime.core.identity.enrolment import Enrolment, EnrolmentState
from runtime.core.identity.lifetime import spoken
from runtime.core.identity.renewal import FixedCredential

Verdict = Literal["ok", "warning", "error"]

SLOW_FSYNC_MS = 50.0
BAD_FSYNC_MS = 500.0
MUCH_SKEW_S = 60.0
BAD_SKEW_S = 600.0
NOT_YET_VALID, EXPIRED = 9, 10
"""X.509 verification codes of OpenSSL."""
SET_THE_CLOCK = "set the clock: timedatectl set-ntp true, or timedatectl set-time"
SMALLEST_DISK_BYTES = 55_000_000
"""ext4 leaves 57 MB of a partition of 64 MiB."""
CERTIFICATE_SOON_S = 14 * 86400.0
SQLITE_WANTED = (3, 35, 0)
"""The oldest SQLite that serves: it has RETURNING and DROP COLUMN."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's report."""

    name: str
    verdict: Verdict
    text: str
    remedy: str = ""


def judge_fsync(samples_ms: list[float]) -> Check:
    """Judge fsync. Every acknowledgement waits for one: its worst is the producers' worst."""
    typical, worst = sorted(samples_ms)[len(samples_ms) // 2], max(samples_ms)
    text = f"{typical:.1f} ms typically, {worst:.1f} ms at worst of {len(samples_ms)}"
    if typical > BAD_FSYNC_MS:
        return Check("fsync", "error", text, "move the state folder to a faster disk")
    if typical > SLOW_FSYNC_MS or worst > BAD_FSYNC_MS:
        return Check(
            "fsync", "warning", text, "expect slow acknowledgements; send several messages a request"
        )
    return Check("fsync", "ok", text)


def judge_connection(trouble: str) -> Check:
    """Judge upload's report about a connection that stands, or ends again and again."""
    if "device" in trouble:
        remedy = "give each device an id and a registration of its own; a copied card needs `device.id`"
    else:
        remedy = "lower the MTU of the interface (ip link set dev NAME mtu 1400), or mend the path"
    return Check("connection", "warning", trouble, remedy)


def judge_machine(copied_wall_s: float | None, *, known: bool) -> Check:
    """Judge if this home is a copy. `known`: the names of the machine under it can be read."""
    if copied_wall_s is not None:
        at = datetime.fromtimestamp(copied_wall_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
        text = (
            f"the start of {at} found this home on another machine or disk: where the first one runs on, "
            "both are one device to the hub, and both deliver what was stored before, under the same ids"
        )
        remedy = (
            "where it runs on: here `edgectl provision --reset` (and another device.id), or `edgectl "
            "deidentify --discard-messages`; where it was moved: `edgectl identity --moved`"
        )
        return Check("machine", "warning", text, remedy)
    if not known:
        return Check("machine", "ok", "neither its id nor its disk can be named: a copy would not be noticed")
    return Check("machine", "ok", "a copy of this home on another one would be noticed")


def judge_disk(free_bytes: int, min_free_bytes: int, disk_bytes: int) -> Check:
    """Judge the space on the disk of the state, and whether the disk is large enough at all."""
    text = f"{free_bytes / 1e6:,.0f} MB free, {min_free_bytes / 1e6:,.0f} MB are to stay free"
    if free_bytes < min_free_bytes:
        return Check("disk", "error", text, "make room: new messages are refused until then")
    if free_bytes < 2 * min_free_bytes:
        return Check("disk", "warning", text, "make room soon, or lower store.min_free_bytes")
    if disk_bytes < SMALLEST_DISK_BYTES:
        text = (
            f"the whole disk has {disk_bytes / 1e6:,.0f} MB, where logs, WAL and reserve alone may take half"
        )
        return Check("disk", "warning", text, "give the state a partition of 64 MiB or more")
    return Check("disk", "ok", text)


def judge_inodes(free: int, min_free: int) -> Check:
    """Judge free inodes. Each file of a producer, and each status file, needs one, though bytes are free."""
    text = f"{free:,} free, {min_free:,} are to stay free"
    if free < min_free:
        remedy = "df -i; remove what made so many small files: new messages are refused until then"
        return Check("inodes", "error", text, remedy)
    return Check("inodes", "ok", text)


def judge_skew(skew_s: float | None) -> Check:
    """Judge the clock by the platform's own Date header; the runtime corrects for it, TLS does not."""
    if skew_s is None:
        return Check(
            "clock",
            "warning",
            "no server that we trust said what time it is",
            "see the lines about the network",
        )
    text = f"{abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead of'} the platform"
    if abs(skew_s) > BAD_SKEW_S:
        return Check("clock", "error", text, "set the clock (timedatectl): certificates and SAS will fail")
    if abs(skew_s) > MUCH_SKEW_S:
        return Check("clock", "warning", text, "let the device synchronise its clock (NTP)")
    return Check("clock", "ok", text)


def judge_certificate(name: str, remaining_s: float) -> Check:
    days = remaining_s / 86400
    if remaining_s < CERTIFICATE_SOON_S:
        return Check(
            name, "warning", f"TLS in order, certificate ends in {days:.0f} days", "tell its operator"
        )
    return Check(name, "ok", f"TLS in order, certificate good for {days:.0f} days")


def judge_refused_certificate(name: str, code: int, words: str, now_s: float) -> Check:
    """Judge a refused certificate. One that is valid only at another time tells about our clock, too."""
    now = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    if code == NOT_YET_VALID:
        text = f"its certificate is not valid yet by our clock, {now}: our clock is behind"
        return Check(name, "error", text, SET_THE_CLOCK)
    if code == EXPIRED:
        text = f"its certificate has expired by our clock, {now}: that, or our clock is ahead"
        return Check(name, "error", text, f"where {now} is wrong, {SET_THE_CLOCK}; else tell its operator")
    remedy = "set platform.ca_file (or upload.ca_file) to the authority that signed it"
    return Check(name, "error", f"certificate refused: {words}", remedy)


def judge_fixed(fixed: FixedCredential) -> Check:
    """Judge a credential that the device cannot renew."""
    if not (sentence := fixed.sentence()):
        return Check("credentials", "ok", f"{fixed.name}: {spoken(fixed.left_s)} left")
    what, _, remedy = sentence.partition(": ")
    return Check("credentials", "warning" if fixed.left_s > 0 else "error", what, remedy)


def judge_tokens(wanted: bool, sealed: bool | None, locked: str) -> Check:
    """Judge if tokens rest as the settings say. A key that only the service gets is invisible from here."""
    if locked:
        remedy = "look at `edgectl identity`: a systemd credential is the service's alone"
        return Check("tokens", "warning", locked, remedy)
    if sealed is not None and sealed is not wanted:
        rest = "sealed" if sealed else "in the clear"
        return Check(
            "tokens", "warning", f"{rest}, against identity.encrypt", "start `refresh`, it sees to it"
        )
    return Check("tokens", "ok", {None: "none yet", True: "sealed at rest", False: "in the clear"}[sealed])


def judge_unregistered(record: Enrolment, source: str = "", lack: str = "") -> Check:
    """Judge why a device is not registered. `source`: of its Provisioning Token, `lack`: its fault."""
    if lack:
        return Check(
            "identity", "error", f"not registered: {lack}", "put one provisioning token, alone, there"
        )
    if record.state is EnrolmentState.TOKEN_REFUSED:
        text = f"not registered: the platform refuses the provisioning token in {source} ({record.reason})"
        return Check("identity", "error", text, f"put another token into {source}")
    if record.state is EnrolmentState.REJECTED:
        text = f"not registered: rejected by the platform ({record.reason})"
        return Check("identity", "error", text, "correct device.id, or use another provisioning token")
    if record.state is EnrolmentState.PENDING:
        code = record.verification_code or "its code"
        return Check("identity", "warning", "not registered yet", f"approve {code} at the platform")
    return Check("identity", "warning", "not registered yet", "see `edgectl status`")


def judge_lifetimes(
    sas_left_s: float | None, registration_left_s: float | None, *, by_certificate: bool
) -> Check:
    """Judge the remaining lifetimes of the tokens; None: unknown, or without an end."""
    lives = [("the SAS", sas_left_s), ("the Registration Token", registration_left_s)]
    known = [(name, left_s) for name, left_s in lives if left_s is not None and math.isfinite(left_s)]
    if not known:
        return Check("token life", "ok", "a certificate serves" if by_certificate else "no token that ends")
    over = [name for name, left_s in known if left_s <= 0]
    if over:
        return Check("token life", "error", f"{' and '.join(over)} expired", "`edgectl identity` says why")
    text = ", ".join(f"{name} for {spoken(left_s)}" for name, left_s in known)
    return Check("token life", "ok", text.replace(" for ", " is valid for ", 1))


def judge_delivery(facts: Mapping[str, Any], took_s: float, limit_s: float, trouble: str) -> Check:
    """Judge what became of a test message. `facts` are those of `edgectl trace`, `trouble` is upload's."""
    state = facts.get("state", "unknown")
    if state == "delivered":
        text = (
            f"PUBACK {took_s:.1f} s after it was sent to ingest; it counts as one message of the hub's quota"
        )
        return Check("delivery", "ok", text)
    if state == "set aside":
        remedy = "`edgectl quarantine ls`"
        return Check("delivery", "error", f"set aside: {facts.get('reason')}", remedy)
    if state in ("settled", "expired", "shed"):
        remedy = "`edgectl status` counts what was lost, and why"
        return Check("delivery", "error", "it left the store, and no PUBACK of it is known", remedy)
    remedy = (
        f"`edgectl trace {facts['id']}` follows it; it is on disk" if "id" in facts else "`edgectl status`"
    )
    if barred := facts.get("barred"):
        return Check("delivery", "warning", f"it waits: nothing may be sent now ({barred})", remedy)
    why = "; ".join(filter(None, [_where(state, facts), trouble]))
    return Check("delivery", "error", f"no PUBACK within {limit_s:g} s: {why}", remedy)


def _where(state: object, facts: Mapping[str, Any]) -> str:
    """Where a message is that waits."""
    ahead = f", {facts['ahead']} of its stream before it" if facts.get("ahead") else ""
    upload = facts.get("upload")
    if state == "stored":
        return f"upload does not run{ahead}"
    return f"it is {state}{ahead}" + (f", the connection is {upload}" if upload not in (None, "up") else "")


def judge_sqlite(version: tuple[int, ...], text: str) -> Check:
    if version < SQLITE_WANTED:
        return Check("sqlite", "error", text, "use a Python with SQLite 3.35 or newer")
    return Check("sqlite", "ok", text)


def worst(checks: list[Check]) -> int:
    """The exit status: 0 all ok, 1 with a warning, 2 with an error."""
    verdicts = {check.verdict for check in checks}
    return 2 if "error" in verdicts else 1 if "warning" in verdicts else 0
