"""Connection strings of the hub, and the shared access signatures made from a device key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass
from urllib.parse import quote

from runtime.core.secret import Secret

_DIRECT = r"(?is)(?!(?:.*;)?\s*(?:GatewayHostName|ModuleId)\s*=).*"
RULE = "must be a device's own, straight to the hub: without GatewayHostName and ModuleId"

_HOST, _DEVICE = r"[A-Za-z0-9._-]{1,253}", r"[!-~]{1,128}"
"""The valid names of a hub, and of a device there; longer ones fit into no packet."""


@dataclass(frozen=True)
class ConnectionString:
    """A parsed connection string. One of `sas` and `key` is set, or `x509`: a certificate serves."""

    text: Secret
    """It as it was written: its digest tells one from the next."""
    hub_host: str
    device_id: str
    sas: Secret | None = None
    key: Secret | None = None
    x509: bool = False


def parse(text: str) -> ConnectionString:
    """Read `HostName=...;DeviceId=...;...`, names in any case. Raises ValueError without a secret in it."""
    parts = _parts(text)
    missing = [name for name in ("HostName", "DeviceId") if not parts.get(name.lower())]
    if missing:
        raise ValueError(f"the connection string has no {' and no '.join(missing)}")
    host, device = parts["hostname"], parts["deviceid"]
    check_names(host, device)
    sas, key = parts.get("sharedaccesssignature"), parts.get("sharedaccesskey")
    x509 = parts.get("x509", "").lower() == "true"
    if not (sas or key or x509):
        raise ValueError("the connection string has no SharedAccessSignature, SharedAccessKey or x509=true")
    if sas and not sendable(Secret(sas)):
        raise ValueError("the SharedAccessSignature is not printable ASCII on one line")
    return ConnectionString(
        Secret(text),
        host,
        device,
        Secret(sas) if sas else None,
        Secret(key) if key and not sas else None,
        x509 and not (sas or key),
    )


def sendable(sas: Secret) -> bool:
    """True if a header can carry it: a library that refuses a header shows all of it in its error."""
    return re.fullmatch(r"[ -~]+", sas.reveal()) is not None


def _parts(text: str) -> dict[str, str]:
    """The values by their lower-case names. Raises ValueError where a name occurs twice."""
    values: dict[str, str] = {}
    for part in text.strip().split(";"):
        name, _, value = part.partition("=")
        name = name.strip().lower()
        if name in values:
            raise ValueError("the connection string has one of its names twice")
        if name:
            values[name] = value.strip()
    return values


def check_names(hub_host: object, device_id: object) -> None:
    """Raise ValueError where no hub can have that name, or no hub can know a device by that id."""
    if not (isinstance(hub_host, str) and re.fullmatch(_HOST, hub_host)):
        raise ValueError("the name of the hub is none that a host can have")
    if not (isinstance(device_id, str) and re.fullmatch(_DEVICE, device_id)):
        raise ValueError("the device id is not 1 to 128 printable characters of ASCII")


def parse_direct(text: Secret) -> ConnectionString:
    """Parse a device's own connection string, as the operator gives it: one that names a gateway or a module,
    which the runtime would ignore, is refused. Raises ValueError without a secret in it.
    """
    if not re.fullmatch(_DIRECT, text.reveal()):
        raise ValueError(f"the connection string {RULE}")
    return parse(text.reveal())


def sas_expiry_s(sas: str) -> float | None:
    """The Unix seconds in `se=`, or None where there is none."""
    match = re.search(r"[&\s]se=(\d{1,12})(?:&|$)", sas)
    return float(match[1]) if match else None


def derived_key(group_key: Secret, registration_id: str) -> Secret:
    """Derive a device's key from its enrolment group's. Raises ValueError where that is not base64."""
    digest = hmac.new(_decoded(group_key), registration_id.encode(), hashlib.sha256).digest()
    return Secret(base64.b64encode(digest).decode())


def sign(hub_host: str, device_id: str, key: Secret, expiry_s: int) -> Secret:
    """A SAS for the device, valid until `expiry_s` (unix). Raises ValueError where the key is not base64."""
    resource = quote(f"{hub_host}/devices/{device_id}", safe="")
    digest = hmac.new(_decoded(key), f"{resource}\n{expiry_s}".encode(), hashlib.sha256).digest()
    signature = quote(base64.b64encode(digest), safe="")
    return Secret(f"SharedAccessSignature sr={resource}&sig={signature}&se={expiry_s}")


def _decoded(key: Secret) -> bytes:
    try:
        return base64.b64decode(key.reveal(), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("the key is not base64") from None
