"""What was sent over the link today and this month, kept over restarts; and the kill switch, a file."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict

from runtime.core.delivery.link_budget import LinkUsage
from runtime.layout import Layout


class UsageFile:
    """`state/link.json`, written by upload every few seconds: a crash forgets the last of them.

    The kill switch is the file `state/link.off`: it works whether upload runs or not, and survives a reboot.
    """

    def __init__(self, layout: Layout) -> None:
        self._path = layout.state / "link.json"
        self._switch = layout.state / "link.off"
        self._saved: LinkUsage | None = None

    def load(self) -> LinkUsage:
        """What was saved; nothing where that cannot be read."""
        try:
            found = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return LinkUsage()
        return LinkUsage.of(found if isinstance(found, dict) else {})

    def save(self, usage: LinkUsage) -> None:
        """Keep it, where it has changed."""
        if usage == self._saved:
            return
        fresh = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk: it is tried again
            with fresh.open("w") as file:
                file.write(json.dumps(asdict(usage)))
                file.flush()
                os.fsync(file.fileno())  # else a power cut leaves it empty, and the budgets begin anew
            fresh.replace(self._path)
            self._saved = LinkUsage(**asdict(usage))

    def switched_off(self) -> bool:
        return self._switch.exists()

    def switch(self, *, on: bool) -> None:
        """Let the link be used, or not."""
        if on:
            self._switch.unlink(missing_ok=True)
        else:
            self._switch.touch(mode=0o600)
