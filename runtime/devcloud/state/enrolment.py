"""Provisioning Tokens and provisioning operations: an unknown device is admitted by a person's approval."""

from __future__ import annotations

import enum
import re
import secrets
from typing import Any

from runtime.devcloud.state import tokens
from runtime.devcloud.state.database import Database
from runtime.devcloud.state.problems import Problem, bad_request, closed, not_found
from runtime.settings import DEVICE_ID_PATTERN

_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ23456789"  # no similar letters, no words


class Mode(enum.Enum):
    """The party that chooses the device id: Enforce means the device must, Allow means it
    may, else the platform does.
    """

    DEVICE_ENFORCE = "DeviceEnforce"
    DEVICE_ALLOW = "DeviceAllow"
    TECHNICIAN_ENFORCE = "TechnicianEnforce"
    TECHNICIAN_ALLOW = "TechnicianAllow"
    DEVICE_AND_TECHNICIAN_ALLOW = "DeviceAndTechnicianAllow"
    DISABLE = "Disable"

    def check_wish(self, device_id: str | None) -> None:
        """Check that the device may, or must, wish for an id. Raises Problem."""
        if device_id is None and self is Mode.DEVICE_ENFORCE:
            raise _id_refused("the Provisioning Token wants the device to choose its id")
        if device_id is not None and self not in _DEVICE_MAY:
            raise _id_refused("the Provisioning Token does not let the device choose its id")

    def check_override(self, device_id: str | None) -> None:
        """Check the same for the person who approves. Raises Problem."""
        if device_id is None and self is Mode.TECHNICIAN_ENFORCE:
            raise _id_refused("the Provisioning Token wants the operator to choose the device id")
        if device_id is not None and self not in _TECHNICIAN_MAY:
            raise _id_refused("the Provisioning Token does not let the operator choose the device id")


_DEVICE_MAY = (Mode.DEVICE_ENFORCE, Mode.DEVICE_ALLOW, Mode.DEVICE_AND_TECHNICIAN_ALLOW)
_TECHNICIAN_MAY = (Mode.TECHNICIAN_ENFORCE, Mode.TECHNICIAN_ALLOW, Mode.DEVICE_AND_TECHNICIAN_ALLOW)


def check_device_id(device_id: str | None) -> None:
    """Raise Problem for a text that cannot be a device id."""
    if device_id is not None and not re.fullmatch(DEVICE_ID_PATTERN, device_id):
        raise _id_refused("a device id is 4 to 90 of 0-9 a-z A-Z - _ .")


def _id_refused(detail: str) -> Problem:
    return Problem(400, "deviceProvisioning/deviceIdNotAllowed", "The device id is not allowed", detail)


class EnrolmentBook:
    """All Provisioning Tokens and operations of the workspace."""

    def __init__(self, database: Database, secret: bytes) -> None:
        self._database = database
        self._secret = secret

    # -- Provisioning Tokens -------------------------------------------------------------------------

    def create_token(
        self, mode: Mode, expires_at_s: float | None, registration_lifetime_s: float | None, now_s: float
    ) -> str:
        """Make a Provisioning Token and return its id."""
        token_id = secrets.token_hex(8)
        self._database.execute(
            "INSERT INTO provisioning_tokens (id, mode, created_at, expires_at, registration_lifetime_s)"
            " VALUES (?, ?, ?, ?, ?)",
            *(token_id, mode.value, now_s, expires_at_s, registration_lifetime_s),
        )
        return token_id

    def token_text(self, token_id: str) -> str:
        return tokens.mint({"kind": "provisioning", "id": token_id}, self._secret)

    def tokens(self) -> list[dict[str, Any]]:
        return self._database.rows("SELECT * FROM provisioning_tokens ORDER BY created_at")

    def valid(self, token: str, now_s: float) -> dict[str, Any] | None:
        """The record of a Provisioning Token that is still valid, else None."""
        claims = tokens.claims_of(token, self._secret)
        if claims is None or claims.get("kind") != "provisioning":
            return None
        return self._database.row(
            "SELECT * FROM provisioning_tokens WHERE id = ? AND revoked_at IS NULL"
            " AND (expires_at IS NULL OR expires_at > ?)",
            *(claims["id"], now_s),
        )

    def revoke_token(self, token_id: str, now_s: float) -> None:
        """Revoke a Provisioning Token. Raises Problem where there is none."""
        if not self._database.change(
            "UPDATE provisioning_tokens SET revoked_at = coalesce(revoked_at, ?) WHERE id = ?",
            now_s,
            token_id,
        ):
            raise not_found("The Provisioning Token")

    def expire_token(self, token_id: str, now_s: float) -> None:
        if not self._database.change(
            "UPDATE provisioning_tokens SET expires_at = ? WHERE id = ?", now_s, token_id
        ):
            raise not_found("The Provisioning Token")

    # -- operations ----------------------------------------------------------------------------------

    def begin(
        self, token: dict[str, Any], wish: str | None, lifetime_s: float, now_s: float
    ) -> dict[str, Any]:
        """Begin an operation for a device that asks to be provisioned. Raises Problem
        where the wish is not allowed.
        """
        Mode(token["mode"]).check_wish(wish)
        check_device_id(wish)
        operation_id = secrets.token_hex(16)
        self._database.execute(
            "INSERT INTO operations (id, verification_code, provisioning_token, mode, wished_id, state,"
            " created_at, expires_at, registration_lifetime_s) VALUES (?, ?, ?, ?, ?, 'Pending', ?, ?, ?)",
            *(operation_id, self._new_code(), token["id"], token["mode"], wish),
            *(now_s, now_s + lifetime_s, token["registration_lifetime_s"]),
        )
        return self.operation(operation_id, now_s)

    def operation(self, operation_id: str, now_s: float) -> dict[str, Any]:
        """One operation by its id or by its verification code. Raises Problem."""
        row = self._database.row(
            "SELECT * FROM operations WHERE id = ? OR verification_code = ?",
            *(operation_id, as_code(operation_id)),
        )
        if row is None:
            raise not_found("The provisioning operation")
        return _as_of(row, now_s)

    def operations(self, now_s: float) -> list[dict[str, Any]]:
        """All operations, the newest first."""
        rows = self._database.rows("SELECT * FROM operations ORDER BY created_at DESC LIMIT 1000")
        return [_as_of(row, now_s) for row in rows]

    def approve(self, operation_id: str, device_id: str | None, now_s: float) -> dict[str, Any]:
        """Approve the device for a person, perhaps under another id. Raises Problem."""
        operation = self._pending(operation_id, now_s)
        Mode(operation["mode"]).check_override(device_id)
        check_device_id(device_id)
        chosen = device_id or operation["wished_id"] or f"device-{secrets.token_hex(4)}"
        self._set_state(operation["id"], "Approved", chosen)
        return self.operation(operation["id"], now_s)

    def cancel(self, operation_id: str, now_s: float) -> dict[str, Any]:
        """Cancel the operation for a person. Raises Problem."""
        operation = self._pending(operation_id, now_s)
        self._set_state(operation["id"], "Cancelled", None)
        return self.operation(operation["id"], now_s)

    def approved(self, token: dict[str, Any], operation_id: str, now_s: float) -> dict[str, Any] | None:
        """The operation if it was approved, None while it waits. Raises Problem once it is closed."""
        row = self._database.row(
            "SELECT * FROM operations WHERE id = ? AND provisioning_token = ?", operation_id, token["id"]
        )
        if row is None:  # also one of another Provisioning Token: give nothing away
            raise closed("provisioningOperationNotFound", "The provisioning operation is unknown")
        operation = _as_of(row, now_s)
        if operation["state"] == "Cancelled":
            raise closed("provisioningOperationCancelled", "The provisioning operation was cancelled")
        if operation["state"] == "Expired":
            raise closed("provisioningOperationExpired", "The provisioning operation has expired")
        return operation if operation["state"] == "Approved" else None

    def expire(self, operation_id: str, now_s: float) -> None:
        self._database.execute("UPDATE operations SET expires_at = ? WHERE id = ?", now_s, operation_id)

    def _pending(self, operation_id: str, now_s: float) -> dict[str, Any]:
        operation = self.operation(operation_id, now_s)
        if operation["state"] != "Pending":
            raise bad_request(f"the provisioning operation is {operation['state'].lower()}, not pending")
        return operation

    def _set_state(self, operation_id: str, state: str, device_id: str | None) -> None:
        self._database.execute(
            "UPDATE operations SET state = ?, device_id = ? WHERE id = ?", state, device_id, operation_id
        )

    def _new_code(self) -> str:
        letters = "".join(secrets.choice(_CODE_LETTERS) for _ in range(8))
        return f"{letters[:4]}-{letters[4:]}"


def as_code(typed: str) -> str:
    """The verification code that a person typed, also in lower case, with blanks, or without the hyphen."""
    letters = "".join(letter for letter in typed.upper() if letter.isalnum())
    return f"{letters[:4]}-{letters[4:]}"


def _as_of(operation: dict[str, Any], now_s: float) -> dict[str, Any]:
    """The operation with its state at `now_s`: one that has ended for the device has that state."""
    expired = operation["expires_at"] <= now_s and operation["state"] != "Cancelled"
    return {**operation, "state": "Expired"} if expired else operation
