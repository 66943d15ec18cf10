"""The layout: where every file and socket of one runtime lives.

A runtime has one *home*, the folder in which its `supervisord.conf` stands (a link to the shipped
one). supervisord, supervisorctl, the workers and `edgectl` all derive their paths from that folder, so
two runtimes on one machine differ in nothing but their home.

    home/                 0711  others may pass through to the producers' socket, and see nothing
      supervisord.conf          link to the shipped file
      edge.toml                 configuration, unless it stands elsewhere
      ingest.sock         0660  producers connect here
      management.sock     0660  programs that serve twin, commands and methods connect here, where that is on
      state/              0700  messages.db, identity.db, management.db, locks: survives everything
      run/                0700  private sockets and status files: may vanish at any time. A link to a tmpfs
      log/                0700
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UsageError

WORKERS = ("provisioning", "refresh", "ingest", "upload")
"""The workers that always run; each has a [program:x] of the same name in supervisord.conf."""

OPTIONAL_WORKERS = ("observer", "management")
"""Workers that run where `enabled` in the table of their name says so; the sentinel starts them."""

PROGRAMS = (*WORKERS, *OPTIONAL_WORKERS, "sentinel")
"""All that supervisord runs."""

SOCKET_PATH_LIMIT_BYTES = 107
"""`sun_path` of unix(7) holds 108 bytes with the final NUL."""

LARGEST_PID = 4_194_304
"""PID_MAX_LIMIT of the kernel on 64 bits."""


@dataclass(frozen=True)
class Layout:
    """Paths of one runtime. Nothing is created by looking."""

    home: Path

    @property
    def supervisord_conf(self) -> Path:
        return self.home / "supervisord.conf"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    @property
    def supervisor_pid_file(self) -> Path:
        return self.run / "supervisord.pid"

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def run(self) -> Path:
        return self.home / "run"

    @property
    def log(self) -> Path:
        return self.home / "log"

    @property
    def messages_db(self) -> Path:
        return self.state / "messages.db"

    @property
    def identity_db(self) -> Path:
        return self.state / "identity.db"

    @property
    def management_db(self) -> Path:
        """The twin, commands and kept answers; written by the worker management alone."""
        return self.state / "management.db"

    @property
    def commands_given(self) -> Path:
        """The watermark of the numbers that commands were given, beside management.db."""
        return self.state / "commands-given"

    @property
    def remote_config(self) -> Path:
        """The settings that the cloud desires; written by the worker management, read by all."""
        return self.state / "remote-config.json"

    @property
    def spool(self) -> Path:
        """Files taken over from producers, waiting for file upload."""
        return self.state / "spool"

    @property
    def under_way(self) -> Path:
        """The journal of upload's progress with messages in parts: chunks, batches."""
        return self.state / "under-way"

    @property
    def ids_given(self) -> Path:
        """The watermark of the message ids that were assigned, beside the store."""
        return self.state / "ids-given"

    @property
    def producer_socket(self) -> Path:
        return self.home / "ingest.sock"

    @property
    def management_socket(self) -> Path:
        """The socket to which programs connect for twin, commands and methods."""
        return self.home / "management.sock"

    def lock(self, worker: str) -> Path:
        """The file whose flock says that this worker runs."""
        return self.state / f"{worker}.lock"

    def hints_socket(self, worker: str) -> Path:
        """The socket on which `worker` publishes its hints."""
        return self.run / f"{worker}.hints"

    @property
    def delivery_socket(self) -> Path:
        """The socket on which upload reports delivered and quarantined messages to ingest."""
        return self.run / "delivery.sock"

    @property
    def hub_line_socket(self) -> Path:
        """The socket on which upload passes on to management what the hub says, and the other way round."""
        return self.run / "hub-line.sock"

    def status_file(self, worker: str) -> Path:
        """Progress and figures of one worker; written by it alone, read by sentinel and `edgectl status`."""
        return self.run / f"{worker}.status"

    def create(self) -> None:
        """Make the folders with their modes. Raises UsageError where the home is too long or unwritable.

        A run/ that is a link stays as it is, see `adapters/process/run_folder.py`.
        """
        binding = f"{self.supervisor_socket}.{LARGEST_PID}"  # supervisord binds there before it renames
        sockets = (binding, self.hints_socket("provisioning"), self.delivery_socket, self.producer_socket)
        longest = max(len(os.fsencode(path)) for path in sockets)
        if longest > SOCKET_PATH_LIMIT_BYTES:
            raise UsageError(
                f"home {self.home} is too long: a unix socket in it needs {longest} bytes of at most "
                f"{SOCKET_PATH_LIMIT_BYTES}; choose a shorter --home, EDGE_HOME, or TMPDIR (for the demo)"
            )
        try:
            for folder, mode in (
                (self.home, 0o711),
                (self.state, 0o700),
                (self.run, 0o700),
                (self.log, 0o700),
            ):
                if not folder.exists() and not folder.is_symlink():
                    folder.mkdir(mode=mode, parents=True)
                    folder.chmod(mode)
        except OSError as exc:
            raise UsageError(
                f"cannot create {exc.filename}: {exc.strerror}; choose a folder you may write with --home"
            ) from exc
