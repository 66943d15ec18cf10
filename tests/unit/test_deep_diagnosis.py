"""What `edgectl doctor --deep` says of a test message, and of the tokens that it was sent with."""

from __future__ import annotations

import math
from typing import Any

import pytest

from runtime.core.operations.diagnosis import judge_delivery, judge_lifetimes


@pytest.mark.parametrize(
    ("facts", "verdict", "words"),
    [
        ({"state": "delivered", "delivered_s": 1.0}, "ok", "PUBACK 2.5 s after"),
        ({"state": "delivered"}, "ok", "counts as one message of the hub's quota"),
        ({"state": "set aside", "reason": "too large"}, "error", "set aside: too large"),
        ({"state": "settled"}, "error", "no PUBACK of it is known"),
        (
            {"state": "stored", "ahead": 3},
            "error",
            "within 9 s: upload does not run, 3 of its stream before it",
        ),
        ({"state": "queued", "upload": "connecting"}, "error", "it is queued, the connection is connecting"),
        ({"state": "in flight", "upload": "up"}, "error", "within 9 s: it is in flight; the hub said no"),
        ({"state": "queued", "barred": "hours"}, "warning", "nothing may be sent now (hours)"),
        ({}, "error", "it is unknown; the hub said no"),
    ],
)
def test_the_outcome_says_where_the_message_is(facts: dict[str, Any], verdict: str, words: str) -> None:
    check = judge_delivery({"id": 7, **facts} if facts else facts, 2.5, 9, "the hub said no")
    assert check.verdict == verdict and words in check.text
    assert (check.remedy == "") == (verdict == "ok")


@pytest.mark.parametrize(
    ("sas_s", "registration_s", "certificate", "verdict", "words"),
    [
        (3600.0, 86_400.0, False, "ok", "the SAS is valid for 1 h 0 min, the Registration Token for 1 d 0 h"),
        (3600.0, None, False, "ok", "the SAS is valid for 1 h 0 min"),
        (-5.0, 86_400.0, False, "error", "the SAS expired"),
        (-5.0, -1.0, False, "error", "the SAS and the Registration Token expired"),
        (math.inf, math.inf, False, "ok", "no token that ends"),
        (None, None, True, "ok", "a certificate serves"),
    ],
)
def test_the_lifetimes_of_tokens_are_judged(
    sas_s: float | None, registration_s: float | None, certificate: bool, verdict: str, words: str
) -> None:
    check = judge_lifetimes(sas_s, registration_s, by_certificate=certificate)
    assert (check.verdict, check.text) == (verdict, words)
