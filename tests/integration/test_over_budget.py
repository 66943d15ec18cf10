"""Messages that the budget of units cannot hold, over a real store: what goes is counted and named."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from runtime.adapters.store.reader import StoreReader
from runtime.core.delivery.link_budget import LinkPolicy
from runtime.workers.upload_budget import BudgetWatch
from runtime.workers.upload_meter import UnitMeter
from tests.support.upload_source_world import Device

NIGHT = 1_800_057_600.0  # 2027-01-16 00:00 UTC
POLICY = LinkPolicy(units_per_day=2_400, urgent_priority=9)  # 100 an hour


class Watched:
    """A device with a budget, whose hub is away: nothing is sent."""

    def __init__(self, folder: Path, toml: str) -> None:
        self.device = Device(folder, toml, terms=POLICY)
        device = self.device
        self.meter = UnitMeter(device.link, device.delivery)
        self.watch = BudgetWatch(
            device.home.config.settings, device.delivery, device.link, device.source.levels,
            self.meter.since_start,
        )  # fmt: skip
        device.link.set_time(NIGHT, device.clock.boot)

    def look(self, *, after_s: float = 900.0) -> None:
        self.device.clock.boot += after_s
        self.device.link.set_time(NIGHT, self.device.clock.boot)
        self.device.turn(sends=False)
        self.watch.look(self.device.clock.boot)
        self.device.turn(sends=False)

    def lost(self) -> dict[str, dict[str, int]]:
        with closing(StoreReader(self.device.home.layout.messages_db)) as reader:
            ledger = reader.ledger()
        assert ledger is not None and not ledger.open_accounts, "the ledger does not close"
        return {each.stream: dict(each.lost) for each in ledger.accounts if each.lost}


def test_each_stream_loses_as_it_says_and_the_ledger_names_it(folder: Path) -> None:
    toml = '[stream.s]\nover_budget = "sample:10"\n[stream.d]\nover_budget = "drop-lowest"\n'
    watched = Watched(folder, toml)
    with closing(watched.device) as device:
        for _ in range(6):  # more than 500 an hour come, and 100 may go
            for stream in ("s", "d", "w"):
                device.put(stream, *[b"x"] * 40, priority=2)
            device.put("d", *[b"x"] * 10, priority=6)
            device.put("d", b"fire", priority=9)
            device.put("s", b"fire", priority=9)
            watched.look()
        assert watched.watch.over
        for _ in range(6):
            watched.look()
        lost = watched.lost()
        assert "-/w" not in lost, "a stream that says nothing waits"
        assert 190 <= lost["-/s"]["over_budget"] <= 235, "about nine in ten, and no urgent ones"
        remaining = [message.priority for message in device.stored("d")]
        assert lost["-/d"]["over_budget"] == 6 * 51 - len(remaining)
        assert remaining.count(9) == 6 and remaining.count(2) == 0
        assert device.stored("s") and len(device.stored("w")) == 240


def test_what_waits_at_all_streams_by_default_is_only_said(folder: Path) -> None:
    watched = Watched(folder, "")
    with closing(watched.device) as device:
        for _ in range(6):
            device.put("w", *[b"x"] * 60)
            watched.look()
        assert watched.watch.over and watched.lost() == {}
        assert len(device.stored("w")) == 360
        device.link.set_policy(LinkPolicy())
        watched.look()
        assert not watched.watch.over


def test_what_was_sent_before_a_crash_of_upload_is_not_shed_after_it(folder: Path) -> None:
    toml = '[stream.s]\nover_budget = "sample:1000000"\n'
    with closing(Device(folder, toml)) as before:
        before.answers = False
        before.put("s", *[b"x"] * 3)
        before.turns(3)
        assert before.sent == [1, 2, 3]
    watched = Watched(folder, toml)
    with closing(watched.device) as device:
        device.put("s", *[b"x"] * 300)
        for _ in range(10):
            device.put("s", *[b"x"] * 60)
            watched.look()
        assert [message.id for message in device.stored("s")][:3] == [1, 2, 3]
        assert watched.lost()["-/s"]["over_budget"] > 800


def test_completions_stay_whatever_goes(folder: Path) -> None:
    watched = Watched(folder, '[stream.s]\nover_budget = "sample:1000"\n')
    with closing(watched.device) as device:
        for _ in range(6):
            device.put("s", *[b"x"] * 60, batch_id="b")
            watched.look()
        device.complete("s", "b")
        for _ in range(3):
            watched.look()
        assert [message.kind.name for message in device.stored("s")][-1] == "COMPLETE_BATCH"
        assert len(device.stored("s")) < 10
