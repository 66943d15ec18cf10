"""Settings that the cloud desires: between edge.toml and the environment, at first on trial."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.adapters.process.clock import SystemClock, read_moment
from runtime.adapters.process.config_watch import SETTLE_S, ConfigWatch
from runtime.config import Config, check_remote, load
from runtime.core.management.config_trial import (
    ConfigTrial,
    RemoteConfig,
    TrialOutcome,
    TrialPolicy,
    values_in_force,
)
from runtime.core.management.twin_record import TwinRecord
from runtime.core.moment import Moment
from runtime.remote_config import decode_record, encode_record, may_be_remote
from runtime.settings import keys
from runtime.workers.config_trials import ConfigTrials, ReloadProcess
from tests.support.harness import Home, eventually, short_folder

TOML = '[management]\nenabled = true\n[upload]\nwindow = 7\n[log]\nlevel = "WARNING"\n'


@pytest.fixture
def home() -> Iterator[Home]:
    with short_folder() as folder:
        made = Home(folder, TOML)
        made.layout.create()
        yield made


def loaded(home: Home, record: RemoteConfig | bytes, **environ: str) -> Config:
    content = record if isinstance(record, bytes) else encode_record(record)
    home.layout.remote_config.write_bytes(content)
    return load(environ, home=home.folder)


def confirmed(**tables: Any) -> RemoteConfig:
    return RemoteConfig(confirmed=tables)


def test_what_was_confirmed_wins_over_the_file_and_a_variable_over_both(home: Home) -> None:
    config = loaded(home, confirmed(upload={"window": 9}, log={"level": "ERROR"}))
    assert (config.settings.upload.window, config.settings.log.level) == (9, "ERROR")
    assert config.origins["upload.window"].source == "twin /runtime/config"
    assert config.warnings == ()
    config = loaded(home, confirmed(upload={"window": 9}))
    assert config.settings.log.level == "WARNING"


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ({"upload": {"window": -1}}, "upload.window = -1 must be at least 0"),
        ({"upload": {"window": "9"}}, "upload.window = '9' is not a whole number"),
        ({"upload": {"widow": 9}}, "upload.widow is no setting"),
        ({"upload": 9}, "upload is no setting"),
        ({"upload": {"ca_file": "/tmp/ca.pem"}}, "upload.ca_file is not among management.remote_settings"),
        ({"upload": {"proxy": "http://x:1"}}, "upload.proxy is not among"),
        ({"management": {"reboot_command": ["rm"]}}, "management.reboot_command is not among"),
        ({"store": {"max_bytes": 10**9}}, "store.max_bytes is not among"),
    ],
)
def test_what_breaks_a_rule_is_refused_and_passed_over_as_a_whole(
    home: Home, tables: dict[str, Any], problem: str
) -> None:
    tables = {**tables, "log": {"level": "ERROR"}}
    assert problem in check_remote(home.config, {}, tables)[0]
    config = loaded(home, confirmed(**tables))
    assert (config.settings.upload.window, config.settings.log.level) == (7, "WARNING")
    assert problem in config.warnings[0]


def test_a_setting_that_a_variable_sets_is_refused(home: Home) -> None:
    environ = {"EDGE_UPLOAD_WINDOW": "5"}
    config = loaded(home, confirmed(upload={"window": 9}), **environ)
    assert config.settings.upload.window == 5
    assert "upload.window is set by a variable" in check_remote(config, environ, {"upload": {"window": 9}})[0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"confirmed":{}}', b'{"trial":5}'])
def test_a_file_that_is_no_record_is_passed_over(home: Home, content: bytes) -> None:
    config = loaded(home, content)
    assert config.settings.upload.window == 7 and "remote-config.json: passed over" in config.warnings[0]


def test_nothing_of_it_holds_where_management_is_off(home: Home) -> None:
    (home.folder / "edge.toml").write_text(TOML.replace("true", "false"))
    assert loaded(home, confirmed(upload={"window": 9})).settings.upload.window == 7


def test_what_would_give_the_machine_away_can_never_be_allowed() -> None:
    remote = {key.dotted for key in keys() if may_be_remote(key)}
    assert {"link.hours", "upload.window", "log.level"} <= remote
    assert not [name for name in remote if "command" in name or "file" in name.split("_") or "proxy" in name]
    assert not [name for name in remote if name.startswith(("management", "alarm", "identity", "ingest"))]


def test_a_trial_holds_in_its_boot_for_its_time(home: Home) -> None:
    now = read_moment(SystemClock())
    trial = ConfigTrial({"upload": {"window": 9}}, now, 60.0)
    record = replace(confirmed(upload={"window": 8}), trial=trial)
    config = loaded(home, record)
    assert config.settings.upload.window == 9
    assert config.origins["upload.window"].source == "twin /runtime/config, on trial"
    for began in (replace(now, boot_id="another"), replace(now, boot_s=now.boot_s - 61.0)):
        over = replace(record, trial=replace(trial, began=began))
        assert loaded(home, over).settings.upload.window == 8


VALUES = st.dictionaries(
    st.sampled_from(["log", "link"]),
    st.dictionaries(st.text(max_size=3), st.integers() | st.text()),
    max_size=2,
)
MOMENTS = st.builds(Moment, st.floats(0, 2e9), st.floats(0, 1e9), st.text(max_size=5))
RECORDS = st.builds(
    RemoteConfig,
    VALUES,
    st.none() | st.builds(ConfigTrial, VALUES, MOMENTS, st.floats(0, 1e6), st.integers(1, 2)),
    st.none() | VALUES,
    st.sampled_from(TrialOutcome),
    st.text(),
    st.booleans(),
)


@given(RECORDS)
def test_a_record_comes_back_from_its_file(record: RemoteConfig) -> None:
    assert decode_record(encode_record(record)) == record


# -- the worker's side --


class Clock(SystemClock):
    """The boot clock moves when the test says so."""

    def __init__(self) -> None:
        self.passed_s = 0.0

    def boot_s(self) -> float:
        return super().boot_s() + self.passed_s


@dataclass
class FakeReload:
    """A reload that ends when the test says so."""

    config: Config
    clock: Any
    result: list[str] | None = None

    def problems(self) -> list[str] | None:
        return self.result

    def close(self) -> None:
        pass


@dataclass
class Trials:
    """The trials of one worker after the other, with a clock and reloads of the test."""

    home: Home
    clock: Clock = field(default_factory=Clock)
    reloads: list[FakeReload] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        self.trials = ConfigTrials(
            self.home.config, self.clock, policy=TrialPolicy(60.0, 5.0), reload=self.reload
        )

    def reload(self, config: Config, clock: Any) -> FakeReload:
        self.reloads.append(FakeReload(config, clock))
        return self.reloads[-1]

    def turn(self, *problems: str, desired: Any, asked_s: float | None = None, ended: bool = True) -> str:
        if ended and self.reloads:
            self.reloads[-1].result = list(problems)
        twin = TwinRecord(desired={"runtime": {"config": desired}}, desired_version=1)
        self.trials.turn(twin, asked_s)
        return str(self.trials.section()["state"])

    @property
    def window(self) -> int:
        """What a worker reads that starts now; the loader has the machine's clock."""
        record = decode_record(self.home.layout.remote_config.read_bytes())
        values = values_in_force(record, read_moment(self.clock))
        return int(values.get("upload", {}).get("window", 7))


WISH = {"upload": {"window": 9}}


def test_desired_settings_are_tried_and_confirmed_by_the_hub(home: Home) -> None:
    one = Trials(home)
    assert one.turn(desired=WISH) == "on trial" and one.window == 9
    assert load({}, home=home.folder).settings.upload.window == 9
    assert not one.trials.wants_answer
    one.turn(desired=WISH)
    assert one.trials.wants_answer
    assert one.turn(desired=WISH, asked_s=one.clock.boot_s()) == "on trial", "asked too early"
    one.clock.passed_s += 6.0
    assert one.turn(desired=WISH, asked_s=one.clock.boot_s()) == "confirmed"
    one.clock.passed_s += 600.0
    assert one.turn(desired=WISH) == "confirmed" and one.window == 9 and len(one.reloads) == 1


def test_they_are_taken_back_where_the_hub_is_not_reached(home: Home) -> None:
    one = Trials(home)
    one.turn(desired=WISH)
    one.turn(desired=WISH)
    one.clock.passed_s += 61.0
    assert one.window == 7, "also before the worker has its turn"
    assert one.turn(desired=WISH) == "taken back"
    assert one.trials.section()["reason"] == "the hub was not reached within 60 s"
    assert len(one.reloads) == 2 and one.trials.wait_s() < 1.0
    one.turn(desired=WISH)
    assert one.turn(desired=WISH) == "taken back" and len(one.reloads) == 2


def test_a_killed_worker_goes_on_with_the_trial_and_with_its_end(home: Home) -> None:
    one = Trials(home)
    one.turn(desired=WISH)
    one.start()
    assert len(one.reloads) == 2, "whether the first ended is not known"
    one.turn(desired=WISH)
    one.clock.passed_s += 61.0
    one.start()
    assert one.window == 7 and one.trials.section()["state"] == "taken back"
    assert len(one.reloads) == 3


def test_a_refusal_by_rule_or_by_worker_is_reported_and_changes_nothing(home: Home) -> None:
    one = Trials(home)
    assert one.turn(desired={"upload": {"window": -1}}) == "refused" and not one.reloads
    assert "upload.window = -1 must be at least 0" in one.trials.section()["reason"]
    assert one.turn(desired="fast") == "refused"
    assert one.turn(desired=WISH) == "on trial"
    assert one.turn("upload: cannot", desired=WISH) == "refused"
    assert one.trials.section()["reason"] == "upload: cannot" and one.window == 7


def test_a_full_disk_leaves_what_holds_and_is_tried_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtime.workers import config_trials

    def full(path: object, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    one = Trials(home)
    with monkeypatch.context() as patch:
        patch.setattr(config_trials, "_write", full)
        assert one.turn(desired=WISH) == "none" and not one.reloads
    assert one.turn(desired=WISH) == "on trial" and len(one.reloads) == 1


def test_before_the_twin_was_read_nothing_is_judged(home: Home) -> None:
    loaded(home, confirmed(upload={"window": 9}))
    one = Trials(home)
    one.trials.turn(TwinRecord())
    assert one.window == 9 and not one.reloads


def test_a_reload_without_a_supervisor_says_why(home: Home) -> None:
    reload = ReloadProcess(home.config, SystemClock())
    eventually(lambda: reload.problems() is not None, 30, "the reload ends")
    (problem,) = reload.problems() or [""]
    assert "supervisord" in problem or "not running" in problem


def test_a_worker_takes_them_while_it_runs(home: Home) -> None:
    clock = Clock()
    watch = ConfigWatch(home.config, "sentinel", clock)
    for _ in range(3):
        watch.changed()
        clock.passed_s += SETTLE_S
    assert not watch.changed()
    home.layout.remote_config.write_bytes(encode_record(confirmed(log={"level": "ERROR"})))
    clock.passed_s += SETTLE_S
    assert watch.changed() and watch.config.settings.log.level == "ERROR"
