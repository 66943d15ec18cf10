"""Sentry over `runtime/core`: in every test, whatever it calls, no core function may touch the world.

An audit hook of Python hears of files, sockets, processes, databases and sleep. Where such an event happens
while a function of core is on the stack, that function had an effect, by itself or by a callback that it was
given: the operation fails, and so does the test. A module that core imports late may be read.
"""

from __future__ import annotations

import sys
from types import FrameType

import runtime

CORE = f"{next(iter(runtime.__path__))}/core/"
_IMPORT = "<frozen importlib"
_EVENTS = (
    "open", "os.", "socket.", "subprocess.", "shutil.", "sqlite3.", "tempfile.", "time.sleep", "glob.",
    "pathlib.", "fcntl.", "mmap.", "signal.", "urllib.", "http.", "ssl.", "syslog.", "pty.", "builtins.input",
    "builtins.breakpoint", "ctypes.", "_thread.start_new_thread", "webbrowser.", "faulthandler.",
)  # fmt: skip


EXCEPTIONS = {
    (
        "operations/log_lines.py",
        "events",
    ): "draws its lines one by one from files: logs may exceed memory",
    (
        "ingest/request_packs.py",
        "packs",
    ): "draws the messages one by one from the source that the caller gave",
}
"""Functions of core that are given an iterator of the shell, with the reason."""


class CoreEffect(Exception):
    """A function of core had an effect."""


def install() -> None:
    """Watch this process from now on: an audit hook stays."""
    sys.addaudithook(_on_event)


def _on_event(event: str, arguments: tuple[object, ...]) -> None:
    if event.startswith(_EVENTS) and (culprit := _core_frame(sys._getframe(1))) is not None:
        code = culprit.f_code
        raise CoreEffect(f"{event}{arguments!r:.200} in {code.co_filename}:{culprit.f_lineno} {code.co_name}")


def _core_frame(frame: FrameType | None) -> FrameType | None:
    """The innermost function of core on the stack; None for an exception, or a late import of core."""
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_IMPORT):
            return None
        if name.startswith(CORE):
            excepted = (name.removeprefix(CORE), frame.f_code.co_name) in EXCEPTIONS
            return None if excepted else frame
        frame = frame.f_back
    return None
