"""A worker for tests of supervision: the real frame (lock, signals, logs, heartbeat), with a loop that obeys.

It reads what to do from `<home>/<worker>.behaviour`: `work`, `deadlock`, `deadlock-at-start`, `crash`,
`die-at-start`.
"""

from __future__ import annotations

import argparse
import sys
import threading
import types

from loguru import logger

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.config_watch import ConfigWatch
from runtime.adapters.process.process import Stop, supervised
from runtime.cli.workers import load_or_last_accepted
from runtime.config import Config
from runtime.workers import start
from runtime.workers.heartbeat import Heartbeat


def main(worker: str) -> None:
    module = types.ModuleType(f"runtime.workers.{worker}")
    module.run = lambda config, stop: _run(worker, config, stop)  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    arguments = argparse.Namespace(home=None, config=None)
    start(worker, load_or_last_accepted(arguments, alone=supervised()))


def _run(worker: str, config: Config, stop: Stop) -> None:
    heart = Heartbeat(config.layout, worker, SystemClock(), stop)
    watch = ConfigWatch(config, worker, SystemClock())
    while not stop.requested():
        behaviour = (config.layout.home / f"{worker}.behaviour").read_text()
        if behaviour == "die-at-start":
            sys.exit(3)
        if behaviour == "deadlock-at-start":
            _wait_for_ourselves()
        heart.publish({})
        watch.changed()
        if behaviour == "deadlock":
            _wait_for_ourselves()
        if behaviour == "crash":
            logger.error("about to crash")
            token = "SharedAccessSignature sr=hub&sig=c2VjcmV0&se=1"
            raise RuntimeError(f"a bug, with {token}")
        stop.wait(0.1)


def _wait_for_ourselves() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


if __name__ == "__main__":
    main(sys.argv[1])
