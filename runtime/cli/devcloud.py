"""`edgectl devcloud`: the stand-in cloud, where it is installed; a device does without its code."""

from __future__ import annotations

import argparse
import importlib.util

from runtime.cli import Commands
from runtime.errors import UsageError

MEANING = "run the stand-in cloud, or talk to a running one"
NEEDS = ("cryptography", "starlette", "trustme", "uvicorn", "websockets")


def register(commands: Commands) -> None:
    if is_installed():
        from runtime.cli import devcloud_commands

        devcloud_commands.register(commands, MEANING)
        return
    # no prefix: whatever follows is taken, to be answered in one sentence
    absent = commands.add_parser("devcloud", help=MEANING, prefix_chars="\0", add_help=False)
    absent.add_argument("rest", nargs="*", help=argparse.SUPPRESS)
    absent.set_defaults(run=_refuse, homeless=True)


def is_installed() -> bool:
    """True where this installation has the code of the stand-in, the demo and the benchmark."""
    return importlib.util.find_spec("runtime.devcloud") is not None


def require_extra() -> None:
    """Raise UsageError where the stand-in or what it needs is not installed."""
    if not is_installed():
        raise UsageError(
            "the stand-in cloud is no part of this installation; add the package edge-devcloud: "
            "pip install . deploy/devcloud in a checkout, or the wheel edge_devcloud-*.whl"
        )
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"the stand-in cloud needs {', '.join(missing)}; install them with the extra: "
            "pip install '.[devcloud]' in a checkout, or 'FILE.whl[devcloud]' for a wheel"
        )


def _refuse(_arguments: argparse.Namespace) -> int:
    require_extra()
    return 2
