"""The client of managed programs: delay is all that a program notices, and no word is lost on the way."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.core.management.codes import ManagementCode
from runtime.core.management.replies import (
    Alive,
    AnswerTaken,
    CallHandedOver,
    CommandHandedOver,
    Kept,
    ManagementRefusal,
    ManagementReply,
    NoCall,
    NoCommand,
    TwinValue,
    Watched,
)
from runtime.core.management.requests import (
    AnswerRequest,
    AppliedRequest,
    CompleteRequest,
    ExtendRequest,
    FailRequest,
    ManagementRequest,
    PingRequest,
    ReceiveRequest,
    ReportRequest,
    ServeRequest,
    TwinRequest,
    WatchRequest,
)
from runtime.device import (
    BadValue,
    ChangeMoved,
    Device,
    DeviceCall,
    DeviceError,
    LeaseLost,
    MethodError,
    NotNow,
    NotUnderstood,
    TwinChange,
    Unanswered,
)
from runtime.device_async import AsyncDevice
from tests.support.harness import short_folder
from tests.support.management_server import ManagementServer, management_server

COMMAND = CommandHandedOver(7, 1, "9f", "recipe", 1, 0.4, b'{"size":3}')
CALL = CallHandedOver(3, "stop", 20.0, b'{"now":true}')


def refusal(code: str, pause_ms: int | None = None) -> ManagementRefusal:
    return ManagementRefusal(code, "no", pause_ms)


def plain(request: ManagementRequest) -> ManagementReply:
    """The reply of a worker in which all is well, and one command and one call wait."""
    match request:
        case PingRequest():
            return Alive(1)
        case TwinRequest():
            return TwinValue({"speed": 3}, 5, 41, 0.0, "level")
        case WatchRequest(_, after):
            return Watched(9, {"speed": 4}) if after < 9 else Watched(9, unchanged=True)
        case ReceiveRequest():
            return COMMAND
        case ServeRequest():
            return CALL
        case AnswerRequest():
            return AnswerTaken(True)
        case _:
            return Kept(41)


def once_lost(answers: Callable[[Any], ManagementReply] = plain) -> Callable[[Any], ManagementReply | None]:
    """Answers of which the first is lost, for each kind of request."""
    seen: set[type[Any]] = {WatchRequest}  # one that waits for 2 s is repeated only then

    def answer(request: ManagementRequest) -> ManagementReply | None:
        first = type(request) not in seen
        seen.add(type(request))
        return None if first else answers(request)

    return answer


def in_turn(kind: type[Any], *replies: ManagementReply) -> Callable[[Any], ManagementReply]:
    """These replies to requests of one kind, one after the other, the last for ever; plain ones to others."""
    left = list(replies)

    def answer(request: ManagementRequest) -> ManagementReply:
        if not isinstance(request, kind):
            return plain(request)
        return left.pop(0) if len(left) > 1 else left[0]

    return answer


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as made:
        yield made


@pytest.fixture
def server(folder: Path) -> Iterator[ManagementServer]:
    with management_server(folder, plain) as made:
        yield made


def device(server: ManagementServer, **options: Any) -> Device:
    return Device(server.endpoint, **{"answer_timeout_s": 0.1, "retry_for_s": 10.0, **options})


def test_the_twin_is_read_reported_and_applied(server: ManagementServer) -> None:
    with device(server) as one:
        assert one.get("/press").value == {"speed": 3}
        assert one.set("/press", {"speed": 3}).change == 41
        one.patch("/", {"press": {"mode": None}}, if_change=41, confirm_s=1.0)
        one.remove("/press")
        change = one.watch("/press")
        assert change == TwinChange(9, {"speed": 4})
        assert one.watch("/press", after=9) is None
        one.applied(change, "/press", status=400, message="too fast")
    assert server.requests[1:4] == [
        ReportRequest(path=("press",), value={"speed": 3}),
        ReportRequest("patch", (), 41, 1.0, {"press": {"mode": None}}),  # type: ignore[arg-type]
        ReportRequest("remove", ("press",)),  # type: ignore[arg-type]
    ]
    assert server.requests[-1] == AppliedRequest(9, ("press",), 400, "too fast")


def test_changes_begin_with_what_holds_now(server: ManagementServer) -> None:
    assert next(device(server).changes("/press")) == TwinChange(9, {"speed": 4})


def test_a_lost_reply_is_asked_for_again_and_only_takes_longer(folder: Path) -> None:
    with management_server(folder, once_lost()) as server, device(server) as one:
        assert one.set("/press", 1).change == 41
        command = one.receive("recipe", wait_s=0.2)
        assert command and command.json() == {"size": 3}
        command.complete({"loaded": True})
    polls = [request.poll for request in server.of(ReceiveRequest)]
    assert len(polls) == 2 and polls[0] == polls[1] != "", "the worker knows the repeat by this name"
    assert server.of(CompleteRequest) == [CompleteRequest(7, 1, 200, b'{"loaded":true}')] * 2


def test_a_command_whose_reply_was_lost_for_good_comes_with_the_next_receive(folder: Path) -> None:
    with management_server(folder, lambda request: None) as server, device(server, retry_for_s=0.2) as one:
        with pytest.raises(Unanswered):
            one.receive("recipe")
        server.answers = plain
        one.receive("recipe")
        one.receive("recipe")
    *before, last, another = [request.poll for request in server.of(ReceiveRequest)]
    assert {*before} == {last} and another != last


def test_a_wait_for_nothing_ends_in_time_and_each_part_has_a_name_of_its_own(folder: Path) -> None:
    def nothing(request: ManagementRequest) -> ManagementReply:
        time.sleep(min(0.05, getattr(request, "wait_s", 0.0)))
        return NoCommand()

    with management_server(folder, nothing) as server, device(server) as one:
        began_s = time.monotonic()
        assert one.receive(wait_s=0.2) is None
        assert 0.2 <= time.monotonic() - began_s < 2.0
    polls = [request.poll for request in server.of(ReceiveRequest)]
    assert len({*polls}) == len(polls) > 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("bad_value", BadValue),
        ("change_moved", ChangeMoved),
        ("lease_lost", LeaseLost),
        ("bad_field", NotUnderstood),
        ("a code of a newer worker", NotUnderstood),
    ],
)
def test_a_refusal_is_an_error_named_by_what_to_do_next(
    folder: Path, code: str, error: type[DeviceError]
) -> None:
    with (
        management_server(folder, in_turn(ReportRequest, refusal(code))) as server,
        device(server) as one,
        pytest.raises(error, match=f"no \\({code}\\)") as caught,
    ):
        one.set("/press", 1)
    assert caught.value.repeated is False and len(server.requests) == 1


def test_a_full_disk_is_waited_out(folder: Path) -> None:
    full = refusal(ManagementCode.DISK_FULL, 50)
    with management_server(folder, in_turn(ReportRequest, full, full, Kept(2))) as server:
        assert device(server).set("/press", 1).change == 2
        server.answers = in_turn(ReportRequest, full)
        with pytest.raises(NotNow, match="disk_full"):
            device(server, retry_for_s=0.1).set("/press", 1)


def test_a_change_that_an_own_repeat_moved_is_no_error(folder: Path) -> None:
    """The report took effect, its reply was lost, and its repeat met the number that it had itself moved."""
    moved = once_lost(in_turn(ReportRequest, refusal("change_moved")))

    def answers(request: ManagementRequest) -> ManagementReply | None:
        return plain(request) if isinstance(request, TwinRequest) else moved(request)

    with management_server(folder, answers) as server, device(server) as one:
        assert one.set("/press", {"speed": 3}, if_change=40) == Kept(41)
        with pytest.raises(ChangeMoved):
            one.set("/press", {"speed": 99}, if_change=40)


def test_a_value_or_path_that_cannot_be_is_refused_before_it_is_sent(server: ManagementServer) -> None:
    with device(server) as one:
        with pytest.raises(NotUnderstood, match="JSON pointer"):
            one.get("press")
        with pytest.raises(TypeError):
            one.set("/press", object())
    assert server.requests == []


# -- commands --


def received(one: Device, **more: Any) -> Any:
    command = one.receive(**more)
    assert command is not None
    return command


def test_the_end_of_a_with_completes_and_an_exception_fails(server: ManagementServer) -> None:
    with device(server) as one:
        with received(one) as command:
            command.result = "loaded"
        with pytest.raises(ZeroDivisionError), received(one):
            _ = 1 / 0
        with received(one) as command:
            command.fail("busy", retry_after_s=5.0)
    assert server.of(CompleteRequest) == [CompleteRequest(7, 1, 200, b"loaded")]
    assert server.of(FailRequest) == [
        FailRequest(7, 1, 500, "ZeroDivisionError: division by zero"),
        FailRequest(7, 1, 500, "busy", 5.0),
    ]


def test_what_ends_the_program_says_nothing_of_the_command(server: ManagementServer) -> None:
    with device(server) as one, pytest.raises(KeyboardInterrupt), received(one):
        raise KeyboardInterrupt
    assert not server.of(CompleteRequest) and not server.of(FailRequest)


def test_a_lease_is_extended_while_the_program_works(server: ManagementServer) -> None:
    with device(server) as one, received(one, lease_s=1.0) as command:
        deadline_s = time.monotonic() + 10
        while len(server.of(ExtendRequest)) < 2 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        command.progress(50.0, "half")
    assert server.of(ExtendRequest)[0] == ExtendRequest(7, 1, 1.0)
    assert ExtendRequest(7, 1, 1.0, 50.0, "half") in server.of(ExtendRequest)
    said = len(server.of(ExtendRequest))
    time.sleep(0.5)
    assert len(server.of(ExtendRequest)) == said, "not after its end"


def test_a_lost_lease_is_known_to_the_program_and_said_at_the_end(folder: Path) -> None:
    lost = refusal("lease_lost")

    def answers(request: ManagementRequest) -> ManagementReply:
        return lost if isinstance(request, ExtendRequest | CompleteRequest) else plain(request)

    with management_server(folder, answers) as server, device(server) as one:
        with pytest.raises(LeaseLost), received(one, lease_s=0.1 * 10) as command:
            deadline_s = time.monotonic() + 10
            while not command.lost and time.monotonic() < deadline_s:
                time.sleep(0.02)
            assert command.lost


def test_the_child_of_a_fork_does_not_end_the_command_of_its_parent(server: ManagementServer) -> None:
    with device(server) as one, received(one) as command:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                command.__exit__(None, None, None)
                one.ping()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert not server.of(CompleteRequest)
        one.ping()
    assert len(server.of(CompleteRequest)) == 1


def test_a_signal_handler_and_threads_may_use_the_same_device(folder: Path) -> None:
    free = threading.Event()

    def answers(request: ManagementRequest) -> ManagementReply | None:
        if isinstance(request, WatchRequest):
            return plain(request) if free.is_set() else None
        return plain(request)

    with management_server(folder, answers) as server, device(server) as one:

        def on_signal(*_: object) -> None:
            one.set("/signal", 1)
            free.set()

        before = signal.signal(signal.SIGUSR1, on_signal)
        try:
            threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            threads = [threading.Thread(target=one.set, args=("/t", n)) for n in range(4)]
            for thread in threads:
                thread.start()
            assert one.watch("/press") is not None
            for thread in threads:
                thread.join(10)
        finally:
            signal.signal(signal.SIGUSR1, before)
    assert {request.path for request in server.of(ReportRequest)} == {("signal",), ("t",)}
    assert len(server.of(ReportRequest)) == 5


# -- methods --


def test_handlers_answer_and_their_errors_are_answers(folder: Path) -> None:
    calls = [
        CallHandedOver(n, method, 20.0, b"")
        for n, method in enumerate(["stop", "press.x", "bad", "refuse"], 1)
    ]

    def answers(request: ManagementRequest) -> ManagementReply:
        if isinstance(request, ServeRequest):
            return calls.pop(0) if calls else NoCall()
        return plain(request)

    with management_server(folder, answers) as server, device(server) as one:

        @one.method("stop")
        def stop(call: DeviceCall) -> object:
            return {"stopped": True}

        @one.method("press.*")
        def press(call: DeviceCall) -> object:
            return call.method

        @one.method("bad")
        def bad(call: DeviceCall) -> object:
            raise ValueError("no\nsuch")

        @one.method("refuse")
        def refuse(call: DeviceCall) -> object:
            raise MethodError(409, {"held": "by hand"})

        one.serve(until=lambda: not calls)
        assert one.serve_once() is False
    assert server.of(AnswerRequest) == [
        AnswerRequest(1, 200, b'{"stopped":true}'),
        AnswerRequest(2, 200, b'"press.x"'),
        AnswerRequest(3, 500, b'{"error":"ValueError: no such"}'),
        AnswerRequest(4, 409, b'{"held":"by hand"}'),
    ]


def test_an_answer_that_is_too_large_is_answered_as_an_error(folder: Path) -> None:
    answers = in_turn(AnswerRequest, refusal("payload_too_large"), AnswerTaken(True))
    with management_server(folder, answers) as server, device(server) as one:
        one.method("stop")(lambda call: "x" * 200)
        assert one.serve_once()
    assert [request.status for request in server.of(AnswerRequest)] == [200, 500]


# -- asyncio --


def test_the_asyncio_twin_does_the_same(folder: Path) -> None:
    async def all_of_it(server: ManagementServer) -> None:
        async with AsyncDevice(server.endpoint, answer_timeout_s=0.1, retry_for_s=10.0) as one:
            assert (await one.get("/press")).value == {"speed": 3}
            assert (await one.set("/press", 1)).change == 41
            async for change in one.changes("/press"):
                await one.applied(change, "/press")
                break
            command = await one.receive("recipe", lease_s=1.0)
            assert command
            async with command:
                await asyncio.sleep(0.5)
                command.result = {"loaded": command.json()["size"]}
            command = await one.receive("recipe")
            assert command
            with pytest.raises(ZeroDivisionError):
                async with command:
                    _ = 1 / 0

            @one.method("stop")
            async def stop(call: DeviceCall) -> object:
                return {"stopped": call.json()["now"]}

            assert await one.serve_once()

    with management_server(folder, once_lost()) as server:
        asyncio.run(all_of_it(server))
    assert server.of(AnswerRequest)[-1] == AnswerRequest(3, 200, b'{"stopped":true}')
    assert server.of(CompleteRequest)[-1] == CompleteRequest(7, 1, 200, b'{"loaded":3}')
    assert server.of(FailRequest)[-1] == FailRequest(7, 1, 500, "ZeroDivisionError: division by zero")
    assert server.of(ExtendRequest)


def test_a_cancelled_task_loses_no_command(folder: Path) -> None:
    async def cancelled(server: ManagementServer) -> None:
        async with AsyncDevice(server.endpoint) as one:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(one.receive("recipe", wait_s=5.0), 0.2)
            server.answers = plain
            assert await one.receive("recipe")

    with management_server(folder, lambda request: None) as server:
        asyncio.run(cancelled(server))
    first, second = [request.poll for request in server.of(ReceiveRequest)]
    assert first == second
