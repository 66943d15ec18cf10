"""Updates of this device: what is installed, where versions lie, and how the last update ended."""

from __future__ import annotations

import platform
import struct
import sys
from pathlib import Path

from runtime.adapters.identity.database_file import SCHEMA_VERSION as IDENTITY_SCHEMA
from runtime.adapters.management.database import MANAGEMENT_SCHEMA
from runtime.adapters.store.errors import SCHEMA_VERSION as STORE_SCHEMA
from runtime.adapters.update.holds import FOLDER as HOLD_FOLDER
from runtime.adapters.update.service import UpdatedService, check_owner
from runtime.adapters.update.side_by_side import SideBySide
from runtime.adapters.update.two_slots import TwoSlots
from runtime.config import Config
from runtime.core.update.manifest import BundleKind, InstalledVersion, SchemaRange
from runtime.core.update.minisign import PublicKey, parse_public_key
from runtime.errors import NeedsHuman
from runtime.operations.provenance import provenance
from runtime.settings_update import UpdateSettings

PACKAGE_PREFIX = Path("/usr/lib/edge-runtime")
"""Where the Debian package has its own version."""
SCHEMAS = {
    "messages.db": SchemaRange(1, STORE_SCHEMA),
    "identity.db": SchemaRange(1, IDENTITY_SCHEMA),
    "management.db": SchemaRange(1, MANAGEMENT_SCHEMA),
}
"""The schemas that this version opens. Each migrates from the first on."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def architecture(machine: str, pointer_bytes: int) -> str:
    """Debian's name of the architecture; a kernel of 64 bits may run programs of 32."""
    if machine in ("aarch64", "armv7l", "armv6l", "armv8l") and pointer_bytes == 4:
        return "armhf"
    return _ARCHITECTURES.get(machine, machine)


def installed(settings: UpdateSettings) -> InstalledVersion:
    """The version that runs this command."""
    facts = provenance()
    return InstalledVersion(
        version=str(facts["package"] or facts["version"]),
        kind=BundleKind.IMAGE if settings.boot_dir else BundleKind.TREE,
        architecture=str(facts["architecture"] or architecture(platform.machine(), struct.calcsize("P"))),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        schemas=SCHEMAS,
    )


def side_by_side(settings: UpdateSettings) -> SideBySide:
    """The folder of versions of this device."""
    package = PACKAGE_PREFIX if PACKAGE_PREFIX.is_dir() else None
    return SideBySide(settings.folder, package)


def two_slots(settings: UpdateSettings) -> TwoSlots:
    """The folder that is shared with the boot chooser."""
    assert settings.boot_dir is not None
    return TwoSlots(settings.boot_dir)


def service(settings: UpdateSettings) -> UpdatedService:
    return UpdatedService(settings.restart, settings.watch, settings.restart_count)


def signing_keys(settings: UpdateSettings) -> tuple[PublicKey, ...]:
    """The keys of which one has to sign. Raises NeedsHuman without any."""
    if not settings.keys:
        raise NeedsHuman(
            "no key is known that may sign an update", hint='set keys = ["RW..."] in [update] of edge.toml'
        )
    return tuple(parse_public_key(key) for key in settings.keys)


def check_trust(config: Config) -> None:
    """Refuse to work as root by files that another user could change. Raises NeedsHuman."""
    check_owner(config.settings.update.journal_folder)
    if config.file is not None:
        check_owner(config.file)


def hold_folders(config: Config) -> list[Path]:
    """Where files say `not now`."""
    own = config.layout.run / HOLD_FOLDER
    return [own, *([config.settings.update.hold_dir] if config.settings.update.hold_dir else [])]
