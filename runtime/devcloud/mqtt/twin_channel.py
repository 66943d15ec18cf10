"""Twin on one connection: requests and answers, changes of desired properties, and the faults of both."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from runtime.devcloud.mqtt import topics
from runtime.devcloud.mqtt.topics import Channel
from runtime.devcloud.state import twin_rules
from runtime.devcloud.state.cloud import Cloud
from runtime.devcloud.state.faults import TwinFault
from runtime.devcloud.state.values import DesiredChange, TwinRefused

_ERROR_CODES = {400: 400004, 403: 403002, 404: 404001, 429: 429001}
"""The hub's own numbers for refusals; of any other status the first one."""


class TwinChannel:
    """The twin of one device on one of its connections.

    `publish` sends to a channel and returns true if the device is subscribed to it; `drop` ends the
    connection abruptly, for a reason.
    """

    def __init__(
        self,
        cloud: Cloud,
        device_id: str,
        publish: Callable[[Channel, str, bytes], bool],
        drop: Callable[[str], None],
    ) -> None:
        self._cloud = cloud
        self._device_id = device_id
        self._publish = publish
        self._drop = drop

    def get(self, request_id: str, now_s: float) -> None:
        """Answer a GET of the whole twin."""
        fault = self._cloud.faults.next_twin("GET")
        answer = _refusal(fault) or self._cloud.twin_get(self._device_id)
        status = answer.status if isinstance(answer, TwinRefused) else 200
        self._cloud.twin_log.record(self._device_id, "GET", status, now_s)
        if isinstance(answer, TwinRefused):
            self._refuse(request_id, answer, fault, now_s)
        else:
            self._answer(topics.twin_result_topic(200, request_id), _json(answer), fault)

    def patch_reported(self, request_id: str, payload: bytes, now_s: float) -> None:
        """Merge reported properties and answer with their version."""
        fault = self._cloud.faults.next_twin("PATCH")
        flaw = self._flaw(payload)
        answer = _refusal(fault) or self._merge(payload, now_s)
        if fault.applied and fault.status is not None:
            self._merge(payload, now_s)
        status = answer.status if isinstance(answer, TwinRefused) else 204
        self._cloud.twin_log.record(self._device_id, "PATCH", status, now_s, payload, flaw)
        if isinstance(answer, TwinRefused):
            self._refuse(request_id, answer, fault, now_s)
        else:
            self._answer(topics.twin_result_topic(204, request_id, answer), b"", fault)

    def _flaw(self, payload: bytes) -> str:
        """What a careful device does not send, although the hub takes it; empty where there is nothing."""
        try:
            patch = json.loads(payload)
            held = self._cloud.twins.document(self._device_id, "reported")
            absent = isinstance(patch, dict) and twin_rules.removes_absent(held, patch)
        except (ValueError, RecursionError):
            return ""
        return "removes what is not there" if absent else ""

    def _merge(self, payload: bytes, now_s: float) -> int | TwinRefused:
        try:
            patch = json.loads(payload.decode())
        except (ValueError, RecursionError):
            return TwinRefused(400, "the patch is not JSON")
        try:
            return self._cloud.twin_patch_reported(self._device_id, patch, now_s)
        except RecursionError:
            return TwinRefused(400, "the patch is nested too deep")

    def _refuse(self, request_id: str, refusal: TwinRefused, fault: TwinFault, now_s: float) -> None:
        body = {
            "errorCode": _ERROR_CODES.get(refusal.status, refusal.status * 1000 + 1),
            "message": refusal.reason,
            "timestampUtc": datetime.fromtimestamp(now_s, UTC).isoformat(),
        }
        self._answer(topics.twin_result_topic(refusal.status, request_id), _json(body), fault)

    def _answer(self, topic: str, body: bytes, fault: TwinFault) -> None:
        if fault.drop:
            self._drop("dropped instead of a twin answer, on request")
        elif fault.lost:
            return
        else:
            body = body if fault.body is None else fault.body.encode()
            self._publish_after(fault.delay_s, Channel.TWIN_RESULTS, topic, body)

    def _publish_after(self, delay_s: float, channel: Channel, topic: str, body: bytes) -> bool:
        """Publish at once or later; true if the device is subscribed, or may be by then."""
        if not delay_s:
            return self._publish(channel, topic, body)
        asyncio.get_running_loop().call_later(delay_s, self._publish, channel, topic, body)
        return True

    def desired_changed(self, change: DesiredChange) -> bool:
        """Publish a change of desired properties; true if the device is subscribed to them."""
        faults = self._cloud.faults
        if faults.desired_lost:
            return False
        body = _json({**change.patch, "$version": change.version})
        for _ in range(1 + faults.desired_repeated):
            topic = topics.desired_topic(change.version)
            subscribed = self._publish_after(faults.desired_delay_s, Channel.DESIRED_CHANGES, topic, body)
        return subscribed


def _refusal(fault: TwinFault) -> TwinRefused | None:
    return None if fault.status is None else TwinRefused(fault.status, "refused on request")


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode()
