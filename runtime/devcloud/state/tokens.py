"""Tokens and SAS, pure: the texts that the stand-in signs, and the check of its own signatures.

A token reads `base64url(JSON claims).base64url(HMAC-SHA256)`. It carries only its kind and id (a Registration
Token its device id too); its validity is in the database, so that it can be revoked.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, unquote


def mint(claims: Mapping[str, str], secret: bytes) -> str:
    """The token for `claims`: the same claims give the same token."""
    body = _encode(json.dumps(dict(sorted(claims.items())), separators=(",", ":")).encode())
    return f"{body}.{_encode(hmac.digest(secret, body.encode(), 'sha256'))}"


def claims_of(token: str, secret: bytes) -> dict[str, str] | None:
    """The claims of a token of ours; None for a text that we did not sign."""
    body, _, signature = token.partition(".")
    expected = _encode(hmac.digest(secret, body.encode(errors="replace"), "sha256"))
    if not hmac.compare_digest(expected.encode(), signature.encode(errors="replace")):
        return None
    claims: dict[str, str] = json.loads(_decode(body))
    return claims


@dataclass(frozen=True, slots=True)
class Sas:
    """A shared access signature, taken apart."""

    resource: str
    signature: str
    expires_at_s: int


def sign_sas(resource: str, key: str, expires_at_s: int) -> str:
    """`SharedAccessSignature sr=..&sig=..&se=..` over the url-encoded resource."""
    encoded = quote(resource, safe="")
    signature = quote(_sas_signature(encoded, key, expires_at_s), safe="")
    return f"SharedAccessSignature sr={encoded}&sig={signature}&se={expires_at_s}"


def parse_sas(text: str) -> Sas | None:
    """Take a SAS apart, or None where it is none."""
    scheme, _, rest = text.partition(" ")
    fields = dict(part.partition("=")[::2] for part in rest.split("&"))
    if scheme != "SharedAccessSignature" or not {"sr", "sig", "se"} <= fields.keys():
        return None
    if not (fields["se"].isascii() and fields["se"].isdigit()):
        return None
    return Sas(unquote(fields["sr"]), unquote(fields["sig"]), int(fields["se"]))


def sas_holds(sas: Sas, key: str) -> bool:
    """True if `key` signed it. The caller checks expiry and resource."""
    expected = _sas_signature(quote(sas.resource, safe=""), key, sas.expires_at_s)
    return hmac.compare_digest(expected.encode(), sas.signature.encode())


def derived_key(group_key: str, registration_id: str) -> str:
    """The key of one device out of its enrolment group's."""
    digest = hmac.digest(base64.b64decode(group_key), registration_id.encode(), "sha256")
    return base64.b64encode(digest).decode()


def _sas_signature(encoded_resource: str, key: str, expires_at_s: int) -> str:
    signed = f"{encoded_resource}\n{expires_at_s}".encode()
    return base64.b64encode(hmac.new(base64.b64decode(key), signed, hashlib.sha256).digest()).decode()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
