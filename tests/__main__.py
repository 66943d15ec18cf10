"""`make test`: every test; beside them the formatter, the linter, the type checker and coverage of the core.

Three tests for each core: most of them wait, for processes that start and for clocks. What the others say is
printed before pytest's closing line, which ends the output. Coverage is measured, with branches, over a
shallow run of the decisions, and only where all tests run, but in CI: it is a figure, nothing fails by it.
Arguments go to pytest: `make test ARGS="-k ingest"`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import pytest

TOP = Path(__file__).resolve().parents[1]
COVERED = """
export TEST_DEPTH=shallow COVERAGE_FILE="$(mktemp)"
"$0" -m coverage run --branch --source=runtime.core -m pytest -q -p no:xdist $(grep -l runtime.core \
    tests/unit/test_*.py) > "$COVERAGE_FILE.log" 2>&1 || tail -n 20 "$COVERAGE_FILE.log"
echo "runtime/core: $("$0" -m coverage report --format=total) % of lines and branches"
rm -f "$COVERAGE_FILE" "$COVERAGE_FILE.log"
"""


class Check:
    """A command that runs beside the tests."""

    def __init__(self, name: str, *command: str) -> None:
        self.name = name
        self._output: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - read at the end
        self._process = subprocess.Popen(command, cwd=TOP, stdout=self._output, stderr=subprocess.STDOUT)

    def wait(self) -> bool:
        """Whether it found nothing wrong."""
        return self._process.wait() == 0

    def output(self) -> str:
        """What it wrote until its end."""
        self._output.seek(0)
        return self._output.read().strip()


class BeforeTheClosingLine:
    """Prints what the checks say between pytest's summary and its closing line."""

    def __init__(self, checks: list[Check]) -> None:
        self._checks = checks

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for check in self._checks:
            if not check.wait() or check.name == "coverage":
                terminalreporter.write_line(f"== {check.name}\n{check.output()}")


def main(arguments: list[str]) -> int:
    """Run everything; the exit status is 0 only if all of it was in order."""
    os.chdir(TOP)
    python = sys.executable
    checks = [
        Check("ruff format", python, "-m", "ruff", "format", "--check", "."),
        Check("ruff", python, "-m", "ruff", "check", "--quiet", "."),
        Check("mypy", python, "-m", "mypy", "--no-error-summary"),
    ]
    if not arguments and not os.environ.get("CI"):  # half a minute of both cores, for a figure
        checks.append(Check("coverage", "sh", "-c", COVERED, python))
    workers = str(3 * (os.cpu_count() or 1))
    options = ["-n", workers, "--dist", "worksteal", *arguments]
    tests = pytest.main(options, plugins=[BeforeTheClosingLine(checks)])
    failed = [check.name for check in checks if not check.wait()]
    if tests != pytest.ExitCode.OK:
        failed.append("tests")
    if failed:
        print(f"FAILED: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
