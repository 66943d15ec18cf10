"""The command `edgectl`. Errors become exit codes here and only here.

0 done · 1 failed, or degraded where a command says so · 2 wrong usage or configuration, or down · 130 Ctrl-C
"""

from __future__ import annotations

import os
import sys

from runtime.cli import parser
from runtime.errors import EdgeError, NeedsHuman, UsageError


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.run(arguments) or 0)
    except UsageError as exc:
        return _fail(str(exc), 2)
    except EdgeError as exc:
        hint = f"; {exc.hint}" if isinstance(exc, NeedsHuman) and exc.hint else ""
        return _fail(f"{exc}{hint}", 1)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the reader left; do not complain at exit
        return 1


def _fail(sentence: str, status: int) -> int:
    sys.stderr.write(f"edgectl: {sentence}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
