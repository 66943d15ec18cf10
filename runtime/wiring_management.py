"""Wiring of management: the grants and policies that core takes, made of the settings. See `wiring.py`."""

from __future__ import annotations

import grp
import pwd

from runtime.core.management.calls import CallPolicy
from runtime.core.management.command_steps import CommandPolicy
from runtime.core.management.grants import ProgramGrant, conflicts
from runtime.errors import ConfigError
from runtime.settings import Settings
from runtime.settings_management import ProgramSettings


def program_grants(settings: Settings) -> tuple[ProgramGrant, ...]:
    """The grants of each program. Raises ConfigError for an unknown user or group, and for overlaps."""
    programs = tuple(_grant(name, table) for name, table in settings.program.items())
    if faults := conflicts(programs):
        raise ConfigError("; ".join(faults))
    return programs


def _grant(name: str, table: ProgramSettings) -> ProgramGrant:
    return ProgramGrant(
        name,
        () if table.user is None else (_user_id(name, table.user),),
        () if table.group is None else (_group_id(name, table.group),),
        (),
        tuple(pointer.path for pointer in table.report),
        tuple(pointer.path for pointer in table.desired),
        table.commands,
        table.methods,
        table.leaves,
    )


def _user_id(program: str, user: str) -> int:
    try:
        return int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ConfigError(f"management.program.{program}.user: this machine has no user {user}") from None


def _group_id(program: str, group: str) -> int:
    try:
        return int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(f"management.program.{program}.group: this machine has no group {group}") from None


def command_policy(settings: Settings) -> CommandPolicy:
    """How commands are carried out."""
    table = settings.management
    return CommandPolicy(
        max_attempts=table.max_attempts,
        max_open=table.max_open_commands,
        once=table.once,
        parallel=table.parallel,
        drop_stale=table.drop_stale,
    )


def call_policy(settings: Settings) -> CallPolicy:
    """How method calls are answered."""
    table = settings.management
    return CallPolicy(table.call_timeout_s, table.built_in, table.durable)
