"""The credentials by which the device proves its identity, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.core.secret import Secret


@dataclass(frozen=True)
class HubCredentials:
    """Everything `upload` needs to connect to the hub. Exactly one of `sas` and `certificate` is set.

    `generation` grows by one whenever any other field changes: equal generations mean equal credentials.
    """

    hub_host: str
    device_id: str
    """Hub device id, `WORKSPACE:DEVICE`."""
    generation: int
    sas: Secret | None = None
    """The whole `SharedAccessSignature sr=...&sig=...&se=...`."""
    certificate: Path | None = None
    key: Path | None = None

    @property
    def destination(self) -> str:
        """Hub and device: one destination's part of a message is not another's, even under one device id.

        A provisioning service may move a device to another hub, and its id stays.
        """
        return f"{self.hub_host.lower()}/{self.device_id}"
