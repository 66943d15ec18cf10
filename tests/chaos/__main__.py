"""`python -m tests.chaos`: progress on stderr, a summary in JSON on stdout. See `make chaos`.

Exit status 0 if nothing was wrong, 1 if something was, 130 after Ctrl-C. A seed that failed belongs into
tests/faults/test_chaos.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from tests.chaos.plan import plan
from tests.chaos.run import run
from tests.machine import plug
from tests.support.harness import short_folder

CUTS_A_MINUTE = 4
WEAK_CUTS = 4
"""With `synchronous` NORMAL or OFF: enough to show that the test would notice."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--plan", action="store_true", help="print what would be broken, and break nothing")
    parser.add_argument(
        "--weather-only", action="store_true", help="kill nobody: whoever lives for hours shows a slow leak"
    )
    parser.add_argument("--no-power-cuts", action="store_true", help="leave the plug in")
    parser.add_argument(
        "--keep", type=Path, help="where something was wrong, put there what the runtime left"
    )
    parser.add_argument("--slack", type=float, default=1.0, help="stretches the limits of recoveries")
    arguments = parser.parse_args()
    if arguments.plan:
        for fault in plan(arguments.seed, arguments.minutes):
            print(f"{fault.at_s:7.1f} s  {fault}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: nothing is left behind
    try:
        return _break(arguments)
    except KeyboardInterrupt:
        tell("stopped; everything is taken down")
        return 130


def _break(arguments: argparse.Namespace) -> int:
    tell(f"seed {arguments.seed}, {arguments.minutes:g} minutes")
    with short_folder() as folder:
        summary = run(
            arguments.seed, arguments.minutes, folder, tell,
            slack=arguments.slack, keep=arguments.keep, weather_only=arguments.weather_only,
        )  # fmt: skip
    if not arguments.no_power_cuts:
        summary["power_cuts"], wrong = _power_cuts(arguments)
        summary["wrong"] += wrong
    print(json.dumps(summary, indent=2))
    for sentence in summary["wrong"][:20]:
        tell(f"WRONG: {sentence}")
    tell("FAILED" if summary["wrong"] else "all in order")
    return 1 if summary["wrong"] else 0


def _power_cuts(arguments: argparse.Namespace) -> tuple[Any, list[str]]:
    """A real kernel, cut off at random: FULL must lose nothing, and NORMAL and OFF must lose something."""
    kernel = shutil.which("linux.uml")
    if kernel is None:
        return "left out: user-mode-linux is not installed (see tests/machine/plug.py)", []
    if not plug.starts(kernel):
        tell(f"no power cuts: user-mode-linux {plug.STARTS_NOT}")
        return f"left out: user-mode-linux {plug.STARTS_NOT}", []
    wrong, found = [], {}
    for level, cuts in (
        ("FULL", max(4, int(CUTS_A_MINUTE * arguments.minutes))),
        ("NORMAL", WEAK_CUTS),
        ("OFF", WEAK_CUTS),
    ):
        tell(f"power cuts with synchronous={level}")
        with short_folder() as folder, contextlib.redirect_stdout(sys.stderr):
            lossy = plug.run(kernel, cuts, arguments.seed, level, folder)
        found[level] = {"cuts": cuts, "that_lost_something": lossy}
        if level == "FULL" and lossy:
            wrong.append(f"{lossy} of {cuts} power cuts lost something acknowledged")
        if level != "FULL" and not lossy:
            wrong.append(f"{cuts} power cuts with synchronous={level} lost nothing: this test sees nothing")
    return found, wrong


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
