"""Dashboard and alert rules speak of metrics that exist, and Prometheus itself takes them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from runtime.core.operations.metrics import LATENCY_BOUNDS_S, Histogram
from runtime.operations.metrics_report import report
from tests.support.harness import require_tool
from tests.support.overview import overview
from tests.support.readme import with_metrics

FOLDER = Path(__file__).parents[2] / "deploy" / "observability"
PAGE = FOLDER.parents[1] / "docs" / "operations.md"
NAMES = {metric.name for metric in report(overview(), now_s=0)}


def alerts() -> list[str]:
    return re.findall(r"alert: (\w+)", (FOLDER / "rules.yml").read_text())


@pytest.mark.parametrize("file", ["rules.yml", "dashboard.json"])
def test_every_metric_that_is_named_exists(file: str) -> None:
    named = set(re.findall(r"\bedge_[a-z_]+", (FOLDER / file).read_text()))
    assert named and named <= NAMES


def test_every_panel_has_a_title_and_asks_for_something() -> None:
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    assert len(panels) > 10
    assert all(panel["title"] and panel["targets"] for panel in panels)
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(places), "two panels lie upon each other"


def test_there_are_eleven_alerts_and_each_says_what_to_do() -> None:
    text = (FOLDER / "rules.yml").read_text()
    assert len(alerts()) == len(set(alerts())) == 11
    assert text.count("          do:") == text.count("          summary:") == 11


def test_the_page_of_operations_has_every_alert_and_every_metric() -> None:
    page = PAGE.read_text()
    assert [name for name in alerts() if f"`{name}`" not in page] == []
    assert with_metrics(page) == page, "run: python -m tests.support.readme"


def test_each_alert_fires_where_it_should_and_nowhere_else() -> None:
    promtool = require_tool("promtool")
    done = subprocess.run(
        [promtool, "test", "rules", "rules.test.yml"], cwd=FOLDER, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tested = set(re.findall(r"alertname: (\w+)", (FOLDER / "rules.test.yml").read_text()))
    assert tested == set(alerts())


def test_prometheus_has_nothing_to_say_against_the_metrics() -> None:
    from runtime.core.operations.metrics import prometheus_text

    promtool = require_tool("promtool")
    latency = {name: Histogram(LATENCY_BOUNDS_S).as_record() for name in ("commit", "ack")}
    text = prometheus_text(report(overview(latency=latency), now_s=1.0))
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
