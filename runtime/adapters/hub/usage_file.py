"""Bytes sent over the link today and this month, kept over restarts; and the kill switch, a file.

Two files hold the usage: `run/link.json` follows it closely and costs the flash nothing, for a restart of
upload; `state/link.json` is written where a power cut must not take it back (`usage_saving.py`). A serial
number says which of the two is the later one.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from operator import itemgetter
from typing import Any

from loguru import logger

from runtime.adapters.process import checksummed_line
from runtime.core.delivery.link_budget import LinkPolicy, LinkUsage
from runtime.core.delivery.usage_saving import must_be_saved
from runtime.core.log_events import LogEvent
from runtime.core.moment import Moment
from runtime.layout import Layout


class UsageFile:
    """The usage and the kill switch of one home. Upload writes the usage.

    The kill switch is the file `state/link.off`: it works whether upload runs or not, and survives a reboot.
    """

    def __init__(self, layout: Layout) -> None:
        self._path = layout.state / "link.json"
        self._copy = layout.run / "link.json"
        self._switch = layout.state / "link.off"
        self._until = layout.state / "link.off.until"
        """Since when, and for how long, it is off by order of the cloud."""
        self._serial = 0
        self._copied = LinkUsage()
        self._saved = LinkUsage()
        self._unreadable = ""
        """The reason that was logged why the switch cannot be looked for."""

    def load(self) -> LinkUsage:
        """The usage that was written last; nothing where none can be read."""
        try:
            stored = json.loads(self._path.read_text())
        except (OSError, ValueError, RecursionError):
            stored = None
        saved = stored if isinstance(stored, dict) else {}
        kept = checksummed_line.read(self._copy)
        copied = kept if isinstance(kept, dict) else {}
        self._saved = LinkUsage.of(saved)
        self._serial, latest = max((_serial(saved), saved), (_serial(copied), copied), key=itemgetter(0))
        return LinkUsage.of(latest)

    def save(self, usage: LinkUsage, policy: LinkPolicy, *, at_end: bool = False) -> None:
        """Write the usage where it changed; `at_end` also to the disk. Without room it is tried again."""
        if usage != self._copied:
            self._serial += 1
            with contextlib.suppress(OSError):
                checksummed_line.write(self._copy, self._record(usage))
            self._copied = replace(usage)
        if must_be_saved(usage, self._saved, policy) or (at_end and usage != self._saved):
            self._save(usage)

    def _save(self, usage: LinkUsage) -> None:
        fresh = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):
            with fresh.open("w") as file:
                file.write(json.dumps(self._record(usage)))
                file.flush()
                os.fsync(file.fileno())  # else a power cut leaves it empty, and the budgets begin at zero
            fresh.replace(self._path)
            self._saved = replace(usage)

    def _record(self, usage: LinkUsage) -> dict[str, Any]:
        return {"serial": self._serial, **asdict(usage)}

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


def _serial(record: Mapping[str, Any]) -> int:
    serial = record.get("serial")
    return serial if type(serial) is int else 0
