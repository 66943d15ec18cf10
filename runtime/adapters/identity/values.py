"""What identity.db holds, as plain values: who this device is, its tokens, and what became of the calls."""

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
    """Tells one text from another, as a number that can be kept among facts."""
    return float(int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]))


@dataclass(frozen=True)
class Token:
    """A token at rest."""

    secret: Secret | None
    """None: sealed, and no key opens it. Empty: a way in that needs no token."""
    life: Life
    serial: int
    """Registration and parent: grows with every token. SAS: that of the Registration Token it came from."""
    as_wanted: bool = True
    """It rests as the settings say: sealed, or in the clear."""
    host: str | None = None
    """The platform that granted it, and no other is shown it; None: made by hand, and not proven yet."""
    basis: str | None = None
    """What it was granted for: the basis of an enrolment."""

    @property
    def stands_for_none(self) -> bool:
        """It is no token: the way in needs none."""
        return self.secret is not None and not self.secret

    def is_for(self, host: str) -> bool:
        """Whether it may be shown to the platform `host`."""
        return not self.stands_for_none and self.host in (None, host)


@dataclass(frozen=True)
class HubAssignment:
    """The connection that is in force."""

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
    """Server's clock minus ours, as last seen; `skew` says whether it still counts."""
    on_hold: bool = False
    """The device id is another one than before, and a person wants to be asked before anything goes out."""
    locked: str = ""
    """Why the tokens cannot be used, or stored, though they are there: the key is missing, or another one."""
    sealed: bool | None = None
    """Whether the tokens rest sealed; None: there are none."""
    former: Token | None = None
    """The line that was in force before: it rests until another one has registered."""
    former_parent: Token | None = None
    doubted: bool = False
    """The platform does not renew the token in force, and registering has to show whether it lives."""
    skew_offset_s: float | None = None
    skew_boot: float | None = None
    """Our wall clock minus our boot clock when the skew was learnt, and the mark of that boot."""

    def skew(self, now: Moment) -> float | None:
        """Server's clock minus ours, unless ours was set since, or this is another boot."""
        if self.skew_offset_s is None:
            return self.skew_s
        same = self.skew_boot == mark(now.boot_id)
        moved_s = now.wall_s - now.boot_s - self.skew_offset_s
        return self.skew_s if same and abs(moved_s) <= CLOCK_SET_BY_S else None

    @property
    def tokens(self) -> list[Token]:
        """Those that there are."""
        mine = self.registration, self.parent, self.sas, self.former, self.former_parent
        return [token for token in mine if token]

    @property
    def in_force(self) -> Token | None:
        """The token that is asked with, where there is one."""
        return self.registration or self.parent

    @property
    def granted(self) -> str | None:
        """What the tokens in force were granted for."""
        return self.in_force.basis if self.in_force else None

    def has_token(self, host: str) -> bool:
        """Whether a token of the platform `host` is in force."""
        return self.in_force is not None and self.in_force.is_for(host)

    @property
    def former_refused(self) -> bool:
        """The line at rest was refused: it is tried now and then, not put in force again."""
        return Task.REGISTER_FORMER in (self.paces or {})

    def misplaced(self, host: str) -> bool:
        """Whether another line ought to be in force where tokens of the platform `host` serve."""
        if self.in_force is not None:
            return not self.in_force.is_for(host)
        return self.former is not None and self.former.is_for(host) and not self.former_refused

    def held(self, now: Moment) -> CredentialState:
        """What the decisions look at, as far as the disk tells."""
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
        """Of a SAS that came without a life, as in a connection string: by its own text."""
        sas = self.sas
        if sas is None or not sas.secret or sas.life.lifetime_s is not None:
            return None
        ends_s = connection_string.sas_expiry_s(sas.secret.reveal())
        return None if ends_s is None else ends_s - now.wall_s

    def hub_credentials(self) -> HubCredentials | None:
        """What upload connects with, or None until the device was registered, and while it is on hold.

        Raises NeedsHuman where the SAS is sealed and no key opens it.
        """
        hub, sas = self.hub, self.sas
        if sas is not None and sas.secret is None:
            raise NeedsHuman(self.locked, hint=REMEDY)
        secret = (sas.secret or None) if sas else None
        if self.on_hold or hub is None or (secret is None) == (hub.certificate is None):
            return None
        return HubCredentials(hub.host, hub.device_id, hub.generation, secret, hub.certificate, hub.key)
