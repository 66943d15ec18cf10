"""Settings of updates: who may sign them, where versions lie, and how long a new one has to prove itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.core.update.minisign import KEY_RULE, parse_public_key
from runtime.setting_rule import setting


def parse_keys(written: Sequence[str]) -> tuple[str, ...]:
    """The keys, each as it is written. Raises ValueError where one is no key."""
    for key in written:
        parse_public_key(key)
    return tuple(key.strip() for key in written)


def parse_folder(written: Path) -> Path:
    """The folder of versions; the link to the one in use has its name without `.d`. Raises ValueError."""
    if written.suffix != ".d":
        raise ValueError("must end in .d")
    return written


@dataclass(frozen=True)
class UpdateSettings:
    """`edgectl update`: signed bundles, applied beside the version in use or to the other slot."""

    keys: tuple[str, ...] = setting(
        (),
        "public keys of minisign that may sign a bundle (RW...); without one no update is applied",
        written=tuple[str, ...],
        parse=parse_keys,
        text=KEY_RULE,
    )
    folder: Path = setting(
        Path("/opt/edge-runtime.d"),
        "where versions lie side by side; the link to the one in use has this name without `.d`",
        written=Path,
        parse=parse_folder,
        text="must be a path that ends in .d",
        advanced=True,
    )
    boot_dir: Path | None = setting(
        None, "folder that is shared with a boot chooser, on a device with two slots; see docs/deploy.md"
    )
    confirm_s: float = setting(
        180.0,
        "a new version that has not confirmed itself after so long comes back",
        low=5,
        high=3600,
        advanced=True,
    )
    hold_max_s: float = setting(
        3600.0,
        "longest time for which programs may put off an update; 0 not at all",
        low=0,
        high=604_800,
        advanced=True,
    )
    hold_dir: Path | None = setting(
        None, "folder in which a file of any name says `not now`; beside `edgectl update hold`"
    )
    restart: tuple[str, ...] = setting(
        ("systemctl", "restart", "--no-block", "edge-runtime.service"),
        "program that restarts the service",
        advanced=True,
    )
    restart_count: tuple[str, ...] = setting(
        ("systemctl", "show", "--value", "--property=NRestarts", "edge-runtime.service"),
        "program that prints how often the service was restarted by its manager: a version that crashes at "
        "once comes back before update.confirm_s; empty: unknown",
        advanced=True,
    )
    watch: tuple[str, ...] = setting(
        ("systemctl", "start", "--no-block", "edge-runtime-update.service"),
        "program that starts `edgectl update watch` apart from the service; empty: in the command itself",
        advanced=True,
    )

    @property
    def journal_folder(self) -> Path:
        """Where the journal of updates lies."""
        return self.boot_dir or self.folder
