"""`make test`: the formatter, the linter, the type checker, then every test. Ends with pytest's closing line.

Two tests for each core: most of them wait, for processes that start and for clocks.
Arguments go to pytest: `make test ARGS="-k ingest"`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> int:
    """Run everything; the exit status is 0 only if all of it was in order."""
    python = sys.executable
    checks = [
        [python, "-m", "ruff", "format", "--check", "--quiet", "."],
        [python, "-m", "ruff", "check", "--quiet", "."],
        [python, "-m", "mypy", "--no-error-summary"],
    ]
    failed = [name for command in checks if _run(name := command[2], command) != 0]
    workers = str(2 * (os.cpu_count() or 1))
    tests = [python, "-m", "pytest", "-n", workers, "--dist", "worksteal", *arguments]
    if _run("pytest", tests) != 0:
        failed.append("tests")
    if failed:
        print(f"FAILED: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _run(name: str, command: list[str]) -> int:
    print(f"== {name}", flush=True)
    return subprocess.call(command, cwd=TOP)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
