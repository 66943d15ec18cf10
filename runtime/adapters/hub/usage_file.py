"""Bytes sent over the link today and this month, kept over restarts; and the kill switch, a file."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict

from loguru import logger

from runtime.core.delivery.link_budget import LinkUsage
from runtime.core.log_events import LogEvent
from runtime.core.moment import Moment
from runtime.layout import Layout


class UsageFile:
    """`state/link.json`, written by upload every few seconds: a crash loses the last ones.

    The kill switch is the file `state/link.off`: it works whether upload runs or not, and survives a reboot.
    """

    def __init__(self, layout: Layout) -> None:
        self._path = layout.state / "link.json"
        self._switch = layout.state / "link.off"
        self._until = layout.state / "link.off.until"
        """Since when, and for how long, it is off by order of the cloud."""
        self._saved: LinkUsage | None = None
        self._unreadable = ""
        """The reason that was logged why the switch cannot be looked for."""

    def load(self) -> LinkUsage:
        """The saved usage; nothing where that cannot be read."""
        try:
            stored = json.loads(self._path.read_text())
        except (OSError, ValueError):
            return LinkUsage()
        return LinkUsage.of(stored if isinstance(stored, dict) else {})

    def save(self, usage: LinkUsage) -> None:
        """Write the file if the usage has changed."""
        if usage == self._saved:
            return
        fresh = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):  # a full disk: it is tried again
            with fresh.open("w") as file:
                file.write(json.dumps(asdict(usage)))
                file.flush()
                os.fsync(file.fileno())  # else a power cut leaves it empty, and the budgets begin at zero
            fresh.replace(self._path)
            self._saved = LinkUsage(**asdict(usage))

    def switched_off(self) -> bool:
        """True if the kill switch is off; also where the disk does not say: unknown is not on."""
        try:
            self._switch.lstat()
        except FileNotFoundError:
            return False
        except OSError as exc:
            self._report_unreadable(exc)
        else:
            self._unreadable = ""
        return True

    def _report_unreadable(self, exc: OSError) -> None:
        reason = str(exc.strerror)
        if reason != self._unreadable:
            logger.bind(event=LogEvent.LINK_SWITCH_UNREADABLE).error(
                "{} cannot be looked for ({}): nothing is sent until it can", self._switch, reason
            )
        self._unreadable = reason

    def switch_off_for(self, for_s: float, now: Moment) -> None:
        """Forbid the use of the link for a time. Where it is off already an operator ends that."""
        if not self.switched_off():
            self._until.write_text(json.dumps([now.wall_s, now.boot_s, now.boot_id, for_s]))
            self.switch(on=False)

    def switch_on_if_over(self, now: Moment) -> bool:
        """Permit it again where that time is over; where no clock can tell, it is. True if it was over."""
        try:
            wall_s, boot_s, boot_id, for_s = json.loads(self._until.read_text())
            passed_s = now.since(Moment(wall_s, boot_s, boot_id))
        except FileNotFoundError:
            return False
        except (OSError, ValueError, TypeError):
            for_s, passed_s = 0.0, None
        if passed_s is not None and passed_s < for_s:
            return False
        self.switch(on=True)
        return True

    def switch(self, *, on: bool) -> None:
        """Permit the use of the link, or forbid it; returns when a power cut changes that no more."""
        if on:
            self._until.unlink(missing_ok=True)
            self._switch.unlink(missing_ok=True)
        else:
            self._switch.touch(mode=0o600)
        folder = os.open(self._switch.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
