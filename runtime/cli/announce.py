"""Announcements to a person at a terminal after `edgectl up`: the verification code, "registered", "hub up".

They come from a process of its own, for `edgectl up` itself has become supervisord by then. It ends with
supervisord, or once the hub is up: from then on `edgectl status` shows the state.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cli.terminal import write_error

if TYPE_CHECKING:
    from runtime.layout import Layout

LOOK_EVERY_S = 0.5


def begin(layout: Layout) -> None:
    """Start announcing, where stderr is a terminal."""
    if sys.stderr is not None and sys.stderr.isatty():
        command = [sys.executable, "-P", "-m", "runtime.cli.announce", str(layout.home), str(os.getpid())]
        with contextlib.suppress(OSError):  # no process is available now: the runtime starts all the same
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def announce(layout: Layout, supervisord: int) -> None:
    """Print each fact once, as it comes true; return when the hub is up, or supervisord is gone."""
    printed: set[str] = set()
    hub_state = ""
    while os.getppid() == supervisord and hub_state != "up":
        time.sleep(LOOK_EVERY_S)
        hub_state = _hub_state(layout)
        for sentence in facts(*_identity(layout), hub_state):
            if sentence not in printed:
                printed.add(sentence)
                write_error(sentence)


def facts(code: str | None, device_id: str | None, hub_state: str) -> list[str]:
    """The facts that are true now, in the order in which a person waits for them."""
    true = []
    if code:
        true.append(f"verification code {code}: an operator approves the device by it")
    if device_id:
        true.append(f"registered as {device_id}")
    if hub_state == "up":
        true.append(
            "hub up: messages are delivered; `edgectl status` tells the rest, Ctrl-C ends the runtime"
        )
    return true


def _hub_state(layout: Layout) -> str:
    """The state in `upload`'s record, if `upload` runs: the file of an earlier process counts for nothing."""
    from runtime.adapters.process.process import lock_holder
    from runtime.adapters.process.status_file import read_status

    record = read_status(layout.status_file("upload")) or {}
    return str(record.get("state")) if record.get("pid") == lock_holder(layout.lock("upload")) else ""


def _identity(layout: Layout) -> tuple[str | None, str | None]:
    """The verification code while there is one, and the device id once there is one."""
    from runtime.adapters.identity.database import IdentityReader
    from runtime.errors import EdgeError

    try:
        identity = IdentityReader(layout).read()
    except EdgeError:  # `edgectl status` reports it
        return None, None
    return identity.enrolment.verification_code, identity.hub.device_id if identity.hub else None


def main(home: Path, supervisord: int) -> int:
    """Announce for the runtime in `home` until it ends."""
    from runtime.layout import Layout

    with contextlib.suppress(KeyboardInterrupt, OSError):  # the person, or the terminal, is gone
        announce(Layout(home), supervisord)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
