"""Settings are read again, bad ones refused; a crash leaves one record, and `edgectl status` counts it."""

from __future__ import annotations

import gc
import json
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from runtime.adapters.bus.curve import make_keys
from runtime.adapters.bus.preflight import check_listeners
from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.crash import crash_file
from runtime.adapters.process.last_good_config import accepted_file, remember
from runtime.adapters.process.process import Stop
from runtime.adapters.process.reload_request import ReloadAnswer, ReloadOutcome, read_request, write_answer
from runtime.adapters.process.status_file import read_status
from runtime.adapters.supervisor.rpc import Program, Supervisor
from runtime.config import load
from runtime.errors import ConfigError, Rejected
from runtime.operations.overview import observe
from runtime.wiring import listeners
from runtime.workers.sentinel import SentinelLoop
from tests.support.harness import Home, Process, eventually
from tests.support.supervised import WORKING, Runtime, kill, stand_ins

GOOD = '[device]\nid = "dev-1"\n[log]\nlevel = "INFO"\n'
BAD = '[device]\nid = "?"\n'


@pytest.fixture
def runtime(home: Home) -> Iterator[Runtime]:
    with stand_ins(home, GOOD) as running:
        yield running


def test_reload_refuses_a_bad_configuration_and_touches_nothing(runtime: Runtime) -> None:
    before = {name: p.pid for name, p in runtime.programs().items()}
    runtime.home.write_config(BAD)
    refused = runtime.home.edgectl("reload")
    assert refused.returncode == 2
    assert "device.id" in refused.stderr
    assert {name: p.pid for name, p in runtime.programs().items()} == before


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield int(taken.getsockname()[1])


REFUSED = {
    'group = "no-such-group"': "ingest.group = 'no-such-group': this machine has no such group",
    'endpoint = "ipc://{home}/nowhere/x.sock"': "the folder {home}/nowhere is not there",
    'endpoint = "ipc://{home}/log"': "there is a folder, remove it",
    'tcp_endpoint = "tcp://192.0.2.1:5555"\ncurve_secret_file = "k.secret"\ncurve_clients = "c"': (
        "cannot listen on tcp://192.0.2.1:5555: Cannot assign"
    ),
    'tcp_endpoint = "tcp://127.0.0.1:{port}"': ": Address already in use",
    'tcp_endpoint = "tcp://127.0.0.1:1"\ncurve_secret_file = "a.secret"\ncurve_clients = "c"': (
        "cannot read the key file {home}/a.secret: No such file"
    ),
    'tcp_endpoint = "tcp://0.0.0.0:5555"': "can be reached from outside",
    'curve_secret_file = "a.secret"': "needs ingest.curve_clients",
}


@pytest.mark.parametrize("said", REFUSED)
def test_reload_refuses_what_ingest_would_end_over_at_its_next_start(
    said: str, home: Home, taken_port: int
) -> None:
    """It said that all read their configuration again, and ingest was gone from then on."""
    filled = lambda text: text.replace("{home}", str(home.folder)).replace("{port}", str(taken_port))  # noqa: E731
    home.write_config(f"[ingest]\n{filled(said)}\n")
    make_keys("k", home.folder)
    with pytest.raises(ConfigError) as refused:
        check_listeners(listeners(home.config), home.layout)
    assert filled(REFUSED[said]) in str(refused.value)


def test_reload_takes_the_endpoint_that_ingest_listens_on_already(home: Home, taken_port: int) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home.write_config(f'[ingest]\ntcp_endpoint = "tcp://127.0.0.1:{port}"\n')
    check_listeners(listeners(home.config), home.layout)
    ingest = home.start_worker("ingest")
    eventually(lambda: home.layout.status_file("ingest").exists() or not ingest.running(), 40)
    check_listeners(listeners(home.config), home.layout)
    home.write_config(f'[ingest]\ntcp_endpoint = "tcp://127.0.0.1:{taken_port}"\n')
    refused = home.edgectl("reload")
    assert refused.returncode == 2 and "Address already in use" in refused.stderr


@pytest.mark.parametrize(
    ("state", "log", "trouble"),
    [
        ("BACKOFF", "edgectl: ingest already runs here\n", "ingest already runs here"),
        ("BACKOFF", '{"level": "CRITICAL", "message": "crashed: OSError: x"}\n', "crashed: OSError: x"),
        ("FATAL", '{"level": "ERROR", "message": "no"}\n{"level": "INFO", "message": "bye"}\n', "no"),
        ("STARTING", "edgectl: no such group\n", "no such group"),
        ("STARTING", 'edgectl: no such group\n{"level": "INFO", "message": "the store is open"}\n', ""),
        ("RUNNING", "edgectl: of an earlier life\n", ""),
        ("BACKOFF", "", ""),
    ],
)
def test_status_says_why_a_worker_does_not_stay_by_its_own_last_words(
    state: str, log: str, trouble: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It said `ingest is BACKOFF`, and nothing else."""
    (home.layout.log / "ingest.log").write_text(log)
    program = Program("ingest", state, 0, "")
    monkeypatch.setattr(Supervisor, "programs", lambda _: {"ingest": program})
    found = observe(home.layout, SystemClock())
    assert found["workers"]["ingest"]["trouble"] == trouble
    assert (
        state == "RUNNING" or f"ingest is {state}" + (f": {trouble}" if trouble else "") in found["reasons"]
    )


def test_a_call_to_supervisord_leaves_no_connection_for_the_collector(runtime: Runtime) -> None:
    """A Ctrl-C that fell into the collector's warning about it was lost: the demo went on to its end."""
    supervisor = Supervisor(runtime.home.layout.supervisor_socket)
    gc.collect()  # what other tests have left for it
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ResourceWarning)
        assert supervisor.programs()
        with pytest.raises(Rejected):
            supervisor.start("nobody")
        gc.collect()
    assert [str(warning.message) for warning in said] == []


def test_reload_says_what_each_worker_took_and_restarts_only_where_that_is_needed(runtime: Runtime) -> None:
    """It ended all five, whatever had changed; one that hung was waited for, and killed."""
    Supervisor(runtime.home.layout.supervisor_socket).stop("refresh", wait=True)
    before = {name: p.pid for name, p in runtime.programs().items()}
    kill(before["provisioning"], signal.SIGSTOP)
    more = '[upload]\nwindow = 7\n[platform]\nproxy = "http://u:geheim@p:1"\n'
    runtime.home.write_config(GOOD.replace("INFO", "DEBUG") + more)
    done = runtime.home.edgectl("reload", "--json", "--timeout", "3", timeout_s=60)
    kill(before["provisioning"], signal.SIGCONT)
    assert done.returncode == 1, done.stderr  # one gave no answer
    told = json.loads(done.stdout)["workers"]
    assert {name: result["result"] for name, result in told.items()} == {
        "ingest": "taken", "upload": "restarted", "refresh": "stopped", "provisioning": "no answer",
        "sentinel": "taken",
    }  # fmt: skip
    assert told["ingest"]["changes"] == [["log.level", "INFO", "DEBUG"]]
    assert told["upload"]["restart"] == [["platform.proxy", "***", "***"], ["upload.window", "0", "7"]]
    assert "geheim" not in done.stdout + done.stderr
    runtime.wait_for("upload", other_than=before["upload"])
    for name in ("ingest", "sentinel"):
        assert runtime.pid(name) == before[name]
    assert runtime.state("refresh") == "STOPPED"
    eventually(lambda: "taken: " in runtime.log("provisioning"), 20, "it takes it as soon as it goes on")
    again = runtime.home.edgectl("reload", timeout_s=60)
    assert again.returncode == 0, again.stderr
    lines = {line.split()[0]: line for line in again.stdout.splitlines()}
    assert lines["upload"].endswith("  unchanged") and "stopped, and stays so" in lines["refresh"]


def test_reloads_and_restarts_that_an_operator_asked_for_raise_no_alarm_of_a_crash_loop(home: Home) -> None:
    with stand_ins(home, f"{GOOD}[sentinel]\nlook_every_s = 0.2\nalarm_restarts = 2\n") as runtime:
        supervisor = Supervisor(home.layout.supervisor_socket)
        for window in (3, 4):
            before = runtime.pid("upload")
            limits = "[sentinel]\nlook_every_s = 0.2\nalarm_restarts = 2\n"
            home.write_config(f"{GOOD}{limits}[upload]\nwindow = {window}\n")
            assert home.edgectl("reload", timeout_s=60).returncode == 0
            runtime.wait_for("upload", other_than=before)
        before = runtime.pid("ingest")
        for _ in range(2):
            supervisor.stop("ingest", wait=True)
            supervisor.start("ingest")
            before = runtime.wait_for("ingest", other_than=before)
        status = home.layout.status_file("sentinel")
        told = eventually(
            lambda: (s := read_status(status)) and s["restarts"].get("upload", 0) >= 2 and s,
            20,
            "it saw them",
        )
        assert told["alarms"] == []
        for _ in range(2):
            eventually(lambda: runtime.state("refresh") == "RUNNING")
            before = runtime.pid("refresh")
            kill(before)
            runtime.wait_for("refresh", other_than=before)
        eventually(lambda: (read_status(status) or {}).get("alarms"), 20, "a crash is one as before")


def test_an_alarm_that_goes_on_is_logged_once_and_not_at_every_further_restart(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 2.7 kB of last words each time it was 99 of 167 kB of logs."""
    (home.layout.log / "upload.log").write_text("last words\n" * 50)
    lives = iter(range(100, 200))
    monkeypatch.setattr(
        Supervisor, "programs", lambda _: {"upload": Program("upload", "RUNNING", next(lives), "")}
    )
    said: list[str] = []
    sink = logger.add(said.append, level="ERROR", format="{message}")
    try:
        looker = SentinelLoop(home.config, Stop())
        for look in range(40):
            looker.look(look * 5.0)
    finally:
        logger.remove(sink)
    assert len(said) == 1 and "restarted 5 times" in said[0] and "last words" in said[0]


def test_a_reload_that_is_killed_half_way_leaves_no_worker_stopped(runtime: Runtime) -> None:
    """By Ctrl-C, and by SIGKILL. Each was stopped, to be started: a lost ssh session in between, and ingest
    took nothing any more.
    """
    before, layout = runtime.pid("ingest"), runtime.home.layout
    kill(before, signal.SIGSTOP)  # so that half way lasts
    command = [sys.executable, "-m", "runtime", "--home", str(runtime.home.folder), "reload"]
    reload = Process(*command, log=runtime.home.folder / "reload.log")
    first = eventually(lambda: read_request(layout), 20, "it asks")
    reload.signal(signal.SIGINT)
    assert reload.popen.wait(10) == 130 and "Traceback" not in reload.said()
    reload = Process(*command, log=runtime.home.folder / "reload.log")
    try:
        request = eventually(lambda: {read_request(layout)} - {first, None}, 20, "it asks").pop()
        assert request is not None
        restart = (("store.policy", "reject", "drop-oldest"),)
        write_answer(layout, "ingest", ReloadAnswer(request, ReloadOutcome.UNCHANGED, restart=restart))
        eventually(lambda: _is_told_to_end(before), 20, "it has begun")
    finally:
        reload.kill()
    kill(before, signal.SIGCONT)
    runtime.wait_for("ingest", other_than=before)


def _is_told_to_end(pid: int) -> bool:
    said = Path(f"/proc/{pid}/status").read_text()
    pending = int(said.partition("ShdPnd:")[2].split()[0], 16)
    return bool(pending & 1 << signal.SIGTERM - 1)


def test_a_worker_that_dies_while_the_configuration_is_broken_goes_on_with_the_last_good_one(
    runtime: Runtime,
) -> None:
    runtime.home.write_config(BAD)
    before = {worker: runtime.pid(worker) for worker in WORKING}
    runtime.process.signal(signal.SIGHUP)
    for worker, pid in before.items():
        runtime.wait_for(worker, other_than=pid)
    assert "going on with the configuration that was last in order" in runtime.log("upload")


def test_a_reload_of_supervisord_under_a_broken_file_of_its_own_is_refused_and_nobody_stops(
    runtime: Runtime,
) -> None:
    """It stopped everybody, read the file then, and ended: under systemd again and again, all night."""
    file, said = runtime.home.layout.supervisord_conf, runtime.home.layout.log / "supervisord.log"
    good, before = file.read_text(), {name: p.pid for name, p in runtime.programs().items()}
    hup = lambda: runtime.process.signal(signal.SIGHUP)  # noqa: E731
    broken = {
        "contains parsing errors": good + "nonsense\n",
        "does not specify a command": good + "[program:x]\n",
        "invalid literal for int": good.replace("startsecs=2", "startsecs=two"),
        "does not include supervisord section": "",
        "the sentinel and edgectl ask there": good.replace("/run/supervisor.sock", "/run/other.sock"),
    }
    for number, (reason, text) in enumerate(broken.items(), 1):
        file.write_text(text)
        hup()
        eventually(lambda n=number: said.read_text().count("reload refused") == n, 10, reason)
        refusals = [line for line in said.read_text().splitlines() if "reload refused" in line]
        assert reason in refusals[-1]  # of the log it need not be the last: programs come up meanwhile
    assert {name: p.pid for name, p in runtime.programs().items()} == before
    file.write_text(good)
    hup()
    runtime.wait_for("upload", other_than=before["upload"])


def test_supervisorctl_reload_does_not_say_restarted_where_the_reload_is_refused(runtime: Runtime) -> None:
    file, before = runtime.home.layout.supervisord_conf, runtime.pid("upload")
    file.write_text(file.read_text() + "[program:x]\n")
    with pytest.raises(Rejected, match="does not specify a command"):
        Supervisor(runtime.home.layout.supervisor_socket).restart_all()
    command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(file), "reload"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert told.returncode != 0
    assert "does not specify a command" in told.stdout
    assert "reload refused" in (runtime.home.layout.log / "supervisord.log").read_text()
    assert runtime.pid("upload") == before


def test_the_kept_configuration_says_the_same_and_is_nobody_elses(home: Home) -> None:
    home.prompt = False  # no setting comes from the environment
    home.write_config(
        '[device]\nid = "dev-1"\n[platform]\nca_file = "ca.pem"\nprovisioning_token = "\\u007fgeheim\\"§"\n'
        '[store]\nmax_messages = 7\n[stream."a b/c"]\nmax_bytes = 9\n'
    )
    remember(home.config)
    kept = accepted_file(home.layout)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert load({}, home=home.folder, file=kept).settings == home.config.settings


def test_a_crash_leaves_one_record_without_a_secret_and_status_counts_it(runtime: Runtime) -> None:
    before = runtime.pid("upload")
    runtime.behave("upload", "crash")
    records = eventually(lambda: _records(runtime), 20, "a crash report")
    runtime.behave("upload", "work")
    runtime.wait_for("upload", other_than=before)
    assert records[0]["worker"] == "upload"
    assert records[0]["reason"].startswith("RuntimeError: a bug, with SharedAccessSignature sr=***")
    assert records[0]["at"].endswith("_run")
    status = json.loads(runtime.home.edgectl("status", "--json").stdout)
    assert status["crashes"]["count"] >= 1
    everything = crash_file(runtime.home.layout).read_text() + runtime.log("upload")
    assert "c2VjcmV0" not in everything


def _records(runtime: Runtime) -> list[dict[str, str]]:
    path: Path = crash_file(runtime.home.layout)
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
