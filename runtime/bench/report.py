"""The bench's report: a table for a person, JSON for a program, and a plot (SVG)."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
from collections.abc import Iterable
from dataclasses import asdict
from html import escape
from pathlib import Path

from runtime import __version__
from runtime.bench import FigureRow

BAR_PX = 360
LINE_PX = 26
NAME_PX = 520


def machine() -> dict[str, object]:
    """The machine that is measured, and its other load: a number without this says nothing."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "runtime": __version__,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "kernel": platform.release(),
        "cpu": model,
        "cores": os.cpu_count(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def table(sections: dict[str, list[FigureRow]], where: dict[str, object]) -> str:
    """All figures, one a line."""
    lines = ["on " + ", ".join(f"{name} {value}" for name, value in where.items())]
    for title, rows in sections.items():
        lines += ["", title]
        for row in rows:
            limit = "" if row.limit is None else f"of {row.limit:,.6g}"
            share = "" if row.share is None else f"{row.share:.2f}"
            verdict = {None: "", True: "reached", False: "NOT REACHED"}[row.reached]
            figure = f"{row.value:>12,.5g} {row.unit:<14} {limit:<14}"
            lines.append(f"  {row.name:<66} {figure} {share:>6}  {row.reach:<9} {verdict}")
            if row.reason:
                lines.append(f"      {row.reason}")
    return "\n".join(lines)


def write(folder: Path, sections: dict[str, list[FigureRow]], where: dict[str, object]) -> None:
    """Write table, JSON and plot into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.txt").write_text(table(sections, where) + "\n")
    figures = {title: [asdict(row) for row in rows] for title, rows in sections.items()}
    (folder / "bench.json").write_text(json.dumps({"machine": where, "figures": figures}, indent=2) + "\n")
    (folder / "bench.svg").write_text(plot(row for rows in sections.values() for row in rows))


def plot(rows: Iterable[FigureRow]) -> str:
    """A bar for each figure: how close it comes to its target (the line)."""
    drawn = [(row, _progress(row)) for row in rows if row.reach]
    height = LINE_PX * (len(drawn) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{NAME_PX + BAR_PX + 130}" height="{height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for index, (row, progress) in enumerate(drawn):
        y = LINE_PX * index + 8
        width = min(progress, 2.0) / 2 * BAR_PX
        colour = "#2a7d4f" if row.reached else "#c0392b"
        measured = row.value if row.share is None else row.share
        parts.append(f'<text x="8" y="{y + 14}">{escape(row.name)}</text>')
        parts.append(f'<rect x="{NAME_PX}" y="{y}" width="{width:.0f}" height="18" fill="{colour}"/>')
        parts.append(
            f'<text x="{NAME_PX + BAR_PX + 8}" y="{y + 14}">{measured:.3g} ({escape(row.reach)})</text>'
        )
    middle = NAME_PX + BAR_PX / 2
    parts.append(
        f'<line x1="{middle}" y1="0" x2="{middle}" y2="{height}" stroke="#333" stroke-dasharray="4"/></svg>\n'
    )
    return "".join(parts)


def _progress(row: FigureRow) -> float:
    """1.0 is the target; more is better."""
    sign, _, bound = row.reach.partition(" ")
    measured = row.value if row.share is None else row.share
    if sign == ">=":
        return measured / float(bound)
    return float(bound) / measured if measured else 2.0
