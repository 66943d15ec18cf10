"""What a person changes in edge.toml counts without a restart: once it is whole, and only if it is right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from loguru import logger

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.config_watch import SETTLE_S, WatchedConfig
from runtime.adapters.process.last_good_config import accepted_file, remember
from runtime.config import load
from tests.support.harness import Home


class Clock(SystemClock):
    """The boot clock moves when the test says so."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def boot_s(self) -> float:
        return self.at_s


class Watch:
    """A watched home, looked at again after some time."""

    def __init__(self, home: Home) -> None:
        self.home, self.clock = home, Clock()
        remember(home.config)
        self.watched = WatchedConfig(home.config, self.clock)

    def looks(self, times: int = 3, every_s: float = SETTLE_S) -> list[bool]:
        found = []
        for _ in range(times):
            found.append(self.watched.changed())
            self.clock.at_s += every_s
        return found

    @property
    def wish(self) -> str | None:
        return self.watched.config.settings.device.id


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
    watch.watched = WatchedConfig(read, watch.clock)
    assert watch.looks() == [False, True, False] and watch.wish == "second"


def test_a_worker_that_started_while_the_file_was_broken_hears_when_it_is_mended(watch: Watch) -> None:
    home = watch.home
    home.write_config("broken")
    alone = WatchedConfig(load({}, home=home.folder, file=accepted_file(home.layout)), watch.clock)
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
    assert kept.settings == home.config.settings and kept.settings.stream[name].max_bytes == 3000
