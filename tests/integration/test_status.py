"""`edgectl status` tells what can be known, whatever is down; `edgectl doctor` tells what helps."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.process import Lock
from runtime.adapters.process.status_file import StatusFile, StatusRecord, beat_of, last_record, read_status
from runtime.adapters.supervisor.rpc import Program
from runtime.cli.status import duration, size
from runtime.operations.doctor import examine
from runtime.operations.overview import observe
from runtime.workers.sentinel_metrics import MetricsFile
from runtime.workers.sentinel_rates import ObservedRates
from tests.support.harness import Cloud, Home, clean_environment, eventually
from tests.support.runbook import documented_keys
from tests.support.supervised import PROGRAMS, Runtime
from tests.support.upload import put, uploading


def status(home: Home) -> tuple[int, dict[str, Any]]:
    answer = home.edgectl("status", "--json")
    assert answer.stderr == ""
    return answer.returncode, json.loads(answer.stdout)


def test_a_home_that_never_ran_is_down_and_no_traceback(home: Home) -> None:
    code, found = status(home)
    assert (code, found["verdict"]) == (2, "down")
    assert set(found["workers"]) == set(PROGRAMS)
    assert found["disk"]["free_bytes"] > 0
    text = home.edgectl("status")
    assert text.returncode == 2 and text.stdout.startswith("DOWN")


@pytest.fixture
def served(home: Home) -> Iterator[Runtime]:
    runtime = Runtime(home)
    try:
        for program in PROGRAMS:
            runtime.wait_for(program)
        yield runtime
    finally:
        runtime.close()


def test_the_backlog_is_known_even_when_everything_is_down(served: Runtime) -> None:
    home = served.home
    assert home.edgectl("send", "--stream", "s", "one").returncode == 0
    code, found = status(home)
    assert (code, found["verdict"]) == (1, "degraded"), "no platform is configured"
    assert found["backlog"]["messages"] == 1
    eventually(lambda: status(home)[1]["backlog"]["stored"] == 1, 10, "ingest says so too")
    eventually(
        lambda: status(home)[1]["workers"]["ingest"]["state"] == "RUNNING", 20, "it has stood for a while"
    )
    assert status(home)[1]["workers"]["ingest"]["memory_bytes"] > 5_000_000
    served.close()
    code, found = status(home)
    assert code == 2
    assert found["backlog"]["messages"] == 1
    assert found["backlog"]["oldest_age_s"] > 0


def test_a_runtime_with_its_hub_is_healthy_and_every_figure_is_there(device: Home, cloud: Cloud) -> None:
    began_s = time.monotonic()
    runtime = Runtime(device)
    try:
        eventually(cloud.approve_all, 40, "the device asks for approval")
        eventually(lambda: status(device)[0] == 0, 40, "healthy")
        assert device.edgectl("send", "--stream", "s", "one").returncode == 0
        found = eventually(lambda: _with(status(device)[1], "hub", "delivered"), 20, "it is delivered")
        assert "message 1 was delivered" in device.edgectl("trace", "1").stdout
        hub, identity = found["hub"], found["identity"]
        assert hub["state"] == "up" and hub["device"].endswith(identity["device_id"])
        lasts_s = time.monotonic() - began_s
        assert 0 <= hub["puback_age_s"] <= hub["connected_s"] < lasts_s
        assert hub["connected_since"].endswith("Z") and hub["in_flight"] == 0
        assert 0 < hub["rate_per_s"] < 1, "one message, and one look is enough"
        assert identity["state"] == "registered" and identity["next_in_s"] > 0
        assert identity["sas_remaining_s"] > identity["next_in_s"]
        assert found["backlog"]["room_bytes"] > 0
        for worker in found["workers"].values():
            assert worker["pid"] and 0 < worker["uptime_s"] < lasts_s
            assert worker["progress_age_s"] < 10 and worker["memory_bytes"] > 5_000_000
        assert found["workers"]["upload"]["restarts"] == 0
        _check_words(device.edgectl("status").stdout)
        runtime.close()
        after = status(device)[1]
        assert (after["hub"]["state"], after["hub"]["in_flight"]) == ("unknown", None), "it is gone"
        assert after["hub"]["puback_age_s"] >= hub["puback_age_s"], "but this happened"
        assert after["identity"]["state"] == "registered", "from the disk"
        assert after["identity"]["sas_remaining_s"] <= identity["sas_remaining_s"]
    finally:
        runtime.close()


def _with(found: dict[str, Any], part: str, name: str) -> dict[str, Any]:
    return found if found[part][name] else {}


def _check_words(text: str) -> None:
    assert text.startswith("HEALTHY") and "\x1b" not in text
    for words in (
        "connected since",
        "last PUBACK",
        "in flight",
        "messages/s",
        "next register in",
        "GiB free",
    ):
        assert words in text, text


def test_the_last_puback_is_known_to_the_upload_that_was_restarted(home: Home, cloud: Cloud) -> None:
    uploading(home, cloud)
    put(home, {"stream": "s"}, b"one")
    told = eventually(lambda: _upload(home).number("puback_boot_s"), 20, "it is delivered")
    home.workers["upload"].kill()
    cloud.hub(up=False)
    home.start_worker("upload")
    eventually(lambda: _upload(home).number("pid") == home.workers["upload"].pid, 20)
    assert _upload(home).number("puback_boot_s") == told
    assert _upload(home).number("connected_boot_s") is None


def _upload(home: Home) -> StatusRecord:
    return last_record(home.layout.status_file("upload"), SystemClock().boot_id())


def test_workers_without_a_supervisord_are_told_apart_from_none(home: Home) -> None:
    worker = home.start_worker("ingest")
    found = eventually(lambda: _with(status(home)[1]["workers"], "ingest", "progress_age_s"), 20)
    assert (found["ingest"]["state"], found["ingest"]["pid"]) == ("UNSUPERVISED", worker.pid)
    assert found["ingest"]["memory_bytes"] > 5_000_000
    code, whole = status(home)
    assert (code, whole["verdict"]) == (2, "down"), "nobody would bring it back"
    assert whole["backlog"]["messages"] == 0


GARBAGE = (
    b"", b"\xff\xfe", b"[" * 100_000, b"null", b'{"pid": "x", "boot_id": 7}',
    b'{"alarms": [7, {}], "restarts": [1], "counted": {"refused_x": "y"}, "progress_boot_s": "soon"}',
)  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_in_every_file_is_no_traceback(home: Home, garbage: bytes) -> None:
    layout = home.layout
    for path in (
        *map(layout.status_file, PROGRAMS), *map(layout.lock, PROGRAMS), layout.lock("supervisor"),
        layout.messages_db, layout.identity_db, layout.log / "crashes.jsonl", layout.supervisor_socket,
    ):  # fmt: skip
        path.write_bytes(garbage)
        path.chmod(0o600)
    code, found = status(home)
    assert (code, found["verdict"]) == (2, "down")
    assert home.edgectl("status").stdout.startswith("DOWN")


def test_words_of_the_living_that_make_no_sense_are_no_traceback(home: Home) -> None:
    """A worker that lives, and a status file under its number that another wrote."""
    clock = SystemClock()
    lock = Lock(home.layout.lock("sentinel"))
    said = {"pid": os.getpid(), "boot_id": clock.boot_id(), "alarms": {}, "restarts": 3, "state": [],
            "disk_growth_bytes_per_s": "fast"}  # fmt: skip
    home.layout.status_file("sentinel").write_text(json.dumps(said))
    found = observe(home.layout, clock)
    lock.release()
    assert (found["workers"]["sentinel"]["pid"], found["alarms"]) == (os.getpid(), [])


def test_what_the_dead_said_is_no_news_and_a_span_that_was_told_goes_on_running_out(home: Home) -> None:
    clock, lock = SystemClock(), Lock(home.layout.lock("refresh"))
    said = {"boot_id": clock.boot_id(), "progress_boot_s": clock.boot_s() - 30, "state": "registered",
            "sas_remaining_s": 100, "alarm": "x"}  # fmt: skip
    try:
        for pid, left_s, alarms in ((os.getpid(), 70, 1), (os.getpid() + 1, None, 0)):
            home.layout.status_file("refresh").write_text(json.dumps({**said, "pid": pid}))
            found = observe(home.layout, clock)
            assert (found["identity"]["sas_remaining_s"], len(found["alarms"])) == (left_s, alarms)
    finally:
        lock.release()


def test_what_holds_provisioning_up_is_the_reason_and_not_that_there_is_no_token(home: Home) -> None:
    said = {
        "refresh": {"state": "waiting for provisioning", "reason": "there is no registration token"},
        "provisioning": {
            "state": "rejected by the platform",
            "trouble": "bad request",
            "reason": "HTTP 400: dev-1 is taken",
        },
    }
    locks = [Lock(home.layout.lock(worker)) for worker in said]
    for worker, words in said.items():
        StatusFile(home.layout.status_file(worker), worker).progress(words, now=True)
    found = observe(home.layout, SystemClock())["identity"]
    for lock in locks:
        lock.release()
    assert (found["trouble"], found["reason"]) == ("bad request", "HTTP 400: dev-1 is taken")


def test_the_beats_of_its_predecessor_are_none_of_a_worker_that_only_starts(home: Home) -> None:
    """It would have the patience for one at work, and not that for a start."""
    file = home.layout.status_file("ingest")
    StatusFile(file, "ingest").progress({}, now=True)
    assert beat_of(file, os.getpid()) is not None
    assert beat_of(file, os.getpid() + 1) is None


def test_a_bad_configuration_is_a_reason_and_hides_nothing_else(home: Home) -> None:
    home.write_config('[upload]\nwindow = "wide"\n')
    code, found = status(home)
    assert code == 2 and set(found["workers"]) == set(PROGRAMS)
    assert any("upload.window = 'wide' is not a whole number" in reason for reason in found["reasons"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("mode", [0o711, 0o700])
def test_somebody_who_may_not_look_is_told_so_and_not_that_nothing_runs(home: Home, mode: int) -> None:
    """A producer's user: may pass through the home at most, and sees neither run/ nor state/."""
    home.folder.parent.chmod(0o711)
    home.folder.chmod(mode)
    script = (
        "import os, sys, encodings.utf_8_sig\n"
        "import runtime.adapters.process.clock, runtime.operations.overview, runtime.config\n"
        "import runtime.adapters.store.reader, runtime.adapters.identity.database\n"
        "from runtime.__main__ import main, parser\n"
        "parser()\n"  # import first: this checkout may be for root's eyes only
        "os.setgroups([]), os.setgid(65534), os.setuid(65534)\nsys.exit(main())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script, "--home", str(home.folder), "status", "--json"],
        capture_output=True, text=True, timeout=30, env=clean_environment(),
    )  # fmt: skip
    assert (answer.returncode, answer.stderr) == (2, "")
    found = json.loads(answer.stdout)
    assert "may not be asked by this user" in found["reasons"][0]
    assert found["verdict"] == "unknown"
    assert {worker["state"] for worker in found["workers"].values()} == {"UNKNOWN"}


def test_what_was_lost_is_counted_by_reason_also_when_nobody_runs(home: Home) -> None:
    home.write_config('[store]\nmax_messages = 3\npolicy = "drop-oldest"\n')
    worker = home.start_worker("ingest")
    for number in range(5):
        put(home, {"stream": "s"}, b"%d" % number)
    worker.kill()
    backlog = status(home)[1]["backlog"]
    assert (backlog["messages"], sum(backlog["dropped"].values())) == (3, 2), backlog


def test_the_keys_of_the_json_are_those_of_the_runbook(home: Home) -> None:
    documented = documented_keys("status --json")
    of_management = {key for key in documented if key.split(".")[0] == "management"}  # only where it runs
    assert documented - of_management == set(_keys(status(home)[1]))


def _keys(found: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in found.items():
        if name == "workers":
            yield from (f"workers.NAME.{key}" for key in value["ingest"])
        elif isinstance(value, dict) and value:
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_watch_shows_the_state_again_and_again_and_ends_with_ctrl_c(home: Home) -> None:
    watch = subprocess.Popen(
        [sys.executable, "-m", "runtime", "--home", str(home.folder), "status", "--watch", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert watch.stdout is not None and watch.stderr is not None
        for _ in range(2):
            assert json.loads(watch.stdout.readline())["verdict"] == "down"
        watch.send_signal(signal.SIGINT)
        assert watch.wait(10) == 130
        assert watch.stderr.read() == ""
    finally:
        watch.kill()
        watch.wait()


def test_a_full_disk_stops_the_figures_but_not_the_heart(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "upload.status"
    path.write_text(json.dumps({"pid": 1}))  # a predecessor's
    reporter = StatusFile(path, "upload")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    reporter.progress({}, now=True)
    first = beat_of(path, os.getpid())
    assert first is not None, "the predecessor's words no longer stand for ours"
    assert read_status(path) is None
    eventually(lambda: _beats_on(reporter, path, first), 5, "the heart beats on")


def test_a_heart_beats_on_where_somebody_removed_the_folder_of_its_figures(tmp_path: Path) -> None:
    """Else the sentinel would take everybody for hung."""
    path = tmp_path / "run/upload.status"
    StatusFile(path, "upload").progress({"in_flight": 7}, now=True)
    assert (read_status(path) or {})["in_flight"] == 7
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_record_that_stays_the_same_is_not_written_and_its_worker_beats(tmp_path: Path) -> None:
    """Each write of it was one of flash, every second."""

    class Clock(SystemClock):
        now_s = 100.0

        def boot_s(self) -> float:
            return self.now_s

    clock, path = Clock(), tmp_path / "upload.status"
    reporter = StatusFile(path, "upload", clock)
    reporter.progress({"in_flight": 0})
    written_s = []
    for in_flight in (0, 0, 1, 1, 1, 1, 1, 1, 1):
        clock.now_s += 1.0
        before = beat_of(path, os.getpid())
        eventually(lambda b=before: _beats_on(reporter, path, b, in_flight), 5, "it beats")  # noqa: B023
        record = read_status(path) or {}
        assert record["in_flight"] == in_flight
        written_s.append(record["progress_boot_s"])
    assert sorted(set(written_s)) == [100.0, 103.0, 108.0], "where it changed, and once in five seconds"


def _beats_on(reporter: StatusFile, path: Path, before: object, in_flight: int = 0) -> bool:
    reporter.progress({"in_flight": in_flight}, now=True)
    return beat_of(path, os.getpid()) != before


def test_figures_are_said_as_a_person_says_them() -> None:
    assert [duration(s) for s in (None, 4.9, 65, 7800, 200_000)] == ["-", "4s", "1m05s", "2h10m", "2d07h"]
    assert [size(b) for b in (None, 0, 2048, 5_000_000)] == ["-", "0 B", "2 KiB", "4.8 MiB"]


def test_doctor_names_what_is_wrong_and_what_helps(home: Home) -> None:
    home.write_config('[platform]\ninstance = "localhost:1"\n')
    began_s = time.monotonic()
    answer = home.edgectl("doctor", "--json", timeout_s=60)
    assert time.monotonic() - began_s < 30
    checks = {check["name"]: check for check in json.loads(answer.stdout)}
    assert all(set(check) == {"name", "verdict", "text", "remedy"} for check in checks.values())
    assert answer.returncode == 2
    assert checks["configuration"]["verdict"] == "ok"
    assert checks["fsync"]["verdict"] in ("ok", "warning")
    platform = checks["platform localhost:1"]
    assert platform["verdict"] == "error" and "refused" in platform["text"].lower()
    assert platform["remedy"]


def test_doctor_looks_at_the_limits_of_those_who_run_and_not_at_its_own(home: Home) -> None:
    """The unit gives 8192, a login shell 1024: the doctor's own number says nothing about the service."""
    worker = home.start_worker("ingest")
    eventually(lambda: home.layout.status_file("ingest").exists(), 20, "it serves")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (777, hard))
    checks = [check for check in examine(home.config) if check.name == "open files"]
    assert [(c.verdict, c.text) for c in checks] == [("warning", "at most 777 for ingest")]
    worker.kill()
    assert "no ingest is to be seen" in str(list(examine(home.config)))


def test_doctor_tells_a_bad_setting_from_everything_else(home: Home) -> None:
    home.write_config('[log]\nlevel = "LOUD"\n')
    answer = home.edgectl("doctor", timeout_s=60)
    assert answer.returncode == 2
    assert "log.level" in answer.stdout


def test_doctor_is_content_with_a_working_device(device: Home, cloud: Cloud) -> None:
    answer = device.edgectl("doctor", "--json", timeout_s=60)
    bad = [c for c in json.loads(answer.stdout) if c["verdict"] == "error"]
    assert bad == []


def test_a_store_that_refuses_every_producer_by_its_own_limit_is_not_healthy(home: Home) -> None:
    home.write_config("[store]\nmax_messages = 3\n")
    home.start_worker("ingest")
    for _ in range(3):
        assert home.edgectl("send", "x").returncode == 0
    home.edgectl("send", "x", "--retry-for", "0.2")
    told = eventually(lambda: _with(status(home)[1], "backlog", "refused_lately"), 10, "ingest says so")
    assert told["backlog"]["room_messages"] == 0 and told["backlog"]["room_limit"] == "messages"
    assert "store: full by its own limit (store.max_messages)" in told["reasons"]
    assert any("producers are refused" in reason and "store_full" in reason for reason in told["reasons"])
    assert "room for 0 messages" in home.edgectl("status").stdout


def test_room_is_what_the_store_takes_and_not_what_the_disk_has(home: Home) -> None:
    home.write_config("[store]\nmax_bytes = 1048576\n")
    home.start_worker("ingest")
    told = eventually(lambda: _with(status(home)[1], "backlog", "room_bytes"), 20, "ingest is up")
    assert told["backlog"]["room_bytes"] == 1_048_576
    assert "room for 1.0 MiB" in home.edgectl("status").stdout


def test_a_stream_whose_files_the_storage_refuses_is_a_reason_in_the_storages_words(home: Home) -> None:
    """403 for three minutes, 148 attempts, and HEALTHY."""
    lock = Lock(home.layout.lock("upload"))
    lane = {
        "lane": "file",
        "stream": "s",
        "failures": 148,
        "words": "block 0: 403 at STORAGE",
        "since_boot_s": 1,
    }
    failing = [lane, {"lane": 7}, "garbage", {**lane, "failures": "many"}]
    try:
        said = {"state": "up", "failing": failing, "oldest_waited_s": 1_000.0}
        StatusFile(home.layout.status_file("upload"), "upload").progress(said, now=True)
        found = observe(home.layout, SystemClock())
    finally:
        lock.release()
    assert (
        "the file upload of stream s fails, 148 times in a row: block 0: 403 at STORAGE" in found["reasons"]
    )
    assert [lane["failures"] for lane in found["hub"]["failing"]] == [148, 0, 0]


def test_the_sentinel_knows_how_fast_the_store_fills(home: Home) -> None:
    rates, figures = ObservedRates(home.layout), dict[str, Any]()
    for second in range(0, 181, 5):
        stored = {"messages": 10 * second, "bytes": 1_000 * second}
        StatusFile(home.layout.status_file("ingest"), "ingest").progress(stored, now=True)
        figures = rates.look(float(second), [os.getpid()])
    assert figures["store_growth_messages_per_s"] == pytest.approx(10.0)
    assert figures["store_growth_bytes_per_s"] == pytest.approx(1_000.0)
    assert figures["rates"]["store_messages"] == [pytest.approx(10.0), None], "an hour was not observed"


def test_a_scrapers_file_is_written_whole_and_without_a_database(home: Home) -> None:
    """The sentinel writes it: it must not wait for a lock."""
    layout = home.layout
    layout.create()
    StatusFile(layout.status_file("ingest"), "ingest").progress({"messages": 7, "bytes": 70}, now=True)
    program = Program("ingest", "RUNNING", os.getpid(), "", 1)
    layout.messages_db.mkdir()  # nothing that could be opened
    metrics = MetricsFile(layout, SystemClock())
    metrics.write({"ingest": program}, home.config.settings)
    text = (layout.run / "metrics.prom").read_text()
    assert 'edge_backlog_messages{stream="-"} 7' in text
    (layout.run / "metrics.prom").unlink()
    metrics.write({"ingest": program}, home.config.settings)
    assert not (layout.run / "metrics.prom").exists(), "it was written lately"
