"""All workers at all of their work, again and again: descriptors, threads and memory of each stay flat.

A few seconds here. `SOAK_ROUNDS=100` makes it 10,000 messages, 1,000 files, 200 drops and 100 renewals in one
life of each worker; `make soak` runs that (ROUNDS).
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.adapters.identity.database import IdentityReader
from runtime.adapters.process.process import memory_bytes
from runtime.layout import WORKERS
from runtime.producer import Producer
from tests.support.harness import Cloud, Home, eventually
from tests.support.upload import backlog

ROUNDS = int(os.environ.get("SOAK_ROUNDS", "1"))
MESSAGES, FILES, DROPS = 100, 10, 2
"""Of each round, besides one renewal."""
FILE_BYTES = 9_000
SPARE_DESCRIPTORS, SPARE_THREADS = 5, 4
"""What comes and goes: a connection that is made, a lookup, a journal."""
SPARE_BYTES = 6_000_000
SPARE_BYTES_A_ROUND = 100_000
"""What a collection has not freed yet. A TLS connection that each file keeps would be 560,000 a round."""


@dataclass(frozen=True)
class Held:
    """What a worker holds, as the kernel has it."""

    descriptors: int
    threads: int
    bytes: int

    @classmethod
    def by(cls, pid: int) -> Held:
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        return cls(len(list(Path(f"/proc/{pid}/fd").iterdir())), threads, memory_bytes(pid) or 0)


def at_rest(device: Home) -> Mapping[str, Held]:
    """Of each worker, the least within a moment: what is under way ends meanwhile."""
    looks = []
    until_s = time.monotonic() + 0.5
    while time.monotonic() < until_s:
        looks.append({name: Held.by(device.workers[name].pid) for name in WORKERS})
        time.sleep(0.1)  # between two looks
    return {
        name: Held(*(min(getattr(look[name], what) for look in looks) for what in Held.__annotations__))
        for name in WORKERS
    }


class Soak:
    """One device, registered, with a producer."""

    def __init__(self, cloud: Cloud, device: Home, producer: Producer) -> None:
        self._cloud, self._device, self._producer = cloud, device, producer
        self._identity = IdentityReader(device.layout)
        self._sent = 0

    def round(self) -> None:
        for _ in range(DROPS):
            small = [self._payload(20) for _ in range(MESSAGES // DROPS)]
            self._producer.put_many(small)
            for _ in range(FILES // DROPS):
                self._producer.put(self._payload(FILE_BYTES), stream="files")
            self._cloud.drop()
        eventually(lambda: backlog(self._device) == 0, 120, "all of the round arrives")
        self._renew()

    def _renew(self) -> None:
        """The hub gives the device another key, and ends the connection: it has to register again."""
        before = self._generation()
        self._cloud.call("POST", "/admin/tokens", {"what": "sas", "device": "soak"})
        self._producer.put(self._payload(20))
        eventually(lambda: self._generation() != before, 60, "it is registered again")
        eventually(lambda: backlog(self._device) == 0, 60)

    def _generation(self) -> int | None:
        found = self._identity.hub_credentials()
        return found.generation if found else None

    def _payload(self, size: int) -> bytes:
        self._sent += 1
        return f"{self._sent} ".encode().ljust(size, b".")

    def check_arrivals(self) -> None:
        whole = {int(m.payload.split()[0]) for m in self._cloud.messages() if m.payload[:1].isdigit()}
        links = {m.message_id for m in self._cloud.messages() if b'"link"' in m.payload}
        assert len(whole) + len(links) == self._sent, "nothing is lost"


@pytest.mark.timeout(120 + 30 * ROUNDS)
def test_whatever_the_workers_do_again_and_again_they_hold_no_more_than_before(
    cloud: Cloud, device: Home
) -> None:
    """Each file kept a TLS connection: after a thousand of them nothing was delivered any more."""
    device.write_config(
        cloud.config_toml(upload="file_from_units = 2", refresh="retry_max_s = 1").replace(
            "retry_max_s = 2\nretry_max_s = 1", "retry_max_s = 1"
        )
        + '[device]\nid = "soak"\n'
    )
    device.start_all(fresh=True)
    eventually(cloud.waiting, 40)
    cloud.approve_all()
    eventually(lambda: _registered(device), 40)
    with Producer(f"ipc://{device.layout.producer_socket}", name="soak") as producer:
        soak = Soak(cloud, device, producer)
        soak.round()  # what a worker takes at the first of each thing it takes once
        pids = {name: device.workers[name].pid for name in WORKERS}
        before = at_rest(device)
        for _ in range(ROUNDS):
            soak.round()
        after = at_rest(device)
        soak.check_arrivals()
    assert {name: device.workers[name].pid for name in WORKERS} == pids
    assert all(device.workers[name].running() for name in WORKERS), "one was started afresh"
    for name in WORKERS:
        print(f"\n{name:<12} before {before[name]}\n{'':<12} after  {after[name]}", end="")
        told = f"{name}: {before[name]} became {after[name]}"
        assert after[name].descriptors <= before[name].descriptors + SPARE_DESCRIPTORS, told
        assert after[name].threads <= before[name].threads + SPARE_THREADS, told
        assert after[name].bytes <= before[name].bytes + SPARE_BYTES + ROUNDS * SPARE_BYTES_A_ROUND, told


def _registered(device: Home) -> bool:
    try:
        return IdentityReader(device.layout).hub_credentials() is not None
    except Exception:  # it has no identity yet
        return False
