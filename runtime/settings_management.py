"""Settings of device management: whether the cloud's twin, commands and calls are served, and to whom."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from runtime.core.management.grants import BUILT_IN_METHODS
from runtime.core.management.twin_rules import Path, parse_pointer, pointer_text
from runtime.errors import Rejected
from runtime.setting_rule import setting

POINTERS_RULE = "must be a list of JSON pointers such as /press/speed"


class Pointer(NamedTuple):
    """A place in a twin document."""

    path: Path

    @property
    def text(self) -> str:
        """The JSON pointer that says the same."""
        return pointer_text(self.path)


def parse_built_in(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of methods that the runtime itself serves. Raises ValueError."""
    if unknown := sorted(set(names) - BUILT_IN_METHODS):
        raise ValueError(f"{unknown[0]} is no method of the runtime")
    return names


def parse_pointers(texts: tuple[str, ...]) -> tuple[Pointer, ...]:
    """JSON pointers, parsed. Raises ValueError."""
    try:
        return tuple(Pointer(parse_pointer(text)) for text in texts)
    except Rejected as exc:
        raise ValueError(str(exc)) from None


def parse_words(words: tuple[str, ...]) -> tuple[str, ...]:
    """A command line with a program to start. Raises ValueError."""
    if not words or not words[0]:
        raise ValueError("must name a program")
    return words


@dataclass(frozen=True)
class ManagementSettings:
    """Twin, commands and methods: what the cloud says to this device, and the programs that hear it."""

    enabled: bool = setting(False, "serve the twin, commands and method calls to programs of this machine")
    group: str | None = setting(None, "group that may connect to management.sock in the home folder")
    report_every_s: float = setting(
        1.0, "reported properties leave at most so often; what changes meanwhile goes together", low=0.1
    )
    built_in: tuple[str, ...] = setting(
        ("ping", "status"),
        "methods that the runtime itself answers",
        written=tuple[str, ...],
        parse=parse_built_in,
        text="must be a list of " + ", ".join(sorted(BUILT_IN_METHODS)),
    )
    durable: tuple[str, ...] = setting(
        (), "methods that are taken on as commands, as in firmware.*: answered 202 once they are on disk"
    )
    once: tuple[str, ...] = setting(
        (), "commands that must not happen twice: one that is interrupted becomes uncertain"
    )
    parallel: tuple[str, ...] = setting(
        (), "commands of one name that may be carried out side by side; others in order"
    )
    drop_stale: tuple[str, ...] = setting(
        (), "commands that are dropped where no clock can tell their age; others are delivered"
    )
    acknowledge: str = setting(
        "off",
        "pnp: an applied desired property is reported as IoT Plug and Play defines it",
        choices=("off", "pnp"),
    )
    remote_settings: tuple[str, ...] = setting(
        ("link.*", "log.level", "upload.*"),
        "settings that the cloud may change in the twin's /runtime/config, as in link.*; only of log, link, "
        "upload, refresh, provisioning, store and sentinel, and no secrets and no paths",
    )
    confirm_config_s: float = setting(
        600.0,
        "settings from the cloud are taken back where the hub was not reached again within this time",
        low=30,
        high=86_400,
        advanced=True,
    )
    results_stream: str = setting(
        "command-results",
        "stream in which the results of commands go to the cloud",
        pattern=r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff/]{1,128}",
        text="must be 1 to 128 printable characters without /",
        advanced=True,
    )
    call_timeout_s: float = setting(
        25.0,
        "a method call without an answer is answered 504 after so long; the hub itself gives up after 30",
        low=1,
        high=295,
        advanced=True,
    )
    max_attempts: int = setting(
        5,
        "a command that was handed over so often without an end is dead",
        low=1,
        high=1_000,
        advanced=True,
    )
    max_open_commands: int = setting(
        1_000, "most commands that wait here; the others wait at the hub", low=1, high=10_000, advanced=True
    )
    reboot_command: tuple[str, ...] = setting(
        ("systemctl", "reboot"),
        "the program, with its arguments, that reboots this machine",
        written=tuple[str, ...],
        parse=parse_words,
        advanced=True,
    )


@dataclass(frozen=True)
class ProgramSettings:
    """What one program may do: `[management.program.NAME]`. Without any all may do all but what is ours."""

    user: str | None = setting(None, "user of the program, by name or number")
    group: str | None = setting(None, "or its group")
    report: tuple[Pointer, ...] = setting(
        (),
        "what it may report, as in /press",
        written=tuple[str, ...],
        parse=parse_pointers,
        text=POINTERS_RULE,
    )
    desired: tuple[Pointer, ...] = setting(
        (Pointer(()),),
        "the desired properties that it may read",
        written=tuple[str, ...],
        parse=parse_pointers,
        text=POINTERS_RULE,
    )
    commands: tuple[str, ...] = setting((), "commands that it may receive, as in press.*")
    methods: tuple[str, ...] = setting((), "methods that it may serve")
    leaves: tuple[str, ...] = setting((), "leaves that it may speak for, as in press-*")
