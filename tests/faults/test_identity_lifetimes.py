"""Tokens that live for seconds, under load: no message waits for a renewal, and the hub never refuses a SAS.

`EDGE_SOAK_S` makes it as long as you like; ten minutes are the full proof.
"""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from runtime.producer import Producer
from tests.harness import Cloud, Home, eventually

SAS_S, TOKEN_S = 15.0, 20.0
SOAK_S = float(os.environ.pop("EDGE_SOAK_S", "18"))


def registered(device: Home) -> bool:
    from runtime.adapters.identity import IdentityReader

    return IdentityReader(device.layout).hub_credentials() is not None


def outcomes(cloud: Cloud) -> tuple[list[int], list[str]]:
    """CONNACK codes, and why connections ended."""
    with closing(sqlite3.connect(f"file:{cloud.folder / 'devcloud.db'}?mode=ro", uri=True, timeout=10)) as db:
        rows = db.execute("SELECT code, end_reason FROM connections ORDER BY seq").fetchall()
    return [code for code, _ in rows], [reason or "" for _, reason in rows]


@pytest.mark.timeout(SOAK_S + 120)
def test_with_a_sas_of_15_seconds_under_load_the_hub_refuses_nothing_and_nothing_is_lost(
    cloud: Cloud, device: Home
) -> None:
    cloud.faults(sas_lifetime_s=SAS_S, registration_token_lifetime_s=TOKEN_S)
    device.start_all()
    eventually(cloud.waiting)
    cloud.approve_all()
    eventually(lambda: registered(device))
    refresh = device.workers["refresh"]
    sent, stop = 0, threading.Event()

    def hurt() -> None:
        """A crash of `refresh` in the middle of whatever it does, every now and then."""
        nonlocal refresh
        while not stop.wait(random.uniform(4, 8)):
            refresh.kill()
            refresh = device.start_worker("refresh")

    hurting = threading.Thread(target=hurt)
    hurting.start()
    try:
        with Producer(f"ipc://{device.layout.producer_socket}", name="load") as producer:
            ends_s = time.monotonic() + SOAK_S
            while time.monotonic() < ends_s:
                producer.put_many([f"{sent + n}".encode() for n in range(20)])
                sent += 20
                time.sleep(0.1)  # the load's own pace
    finally:
        stop.set()
        hurting.join(20)
    eventually(lambda: cloud.message_count() == sent, 60, "everything arrives")
    codes, reasons = outcomes(cloud)
    assert set(codes) == {0}, "no CONNECT was refused"
    assert not [reason for reason in reasons if "expir" in reason.lower()], "no SAS ran out in use"
    assert len(codes) > SOAK_S / SAS_S, "the SAS was renewed in time, again and again"
    payloads = [int(message.payload) for message in cloud.messages()]
    assert set(payloads) == set(range(sent))
