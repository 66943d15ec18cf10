"""`make bench` and `python -m runtime.bench [--quick] [--out DIR] [PART ...]`."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from dataclasses import replace
from pathlib import Path

from loguru import logger

from runtime.bench import FigureRow, report

PARTS = {
    "ingest": "Ingest, against this machine's disk and sockets",
    "hub": "The stand-in hub, so that it is never what is measured",
    "upload": "Upload, against a bare azure-iot-device loop",
    "packs": "Packing, against single messages",
    "management": "Device management beside telemetry",
    "managed": "Twin, commands and methods, from the hub to a program and back",
    "wear": "Written to the disk",
    "idle": "The whole runtime with nothing to do",
    "operations": "Metrics, logs and alarms, against the runtime without them",
    "fleet": "A fleet of devices: renewing their tokens, and draining into a hub that throttles",
}


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write the report. The exit status is 0 even where a target is missed: figures
    inform. A part that fails is named, costs none of the other figures, and makes it 1.
    """
    parser = argparse.ArgumentParser(prog="python -m runtime.bench", description=__doc__)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each process compiles all that it imports
    sys.dont_write_bytecode = False
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of: {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes: a look, not a figure to quote")
    parser.add_argument("--out", type=Path, default=Path("bench-report"), help="folder of the report")
    arguments = parser.parse_args(argv)
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    logger.remove()  # the stand-in hub in this process logs every connection
    logger.add(sys.stderr, level="WARNING")
    sections: dict[str, list[FigureRow]] = {}
    failed: list[str] = []
    where = report.machine()
    for part, title in PARTS.items():
        if arguments.parts and part not in arguments.parts:
            continue
        sys.stderr.write(f"measuring {part} ...\n")
        try:
            rows = importlib.import_module(f"runtime.bench.{part}").measure(arguments.quick)
            sections[title] = [replace(row, reason="") if row.reached else row for row in rows]
        except Exception:
            logger.exception("the part {} failed", part)
            failed.append(part)
        report.write(arguments.out, sections, where)
    print(report.table(sections, where))
    sys.stderr.write(f"report in {arguments.out}\n")
    if failed:
        sys.stderr.write(f"FAILED: {', '.join(failed)}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
