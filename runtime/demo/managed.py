"""The demo's operator, who sends commands and changes the twin, and the program that carries them out.

Every command has a number. The program counts how often it carried each out; the hub shows which have a
result. The program is written as in any application.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from runtime.core.management.twin_rules import same
from runtime.demo.tally import CommandTally
from runtime.devcloud.remote import Remote
from runtime.device import Device
from runtime.errors import EdgeError

SEND_EVERY_S = 0.25
COMMANDS_A_CHANGE = 8
"""Of the desired properties: one change after so many commands."""
RETRY_FOR_S = 120.0  # longer than any fault of the demo keeps the worker down
SECTION = "demo"


class Management:
    """One thread as the operator at the hub, two as the program on the device."""

    def __init__(self, endpoint: str, remote: Remote, device_id: str) -> None:
        self._endpoint = endpoint
        self._remote = remote
        self._path = f"{remote.workspace}/devices/{device_id}"
        self._enough = threading.Event()
        self._over = threading.Event()
        self.sent: dict[str, int] = {}
        """Message ids of the commands that the hub took, with their numbers."""
        self.carried_out: Counter[int] = Counter()
        self.failure: BaseException | None = None
        jobs = (self._operate, self._carry_out, self._follow)
        self._threads = [threading.Thread(target=self._guarded, args=(job,), daemon=True) for job in jobs]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop_sending(self) -> None:
        """The operator sends no more; the program goes on."""
        self._enough.set()
        self._threads[0].join()

    def stop(self) -> None:
        self._over.set()

    def tally(self, results: Sequence[Mapping[str, Any]]) -> CommandTally:
        """What became of the commands, by their results at the hub."""
        done = [str(result["id"]) for result in results if result["state"] == "done"]
        twice = [number for number, times in self.carried_out.items() if times > 1]
        return CommandTally(len(self.sent), len({*done} & {*self.sent}), len(twice), self.twin_equal())

    def twin_equal(self) -> bool:
        """True if device and hub have the same desired and reported properties."""
        try:
            with Device(self._endpoint, retry_for_s=2.0) as device:
                mine = [device.get("/", half).value for half in ("desired", "wanted")]
        except EdgeError:
            return False
        halves = ("desired-properties", "reported-properties")
        hubs = [self._remote.call("GET", f"{self._path}/{half}") for half in halves]
        return all(same(one, _plain(other)) for one, other in zip(mine, hubs, strict=True))

    def _guarded(self, job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as exc:
            self.failure = exc

    def _operate(self) -> None:
        number = 0
        while not self._enough.wait(SEND_EVERY_S):
            with contextlib.suppress(EdgeError):  # 50 wait already, or the hub is away
                path = f"{self._path}/c2d-messages"
                answer = self._remote.call("POST", path, str(number).encode(), command="count")
                self.sent[answer["messageId"]] = number
                number += 1
            if number % COMMANDS_A_CHANGE == 0:
                with contextlib.suppress(EdgeError):
                    self._remote.call(
                        "PATCH", f"{self._path}/desired-properties", {SECTION: {"speed": number}}
                    )

    def _carry_out(self) -> None:
        with Device(self._endpoint, retry_for_s=RETRY_FOR_S) as device:
            while not self._over.is_set():
                command = device.receive("count", wait_s=1.0)
                if command is not None:
                    with command:
                        self.carried_out[int(command.payload)] += 1
                        command.result = {"count": int(command.payload)}

    def _follow(self) -> None:
        """Report each desired value as applied."""
        after = 0
        with Device(self._endpoint, retry_for_s=RETRY_FOR_S) as device:
            while not self._over.is_set():
                change = device.watch(f"/{SECTION}", after=after, wait_s=1.0)
                if change is not None:
                    after = change.number
                    device.set(f"/{SECTION}", change.value or {})


def _plain(half: Mapping[str, Any]) -> dict[str, Any]:
    """A half of the twin without what the hub adds."""
    return {name: value for name, value in half.items() if name not in ("$version", "$metadata")}
