"""Devices and their Registration Tokens.

A token in use is *current*. Refreshing it gives a child; the parent stays valid for a grace period, in case
the device never saw the answer, and the grandparent is revoked at once. Refreshing the parent once more says
just that: the child handed out before is revoked, another one is given.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from typing import Any

from runtime.devcloud.state import tokens
from runtime.devcloud.state.database import Database


@dataclass(frozen=True, slots=True)
class Granted:
    """A Registration Token just handed out."""

    token: str
    expires_at_s: float | None
    after_lost_answer: bool = False
    """The parent was already in its grace period: an earlier answer did not arrive."""


class Registrations:
    """The devices, and the tokens by which they prove their identity."""

    def __init__(self, database: Database, secret: bytes, workspace: str) -> None:
        self._database = database
        self._secret = secret
        self._workspace = workspace

    # -- devices -------------------------------------------------------------------------------------

    def devices(self) -> list[dict[str, Any]]:
        return self._database.rows("SELECT * FROM devices ORDER BY created_at")

    def device(self, device_id: str) -> dict[str, Any] | None:
        return self._database.row("SELECT * FROM devices WHERE id = ?", device_id)

    def adopt(self, device_id: str, now_s: float) -> None:
        """Add a device of this id; one that exists keeps its key."""
        self._database.execute(
            "INSERT INTO devices (id, key, created_at) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING",
            *(device_id, _new_key(), now_s),
        )

    def registered(self, device_id: str, now_s: float) -> None:
        self._database.execute("UPDATE devices SET registered_at = ? WHERE id = ?", now_s, device_id)

    def give_key(self, device_id: str, key: str) -> None:
        """Give the device a key that was chosen elsewhere."""
        self._database.execute("UPDATE devices SET key = ? WHERE id = ?", key, device_id)

    def rotate_key(self, device_id: str) -> None:
        """Change the key: every SAS handed out so far becomes invalid."""
        self._database.execute("UPDATE devices SET key = ? WHERE id = ?", _new_key(), device_id)

    def enable(self, device_id: str, enabled: bool) -> None:
        self._database.execute("UPDATE devices SET enabled = ? WHERE id = ?", int(enabled), device_id)

    def begin_again(self, device_id: str, now_s: float) -> None:
        """Make a device count as created now; its key and tokens stay."""
        self._database.execute("UPDATE devices SET created_at = ? WHERE id = ?", now_s, device_id)

    def delete(self, device_id: str, now_s: float) -> None:
        self.revoke(device_id, now_s)
        self._database.execute("DELETE FROM devices WHERE id = ?", device_id)

    # -- Registration Tokens -------------------------------------------------------------------------

    def grant(
        self,
        device_id: str,
        lifetime_s: float | None,
        now_s: float,
        *,
        parent: str | None = None,
        after_lost_answer: bool = False,
    ) -> Granted:
        """Hand out a token; None: it never expires."""
        token_id = secrets.token_hex(8)
        expires_at_s = None if lifetime_s is None else now_s + lifetime_s
        self._database.execute(
            "INSERT INTO registration_tokens (id, device_id, parent, created_at, expires_at, lifetime_s)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            *(token_id, device_id, parent, now_s, expires_at_s, lifetime_s),
        )
        claims = {
            "kind": "registration",
            "workspaceId": self._workspace,
            "deviceId": device_id,
            "id": token_id,
        }
        return Granted(tokens.mint(claims, self._secret), expires_at_s, after_lost_answer)

    def valid(self, token: str, now_s: float) -> dict[str, Any] | None:
        """The record of a token that is still valid, its device being known; else None."""
        claims = tokens.claims_of(token, self._secret)
        if claims is None or claims.get("kind") != "registration":
            return None
        return self._database.row(
            "SELECT t.* FROM registration_tokens t JOIN devices d ON d.id = t.device_id WHERE t.id = ?1"
            " AND t.revoked_at IS NULL AND (t.expires_at IS NULL OR t.expires_at > ?2)"
            " AND (t.grace_until IS NULL OR t.grace_until > ?2)",
            *(claims["id"], now_s),
        )

    def refresh(
        self, held: dict[str, Any], lifetime_s: float | None, grace_s: float, now_s: float
    ) -> Granted:
        """Give a child to a valid token."""
        with self._database.transaction():
            lost = held["grace_until"] is not None
            if lost:
                self._revoke_where("parent = ?", held["id"], now_s)
            else:
                self._revoke_where("id = ?", held["parent"], now_s)
                self._database.execute(
                    "UPDATE registration_tokens SET grace_until = ? WHERE id = ?", now_s + grace_s, held["id"]
                )
            return self.grant(held["device_id"], lifetime_s, now_s, parent=held["id"], after_lost_answer=lost)

    def revoke(self, device_id: str, now_s: float) -> int:
        """Revoke every token of a device. Returns the number of tokens."""
        return self._revoke_where("device_id = ?", device_id, now_s)

    def expire(self, device_id: str, now_s: float) -> int:
        """Have every token of a device expire now. Returns the number of tokens."""
        return self._database.change(
            "UPDATE registration_tokens SET expires_at = ? WHERE device_id = ? AND revoked_at IS NULL",
            *(now_s, device_id),
        )

    def _revoke_where(self, condition: str, value: str | None, now_s: float) -> int:
        return self._database.change(
            f"UPDATE registration_tokens SET revoked_at = ? WHERE {condition} AND revoked_at IS NULL",  # noqa: S608 (conditions are ours)
            *(now_s, value),
        )


def _new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()
