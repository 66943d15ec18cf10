"""`make chaos`: break things at random for minutes or hours, then count. Same seed, same sequence.

The shipped supervisord.conf runs against the stand-in cloud, under a loop that restarts it as systemd would.
Eight keyed producers send meanwhile. In the end every acknowledged message must have been delivered or set
aside for a stated reason, in order per producer and stream, every repeat under its own id, all workers
running, and no process left after `edgectl down`.

    python -m tests.chaos --seed 7 --minutes 5
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from runtime.adapters.overview import memory_bytes
from runtime.adapters.store_reader import StoreReader
from runtime.adapters.supervisor import Program, Supervisor
from runtime.core.message import StoredMessage
from runtime.errors import EdgeError
from runtime.layout import WORKERS
from tests import plug
from tests.harness import Cloud, Home, Process, eventually, kill_tree, short_folder

PRODUCERS = 8
PACE_MS = 40
MANAGER_PAUSE_S = 1.0
SETTLE_S = 120.0
"""A hang, a kill, a start, a long backoff, and then the backlog: after so long all must be in order."""
POWER_CUTS_A_MINUTE = 4
FLAT_BYTES = 120 * 1024 * 1024

Breakage = Callable[["Chaos"], str]


@dataclass
class Chaos:
    """One run of it."""

    folder: Path
    chance: random.Random
    cloud: Cloud
    home: Home
    over: threading.Event = field(default_factory=threading.Event)
    broken: list[str] = field(default_factory=list)

    # --- what a service manager does ---

    def manage(self) -> None:
        """Start the runtime whenever it is not there, until it is over."""
        while not self.over.is_set():
            up = Process(
                sys.executable, "-m", "runtime", "--home", str(self.home.folder), "up",
                log=self.folder / "up.log",
            )  # fmt: skip
            while up.running() and not self.over.wait(0.2):
                pass
            if not self.over.is_set():
                self.over.wait(MANAGER_PAUSE_S)

    def programs(self) -> dict[str, Program]:
        with contextlib.suppress(EdgeError):
            return Supervisor(self.home.layout.supervisor_socket, timeout_s=2.0).programs()
        return {}

    def supervisor_pid(self) -> int:
        with contextlib.suppress(EdgeError):
            return Supervisor(self.home.layout.supervisor_socket, timeout_s=2.0).pid()
        return 0

    def signal(self, victim: str, number: signal.Signals) -> str:
        pid = self.supervisor_pid() if victim == "supervisord" else 0
        if program := self.programs().get(victim):
            pid = program.pid
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return f"{number.name} to {victim}" + ("" if pid else " (not there at the moment)")

    def all_running(self) -> bool:
        programs = self.programs()
        return len(programs) == len(WORKERS) + 1 and all(p.state == "RUNNING" for p in programs.values())


def _signals(number: signal.Signals, victims: tuple[str, ...]) -> Breakage:
    return lambda chaos: chaos.signal(chaos.chance.choice(victims), number)


def _faults(text: str, **fields: object) -> Breakage:
    """A fault of the cloud, for a few seconds."""

    def breakage(chaos: Chaos) -> str:
        lasting_s = chaos.chance.uniform(1, 6)
        chaos.cloud.faults(**fields)
        chaos.over.wait(lasting_s)
        chaos.cloud.no_faults()
        return f"{text} for {lasting_s:.1f} s"

    return breakage


def _drop(mode: str) -> Breakage:
    def breakage(chaos: Chaos) -> str:
        chaos.cloud.drop(mode)
        return f"{mode} drop"

    return breakage


def _restart_all(chaos: Chaos) -> str:
    """What an operator does who has not read the runbook."""
    command = [str(Path(sys.executable).parent / "supervisorctl"), "-c", "supervisord.conf", "restart", "all"]
    done = subprocess.run(command, cwd=chaos.home.folder, capture_output=True, timeout=60)
    return "supervisorctl restart all" + ("" if done.returncode == 0 else " (in part)")


def _hub_away(chaos: Chaos) -> str:
    lasting_s = chaos.chance.uniform(1, 6)
    chaos.cloud.hub(up=False)
    chaos.over.wait(lasting_s)
    chaos.cloud.hub(up=True)
    return f"hub away for {lasting_s:.1f} s"


EVERYBODY = (*WORKERS, "sentinel", "supervisord")
BREAKAGES: tuple[tuple[int, Breakage], ...] = (
    (8, _signals(signal.SIGKILL, EVERYBODY)),
    (2, _signals(signal.SIGSTOP, EVERYBODY)),
    (3, _signals(signal.SIGTERM, WORKERS)),
    (3, _drop("abrupt")),
    (2, _drop("polite")),
    (2, _hub_away),
    (1, _restart_all),
    (1, _faults("silent hub", silent=True)),
    (1, _faults("acknowledgements withheld", withhold_acks=True)),
    (1, _faults("connections refused as not authorised", refuse_connect_code=5)),
    (1, _faults("connections refused as unavailable", refuse_connect_code=3)),
    (1, _faults("throttling", throttle_per_s=20)),
    (1, _faults("platform answers 503", http={"PUT /": {"status": 503, "retry_after": 1}})),
    (1, _faults("tokens of two seconds", sas_lifetime_s=2)),
)
"""How often, relative to the others, and what."""


def run(seed: int, minutes: float, folder: Path, tell: Callable[[str], None] = print) -> list[str]:
    """Break things for so long; what was wrong afterwards (nothing, if all is well)."""
    cloud = Cloud(folder / "cloud")
    chaos = Chaos(folder, random.Random(seed), cloud, Home(folder / "home", cloud.config_toml()))
    manager = threading.Thread(target=chaos.manage, name="service manager")
    manager.start()
    senders: list[tuple[Process, Path]] = []
    try:
        eventually(cloud.approve_all, 60, "the device asks for approval")
        eventually(chaos.all_running, 60, "everything runs")
        senders = _start_senders(chaos)
        before = _memory(chaos)
        _break(chaos, minutes * 60, tell)
        return _aftermath(chaos, senders, before, tell)
    finally:
        chaos.over.set()
        manager.join(10)
        for sender, _ in senders:
            sender.close()
        if pid := chaos.supervisor_pid():
            kill_tree(pid)
        cloud.close()


def _break(chaos: Chaos, lasting_s: float, tell: Callable[[str], None]) -> None:
    weights = [weight for weight, _ in BREAKAGES]
    began_s = time.monotonic()
    while (at_s := time.monotonic() - began_s) < lasting_s:
        (breakage,) = chaos.chance.choices([b for _, b in BREAKAGES], weights)
        what = breakage(chaos)
        chaos.broken.append(what)
        tell(f"{at_s:7.1f} s  {what}")
        chaos.over.wait(chaos.chance.uniform(0.5, 4))


def _aftermath(
    chaos: Chaos, senders: list[tuple[Process, Path]], before: dict[str, int], tell: Callable[[str], None]
) -> list[str]:
    """Let it settle, stop, and count."""
    chaos.cloud.no_faults()
    chaos.cloud.hub(up=True)
    wrong = []
    eventually(chaos.all_running, SETTLE_S, "everything runs again")
    for sender, _ in senders:
        if not sender.running():
            wrong.append(f"a producer gave up: {sender.said()[-300:]}")
        sender.kill()
    reader = StoreReader(chaos.home.layout.messages_db)
    eventually(lambda: _backlog(reader) == 0, SETTLE_S, "the backlog drains")
    acknowledged = [line for _, ledger in senders for line in _whole_lines(ledger)]
    set_aside = {
        found.message.payload.decode()
        for found in reader.quarantine(limit=100_000)
        if isinstance(found.message, StoredMessage)
    }
    reader.close()
    wrong += _count(chaos.cloud, acknowledged, set_aside, tell)
    wrong += [
        f"{name} grew from {before.get(name, 0) >> 20} to {now >> 20} MiB"
        for name, now in _memory(chaos).items()
        if now > FLAT_BYTES
    ]
    chaos.over.set()
    pids = [chaos.supervisor_pid(), *(p.pid for p in chaos.programs().values())]
    down = chaos.home.edgectl("down", timeout_s=60)
    if down.returncode != 0 or any(Path(f"/proc/{pid}").exists() for pid in pids[1:] if pid):
        wrong.append(f"something is left after `edgectl down`: {down.stderr}")
    return wrong


def _count(
    cloud: Cloud, acknowledged: list[str], set_aside: set[str], tell: Callable[[str], None]
) -> list[str]:
    arrived: dict[str, str] = {}
    repeats, wrong = 0, []
    for message in cloud.messages():
        payload = message.payload.decode()
        repeats += payload in arrived
        if arrived.setdefault(payload, message.message_id) != message.message_id:
            wrong.append(f"{payload!r} arrived under two ids")
    lost = set(acknowledged) - arrived.keys() - set_aside
    if lost:
        wrong.append(f"{len(lost)} acknowledged messages are lost, among them {sorted(lost)[:3]}")
    last: dict[str, int] = {}
    for payload in arrived:
        stream, _, number = payload.rpartition(" ")
        if int(number) < last.get(stream, -1):
            wrong.append(f"{payload!r} arrived behind {last[stream]}")
        last[stream] = max(last.get(stream, -1), int(number))
    tell(
        f"acknowledged {len(acknowledged)}, delivered {len(arrived)}, quarantined {len(set_aside)}, "
        f"lost {len(lost)}, repeats {repeats}"
    )
    return wrong


def _start_senders(chaos: Chaos) -> list[tuple[Process, Path]]:
    senders = []
    for number in range(PRODUCERS):
        ledger = chaos.folder / f"ledger-{number}"
        process = Process(
            sys.executable, "-m", "tests.acceptance.sender", chaos.home.config.producer_endpoint(),
            f"p{number}", str(10**9), str(PACE_MS), str(ledger), log=chaos.folder / f"p{number}.log",
        )  # fmt: skip
        senders.append((process, ledger))
    return senders


def _whole_lines(ledger: Path) -> list[str]:
    """A killed sender may leave half a line."""
    text = ledger.read_text() if ledger.exists() else ""
    return text[: text.rfind("\n") + 1].splitlines()


def _memory(chaos: Chaos) -> dict[str, int]:
    return {name: memory_bytes(p.pid) or 0 for name, p in chaos.programs().items() if p.pid}


def _backlog(reader: StoreReader) -> int:
    with contextlib.suppress(EdgeError):
        return reader.backlog().messages
    return -1


def main() -> int:
    """Exit status 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--minutes", type=float, default=3.0)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}, {arguments.minutes:g} minutes", flush=True)
    kernel = shutil.which("linux.uml")
    with short_folder() as folder:
        wrong = run(arguments.seed, arguments.minutes, folder, lambda line: print(line, flush=True))
    if kernel is None:
        print("power cuts left out: user-mode-linux is not installed (see tests/plug.py)")
    else:
        cuts = max(4, int(POWER_CUTS_A_MINUTE * arguments.minutes))
        with short_folder() as folder:
            if bad := plug.run(kernel, cuts, arguments.seed, "FULL", folder):
                wrong.append(f"{bad} of {cuts} power cuts lost something acknowledged")
    for sentence in wrong[:20]:
        print(f"WRONG: {sentence}")
    print("FAILED" if wrong else "all in order")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
