"""Each worker takes a changed file while it runs, and what it decides by has the new values then."""

from __future__ import annotations

import threading
from importlib import import_module

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.process.process import Stop
from runtime.adapters.process.reload_request import ReloadOutcome, read_answer, write_request
from runtime.core.delivery.link_budget import LinkBudget, LinkPolicy
from runtime.core.operations.health import Health, HealthLimits, Observation
from runtime.core.settlement import Settled
from runtime.layout import WORKERS
from runtime.workers.store_manager import StoreManager
from tests.support.harness import Home, eventually

LIVE = {
    "provisioning": ("provisioning.poll_s", "[provisioning]\npoll_s = 9.0\n"),
    "refresh": ("refresh.fraction", "[refresh]\nfraction = 0.5\n"),
    "ingest": ("store.max_messages", "[store]\nmax_messages = 9\n"),
    "upload": ("link.messages_per_day", "[link]\nmessages_per_day = 9\n"),
}


def test_every_worker_answers_a_reload_and_takes_what_it_reads_live(home: Home) -> None:
    """The sentinel, which needs supervisord, is asked in test_reload.py."""
    home.prompt = False  # no setting comes from the environment
    home.write_config("")
    stops = {worker: Stop() for worker in WORKERS}
    threads = [
        threading.Thread(target=import_module(f"runtime.workers.{worker}").run, args=(home.config, stop))
        for worker, stop in stops.items()
    ]
    for thread in threads:
        thread.start()
    try:
        for worker in WORKERS:
            eventually(home.layout.status_file(worker).exists, 20, f"{worker} beats")
        home.write_config("".join(text for _, text in LIVE.values()))
        write_request(home.layout, "ab")
        for worker in WORKERS:
            answer = eventually(lambda w=worker: read_answer(home.layout, w, "ab"), 20, f"{worker} answers")
            assert answer.outcome is ReloadOutcome.TAKEN
            assert [change[0] for change in answer.changes] == [LIVE[worker][0]] and answer.restart == ()
    finally:
        for stop in stops.values():
            stop.ask()
        for thread in threads:
            thread.join(10)
    assert not any(thread.is_alive() for thread in threads)


def test_the_store_counts_by_the_limits_of_the_new_configuration(home: Home) -> None:
    home.write_config("[store]\nmax_messages = 3\n")
    manager = StoreManager(home.config, SystemClock())
    try:
        assert manager.admission(set(), Settled()).quota.total.most.messages == 3
        home.write_config("[store]\nmax_messages = 5\nmax_streams = 7\n")
        manager.reconfigure(home.config)
        quota = manager.admission(set(), Settled()).quota
        assert (quota.total.most.messages, quota.max_streams) == (5, 7)
    finally:
        manager.close()


def test_the_link_permits_what_the_new_policy_permits_and_forgets_no_usage() -> None:
    budget = LinkBudget(LinkPolicy())
    budget.set_time(1_000_000.0, 0.0)
    budget.usage.day_messages = 3
    assert budget.allows(4, 0.0)
    budget.set_policy(LinkPolicy(messages_per_day=2))
    assert not budget.allows(4, 0.0)
    budget.set_policy(LinkPolicy(messages_per_day=4))
    assert budget.allows(4, 0.0)


def test_the_sentinel_judges_by_the_new_limits_from_the_next_look_on() -> None:
    health = Health(HealthLimits(hang_after_s=1_000.0, look_every_s=1.0, start_grace_s=1_000.0))
    seen = {"upload": Observation("RUNNING", 7, beat=1)}
    for second in range(20):
        assert health.look(float(second), seen) == []
    health.set_limits(HealthLimits(hang_after_s=5.0, look_every_s=1.0, start_grace_s=1_000.0))
    assert health.look(21.0, seen) != []
