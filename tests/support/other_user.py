"""`edgectl` as another user, who need not be able to read this checkout: all is imported before."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support import fork_server
from tests.support.harness import clean_environment

SCRIPT = """
import os, pkgutil, importlib, sys
import encodings.utf_8_sig, segno, sqlite_utils
import runtime.adapters, runtime.cli, runtime.workers
for package in (runtime.adapters, runtime.cli, runtime.workers):  # this checkout may be for root's eyes only
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(found.name)
from runtime.__main__ import main
user = int(sys.argv.pop(1))
if user:
    os.setgroups([]), os.setgid(user), os.setuid(user)
sys.exit(main())
"""


def command_as(user: int, *arguments: str) -> list[str]:
    """What to execute; user 0 stays root, for as long as the command wants to."""
    return [sys.executable, "-c", SCRIPT, str(user), *arguments]


def edgectl(user: int, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`edgectl` by this user, standing in `folder`."""
    return fork_server.run(arguments, clean_environment(), folder=folder, user=user)
