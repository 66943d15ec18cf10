"""Deaths and hangs: who dies, who stops, who is asked to leave, and how long until all is back in service."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from runtime.adapters.process.process import process_state
from runtime.cli.up import link_configuration, shipped_configuration
from tests.chaos.plan import Fault
from tests.chaos.scene import PROGRAMS, NotSeen, Scene
from tests.support.supervised import DEADLOCK, deadlocked, gone

THERE_S = 90.0
"""Whoever is to be killed may just be coming back from the blow before, even by the manager's watchdog."""
BACK_S = 150.0
"""The worst: sentinel and supervisord gone at once; then the manager's watchdog decides, after a minute."""
STARTSECS = 2.0
"""Of supervisord.conf: who dies earlier is taken for a failed start, and supervisord waits."""


def _victim(scene: Scene, fault: Fault) -> int:
    """The process to hit, which stands long enough to have started for good."""
    name = fault.victim
    if name == "supervisord":
        scene.until(lambda: scene.pid(name) and scene.all_in_service(), THERE_S, "supervisord stands")
    else:
        scene.until(lambda: scene.stands(name, STARTSECS), THERE_S, f"{name} stands")
    return _living(scene, name)


def _living(scene: Scene, name: str, *, other_than: int = 0) -> int:
    """Its process, once there is one. Never 0, which a signal takes for the harness and all its children."""
    found = 0

    def there() -> bool:
        nonlocal found
        found = scene.pid(name)
        return found not in (0, other_than)

    scene.until(there, BACK_S, f"{name} lives")
    return found


def _back(scene: Scene, name: str, before: int) -> Callable[[], bool]:
    """Whether another process than `before` is in service."""
    if name == "supervisord":
        return lambda: scene.pid(name) not in (0, before) and scene.all_in_service()
    return lambda: scene.in_service(name) not in (0, before)


def _recovery(scene: Scene, fault: Fault, before: int, beside: set[str]) -> str:
    began_s = time.monotonic()
    back = _back(scene, fault.victim, before)

    def watched() -> bool:
        beside.update(what for field, what in scene.under_way.items() if field != fault.field)
        return back()

    scene.until(watched, BACK_S, f"{fault.victim} is back")
    took_s = round(time.monotonic() - began_s, 2)
    scene.facts.recovered.append(
        {"kind": fault.kind, "victim": fault.victim, "took_s": took_s, "beside": sorted(beside)}
    )
    return f"back after {took_s:.1f} s"


def _signal(number: int, effect: Callable[[int], bool]) -> Callable[[Scene, Fault], str]:
    def way(scene: Scene, fault: Fault) -> str:
        pid = _victim(scene, fault)
        beside = {what for field, what in scene.under_way.items() if field != fault.field}
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        scene.until(lambda: effect(pid), 20, f"{fault.kind} struck {fault.victim} ({pid})")
        return f"process {pid} " + _recovery(scene, fault, pid, beside)

    return way


def _dead(pid: int) -> bool:
    return gone([pid])


def _stopped_or_dead(pid: int) -> bool:
    return process_state(pid) in ("stopped", "dead", "gone")


def _killed_while_it_starts(scene: Scene, fault: Fault) -> str:
    """Within startsecs supervisord takes a death for a failed start, and waits."""
    first = _victim(scene, fault)
    os.kill(first, signal.SIGKILL)
    second = _living(scene, fault.victim, other_than=first)
    with contextlib.suppress(ProcessLookupError):
        os.kill(second, signal.SIGKILL)
    scene.until(lambda: _dead(second), 5, "it died while it started")
    return f"processes {first} and {second} " + _recovery(scene, fault, second, set())


def _restart_all(scene: Scene, fault: Fault) -> str:
    """What an operator does who has not read the runbook."""
    before = {name: scene.pid(name) for name in PROGRAMS}
    command = [str(Path(sys.executable).parent / "supervisorctl"), "-c", "supervisord.conf", "restart", "all"]
    with contextlib.suppress(subprocess.TimeoutExpired):  # supervisord may be hit meanwhile
        subprocess.run(command, cwd=scene.home.folder, capture_output=True, timeout=60)
    return _all_others(scene, before)


def _reload(scene: Scene, fault: Fault) -> str:
    """First a configuration that must be refused, then a good one."""
    scene.until(scene.all_in_service, THERE_S, "everything stands")
    try:
        _write(scene, scene.home.folder / "edge.toml", scene.toml + "[nonsense]\n")
        refused = scene.home.edgectl("reload", timeout_s=60)
        if refused.returncode != 2:
            raise NotSeen(f"a bad configuration was not refused: {refused}")
    finally:
        _write(scene, scene.home.folder / "edge.toml", scene.toml)
    scene.until(lambda: _all_answer(scene), THERE_S, "every worker answers a reload")
    return "a bad configuration was refused; the good one was taken by every worker"


def _all_answer(scene: Scene) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return scene.home.edgectl("reload", timeout_s=60).returncode == 0
    return False


def _write(scene: Scene, path: Path, text: str) -> None:
    """Whole or not at all; another hand may just have filled the disk."""

    def written() -> bool:
        fresh = path.with_suffix(".new")
        try:
            fresh.write_text(text)
            fresh.replace(path)
        except OSError:
            fresh.unlink(missing_ok=True)
            return False
        return True

    scene.until(written, THERE_S, f"{path.name} is written")


def _all_others(scene: Scene, before: dict[str, int]) -> str:
    scene.until(
        lambda: all(scene.in_service(name) not in (0, pid) for name, pid in before.items()),
        BACK_S,
        f"others than {before} are in service",
    )
    return "everybody is another process"


def _driven_to_fatal(scene: Scene, fault: Fault) -> str:
    """The shipped file never gives up; an operator's own may, and then the sentinel must."""
    conf = scene.home.layout.supervisord_conf
    head, mark, tail = shipped_configuration().read_text().partition(f"[program:{fault.victim}]")
    _write(scene, conf, head + mark + re.sub(r"startretries=\d+", "startretries=0", tail, count=1))
    try:
        _new_supervisord(scene)
        beside = {what for field, what in scene.under_way.items() if field != fault.field}
        pid = _killed_at_start(scene, fault.victim)
        return f"FATAL; process {pid} " + _recovery(scene, fault, pid, beside)
    finally:
        conf.unlink()
        link_configuration(conf)
        _new_supervisord(scene)


def _new_supervisord(scene: Scene) -> None:
    """Have the file read again."""
    before = _living(scene, "supervisord")
    os.kill(before, signal.SIGTERM)
    scene.until(_back(scene, "supervisord", before), BACK_S, "a new supervisord")


def _killed_at_start(scene: Scene, name: str) -> int:
    """Kill it until supervisord has given it up."""
    deadline_s, pid = time.monotonic() + 60, 0
    while scene.programs().get(name) is None or scene.programs()[name].state != "FATAL":
        if time.monotonic() > deadline_s:
            raise NotSeen(f"{name} never became FATAL")
        if found := scene.pid(name):
            pid = found
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return pid


WAYS = {
    "SIGKILL": _signal(signal.SIGKILL, _dead),
    "SIGTERM": _signal(signal.SIGTERM, _dead),
    "SIGSTOP": _signal(signal.SIGSTOP, _stopped_or_dead),
    "deadlock": _signal(DEADLOCK, deadlocked),
    "SIGKILL while it starts": _killed_while_it_starts,
    "restart all": _restart_all,
    "reload": _reload,
    "driven to FATAL": _driven_to_fatal,
}
