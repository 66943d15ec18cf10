"""The observer runs where a setting says so, and shows a scraper and a health check what the device does."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from pathlib import Path

import pytest
import requests

from runtime.adapters.supervisor.rpc import Supervisor
from runtime.config import load
from runtime.errors import ConfigError
from tests.support.harness import Home, Process, eventually, require_tool
from tests.support.supervised import stand_ins

OBSERVABILITY = Path(__file__).parents[2] / "deploy" / "observability"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def toml(port: int, *, enabled: bool) -> str:
    switch = str(enabled).lower()
    return (
        f'[observer]\nenabled = {switch}\nlisten = "tcp://127.0.0.1:{port}"\n[sentinel]\nlook_every_s = 0.3\n'
    )


def test_a_setting_switches_the_observer_off_and_on_and_an_operators_stop_stands(home: Home) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with stand_ins(home, toml(port, enabled=True)) as runtime:
        runtime.wait_for("observer")
        up = 'edge_worker_up{worker="observer"} 1'
        eventually(lambda: (answer := _get(f"{url}/metrics")) and up in answer.text, 20, "it serves")
        assert _get(f"{url}/healthz") is not None
        if shutil.which("prometheus") or os.environ.get("CI"):
            _prometheus_fires(home.folder / "prometheus", port)  # its workers are stand-ins: no store is open
        home.write_config(toml(port, enabled=False))
        assert home.edgectl("reload").returncode == 0
        eventually(lambda: runtime.state("observer") == "", 20, "it is switched off")
        assert _get(f"{url}/metrics") is None
        assert "observer" not in home.edgectl("status", "--json").stdout
        home.write_config(toml(port, enabled=True))
        assert home.edgectl("reload").returncode == 0
        runtime.wait_for("observer")
        Supervisor(home.layout.supervisor_socket).stop("observer", wait=True)
        looked = time.monotonic()
        beats = home.layout.status_file("sentinel")
        eventually(lambda: time.monotonic() - looked > 1 and beats.exists(), 10, "the sentinel looked again")
        assert runtime.state("observer") == ""


def _prometheus_fires(folder: Path, observer: int) -> None:
    """A real Prometheus scrapes the observer, evaluates our rules, and has an alert fire."""
    folder.mkdir()
    rules = (OBSERVABILITY / "rules.yml").read_text()
    (folder / "rules.yml").write_text(re.sub(r"for: \w+", "for: 0s", rules))
    text = (OBSERVABILITY / "prometheus.yml").read_text().replace("9464", str(observer))
    (folder / "prometheus.yml").write_text(text.replace("30s", "1s"))
    address = f"127.0.0.1:{free_port()}"
    running = Process(
        require_tool("prometheus"), f"--config.file={folder / 'prometheus.yml'}",
        f"--web.listen-address={address}", f"--storage.tsdb.path={folder / 'data'}", log=folder / "log",
    )  # fmt: skip
    try:
        eventually(lambda: "EdgeStoreClosed" in _firing(f"http://{address}"), 40, running.said())
    finally:
        running.close()


def _firing(prometheus: str) -> set[str]:
    answer = _get(f"{prometheus}/api/v1/alerts")
    alerts = answer.json()["data"]["alerts"] if answer is not None and answer.ok else []
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


def _get(url: str) -> requests.Response | None:
    try:
        return requests.get(url, timeout=5)
    except requests.RequestException:
        return None


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('listen = "tcp://0.0.0.0:9464"', "needs observer.open_to_network = true"),
        ('listen = "9464"', "observer.listen"),
        ('otlp_url = "http://user:geheim@x/"', "without a password"),
    ],
)
def test_a_device_is_not_opened_to_the_network_by_accident(home: Home, line: str, words: str) -> None:
    home.write_config(f"[observer]\n{line}\n")
    with pytest.raises(ConfigError, match=words) as refused:
        load({}, home=home.folder)
    assert "geheim" not in str(refused.value)
