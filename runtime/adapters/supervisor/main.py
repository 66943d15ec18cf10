"""supervisord as `edgectl up` starts it: no check that it makes before our settings count keeps it from
starting.

It asks for a temporary folder when its options are built, whatever `childlogdir` says, and tries each
candidate by writing a byte. On a full disk, or where all is read-only but the home, there is none, and it
ended in a traceback: no worker started, so nothing was delivered and no space was ever freed. It never uses
the folder.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from runtime.adapters.process.home_mount import STARTED_IN


def needs_no_temporary_folder(folder: Path) -> None:
    """Have this process use `folder` as the temporary folder from here on, without a look at it."""
    tempfile.tempdir = str(folder)


def main() -> None:
    """Run supervisord. The arguments are its own; the last one is its file."""
    needs_no_temporary_folder(Path(sys.argv[-1]).parent / "run")
    os.environ.pop(STARTED_IN, None)  # set by another runtime, out of which this one was started
    from supervisor.supervisord import main as supervisord

    supervisord()


if __name__ == "__main__":
    main()
