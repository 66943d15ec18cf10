#!/usr/lib/edge-runtime/bin/python -BP
"""Inside the machine of tests/machine/image_cuts.py, instead of systemd: says what is there, then updates.

Words on the console:  SLOT a · INTEGRITY ok · STORED [[first, last], ...] · IDENTITY words · READY ·
ACK number · TRIAL b · CONFIRMED b · LAST result · APPLIED. The plug may be pulled at any of them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))  # behind the image's own modules
from tests.machine.plug_guest import say, tell_what_is_there

HOME = Path("/var/lib/edge-runtime")
USER, GROUP, OTHER_GROUP = 701, 700, 701
"""deploy/image/root/usr/lib/sysusers.d/edge-image.conf."""


def main() -> None:
    """Never ends: the plug is pulled."""
    subprocess.run(["mount", "-t", "tmpfs", "tmp", "/tmp"], check=True)
    say("SLOT " + Path("/boot/booted").read_text().strip())
    tell_what_is_there(HOME / "state/messages.db")
    say(f"IDENTITY {Path('/etc/machine-id').read_text().strip()} {_device()}")
    worker = [sys.executable, "-m", "runtime", "--home", str(HOME), "worker", "ingest"]
    subprocess.Popen(worker, user=USER, group=GROUP, extra_groups=[OTHER_GROUP], stdout=subprocess.DEVNULL)
    if os.environ["CUT_LOOK"] == "yes":
        say("READY")
        time.sleep(3600)
    first = threading.Event()
    threading.Thread(target=_send, args=[int(os.environ["CUT_BASE"]), first], daemon=True).start()
    first.wait()
    try:
        _update(Path("/run/host" + os.environ["CUT_BUNDLE"]))
    except Exception as exc:
        say(f"FAILED {type(exc).__name__}: {exc}")
    time.sleep(3600)


def _device() -> str:
    from runtime.adapters.identity.database import IdentityReader
    from runtime.layout import Layout

    identity = IdentityReader(Layout(HOME)).read()
    secret = hashlib.sha256(repr(identity.registration).encode()).hexdigest()[:12]
    return f"{identity.hub.device_id if identity.hub else 'none'} {secret}"


def _update(bundle: Path) -> None:
    from runtime.adapters.update.service import Called
    from runtime.config import load
    from runtime.core.update.progress import UpdatePhase
    from runtime.operations.slot_update import SlotUpdate
    from runtime.operations.update_steps import ApplyOptions

    update = SlotUpdate.of_device(load(os.environ, home=HOME))
    record, booted = update.slots.record(), update.slots.booted()
    if record.phase is UpdatePhase.TRIAL and booted == record.slot and os.environ["CUT_CONFIRM"] == "no":
        say(f"TRIAL {booted}")
        return
    update.confirm(0, lambda _: Called(True, ""))  # the proof itself is tried by a whole boot
    say(f"CONFIRMED {update.slots.choice().active}")
    if last := update.slots.record().last:
        say(f"LAST {str(last.result).replace(chr(32), chr(45))} {last.wall_s} {last.reason}")
    update.apply(bundle, ApplyOptions(one_way=False, older=True))
    say("APPLIED")


def _send(number: int, first: threading.Event) -> None:
    from runtime.producer import Producer

    with Producer(f"ipc://{HOME}/ingest.sock", retry_for_s=600) as producer:
        say("READY")
        while True:
            producer.put(str(number).encode().ljust(200, b"."), stream="plug")
            say(f"ACK {number}")
            first.set()
            number += 1
            time.sleep(0.02)


if __name__ == "__main__":
    main()
