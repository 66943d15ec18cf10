"""`edgectl identity`: who this device is, and how long its tokens live."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runtime.cli import Commands, load_config
from runtime.cli.terminal import TextRow, write_json, write_lines

if TYPE_CHECKING:
    from runtime.adapters.identity.values import IdentityRecord, Token
    from runtime.config import Config
    from runtime.core.identity.renewal import RenewalPolicy
    from runtime.core.moment import Moment
    from runtime.layout import Layout


def register(commands: Commands) -> None:
    identity = commands.add_parser(
        "identity",
        help="who this device is, and how long its tokens live",
        epilog="exit status: 0 registered, 1 not",
    )
    identity.add_argument("--json", action="store_true", help="for a program")
    identity.add_argument(
        "--accept", action="store_true", help="let messages go out under a new device id that is on hold"
    )
    identity.add_argument(
        "--moved",
        action="store_true",
        help="say that a home that counts as copied was moved: there is no other",
    )
    identity.set_defaults(run=_identity)


def _identity(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    if arguments.accept:
        from runtime.adapters.identity.database import IdentityStore

        IdentityStore(config.layout).accept()  # upload reads it every few seconds
    if arguments.moved:
        from runtime.adapters.process.machine_names import forget_copy

        forget_copy(config.layout)
    facts = describe(config)
    if arguments.json:
        write_json(facts)
    else:
        write_lines(*(TextRow(line, indent=21) for line in identity_table(facts)))
    return 0 if facts["state"] == "registered" else 1


def describe(config: Config) -> dict[str, Any]:
    """The identity as far as it may be shown: never a token's text."""
    from runtime import wiring
    from runtime.adapters.identity.database import IdentityReader
    from runtime.adapters.identity.registrars import certificate_left_s, registrar
    from runtime.adapters.process.clock import SystemClock, read_moment
    from runtime.core.identity import renewal

    vault, now = wiring.vault(config.settings), read_moment(SystemClock())
    identity = IdentityReader(config.layout, vault).read()
    policy = wiring.renewal_policy(config.settings)
    # a key that is a systemd credential cannot be read from here
    held = replace(identity.held(now), locked=identity.locked if vault.key_file else "")
    kinds = {
        "registration token": identity.registration,
        "parent token": identity.parent,
        "former token": identity.former,
        "sas": identity.sas,
    }
    workers = {name: _living(config.layout, name) for name in ("provisioning", "refresh")}
    record = workers["refresh"] or {}
    tokens = {kind: _life(token, policy, now) for kind, token in kinds.items() if token}
    if "former token" in tokens:
        tokens["former token"]["renewal_in_s"] = None  # a token at rest is not renewed
    if held.fixed_left_s is not None:
        tokens["sas"]["remaining_s"] = round(held.fixed_left_s, 1)
    if held.by_certificate and "sas" in tokens:
        tokens["sas"]["remaining_s"] = None
    certificate_s = certificate_left_s(registrar(wiring.registration_route(config.settings)), now)
    fixed = renewal.fixed_credential(held.fixed_left_s, certificate_s)
    return {
        "state": record.get("state") or renewal.registration_state(held, now).value,
        "reason": record.get("reason") or held.locked or (fixed.sentence() if fixed else ""),
        "provisioning": identity.enrolment.state.value,
        "device_id": identity.hub.device_id if identity.hub else None,
        "hub": identity.hub.host if identity.hub else None,
        "generation": identity.hub.generation if identity.hub else None,
        "verification_code": identity.enrolment.verification_code,
        "tokens": tokens,
        "sealed": identity.sealed,
        "skew_s": identity.skew(now),
        "errors": _errors(identity, now),
        "next": {name: _next(status) for name, status in workers.items()},
    }


def _living(layout: Layout, worker: str) -> dict[str, Any] | None:
    """The status record of a worker, if it runs."""
    from runtime.adapters.process.process import lock_holder
    from runtime.adapters.process.status_file import read_status

    record = read_status(layout.status_file(worker))
    return record if record and record.get("pid") == lock_holder(layout.lock(worker)) else None


def _life(token: Token, policy: RenewalPolicy, now: Moment) -> dict[str, float | None]:
    from runtime.core.identity.renewal import due_in_s

    life = token.life
    figures = {
        "age_s": life.age(now),
        "remaining_s": life.remaining_s(now),
        "renewal_in_s": due_in_s(life, policy, now),
    }
    return {
        name: None if value is None or math.isinf(value) else round(value, 1)
        for name, value in figures.items()
    }


def _errors(identity: IdentityRecord, now: Moment) -> list[dict[str, Any]]:
    """The failures that still count, newest last."""
    failures = []
    if identity.enrolment.trouble and identity.enrolment.at:
        record = identity.enrolment
        failures.append(("provisioning", record.trouble, record.reason, record.failures, record.at))
    for task, pace in (identity.paces or {}).items():
        failures.append((task.value, pace.outcome, pace.reason, pace.failures, pace.at))
    return [
        {
            "at": where,
            "outcome": outcome.value if outcome else None,
            "reason": reason,
            "times": times,
            "ago_s": None if when is None or (ago_s := now.since(when)) is None else round(ago_s, 1),
        }
        for where, outcome, reason, times, when in failures
    ]


def _next(status: dict[str, Any] | None) -> dict[str, Any]:
    """The next step that a worker announces."""
    fields = {"state": "not running"} if status is None else status
    return {name: fields.get(name) for name in ("state", "trouble", "reason", "next", "next_in_s")}


def identity_table(facts: dict[str, Any]) -> list[str]:
    rows = [("state", facts["state"])]
    rows += [("reason", facts["reason"])] if facts["reason"] else []
    rows.append(("provisioning", facts["provisioning"]))
    shown = ("device_id", "hub", "verification_code")
    rows += [(name.replace("_", " "), facts[name]) for name in shown if facts[name]]
    rows += [(kind, _life_in_words(life)) for kind, life in facts["tokens"].items()]
    if facts["sealed"] is not None:
        rows.append(("at rest", "sealed" if facts["sealed"] else "in the clear"))
    if facts["skew_s"] is not None:
        rows.append(("clock skew", f"{facts['skew_s']:+.0f} s (platform minus this device)"))
    rows += [("error", _error_in_words(error)) for error in facts["errors"]]
    rows += [(f"{worker} next", _next_in_words(next_)) for worker, next_ in facts["next"].items()]
    return [f"{name:<20} {text}" for name, text in rows]


def _life_in_words(life: dict[str, float | None]) -> str:
    from runtime.core.identity.lifetime import spoken

    ends = "never expires" if life["remaining_s"] is None else f"{spoken(life['remaining_s'])} left"
    age = "unknown" if life["age_s"] is None else spoken(life["age_s"])
    due = "no renewal" if life["renewal_in_s"] is None else f"renewal in {spoken(life['renewal_in_s'])}"
    return f"{ends}, age {age}, {due}"


def _error_in_words(error: dict[str, Any]) -> str:
    from runtime.core.identity.lifetime import spoken

    ago = "" if error["ago_s"] is None else f", last {spoken(error['ago_s'])} ago"
    return f"{error['at']}: {error['outcome']} ({error['reason']}), {error['times']} times{ago}"


def _next_in_words(plan: dict[str, Any]) -> str:
    from runtime.core.identity.lifetime import spoken

    if plan.get("next") is None:
        return str(plan["state"])
    return f"{plan['next']} in {spoken(plan['next_in_s'])}"
