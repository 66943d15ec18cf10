"""The content of identity.db as plain values: who this device is,
its tokens, and the outcomes of its calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from runtime.adapters.identity.vault import REMEDY
from runtime.core.identity import connection_string, renewal
from runtime.core.identity.credentials import HubCredentials
from runtime.core.identity.enrolment import Enrolment
from runtime.core.identity.escalation import Task
from runtime.core.identity.renewal import CredentialState, Life, RetryPace
from runtime.core.moment import CLOCK_SET_BY_S, Moment
from runtime.core.secret import Secret
from runtime.errors import NeedsHuman


def mark(text: str) -> float:
    """A number that tells one text from another, and that can be kept among the facts."""
    return float(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]))


@dataclass(frozen=True)
class Token:
    """A token as it is stored."""

    secret: Secret | None
    """None: sealed, and no key opens it. Empty: a way in that needs no token."""
    life: Life
    serial: int
    """Registration and parent: grows with every token. SAS: that of the Registration Token it came from."""
    as_wanted: bool = True
    """True if it is stored as the settings demand: sealed, or in the clear."""
    host: str | None = None
    """The platform that granted it, the only one it is sent to; None: made by hand, and not proven yet."""
    basis: str | None = None
    """The basis that it was granted for, that of an enrolment."""

    @property
    def stands_for_none(self) -> bool:
        """True if it is no token: the registrar needs none."""
        return self.secret is not None and not self.secret

    def is_for(self, host: str) -> bool:
        """True if it may be sent to the platform `host`."""
        return not self.stands_for_none and self.host in (None, host)


@dataclass(frozen=True)
class HubAssignment:
    """The hub connection that is in force."""

    host: str
    device_id: str
    generation: int
    certificate: Path | None
    key: Path | None


@dataclass(frozen=True)
class IdentityRecord:
    """Everything in the database, read in one snapshot."""

    enrolment: Enrolment
    registration: Token | None = None
    parent: Token | None = None
    sas: Token | None = None
    hub: HubAssignment | None = None
    paces: Mapping[Task, RetryPace] | None = None
    token_refused: bool = False
    skew_s: float | None = None
    """The server's clock minus ours, as last seen; `skew` says whether it still counts."""
    on_hold: bool = False
    """True if the device id differs from the one before, and the operator wants to be asked
    before any message goes out.
    """
    locked: str = ""
    """Why the tokens that are there cannot be used, or stored: the key is missing, or is another one."""
    sealed: bool | None = None
    """True if the tokens are stored sealed; None: there are none."""
    former: Token | None = None
    """The token line that was in force before: it rests until another one has registered."""
    former_parent: Token | None = None
    doubted: bool = False
    """True if the platform does not renew the token in force, and registering has to show
    whether it is still valid.
    """
    skew_offset_s: float | None = None
    skew_boot: float | None = None
    """Our wall clock minus our boot clock when the skew was measured, and the mark of that boot."""

    def skew(self, now: Moment) -> float | None:
        """The server's clock minus ours, unless ours was set since, or this is another boot."""
        if self.skew_offset_s is None:
            return self.skew_s
        same = self.skew_boot == mark(now.boot_id)
        moved_s = now.wall_s - now.boot_s - self.skew_offset_s
        return self.skew_s if same and abs(moved_s) <= CLOCK_SET_BY_S else None

    @property
    def tokens(self) -> list[Token]:
        """The tokens that exist."""
        held = self.registration, self.parent, self.sas, self.former, self.former_parent
        return [token for token in held if token]

    @property
    def in_force(self) -> Token | None:
        """The token that requests carry, where there is one."""
        return self.registration or self.parent

    @property
    def granted(self) -> str | None:
        """The basis that the tokens in force were granted for."""
        return self.in_force.basis if self.in_force else None

    def has_token(self, host: str) -> bool:
        """True if a token of the platform `host` is in force."""
        return self.in_force is not None and self.in_force.is_for(host)

    @property
    def former_refused(self) -> bool:
        """True if the token line at rest was refused: it is tried now
        and then, and not put in force again.
        """
        return Task.REGISTER_FORMER in (self.paces or {})

    def misplaced(self, host: str) -> bool:
        """True if another token line ought to be in force where tokens of the platform `host` serve."""
        if self.in_force is not None:
            return not self.in_force.is_for(host)
        return self.former is not None and self.former.is_for(host) and not self.former_refused

    def held(self, now: Moment) -> CredentialState:
        """The credential state that decisions are made on, as far as the disk tells."""
        registration, sas = self.registration, self.sas
        return CredentialState(
            registration.life if registration else None,
            self.parent is not None,
            sas.life if sas else None,
            bool(registration and sas and registration.serial == sas.serial and not self.doubted),
            self.token_refused,
            by_certificate=self.hub is not None and self.hub.certificate is not None,
            paces=self.paces or {},
            on_hold=self.on_hold,
            locked=self.locked,
            refused_as=renewal.refused_as(self.enrolment.basis),
            fixed_left_s=self._fixed_left_s(now),
        )

    def _fixed_left_s(self, now: Moment) -> float | None:
        """Remaining lifetime of a SAS that came without one, as in a connection string: by its own text."""
        sas = self.sas
        if sas is None or not sas.secret or sas.life.lifetime_s is not None:
            return None
        ends_s = connection_string.sas_expiry_s(sas.secret.reveal())
        return None if ends_s is None else ends_s - now.wall_s

    def hub_credentials(self) -> HubCredentials | None:
        """The credentials that upload connects with, or None until the device was registered, and while it is
        on hold.

        Raises NeedsHuman where the SAS is sealed and no key opens it.
        """
        hub, sas = self.hub, self.sas
        if sas is not None and sas.secret is None:
            raise NeedsHuman(self.locked, hint=REMEDY)
        secret = (sas.secret or None) if sas else None
        if self.on_hold or hub is None or (secret is None) == (hub.certificate is None):
            return None
        return HubCredentials(hub.host, hub.device_id, hub.generation, secret, hub.certificate, hub.key)
