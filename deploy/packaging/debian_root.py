"""Roots of Debian, made by mmdebstrap in mounts of its own."""

from __future__ import annotations

import shutil

from deploy.packaging.wheels import BuildError, run

ROOT_S = 3600.0
"""So long may a root take: the scripts of a foreign processor's packages run by qemu-user."""


def mmdebstrap(*options: str, epoch_s: int | None = None) -> None:
    """Run mmdebstrap as root. Raises BuildError with what it wrote last.

    It mounts /proc and /sys in the root that it makes, and fails at its very end ("proc: target is busy")
    where another program has a file of them open: a search through /tmp is enough. In a mount namespace of
    its own no other program sees them, and they end with it.
    """
    if shutil.which("mmdebstrap") is None:
        raise BuildError("mmdebstrap is missing; on Debian: apt-get install mmdebstrap")
    environment = {} if epoch_s is None else {"SOURCE_DATE_EPOCH": str(epoch_s)}
    run("unshare", "--mount", "--propagation", "private", "mmdebstrap", "--quiet", *options,
        environment=environment, patience_s=ROOT_S)  # fmt: skip
