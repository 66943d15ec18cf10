"""The hub line over real sockets: either side may be away, come back, or be another process."""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable

from runtime.adapters.bus.hub_line import LineToManagement, LineToUpload
from runtime.core.management.hub_channels import HubChannel
from runtime.core.management.hub_line import (
    FromManagement,
    FromUpload,
    HubMessage,
    HubUp,
    ListenTo,
    PublishAtHub,
    PublishOutcome,
)
from tests.support.harness import Home, eventually
from tests.support.store_tools import ObedientClock

COMMANDS = frozenset({HubChannel.COMMANDS})
UP = HubUp(1, "demo:dev-1", COMMANDS)
GET = "$iothub/twin/GET/?$rid=1"


def message(number: int) -> HubMessage:
    return HubMessage(1, number, HubChannel.COMMANDS, "t", b"go", dup=False, received_s=1.0)


class Both:
    """Both sides in one thread, taking turns."""

    def __init__(self, home: Home) -> None:
        self.clock = ObedientClock()
        self.upload = LineToManagement(home.layout)
        self.management: LineToUpload | None = None
        self.to_upload: list[FromManagement] = []
        self.to_management: list[FromUpload] = []

    def turn(self) -> None:
        now = self.clock.boot_s()
        self.upload.send(now)
        if self.management is not None:
            self.management.ensure_bound()
            self.to_management += self.management.receive(now)
            self.management.send(now)
        self.to_upload += self.upload.receive(now)
        self.clock.boot += 0.05

    def until(self, fact: Callable[[], object]) -> None:
        def met() -> object:
            self.turn()
            return fact()

        eventually(met)

    def close(self) -> None:
        self.upload.close()
        if self.management is not None:
            self.management.close()


def test_messages_and_publishes_pass_whoever_comes_first_and_however_often_management_starts(
    home: Home,
) -> None:
    with contextlib.closing(Both(home)) as both:
        both.upload.end.set_state(UP)
        both.upload.end.add(message(1))
        for _ in range(100):
            both.turn()  # management is not there: nothing is queued, nothing blocks
        both.management = LineToUpload(home.layout)
        assert stat.S_IMODE(home.layout.hub_line_socket.stat().st_mode) == 0o600
        both.management.end.listen(COMMANDS)
        both.until(lambda: message(1) in both.to_management and ListenTo(COMMANDS) in both.to_upload)
        both.management.close()
        both.management = LineToUpload(home.layout)
        both.management.end.listen(COMMANDS)
        both.to_management.clear()
        both.until(lambda: message(1) in both.to_management)
        both.management.end.stored(1)
        number = both.management.end.publish(GET, b"")
        assert number is not None
        both.until(lambda: PublishAtHub(1, number, GET, b"") in both.to_upload)
        both.upload.end.published(number, acked=True)
        both.until(lambda: PublishOutcome(number, acked=True) in both.to_management)


def test_a_socket_that_was_removed_is_made_again(home: Home) -> None:
    with contextlib.closing(Both(home)) as both:
        both.management = LineToUpload(home.layout)
        home.layout.hub_line_socket.unlink()
        both.upload.close()
        both.upload = LineToManagement(home.layout)
        both.upload.end.set_state(UP)
        both.until(lambda: UP in both.to_management)
