"""What `make chaos` would notice: each kind of damage, put before its judges."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos import verdict
from tests.chaos.at_platform import REFUSED
from tests.chaos.scene import Scene
from tests.chaos.watch import MOST_GROWTH_BYTES_PER_MIN, Sample, Watch, slope_per_s
from tests.support.harness import Arrived

MIB = 2**20


def arrived(payload: str, message_id: str = "") -> Arrived:
    return Arrived(1, "demo:d", message_id or f"id of {payload}", False, {}, {}, payload.encode())


@pytest.mark.parametrize(
    ("acknowledged", "there", "aside", "words"),
    [
        (["p s 1", "p s 2"], [arrived("p s 1")], {}, "1 acknowledged messages are lost"),
        (["p s 1"], [arrived("p s 2"), arrived("p s 1")], {}, "'p s 1' arrived behind 2"),
        (["p s 1"], [arrived("p s 1", "a"), arrived("p s 1", "b")], {}, "under two ids"),
        (["p s 1"], [], {"p s 1": ""}, "set aside without a reason"),
    ],
    ids=["lost", "out of order", "under two ids", "no reason"],
)
def test_damage_to_messages_is_noticed(
    acknowledged: list[str], there: list[Arrived], aside: dict[str, str], words: str
) -> None:
    (wrong,) = verdict.count(acknowledged, there, aside).wrong
    assert words in wrong


def test_repeats_probes_and_what_was_set_aside_for_a_reason_are_no_damage() -> None:
    there = [arrived("p s 1"), arrived("", "probe:1"), arrived("p t 1"), arrived("p s 1"), arrived("p s 3")]
    found = verdict.count(["p s 1", "p s 2", "p t 1"], there, {"p s 2": "too large"})
    assert found.wrong == []
    assert (found.acknowledged, found.delivered, found.quarantined, found.repeats) == (3, 3, 1, 1)


def test_a_late_recovery_counts_unless_supervision_itself_was_hit() -> None:
    late = {"kind": "SIGKILL", "victim": "upload", "took_s": 3.0, "beside": ["503", "abrupt drop"]}
    assert "not within 2.5 s" in verdict.too_late([late], slack=1.0)[0]
    assert verdict.too_late([late], slack=2.0) == []
    assert verdict.too_late([{**late, "beside": ["SIGSTOP to supervisord"]}], slack=1.0) == []
    assert "not within 10 s" in verdict.too_late([{**late, "victim": "supervisord", "took_s": 11}], 1.0)[0]


def watched(samples: list[Sample]) -> Watch:
    watch = Watch(Path("/nowhere"))
    watch.close()
    watch.lives["upload", 7] = samples
    return watch


def life(
    *,
    lasts_s: int = 500,
    grows_bytes_per_s: float = 0.0,
    threads_per_min: float = 0.0,
    files_per_min: float = 0.0,
) -> Watch:
    return watched(
        [
            Sample(
                at_s,
                int(40 * MIB + grows_bytes_per_s * at_s),
                int(8 + threads_per_min * at_s / 60),
                int(30 + files_per_min * at_s / 60),
            )
            for at_s in range(lasts_s)
        ]
    )


def test_a_leak_of_memory_threads_or_descriptors_is_noticed() -> None:
    assert life().wrong() == []
    assert "grew by" in life(grows_bytes_per_s=1.1 * MOST_GROWTH_BYTES_PER_MIN / 60).wrong()[0]
    assert "threads at first" in life(threads_per_min=2).wrong()[0]
    assert "descriptors at first" in life(files_per_min=5).wrong()[0]


def test_a_slow_leak_is_noticed_in_a_long_life_and_is_noise_in_a_short_one() -> None:
    slow = 8 * MIB / 3600
    assert life(lasts_s=500, grows_bytes_per_s=slow).wrong() == []
    assert "grew by 8.0 MiB in 59.6 minutes" in life(lasts_s=3600, grows_bytes_per_s=slow).wrong()[0]


def test_a_warm_up_is_no_leak_and_a_giant_is_one() -> None:
    assert watched([Sample(s, min(s, 15) * 3 * MIB, 8, 30) for s in range(200)]).wrong() == []
    assert "took 200 MiB" in watched([Sample(0, 200 * MIB, 8, 30)]).wrong()[0]


def test_what_a_worker_takes_once_however_late_is_no_leak() -> None:
    """The first call to the platform came after 60 s, and `provisioning grew by 10.4 MiB`."""
    late = [Sample(s, (40 + 9 * (s >= 60)) * MIB, 8, 30, 40 + (s >= 60)) for s in range(240)]
    assert watched(late).wrong() == []
    unimported = [Sample(s, (40 + 9 * (s >= 80)) * MIB, 8, 30) for s in range(240)]
    assert watched(unimported).wrong() == []
    then_leaks = [replace(s, memory_bytes=s.memory_bytes + int(s.at_s * MIB / 20)) for s in late]
    assert "grew by" in watched(then_leaks).wrong()[0]


def test_a_revoked_sas_is_seen_whatever_reason_the_hub_gives(tmp_path: Path) -> None:
    """`NOT SEEN`, though the device was refused and registered again: its SAS had expired meanwhile."""
    with contextlib.closing(sqlite3.connect(tmp_path / "devcloud.db")) as db, db:
        db.execute("CREATE TABLE connections (code INTEGER, reason TEXT)")
        reasons = [(5, "the SAS has a wrong signature"), (5, "the SAS has expired"), (0, "accepted")]
        db.executemany("INSERT INTO connections VALUES (?, ?)", reasons)
    scene: Any = SimpleNamespace(cloud=SimpleNamespace(folder=tmp_path))
    assert Scene.connections(scene, REFUSED) == 2


def test_the_slope_is_that_of_a_line_through_noise() -> None:
    samples = [Sample(s, 1000 * s + (-1) ** s * 50, 1, 1) for s in range(100)]
    assert slope_per_s(samples) == pytest.approx(1000, rel=0.01)
