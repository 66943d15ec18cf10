"""First process of the small machine of plug.py: tells what it finds on disk, then ingests and sends.

Words on the console:  INTEGRITY ok · STORED [[first, last], ...] · READY · ACK number
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path

DISK = Path("/mnt")
HOME = DISK / "h"


def main() -> None:
    """Never ends: the plug is pulled."""
    for command in (
        ["mount", "-t", "proc", "proc", "/proc"],
        ["mount", "-t", "ext4", "/dev/ubda", str(DISK)],
    ):
        subprocess.run(command, check=True)
    tell_what_is_there(HOME / "state/messages.db")
    if os.environ["PLUG_LOOK"] == "yes":
        say("READY")
        time.sleep(3600)
    level = os.environ["PLUG_LEVEL"]
    worker = ["runtime", "worker", "ingest"] if level == "FULL" else ["tests.support.weak_ingest", level]
    environment = {**os.environ, "EDGE_HOME": str(HOME), "PATH": os.defpath}
    subprocess.Popen([sys.executable, "-m", *worker], env=environment, stdout=subprocess.DEVNULL)
    _send(int(os.environ["PLUG_BASE"]))


def tell_what_is_there(path: Path) -> None:
    if not path.exists():
        return
    db = sqlite3.connect(path)
    say("INTEGRITY " + db.execute("PRAGMA integrity_check").fetchone()[0])
    try:
        rows = db.execute("SELECT CAST(payload AS TEXT) FROM messages").fetchall()
    except sqlite3.OperationalError:  # not even the table is there
        rows = []
    db.close()
    numbers = sorted(int(row[0].rstrip(".")) for row in rows)
    runs = [[n for _, n in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    say("STORED " + json.dumps([[run[0], run[-1]] for run in runs]))


def _send(number: int) -> None:
    import zmq

    socket = zmq.Context.instance().socket(zmq.REQ)
    socket.connect(f"ipc://{HOME}/ingest.sock")
    say("READY")
    while True:
        socket.send_multipart([b'{"stream": "plug"}', str(number).encode().ljust(200, b".")])
        if json.loads(socket.recv())["ok"]:
            say(f"ACK {number}")
        number += 1


def say(words: str) -> None:
    os.write(1, words.encode() + b"\n")


if __name__ == "__main__":
    main()
