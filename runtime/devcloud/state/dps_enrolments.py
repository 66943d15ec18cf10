"""DPS enrolments of the stand-in: the devices that may be assigned to the hub, and those that were.

An individual enrolment is for the registration id of its name; a group is for every device that holds a key
derived from the group's, or presents a certificate of our device authority. A device with an individual
enrolment is judged by that alone.
"""

from __future__ import annotations

import base64
import enum
import secrets
from typing import Any

from runtime.devcloud.state import tokens
from runtime.devcloud.state.certificates import Certificates, common_name
from runtime.devcloud.state.database import Database
from runtime.devcloud.state.problems import bad_request, not_found


class Attestation(enum.Enum):
    """The way in which a device proves its identity."""

    KEY = "key"
    CERTIFICATE = "certificate"


class DpsEnrolments:
    """All enrolments, and the assignments they led to."""

    def __init__(self, database: Database, certificates: Certificates, id_scope: str) -> None:
        self._database = database
        self._certificates = certificates
        self.id_scope = id_scope

    # -- for operators -----------------------------------------------------------------------------------

    def create(self, name: str, attestation: Attestation, *, group: bool, now_s: float) -> dict[str, Any]:
        """Create an enrolment. Raises Problem where the name is taken."""
        if self._row(name):
            raise bad_request(f"there is an enrolment {name} already")
        key = base64.b64encode(secrets.token_bytes(64)).decode() if attestation is Attestation.KEY else None
        self._database.execute(
            "INSERT INTO dps_enrolments (name, grouped, attestation, key, created_at) VALUES (?, ?, ?, ?, ?)",
            *(name, int(group), attestation.value, key, now_s),
        )
        return self._row(name) or {}

    def all(self) -> list[dict[str, Any]]:
        return self._database.rows("SELECT * FROM dps_enrolments ORDER BY created_at")

    def assigned(self) -> list[dict[str, Any]]:
        """Every registration id that was assigned, and the number of times."""
        return self._database.rows("SELECT * FROM dps_registrations ORDER BY assigned_at")

    def enable(self, name: str, enabled: bool) -> None:
        """Enable or disable an enrolment. Raises Problem where there is none."""
        if not self._database.change(
            "UPDATE dps_enrolments SET enabled = ? WHERE name = ?", int(enabled), name
        ):
            raise not_found("The enrolment")

    def delete(self, name: str) -> None:
        """Delete an enrolment. Raises Problem where there is none. Assigned devices stay assigned."""
        if not self._database.change("DELETE FROM dps_enrolments WHERE name = ?", name):
            raise not_found("The enrolment")

    # -- for devices -------------------------------------------------------------------------------------

    def attested(
        self, registration_id: str, sas: str | None, certificate: bytes | None, now_s: float
    ) -> dict[str, Any] | None:
        """The enrolment under which this device has proven itself, with `key`: its own;
        None: it has proven nothing.
        """
        own = self._row(registration_id)
        chosen = [own] if own and not own["grouped"] else [row for row in self.all() if row["grouped"]]
        for enrolment in chosen:
            if enrolment["attestation"] == Attestation.CERTIFICATE.value:
                if sas is None and certificate and self._shows(enrolment, registration_id, certificate):
                    return enrolment
            else:
                key = enrolment["key"]
                if enrolment["grouped"]:
                    key = tokens.derived_key(key, registration_id)
                if sas is not None and self._signed(registration_id, sas, key, now_s):
                    return {**enrolment, "key": key}
        return None

    def note(self, registration_id: str, enrolment: str, device_id: str, now_s: float) -> None:
        """Record that the device was assigned."""
        self._database.execute(
            "INSERT INTO dps_registrations (registration_id, enrolment, device_id, assigned_at, times)"
            " VALUES (?, ?, ?, ?, 1) ON CONFLICT (registration_id) DO UPDATE SET times = times + 1,"
            " enrolment = excluded.enrolment, assigned_at = excluded.assigned_at",
            *(registration_id, enrolment, device_id, now_s),
        )

    def _row(self, name: str) -> dict[str, Any] | None:
        return self._database.row("SELECT * FROM dps_enrolments WHERE name = ?", name)

    def _shows(self, enrolment: dict[str, Any], registration_id: str, certificate: bytes) -> bool:
        """True if the certificate names the registration id as its subject, as Azure demands;
        TLS has checked the chain.
        """
        if common_name(certificate) != registration_id:
            return False
        return bool(enrolment["grouped"]) or self._certificates.owner(certificate) == registration_id

    def _signed(self, registration_id: str, text: str, key: str, now_s: float) -> bool:
        sas = tokens.parse_sas(text)
        return (
            sas is not None
            and sas.resource == f"{self.id_scope}/registrations/{registration_id}"
            and sas.expires_at_s > now_s
            and tokens.sas_holds(sas, key)
        )
