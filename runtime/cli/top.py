"""`edgectl top`: the streams by rate, backlog, bytes or age, live in a terminal."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from runtime.cli import Commands, count, load_config, seconds
from runtime.cli.status import duration, size
from runtime.cli.terminal import Screen, TextRow, table, write_json, write_lines

if TYPE_CHECKING:
    from runtime.core.operations.stream_figures import StreamFigures, StreamLook
    from runtime.operations.streams import StreamWatch

EVERY_S = 2.0
FIRST_S = 1.0
"""Seconds between the two looks that the first rates come from."""
LEAST_S = 0.1
ORDERS = ("rate", "backlog", "bytes", "age")
_HEAD = ["STREAM", "STORED/S", "DELIVERED/S", "WAITING", "BYTES", "OLDEST", "STORED", "DELIVERED"]
_SPARE = ("STORED", "DELIVERED", "BYTES")


def register(commands: Commands) -> None:
    top = commands.add_parser(
        "top",
        help="streams by rate, backlog, bytes and age; live in a terminal, one table in a pipe",
        description="Show the streams by rate, backlog, bytes and age: again and again in a terminal until "
        "Ctrl-C, once in a pipe. It reads the store's file and asks no worker",
    )
    top.add_argument("--sort", choices=ORDERS, default="rate", help="the largest first (default %(default)s)")
    top.add_argument(
        "--interval", type=seconds, default=EVERY_S, metavar="SECONDS", help="how often (default %(default)g)"
    )
    top.add_argument("--once", action="store_true", help="one table, also in a terminal")
    top.add_argument("--looks", type=count, metavar="N", help="so many tables, one after the other")
    top.add_argument("--json", action="store_true", help="one JSON object a look, for a program")
    top.set_defaults(run=_top)


def _top(arguments: argparse.Namespace) -> int:
    from contextlib import closing

    from runtime.adapters.process.clock import SystemClock
    from runtime.operations.streams import StreamWatch

    config = load_config(arguments, warn=False)
    live = sys.stdout.isatty() and not (arguments.once or arguments.json or arguments.looks)
    with closing(StreamWatch(config.layout.messages_db, SystemClock())) as watch:
        if live:
            _live(watch, arguments)
        else:
            _tables(watch, arguments)
    return 0


def _tables(watch: StreamWatch, arguments: argparse.Namespace) -> None:
    """So many tables as are asked for, or one."""
    interval_s = max(LEAST_S, arguments.interval)
    before, pause_s = watch.look(), min(FIRST_S, interval_s)
    for _ in range(arguments.looks or 1):
        if before.levels:  # else there is nothing that could have a rate
            time.sleep(pause_s)
        now = watch.look()
        if arguments.json:
            write_json(_record(before, now, arguments.sort), indent=None)
        else:
            write_lines(*_rows(before, now, arguments.sort))
        before, pause_s = now, interval_s


def _live(watch: StreamWatch, arguments: argparse.Namespace) -> None:
    """Tables on a screen of their own, until Ctrl-C; drawn again at once where its size changes."""
    from runtime.errors import EdgeError

    interval_s = max(LEAST_S, arguments.interval)
    with Screen() as screen:
        before, now = None, watch.look()
        pause_s, trouble = min(FIRST_S, interval_s), list[TextRow]()
        while True:
            screen.draw([_title(now, interval_s), *trouble, *_rows(before, now, arguments.sort)])
            if not screen.wait(pause_s):
                continue
            try:
                before, now, pause_s, trouble = now, watch.look(), interval_s, []
            except EdgeError as exc:  # ingest may be at work on the store
                trouble = [TextRow(str(exc), str(exc), "yellow")]


def _title(now: StreamLook, interval_s: float) -> TextRow:
    clock = time.strftime("%H:%M:%S", time.localtime(now.at.wall_s))
    text = f"edgectl top  {clock}  every {interval_s:g} s, Ctrl-C ends it"
    return TextRow(text, "edgectl top", "bold")


def _rows(before: StreamLook | None, now: StreamLook, order: str) -> list[TextRow]:
    from runtime.core.operations.stream_figures import stream_figures, total

    figures = stream_figures(before, now, order)
    if not figures:
        return [TextRow("nothing was stored yet")]
    summed = [total(figures)] if len(figures) > 1 else []
    title, *rows = table(_HEAD, [_row(each) for each in (*summed, *figures)], spare=_SPARE)
    return [TextRow(title, title, "bold"), *map(TextRow, rows)]


def _row(figures: StreamFigures) -> list[str]:
    return [
        figures.stream,
        _rate(figures.stored_per_s),
        _rate(figures.delivered_per_s),
        str(figures.messages),
        size(figures.bytes),
        duration(figures.oldest_age_s),
        str(figures.stored),
        str(figures.delivered),
    ]


def _rate(per_s: float | None) -> str:
    return "-" if per_s is None else f"{per_s:.1f}"


def _record(before: StreamLook, now: StreamLook, order: str) -> dict[str, object]:
    from datetime import UTC, datetime

    from runtime.core.operations.stream_figures import stream_figures

    return {
        "time": datetime.fromtimestamp(now.at.wall_s, UTC).isoformat(timespec="milliseconds"),
        "streams": [each.as_record() for each in stream_figures(before, now, order)],
    }
