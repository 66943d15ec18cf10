"""Commands of `edgectl` tried by the dozen: each in a process forked from one that has imported nothing else.

python -m tests.support.forked < [[argument, ...], ...]     (JSON; the answer, too: a list of objects)
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from runtime import __main__ as edgectl
from runtime.cli import parser

HEAVY = (
    "azure",
    "paho",
    "zmq",
    "sqlite3",
    "requests",
    "cryptography",
    "loguru",
    "asyncio",
    "starlette",
    "shtab",
)
"""What no command may import in order to explain itself."""
PATIENCE_S = 30


@dataclass(frozen=True)
class Outcome:
    """How one command ended. `status` is -1 where it did not."""

    arguments: list[str]
    status: int
    out: str
    err: str
    heavy: list[str]


def try_all(commands: Sequence[Sequence[str]], **environment: str) -> list[Outcome]:
    """The outcome of each."""
    from tests.support.harness import clean_environment  # late: it imports what is looked for here

    answer = subprocess.run(
        [sys.executable, "-m", "tests.support.forked"], input=json.dumps(commands), capture_output=True,
        text=True, timeout=PATIENCE_S * 4, env=clean_environment(**environment),
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return [Outcome(**found) for found in json.loads(answer.stdout)]


def _try(arguments: list[str]) -> dict[str, object]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as heavy:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            status = _be(arguments)
            os.write(heavy.fileno(), json.dumps([name for name in HEAVY if name in sys.modules]).encode())
            os._exit(status)
        ended = select.select([handle := os.pidfd_open(child)], [], [], PATIENCE_S)[0]
        if not ended:
            os.kill(child, signal.SIGKILL)
        _, raw = os.waitpid(child, 0)
        os.close(handle)
        said = [os.pread(file.fileno(), 1 << 20, 0).decode(errors="replace") for file in (out, err, heavy)]
        return {
            "arguments": arguments,
            "status": os.waitstatus_to_exitcode(raw) if ended else -1,
            "out": said[0],
            "err": said[1],
            "heavy": json.loads(said[2] or "[]"),
        }


def _be(arguments: list[str]) -> int:
    """As the entry point that pip makes: `sys.exit(main())`, and the interpreter's own end."""
    try:
        status = edgectl.main(arguments)
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return status


if __name__ == "__main__":
    parser()
    found = [_try(arguments) for arguments in json.load(sys.stdin)]
    json.dump(found, sys.stdout)
