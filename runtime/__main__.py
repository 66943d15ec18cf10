"""The command `edgectl`. Errors become exit codes here and only here.

0 done · 1 failed, or degraded where a command says so · 2 wrong usage or configuration, or down · 130 Ctrl-C
"""

from __future__ import annotations

import errno
import io
import os
import sys

from runtime.cli import enter_home, parser
from runtime.cli.terminal import write_error
from runtime.cli.workers import plain_worker
from runtime.errors import EdgeError, NeedsHuman, UsageError


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal knows every letter of a path
    try:
        status = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where an error is still reported
        return status
    except KeyboardInterrupt:
        return 130
    except OSError as exc:
        if sys.excepthook is not sys.__excepthook__:
            raise  # a worker's crash is reported, see adapters/process/crash.py
        if exc.filename is not None:
            return _fail(f"{exc.filename}: {exc.strerror}", 1)
        if exc.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        # The unwritten output is discarded, so that the interpreter does not complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if exc.errno == errno.EPIPE:
            return 1  # the reader left: nothing to complain about
        return _fail(f"cannot write: {exc.strerror}", 1)


def _run(argv: list[str] | None) -> int:
    began_as = os.geteuid()
    try:
        words = sys.argv[1:] if argv is None else argv
        arguments = plain_worker(words) or parser(words).parse_args(words)
        enter_home(arguments)
        return int(arguments.run(arguments) or 0)
    except UsageError as exc:
        return _fail(str(exc), 2)
    except EdgeError as exc:
        hint = f"; {exc.hint}" if isinstance(exc, NeedsHuman) and exc.hint else ""
        return _fail(f"{exc}{hint}", 1)
    except (ModuleNotFoundError, LookupError) as exc:  # also an encoding is a module that may come late
        if os.geteuid() == began_as:
            raise
        return _fail(
            f"user {os.geteuid()}, who owns the home, may not read this installation in {sys.prefix} "
            f"({exc}); install it, and its Python, where that user may",
            2,
        )
    except SystemExit as exc:  # argparse: --help, or wrong usage that it has explained
        return int(exc.code or 0)


def _fail(sentence: str, status: int) -> int:
    write_error(sentence)
    return status


if __name__ == "__main__":
    sys.exit(main())
