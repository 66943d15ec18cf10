"""Workers: thin loops that introduce decisions to adapters. One process each, run by supervisord.

Each module has `run(config: Config, stop: Stop) -> None`, which returns when it was asked to stop, or
to be started afresh.
"""

from __future__ import annotations

import importlib

from loguru import logger

from runtime.adapters.process import logs
from runtime.adapters.process.crash import report_crashes
from runtime.adapters.process.home_mount import check_home
from runtime.adapters.process.journal import service_journal
from runtime.adapters.process.process import Lock, Stop, die_with_parent, dump_stacks_on_signal, leave_no_core
from runtime.adapters.process.run_folder import restore
from runtime.config import Config
from runtime.core.log_events import LogEvent


def start(name: str, config: Config) -> None:
    """Run the worker `name` until asked to stop. Raises UsageError where another process already runs it."""
    stop = Stop()
    stop.listen()
    die_with_parent()
    dump_stacks_on_signal()
    leave_no_core()
    log = config.settings.log
    logs.configure(name, log.level, log.format, service_journal() if log.journal else None)
    for warning in config.warnings:
        logger.bind(event=LogEvent.CONFIGURATION_WARNING).warning("{}", warning)
    check_home(config.layout.home)
    config.layout.create()
    restore(config.layout.run)
    report_crashes(name, config.layout)
    lock = Lock(config.layout.lock(name), ours=config.layout.home)
    try:
        importlib.import_module(f"runtime.workers.{name}").run(
            config, stop
        )  # late: no worker pays for another
    finally:
        lock.release()
