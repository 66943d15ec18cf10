"""The generated parts of the pages.

`python -m tests.support.readme` writes the settings into docs/configuration.md and deploy/edge.toml.example,
the rooms and the state diagrams into docs/architecture.md, the metrics and the log
events into docs/operations.md and docs/events.md; `python -m
tests.support.readme bench-report/bench.json` writes the figures that `make bench` left there into
docs/performance.md.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from runtime.bench import FigureRow
from runtime.cli.settings import example
from runtime.core.log_events import EVENT_TEXTS
from runtime.operations import metrics_report
from runtime.setting_rule import Key, keys_of, spelled
from runtime.settings import StreamSettings, keys
from runtime.settings_management import ProgramSettings
from tests.support.management_page import operations_table
from tests.support.overview import overview
from tests.support.rooms import layers_picture, rooms_table
from tests.support.state_diagrams import connection_states, message_states, store_states

TOP = Path(__file__).resolve().parents[2]
README = TOP / "README.md"
ARCHITECTURE = TOP / "docs" / "architecture.md"
COMMANDS = TOP / "docs" / "commands.md"
CONFIGURATION = TOP / "docs" / "configuration.md"
DEVICE = TOP / "docs" / "device.md"
EXAMPLE = TOP / "deploy" / "edge.toml.example"
EVENTS = TOP / "docs" / "events.md"
OPERATIONS = TOP / "docs" / "operations.md"
PERFORMANCE = TOP / "docs" / "performance.md"
PLATFORM = TOP / "docs" / "platform.md"
PROTOCOL = TOP / "docs" / "protocol.md"
PAGES = sorted(p for folder in ("", "docs", "docs/decisions", "deploy") for p in (TOP / folder).glob("*.md"))
"""Every page that a person reads."""


def with_part(text: str, name: str, part: str) -> str:
    """`text` with `part` between the comments of this name."""
    marks = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    return marks.sub(lambda found: found[1] + part + found[2], text)


def with_settings(text: str) -> str:
    """`text` with the tables of settings as settings.py has them."""
    text = with_part(text, "settings", settings_table(advanced=False))
    return with_part(text, "advanced settings", settings_table(advanced=True))


def with_rooms(text: str) -> str:
    """`text` with the layers and the rooms as the imports have them."""
    return with_part(with_part(text, "layers", layers_picture()), "rooms", rooms_table())


def with_states(text: str) -> str:
    """`text` with the state diagrams as the tables in the code have them."""
    for name, drawn in (
        ("message-states", message_states()),
        ("connection-states", connection_states()),
        ("store-states", store_states()),
    ):
        text = with_part(text, name, drawn)
    return text


def with_events(text: str) -> str:
    """`text` with the table of log events as log_events.py has them."""
    rows = [f"| `{event}` | {told.meaning} | {told.remedy} |" for event, told in EVENT_TEXTS.items()]
    return with_part(text, "events", "\n".join(["| event | means | do |", "|---|---|---|", *rows]) + "\n")


def with_operations(text: str) -> str:
    """`text` with the table of operations of programs as the protocol has them."""
    return with_part(text, "operations", operations_table())


def with_metrics(text: str) -> str:
    """`text` with the table of metrics as the report has them."""
    rows = [
        f"| `{one.name}` | {one.type} | {one.help} |" for one in metrics_report.report(overview(), now_s=0)
    ]
    return with_part(
        text, "metrics", "\n".join(["| metric | type | meaning |", "|---|---|---|", *rows]) + "\n"
    )


def settings_table(*, advanced: bool) -> str:
    programs = keys_of("management.program.NAME", ProgramSettings)
    every = (*keys(), *programs, *keys_of("stream.NAME", StreamSettings))
    rows = [_row(key) for key in every if key.advanced is advanced]
    return "\n".join(["| setting | default | meaning | counts |", "|---|---|---|---|", *rows]) + "\n"


def _row(key: Key) -> str:
    default = "" if key.default is None else f"`{_toml(key.default)}`"
    return f"| `{key.dotted}` | {default} | {key.doc.replace('|', '/')} | {_counts(key)} |"


def _counts(key: Key) -> str:
    """When a change of this setting counts."""
    if not key.readers.live:
        return f"restart of {', '.join(key.readers.restart)}"
    if not key.readers.restart:
        return "live"
    return f"live; restart of {', '.join(key.readers.restart)}"


def _toml(value: object) -> str:
    return json.dumps(spelled(value))


def figures_table(report: dict[str, Any]) -> str:
    """What `make bench` measured and on what: of its figures those for which something was to be reached."""
    on = report["machine"]
    said = (
        f"Measured by `make bench` on {on['cores']} cores of an {on['cpu']}, Linux {on['kernel']}, Python "
        f"{on['python']}, SQLite {on['sqlite']}:\n\n"
    )
    rows = [
        FigureRow(**row)
        for title, rows in report["figures"].items()
        for row in rows
        if row["reach"] and "stand-in" not in title  # which is not what the reader came for
    ]
    lines = [
        "| figure | measured | share | to reach | reached |",
        "|---|---|---|---|---|",
        *map(_figure, rows),
    ]
    reasons = [f"- {row.name}: {row.reason}." for row in rows if row.reason]
    why = ["", "Out of reach, and why:", "", *reasons] if reasons else []
    return said + "\n".join([*lines, *why]) + "\n"


def _figure(row: FigureRow) -> str:
    share = "" if row.share is None else f"{row.share:.2f}"
    value = f"{row.value:,.0f}" if row.value >= 100 else f"{row.value:.3g}"
    reached = "yes" if row.reached else "**no**"
    return f"| {row.name} | {value} {row.unit} | {share} | {row.reach} | {reached} |"


def main(reports: list[str]) -> None:
    """Write the rooms, the state diagrams, the settings, and the figures of each report."""
    ARCHITECTURE.write_text(with_states(with_rooms(ARCHITECTURE.read_text())))
    CONFIGURATION.write_text(with_settings(CONFIGURATION.read_text()))
    EVENTS.write_text(with_events(EVENTS.read_text()))
    OPERATIONS.write_text(with_metrics(OPERATIONS.read_text()))
    EXAMPLE.write_text(example(advanced=True))
    DEVICE.write_text(with_operations(DEVICE.read_text()))
    for report in reports:
        table = figures_table(json.loads(Path(report).read_text()))
        PERFORMANCE.write_text(with_part(PERFORMANCE.read_text(), "figures", table))


if __name__ == "__main__":
    main(sys.argv[1:])
