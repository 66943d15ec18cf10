"""`edgectl provision`: watch this device become registered, or forget its identity."""

from __future__ import annotations

import argparse
import math
import sys
import time
from typing import TYPE_CHECKING, Any

from runtime.cli import Commands, load_config, seconds
from runtime.cli.terminal import draw, write_json, write_lines

if TYPE_CHECKING:
    from runtime.adapters.identity.values import IdentityRecord
    from runtime.config import Config

POLL_S = 0.5
MOST_IN_A_PICTURE = 64
"""Longest verification code, in characters, that is drawn as a QR code: it has to fit a terminal."""


def register(commands: Commands) -> None:
    provision = commands.add_parser(
        "provision",
        help="show the verification code; begin again with --reset",
        description="Show the verification code by which an operator approves this device.",
        epilog="exit status: 0 registered, or with --reset forgotten; 1 not yet, or not forgotten",
    )
    provision.add_argument("--wait", action="store_true", help="stay until the device is registered")
    provision.add_argument("--timeout", type=seconds, metavar="S", help="stay no longer than this")
    provision.add_argument("--reset", action="store_true", help="forget who the device is, and begin again")
    provision.add_argument("--yes", action="store_true", help="do not ask before forgetting")
    provision.add_argument(
        "--json", action="store_true", help="for a program: an object a line, when it changes"
    )
    provision.set_defaults(run=_provision)


def _provision(arguments: argparse.Namespace) -> int:
    config = load_config(arguments)
    if arguments.reset:
        forgotten = _reset(config, certain=arguments.yes)
        if arguments.json:
            write_json({"forgotten": forgotten}, indent=None)
        elif forgotten:
            write_lines("Forgotten; the provisioning worker begins again.")
        if not (forgotten and arguments.wait):
            return 0 if forgotten else 1
    return _follow(config, arguments)


def _reset(config: Config, *, certain: bool) -> bool:
    """Forget the identity after a question. Stored messages stay and go out under the next one."""
    from runtime.adapters.identity.database import IdentityStore
    from runtime.adapters.process.machine_names import forget_copy
    from runtime.core.printable import printable
    from runtime.errors import UsageError

    store = IdentityStore(config.layout)
    hub = store.read().hub
    if not certain:
        if not sys.stdin.isatty():
            raise UsageError("--reset asks a question; without a terminal add --yes")
        name = printable(hub.device_id) if hub else "this device's provisioning"
        if input(f"Forget {name}? An operator has to approve it again. [y/N] ").strip().lower() != "y":
            return False
    store.reset()
    forget_copy(config.layout)  # it is a device of its own now
    return True


def _follow(config: Config, arguments: argparse.Namespace) -> int:
    """Show the verification code once there is one; with --wait stay until the device is registered."""
    from runtime.adapters.identity.database import IdentityReader

    reader, wait = IdentityReader(config.layout), arguments.wait
    teller: Teller = JsonTeller() if arguments.json else Teller()
    ends_s = math.inf if arguments.timeout is None else time.monotonic() + arguments.timeout
    while True:
        identity = reader.read()
        if identity.hub and _is_done(identity, thoroughly=wait):
            teller.registered(identity)
            return 0
        teller.waits(identity)
        if not wait:
            teller.leaves(identity)
        if not wait or time.monotonic() >= ends_s:
            return 1
        time.sleep(POLL_S)


class Teller:
    """Reports each fact once, to a person."""

    def __init__(self) -> None:
        self._code: str | None = None
        self._reason = ""

    def registered(self, identity: IdentityRecord) -> None:
        assert identity.hub is not None
        write_lines(f"Registered as {identity.hub.device_id}.")

    def waits(self, identity: IdentityRecord) -> None:
        """Show the verification code, and the reason why provisioning does not go on."""
        record = identity.enrolment
        if record.verification_code and record.verification_code != self._code:
            self._code = record.verification_code
            _invite(self._code)
        if record.reason and record.reason != self._reason:  # else a person would wait in vain
            self._reason = record.reason
            write_lines(f"{record.state.value}: {record.reason}")

    def leaves(self, identity: IdentityRecord) -> None:
        """Report the state where there is no code yet, before the command returns."""
        if self._code is None:
            write_lines(f"No verification code yet: {identity.enrolment.state.value}.")


class JsonTeller(Teller):
    """Reports to a program: an object when something changed."""

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, Any] | None = None

    def registered(self, identity: IdentityRecord) -> None:
        self._report(identity, registered=True)

    def waits(self, identity: IdentityRecord) -> None:
        self._report(identity, registered=False)

    def leaves(self, identity: IdentityRecord) -> None:
        """Do nothing: all is reported."""

    def _report(self, identity: IdentityRecord, *, registered: bool) -> None:
        record = identity.enrolment
        facts = {
            "registered": registered,
            "state": record.state.value,
            "reason": record.reason,
            "verification_code": record.verification_code,
            "device_id": identity.hub.device_id if identity.hub else None,
        }
        if facts != self._last:
            self._last = facts
            write_json(facts, indent=None)


def _is_done(identity: IdentityRecord, *, thoroughly: bool) -> bool:
    """True if nothing is left to approve: also not for another wish than the one the device was registered
    by.

    `thoroughly`: and it is registered with its newest token.
    """
    from runtime.core.identity.enrolment import EnrolmentState

    if identity.registration is None or identity.sas is None or identity.on_hold:
        return False
    proven = identity.registration.serial == identity.sas.serial
    return identity.enrolment.state is EnrolmentState.PROVISIONED and (proven or not thoroughly)


def _invite(code: str) -> None:
    """Show the code to an operator: as text, and in a terminal as a QR code for a telephone's camera."""
    if sys.stdout.isatty() and len(code) <= MOST_IN_A_PICTURE:
        draw(_qr(code))
    write_lines(f"Verification code: {code}", "An operator approves the device by it.")


def _qr(code: str) -> str:
    import io

    import segno  # late: only here

    drawn = io.StringIO()
    segno.make(code, micro=False).terminal(drawn, border=2, compact=True)
    return f"{drawn.getvalue()}\n"
