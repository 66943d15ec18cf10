"""Deidentify: take out of a home what makes it one device, before an image is made of it.

What goes: identity, tokens, stores with their names, logs, status. What stays: the configuration, and every
file that the runtime did not make. No link is followed: a link in the place of one of our files is removed
itself, and one in the place of a folder is refused. A removal that was cut short is finished by the next one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from runtime.adapters.management.reader import ManagementReader
from runtime.adapters.process.process import Lock, lock_holder
from runtime.adapters.store.reader import StoreReader
from runtime.config import Config
from runtime.errors import EdgeError, UsageError
from runtime.layout import PROGRAMS, Layout

SUPERVISOR = "supervisor"
_STATE = (
    *("identity.db*", "accepted.toml*", "machine.json*", "remote-config.json*", "link.json*", "link.off*"),
    *("uploads", "under-way*", "management.db*", "commands-given*", "messages.db*", "ids-given*"),
    *("spool", "taking", "damaged", "ballast*", ".doctor.*", "*.lock"),
)
"""Names in state/: tokens first, so that a removal that is cut short leaves no usable identity."""
_LOG = ("*.log", "*.log.*", "crashes.jsonl*")
_RUN = ("*",)
_HOME = ("ingest.sock", "management.sock", "rehearsal")
SHARED = {
    "device.id": "every device would ask for this id",
    "platform.registration_token": "every device would be the same one",
    "platform.registration_token_file": "every device would be the same one",
    "identity.connection_string": "every device would be the same one",
    "identity.connection_string_file": "every device would be the same one",
    "identity.certificate_file": "every device would prove itself with one certificate",
    "identity.dps_registration_id": "every device would be the same one",
    "identity.encryption_key_file": "every device would seal its tokens with one key",
    "ingest.curve_secret_file": "producers could not tell one device from another",
}
"""Settings that name one device, and what follows where an image brings them."""


@dataclass
class Cleared:
    """What a removal did."""

    removed: int = 0
    left: list[Path] = field(default_factory=list)
    """Files of others, in folders of ours."""


def undelivered(layout: Layout) -> list[str]:
    """What the cloud would never get if the home were cleared now, a phrase each; empty: nothing."""
    damaged = [layout.state / "damaged", *layout.state.glob("management.db.damaged*")]
    return [
        *_messages(layout.messages_db),
        *_commands(layout.management_db),
        *(f"{path} holds what could not be read" for path in damaged if os.path.lexists(path)),
    ]


def _messages(path: Path) -> Iterator[str]:
    if not path.exists():
        return
    reader = StoreReader(path)
    try:
        waiting, aside = reader.backlog().messages, reader.quarantined()
    except (EdgeError, OSError) as exc:
        yield f"it is unknown how many messages wait ({exc})"
        return
    finally:
        reader.close()
    if waiting:
        yield f"{waiting} messages are not delivered"
    if aside:
        yield f"{aside} messages are in quarantine"


def _commands(path: Path) -> Iterator[str]:
    if not path.exists():
        return
    try:
        if count := ManagementReader(path).unfinished():
            yield f"{count} commands are open, or their results are not stored yet"
    except (EdgeError, OSError) as exc:
        yield f"it is unknown how many commands are open ({exc})"


def shared_settings(config: Config) -> list[str]:
    """Settings that make all devices of the image one, a sentence each."""
    return [
        f"{name} is set by {config.origins[name].source}: {consequence}"
        for name, consequence in SHARED.items()
        if config.origins[name].source != "default"
    ]


def clear(layout: Layout) -> Cleared:
    """Remove what is ours. Raises UsageError where a runtime works in the home, or a folder is a link."""
    cleared = Cleared()
    if not layout.state.exists() and not layout.state.is_symlink():
        return cleared
    for folder in (layout.home, layout.state, layout.log):
        if folder.is_symlink():
            raise UsageError(f"{folder} is a link, and none is followed here; name the folder itself")
    lock = Lock(layout.lock(SUPERVISOR), ours=layout.home)
    try:
        if busy := [name for name in PROGRAMS if lock_holder(layout.lock(name))]:
            raise UsageError(f"{' and '.join(busy)} still runs in {layout.home}; stop it first")
        for folder, names in ((layout.state, _STATE), (layout.log, _LOG), (layout.run, _RUN)):
            if not folder.is_symlink():
                _clear(folder, names, cleared)
        _clear(layout.home, _HOME, cleared, ours=False)
    except OSError as exc:
        raise UsageError(f"cannot remove {exc.filename}: {exc.strerror}") from exc
    finally:
        lock.release()
    return cleared


def _clear(folder: Path, patterns: tuple[str, ...], cleared: Cleared, *, ours: bool = True) -> None:
    """Remove the names of a folder, in the order of the patterns. `ours`: what else is in it is reported."""
    with suppress(FileNotFoundError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            names = sorted(os.listdir(fd))  # noqa: PTH208 of this very folder
            for name in [name for pattern in patterns for name in names if fnmatch(name, pattern)]:
                cleared.removed += _remove(name, fd)
            os.fsync(fd)
            if ours:
                cleared.left += [folder / name for name in sorted(os.listdir(fd))]  # noqa: PTH208
        finally:
            os.close(fd)


def _remove(name: str, folder: int) -> bool:
    """Remove a file, a link or a whole folder by its name; False where it is gone already."""
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    except IsADirectoryError:
        shutil.rmtree(name, dir_fd=folder)
    return True
