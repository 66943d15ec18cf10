"""What a person changes in edge.toml counts without a restart: once it is whole, and only if it is right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loguru import logger

from runtime.adapters.bus.preflight import check_listeners
from runtime.adapters.process import logs
from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.config_watch import SETTLE_S, ConfigWatch
from runtime.adapters.process.last_good_config import accepted_file, remember
from runtime.adapters.process.reload_request import ReloadAnswer, ReloadOutcome, read_answer, write_request
from runtime.config import Config, load
from runtime.config_changes import SettingChange
from runtime.core.message import StreamName
from runtime.layout import PROGRAMS
from runtime.setting_readers import READERS
from runtime.setting_rule import Key, keys_of, spelled
from runtime.settings import StreamSettings, keys
from runtime.wiring import listeners
from tests.support.harness import Home


class Clock(SystemClock):
    """The boot clock moves when the test says so."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def boot_s(self) -> float:
        return self.at_s


class Watch:
    """A watched home, looked at again after some time."""

    def __init__(
        self, home: Home, worker: str = "provisioning", check: Callable[[Config], None] = lambda config: None
    ) -> None:
        self.home, self.worker, self.clock = home, worker, Clock()
        remember(home.config)
        self.watched = ConfigWatch(home.config, worker, self.clock, check)

    def looks(self, times: int = 3, every_s: float = SETTLE_S) -> list[bool]:
        found = []
        for _ in range(times):
            found.append(self.watched.changed())
            self.clock.at_s += every_s
        return found

    @property
    def wish(self) -> str | None:
        return self.watched.config.settings.device.id


@pytest.fixture(autouse=True)
def _logs_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of log.* configures the logs of this process: not those of the tests."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    monkeypatch.setattr(Home, "prompt", False)  # no setting comes from the environment


@pytest.fixture
def watch(home: Home) -> Watch:
    home.write_config('[device]\nid = "first"\n')
    return Watch(home)


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{message}")
    yield lines
    logger.remove(sink)


def test_a_change_counts_once_the_file_has_settled_and_is_kept_for_those_who_start_later(
    watch: Watch,
) -> None:
    watch.home.write_config('[device]\nid = "second"\n')
    assert watch.looks() == [False, True, False]
    assert watch.wish == "second"
    kept = accepted_file(watch.home.layout)
    assert load({}, home=watch.home.folder, file=kept).settings.device.id == "second"


def test_a_file_that_is_being_written_costs_no_wish(watch: Watch) -> None:
    for text in ("", '[device]\nid = "sec"\n', '[device]\nid = "second"\n'):
        watch.home.write_config(text)
        assert watch.looks(2, SETTLE_S / 3) == [False, False]
        assert watch.wish == "first"
    assert True in watch.looks() and watch.wish == "second"


def test_a_bad_change_is_refused_in_one_sentence_and_mending_it_is_enough(
    watch: Watch, said: list[str]
) -> None:
    watch.home.write_config('[device]\nid = "?"\n[platform]\nprovisioning_token = "geheim"\n')
    assert not any(watch.looks(9)) and watch.wish == "first"
    assert [line for line in said if "device.id = '?' must be 4 to 90" in line and "going on" in line] == said
    assert len(said) == 1 and "geheim" not in said[0]
    watch.home.write_config('[device]\nid = "second"\n')
    assert any(watch.looks()) and watch.wish == "second"


def test_a_file_that_is_gone_or_only_touched_changes_nothing(watch: Watch) -> None:
    edge_toml: Path = watch.home.folder / "edge.toml"
    text = edge_toml.read_text()
    edge_toml.unlink()
    assert not any(watch.looks()) and watch.wish == "first"
    edge_toml.write_text(text)
    assert not any(watch.looks()) and watch.wish == "first"


def test_a_change_in_the_moment_of_the_start_is_not_missed_for_good(watch: Watch) -> None:
    read = watch.home.config
    watch.home.write_config('[device]\nid = "second"\n')
    watch.watched = ConfigWatch(read, "provisioning", watch.clock)
    assert watch.looks() == [False, True, False] and watch.wish == "second"


def test_a_worker_that_started_while_the_file_was_broken_hears_when_it_is_mended(watch: Watch) -> None:
    home = watch.home
    home.write_config("broken")
    alone = ConfigWatch(
        load({}, home=home.folder, file=accepted_file(home.layout)), "provisioning", watch.clock
    )
    watch.watched = alone
    assert not any(watch.looks()) and watch.wish == "first"
    home.write_config('[device]\nid = "second"\n')
    assert any(watch.looks()) and watch.wish == "second"


def test_a_flipped_bit_in_the_kept_configuration_ends_no_worker_at_every_start(home: Home) -> None:
    """It was compared as text: what is no UTF-8 ended `edgectl up` and every worker, again and again."""
    home.write_config('[device]\nid = "first"\n')
    remember(home.config)
    kept = accepted_file(home.layout)
    kept.write_bytes(kept.read_bytes().replace(b"first", b"f\xffrst"))
    remember(home.config)
    assert load({}, home=home.folder, file=kept).settings.device.id == "first"


@pytest.mark.parametrize("name", ["\U0001f600", "größe", 'a"b', "a b", "\x7f", "g/s", "\t"])
def test_the_kept_configuration_can_be_read_whatever_a_stream_is_called(home: Home, name: str) -> None:
    """With one beyond the basic plane it was no TOML: no worker came back while edge.toml was broken."""
    home.write_config(
        f"[stream.{json.dumps(name, ensure_ascii=False)}]\nmax_bytes = 3000\n".replace("\x7f", "\\u007f")
    )
    remember(home.config)
    kept = load({}, home=home.folder, file=accepted_file(home.layout))
    assert (
        kept.settings == home.config.settings
        and kept.settings.stream[StreamName.parse(name)].max_bytes == 3000
    )


def asked(watch: Watch, id: str) -> ReloadAnswer:
    """The answer of this worker to a request, which it finds at its next look."""
    write_request(watch.home.layout, id)
    watch.looks(2)
    answer = read_answer(watch.home.layout, watch.worker, id)
    assert answer is not None
    return answer


def test_a_request_is_answered_at_once_with_what_was_taken_since_the_one_before(watch: Watch) -> None:
    watch.looks()
    watch.home.write_config('[device]\nid = "second"\n[log]\nlevel = "DEBUG"\n')
    write_request(watch.home.layout, "a1")
    assert watch.looks(1) == [True] and watch.wish == "second"  # although the file was just written
    answer = read_answer(watch.home.layout, "provisioning", "a1")
    taken = (("device.id", "first", "second"), ("log.level", "INFO", "DEBUG"))
    assert answer == ReloadAnswer("a1", ReloadOutcome.TAKEN, taken)
    assert asked(watch, "a2") == ReloadAnswer("a2", ReloadOutcome.UNCHANGED)
    watch.home.write_config('[device]\nid = "third"\n')
    assert any(watch.looks())  # by itself, and then it is asked
    assert asked(watch, "a3").changes[0] == ("device.id", "second", "third")


def test_a_write_just_after_the_request_was_answered_is_not_missed(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writes within one tick of the disk's clock leave the same mark."""
    watch.looks()
    file: Path = watch.home.folder / "edge.toml"
    monkeypatch.setattr(watch.watched, "_mark", lambda: (str(file), 1, 1, 1))
    file.write_text('[device]\nid = "second"\n')
    write_request(watch.home.layout, "ab")
    assert watch.looks(1, 0.6) == [True] and watch.wish == "second"
    file.write_text('[device]\nid = "third"\n')
    assert any(watch.looks()) and watch.wish == "third"


def test_a_refused_file_is_answered_with_the_reason_and_taken_once_it_is_good(watch: Watch) -> None:
    watch.home.write_config('[device]\nid = "?"\n')
    refused = asked(watch, "c1")
    assert refused.outcome is ReloadOutcome.REFUSED and "device.id = '?' must be" in refused.reason
    watch.home.write_config('[device]\nid = "good"\n')
    assert asked(watch, "c2").outcome is ReloadOutcome.TAKEN and watch.wish == "good"


def test_of_two_changes_in_quick_succession_the_last_one_counts(watch: Watch) -> None:
    watch.home.write_config('[device]\nid = "second"\n')
    write_request(watch.home.layout, "d1")
    watch.looks(1, 0.6)
    watch.home.write_config('[device]\nid = "third"\n')
    watch.looks(4)
    assert watch.wish == "third"


def test_a_worker_that_just_started_answers_the_request_that_it_finds(watch: Watch) -> None:
    write_request(watch.home.layout, "e1")
    watch.watched = ConfigWatch(watch.home.config, "provisioning", watch.clock)
    watch.looks(1)
    assert read_answer(watch.home.layout, "provisioning", "e1") is not None


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"../../x", b"f" * 65, b"x" * 100_000])
def test_a_request_that_is_none_is_passed_over(watch: Watch, content: bytes) -> None:
    watch.looks()
    (watch.home.layout.run / "reload").write_bytes(content)
    assert not any(watch.looks())
    assert not (watch.home.layout.run / "provisioning.reload").exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"request": "f1"}', '{"request": "f1", "changes": 3}'])
def test_an_answer_that_is_none_is_passed_over(home: Home, content: str) -> None:
    (home.layout.run / "upload.reload").write_text(content)
    assert read_answer(home.layout, "upload", "f1") is None


def test_what_needs_a_restart_keeps_its_value_and_is_named_until_the_worker_restarts(
    home: Home, said: list[str]
) -> None:
    home.write_config("[upload]\nwindow = 3\n")
    watch = Watch(home, "upload")
    home.write_config(
        '[upload]\nwindow = 5\n[link]\nbytes_per_day = 9\n[stream."a.b"]\ndrain = "fresh-first"\n'
    )
    first = asked(watch, "f1")
    restart = (("upload.window", "3", "5"), ("stream.a.b.drain", "in-order", "fresh-first"))
    assert first.changes == (("link.bytes_per_day", "0", "9"),) and first.restart == restart
    settings = watch.watched.config.settings
    assert (settings.upload.window, settings.link.bytes_per_day) == (3, 9)
    assert settings.stream[StreamName.parse("a.b")].drain == "in-order"
    again = asked(watch, "f2")
    assert again.outcome is ReloadOutcome.UNCHANGED and again.restart == restart
    assert len([line for line in said if "counts from the next start of upload" in line]) == 1
    watch.watched = ConfigWatch(home.config, "upload", watch.clock)
    assert asked(watch, "f3").restart == ()


def test_a_change_that_is_for_other_workers_is_none_for_this_one(home: Home) -> None:
    home.write_config("")
    watch = Watch(home, "sentinel")
    home.write_config("[upload]\nwindow = 5\n")
    assert asked(watch, "a1") == ReloadAnswer("a1", ReloadOutcome.UNCHANGED)
    assert watch.watched.config.settings.upload.window == 5


def test_a_secret_is_only_said_to_have_changed(watch: Watch, said: list[str]) -> None:
    watch.home.write_config('[device]\nid = "first"\n[platform]\nprovisioning_token = "geheim-4711"\n')
    answer = asked(watch, "a1")
    assert answer.changes == (("platform.provisioning_token", "***", "***"),)
    assert str(SettingChange(*answer.changes[0])) == "platform.provisioning_token changed"
    assert not any("geheim" in line for line in said)
    assert "geheim" not in (watch.home.layout.run / "provisioning.reload").read_text()


def test_what_ingest_could_not_listen_on_is_refused_by_ingest_and_nothing_else_is(home: Home) -> None:
    home.write_config("")
    ingest = Watch(home, "ingest", lambda config: check_listeners(listeners(config), config.layout))
    home.write_config(
        f'[ingest]\nendpoint = "ipc://{home.folder}/nowhere/x.sock"\n[store]\nmax_messages = 7\n'
    )
    refused = asked(ingest, "a1")
    assert refused.outcome is ReloadOutcome.REFUSED and "nowhere is not there" in refused.reason
    assert ingest.watched.config.settings.store.max_messages != 7


def test_a_full_run_folder_costs_the_answer_and_nothing_else(watch: Watch) -> None:
    write_request(watch.home.layout, "a1")
    (watch.home.layout.run / "provisioning.reload").mkdir()
    watch.home.write_config('[device]\nid = "second"\n')
    assert any(watch.looks()) and watch.wish == "second"


EVERY_KEY = [*keys(), *keys_of("stream.a/b", StreamSettings)]
LIVE = [(key, worker) for key in EVERY_KEY for worker in key.readers.live]
RESTART = [(key, worker) for key in EVERY_KEY for worker in key.readers.restart]
OTHERS = {
    "device.id": "another", "platform.instance": "other.example", "platform.proxy": "http://p:1",
    "identity.connection_string": "HostName=h.x;DeviceId=d;SharedAccessKey=a2V5", "upload.proxy": "http://p:1",
    "ingest.endpoint": "ipc:///tmp/x.sock", "ingest.tcp_endpoint": "tcp://127.0.0.1:5999",
    "link.hours": ["01:00-02:00"], "ingest.max_request_bytes": 9_000_000,
    "ingest.memory_bytes": 200_000_000,
    "management.built_in": ["ping"], "update.folder": "/opt/other.d", "stream.a/b.over_budget": "drop-lowest",
    "observer.listen": "tcp://127.0.0.1:9465", "observer.otlp_url": "https://other.example/v1/metrics",
}  # fmt: skip
"""Values other than the default where the rule admits not just any."""


def another(key: Key) -> object:
    """A value other than the default that the rule admits."""
    rule, default = key.rule, key.default
    if key.dotted in OTHERS:
        return OTHERS[key.dotted]
    if isinstance(default, bool):
        return not default
    if rule.choices:
        return next(choice for choice in rule.choices if choice != spelled(default))
    if isinstance(default, tuple):
        return ["other"]
    if isinstance(default, int | float):
        return rule.low if rule.low != default else default + 1
    return "other.example"


def changed(home: Home, key: Key, worker: str) -> Watch:
    """The watch of a worker after this setting has changed, with `edge.toml` and nothing else."""
    home.write_config("")
    watch = Watch(home, worker)
    table, name = key.table, key.name
    head = f"[{table}]" if not table.startswith("stream.") else '[stream."a/b"]'
    more = 'curve_clients = "keys"\n' if key.dotted == "ingest.curve_secret_file" else ""
    home.write_config(f"{head}\n{name} = {json.dumps(another(key))}\n{more}")
    write_request(home.layout, "ab")
    return watch


def value(watch: Watch, key: Key) -> object:
    settings = watch.watched.config.settings
    if key.table.startswith("stream."):
        return getattr(settings.stream[StreamName.parse("a/b")], key.name)
    return getattr(getattr(settings, key.table), key.name)


@pytest.mark.parametrize(("key", "worker"), LIVE, ids=lambda v: v if isinstance(v, str) else v.dotted)
def test_a_worker_that_takes_a_setting_live_has_its_new_value(key: Key, worker: str, home: Home) -> None:
    watch = changed(home, key, worker)
    assert watch.looks(1) == [True]
    assert value(watch, key) != key.default
    answer = read_answer(home.layout, worker, "ab")
    assert answer is not None and [change[0] for change in answer.changes] == [key.dotted]
    assert answer.restart == ()


@pytest.mark.parametrize(("key", "worker"), RESTART, ids=lambda v: v if isinstance(v, str) else v.dotted)
def test_a_worker_that_needs_a_restart_for_a_setting_names_it(key: Key, worker: str, home: Home) -> None:
    watch = changed(home, key, worker)
    assert watch.looks(1) == [False]
    assert value(watch, key) == key.default
    answer = read_answer(home.layout, worker, "ab")
    assert answer is not None and key.dotted in [change[0] for change in answer.restart]


def test_every_setting_has_readers_and_each_entry_is_of_a_setting() -> None:
    names = {f"{key.table.partition('.')[0]}.{key.name}" for key in EVERY_KEY}
    tables = {name.partition(".")[0] for name in names}
    assert {entry for entry in READERS if entry not in names | tables} == set()
    for key in EVERY_KEY:
        readers = {*key.readers.live, *key.readers.restart}
        assert (readers or key.table == "update") and readers <= set(PROGRAMS), key.dotted  # read by edgectl
        assert not {*key.readers.live} & {*key.readers.restart}
