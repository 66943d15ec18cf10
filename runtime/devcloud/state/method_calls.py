"""Direct methods: a call waits for the device to be there, then for its answer, each for its own time."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import defaultdict
from collections.abc import Callable

from runtime.devcloud.state.problems import Problem
from runtime.devcloud.state.values import Event, MethodCall

MOST_BYTES = 128 * 1024
"""Limit of a method's payload, either way."""
MOST_TIMEOUT_S = 300.0
"""The longest of both time-outs."""


class MethodCalls:
    """Method calls under way. `publish` passes an event to a device; true if it went out."""

    def __init__(self, publish: Callable[[str, Event], bool]) -> None:
        self._publish = publish
        self._answers: dict[tuple[str, str], asyncio.Future[tuple[int, bytes]]] = {}
        self._arrivals: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def call(
        self, device_id: str, name: str, payload: object, response_timeout_s: float, connect_timeout_s: float
    ) -> tuple[int, bytes]:
        """Status and body of the device's answer. Raises Problem: 404 where the device does not listen for
        methods within `connect_timeout_s`, 504 where it does not answer within `response_timeout_s`.
        """
        body = json.dumps(payload).encode()
        if len(body) > MOST_BYTES:
            raise Problem(413, "common/tooLarge", f"The payload exceeds {MOST_BYTES} bytes")
        request_id = secrets.token_hex(4)
        answer = self._answers[device_id, request_id] = asyncio.get_running_loop().create_future()
        try:
            await self._send(device_id, MethodCall(request_id, name, body), connect_timeout_s)
            return await asyncio.wait_for(answer, response_timeout_s)
        except TimeoutError:
            detail = f"no answer within {response_timeout_s:g} s"
            raise Problem(504, "hub/gatewayTimeout", "The device did not answer", detail) from None
        finally:
            self._answers.pop((device_id, request_id), None)

    async def _send(self, device_id: str, call: MethodCall, connect_timeout_s: float) -> None:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + connect_timeout_s
        arrival = self._arrivals[device_id]
        while True:
            arrival.clear()
            if self._publish(device_id, call):
                return
            try:
                await asyncio.wait_for(arrival.wait(), end_s - loop.time())
            except TimeoutError:
                detail = f"it did not listen for methods within {connect_timeout_s:g} s"
                raise Problem(404, "hub/deviceNotOnline", "The device is not online", detail) from None

    def listening(self, device_id: str) -> None:
        """A device listens for methods from now on: send the calls that wait for it."""
        if device_id in self._arrivals:
            self._arrivals[device_id].set()

    def answered(self, device_id: str, request_id: str, status: int, payload: bytes) -> None:
        """Pass on a device's answer; one that no caller waits for is dropped."""
        waiting = self._answers.get((device_id, request_id))
        if waiting is not None and not waiting.done():
            waiting.set_result((status, payload))
