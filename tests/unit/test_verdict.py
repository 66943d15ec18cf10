"""The verdict of `edgectl status`: when it is degraded or down, and the reasons."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.core.operations import verdict
from runtime.core.operations.verdict import AlarmLimits

WELL = {"state": "RUNNING", "progress_age_s": 1.0, "uptime_s": 100.0, "trouble": ""}


UP = {"state": "up", "barred": None, "last_loss": None}
LANE = {"lane": "file", "stream": "a", "failures": 5, "since_s": 60.0, "words": "refused at STORAGE: 403"}


def found(**changes: Any) -> dict[str, Any]:
    """A healthy runtime, but for `changes`."""
    whole: dict[str, Any] = {
        "configuration": "",
        "supervisor": {"pid": 7, "trouble": ""},
        "workers": {"ingest": WELL, "upload": WELL},
        "alarms": [],
        "backlog": {"store": "open", "room_bytes": 1_000_000},
        "disk": {"read_only": False, "full_in_s": None, "free_bytes": 10**9},
        "identity": {"state": "registered", "provisioning": "provisioned"},
        "hub": {"state": "up", "barred": None, "last_loss": None},
    }
    whole.update(changes)
    whole["reasons"] = verdict.reasons(whole)
    return whole


def test_a_runtime_at_work_is_healthy() -> None:
    assert verdict.verdict(found()) == "healthy"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"configuration": "configuration: x"}, "configuration: x"),
        ({"workers": {"ingest": {**WELL, "state": "FATAL"}, "upload": WELL}}, "ingest is FATAL"),
        ({"workers": {"ingest": {**WELL, "progress_age_s": 20.0}}}, "ingest has made no progress for 20 s"),
        ({"workers": {"ingest": {**WELL, "progress_age_s": None}}}, "ingest never reported progress"),
        ({"alarms": [{"worker": "upload", "text": "hung"}]}, "upload: hung"),
        ({"backlog": {"store": "damaged", "room_bytes": None}}, "store: damaged"),
        ({"backlog": {"store": "open", "disk_room_bytes": 0, "room_bytes": 0}}, "store: no room on the disk"),
        (
            {"backlog": {"store": "open", "disk_room_bytes": 10**9, "room_bytes": 0}},
            "store: full by its own limit (store.max_bytes)",
        ),
        (
            {"backlog": {"store": "open", "room_bytes": 10**9, "room_messages": 0}},
            "store: full by its own limit (store.max_messages)",
        ),
        (
            {"backlog": {"store": "open", "room_bytes": 10**9, "full_in_s": 600}},
            "store: full in 10 min at the present rate",
        ),
        (
            {"backlog": {"store": "open", "refused_lately": {"store_full": 9, "bad_key": 1}}},
            "producers are refused: 9 store_full within the last minute",
        ),
        (
            {"hub": {**UP, "failing": [LANE, {**LANE, "lane": "files", "stream": None, "failures": 148}]}},
            "file uploads fail (streams a), 148 times in a row: refused at STORAGE: 403",
        ),
        (
            {"hub": {**UP, "failing": [LANE]}},
            "the file upload of stream a fails, 5 times in a row: refused at STORAGE: 403",
        ),
        (
            {"hub": {**UP, "failing": [{**LANE, "lane": "telemetry", "words": ""}]}},
            "the oldest message of stream a fails, 5 times in a row",
        ),
        (
            {"hub": {**UP, "oldest_waited_s": 660.0, "oldest_stream": "a"}},
            "the oldest message (stream a) has waited for 11 min with the hub up",
        ),
        ({"disk": {"read_only": False, "full_in_s": None, "free_bytes": 4096}}, "disk: no room left"),
        (
            {"disk": {"read_only": False, "full_in_s": 600, "free_bytes": 10**9}},
            "disk: full in 10 min at the present rate",
        ),
        (
            {"disk": {"read_only": True}, "workers": {"ingest": {**WELL, "progress_age_s": 60.0}}},
            "disk: read-only, nothing can be stored",
        ),
        ({"identity": {"state": "sas expired"}}, "identity: sas expired"),
        (
            {"identity": {"state": "waiting for provisioning", "verification_code": "AB-12"}},
            "identity: waiting for provisioning; an operator has to approve AB-12",
        ),
        (
            {"identity": {"state": "registered", "provisioning": "waiting for approval"}},
            "identity: registered, provisioning waiting for approval",
        ),
        ({"hub": {"state": "down", "barred": None, "last_loss": "refused: 5"}}, "hub: down (refused: 5)"),
        ({"hub": {**UP, "trouble": "large packets vanish"}}, "hub: large packets vanish"),
        (
            {"hub": {"state": "down", "barred": "outside the allowed hours", "last_loss": "dropped: gone"}},
            "hub: down (dropped: gone)",
        ),
    ],
)  # fmt: skip
def test_whatever_is_not_well_degrades_it_and_is_said(changes: dict[str, Any], reason: str) -> None:
    whole = found(**changes)
    assert (verdict.verdict(whole), whole["reasons"]) == ("degraded", [reason])


@pytest.mark.parametrize(
    "changes",
    [
        {"backlog": {"store": "open", "room_bytes": 10, "refused_lately": {"bad_header": 900}}},
        {"backlog": {"store": "open", "room_bytes": 10, "full_in_s": 86_400}},
        {"hub": {**UP, "failing": [{**LANE, "failures": 4}]}},
        {"hub": {**UP, "oldest_waited_s": 590.0}},
        {"hub": {**UP, "oldest_waited_s": 660.0, "uploading": 1}},
        {"hub": {**UP, "state": "draining", "oldest_waited_s": 660.0}},
    ],
)
def test_a_mistake_of_a_producer_or_a_short_failure_degrades_nothing(changes: dict[str, Any]) -> None:
    assert verdict.verdict(found(**changes)) == "healthy"


@pytest.mark.parametrize(
    ("state", "barred"), [("parked", "switched off"), ("up", "outside the allowed hours")]
)
def test_a_link_that_may_not_be_used_wakes_nobody_and_is_not_called_healthy(state: str, barred: str) -> None:
    whole = found(hub={"state": state, "barred": barred, "last_loss": None})
    assert (verdict.verdict(whole), whole["reasons"]) == ("parked", [])


def test_a_worker_that_has_just_started_need_not_have_reported() -> None:
    fresh = {**WELL, "progress_age_s": None, "uptime_s": 2.0}
    assert verdict.verdict(found(workers={"ingest": fresh})) == "healthy"


def test_without_a_supervisord_or_any_worker_it_is_down() -> None:
    assert verdict.verdict(found(supervisor={"pid": 0, "trouble": "does not run"})) == "down"
    stopped = {**WELL, "state": "STOPPED"}
    assert verdict.verdict(found(workers={"ingest": stopped, "upload": stopped})) == "down"


def test_who_may_not_look_is_not_told_that_it_is_down() -> None:
    hidden = {**WELL, "state": "UNKNOWN"}
    mine = {"pid": 0, "trouble": "supervisord may not be asked by this user"}
    assert verdict.verdict(found(supervisor=mine, workers={"ingest": hidden})) == "unknown"
    strange = found(workers={"ingest": hidden})  # supervisord answers, and has never heard of it
    assert verdict.verdict(strange) == "down"


def test_what_nobody_alive_can_tell_is_no_further_reason() -> None:
    silent = {"state": verdict.UNKNOWN, "barred": None, "last_loss": None}
    nothing = {"store": None, "room_bytes": None}
    assert verdict.verdict(found(hub=silent, backlog=nothing)) == "healthy"


@pytest.mark.parametrize(
    "state",
    [
        "no provisioning token",
        "provisioning token unreadable",
        "provisioning token garbled",
        "provisioning token refused",
        "rejected by the platform",
    ],
)
def test_what_holds_provisioning_up_is_told_in_its_own_words_and_nothing_is_to_be_approved(
    state: str,
) -> None:
    """A token that is missing, unreadable, garbled or refused: all four said "approve the device"."""
    identity = {"state": "waiting for provisioning", "provisioning": state, "reason": "/etc/t is not there"}
    (reason,) = found(identity=identity)["reasons"]
    assert reason == f"identity: waiting for provisioning; {state} (/etc/t is not there)"


@pytest.mark.parametrize(
    ("part", "limits", "words"),
    [
        (
            {"runway": {"quota_in_s": 600}},
            AlarmLimits(quota_s=3600),
            "link: a budget of the day is used up in 10 min at the present rate",
        ),
        ({"runway": {"quota_in_s": 600}}, AlarmLimits(), ""),
        ({"runway": {"quota_in_s": "never"}}, AlarmLimits(quota_s=3600), ""),
        (
            {
                "identity": {
                    "state": "registered",
                    "provisioning": "provisioned",
                    "registration_remaining_s": 7200,
                    "trouble": "timed out",
                }
            },
            AlarmLimits(),
            "identity: the Registration Token ends in 2 h and its renewal fails: timed out",
        ),
        (
            {
                "identity": {
                    "state": "registered",
                    "provisioning": "provisioned",
                    "registration_remaining_s": 7200,
                    "trouble": None,
                }
            },
            AlarmLimits(),
            "",
        ),
    ],
)
def test_what_ends_too_soon_is_an_alarm_by_the_limits_of_the_settings(
    part: dict[str, Any], limits: AlarmLimits, words: str
) -> None:
    whole = found()
    for name, facts in part.items():
        whole[name] = {**whole.get(name, {}), **facts}
    assert verdict.reasons(whole, limits) == ([words] if words else [])
