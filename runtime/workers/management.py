"""management: serves the twin, commands and method calls to programs. Off unless a setting switches it on."""

from __future__ import annotations

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.config_watch import ConfigWatch
from runtime.adapters.process.process import Stop
from runtime.config import Config
from runtime.workers.heartbeat import BEAT_S, Heartbeat

NAME = "management"


def run(config: Config, stop: Stop) -> None:
    """Serve programs until asked to stop."""
    clock = SystemClock()
    heart, watch = Heartbeat(config.layout, NAME, clock, stop), ConfigWatch(config, NAME, clock)
    while not stop.wait(BEAT_S):
        watch.changed()  # its own settings count from its next start on
        heart.publish({"state": "serving"})
