"""The observer's page in a real browser: what a person reads of a device, on a phone and on a wall."""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import pytest

from runtime.adapters.net.http_server import HttpServer
from runtime.core.address import TcpEndpoint
from runtime.operations.observer_pages import ObserverPages
from tests.support.browser import Browser
from tests.support.harness import eventually
from tests.support.overview import overview

LONG = "a-stream-whose-name-is-quite-long/for-a-phone-that-is-held-upright"


class Device:
    """A server of the page over an overview that a test changes."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = overview(
            streams=[{"stream": LONG, "messages": 3, "bytes": 300}], verdict="degraded"
        )
        self.points = [{"at_s": n * 60, "messages": n % 50, "delivered_per_s": 1.5} for n in range(1440)]
        clock = iter(range(10**6))
        pages = ObserverPages(lambda: self.state, lambda: self.points, lambda: next(clock), lambda: 0.0)
        self.server = HttpServer(TcpEndpoint("127.0.0.1", 0), pages.answer)
        self.url = f"http://127.0.0.1:{self.server.port}/"


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.server.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.mark.parametrize("width", [390, 900, 1900])
def test_a_person_reads_the_promise_at_a_glance_at_every_width(
    browser: Browser, device: Device, width: int
) -> None:
    browser.open(device.url, width)
    eventually(lambda: browser.sees("degraded"), 10, "the status is shown")
    eventually(lambda: browser.sees("at most 49"), 10, "and the curve, which is asked for by itself")
    text = browser.value("document.body.innerText")
    figures = [line for line in text.splitlines() if line.strip()]
    for figure, name in (("10", "acknowledged"), ("6", "delivered"), ("3", "waiting"), ("1", "lost")):
        assert figures[figures.index(name) - 1] == figure
    for wanted in (LONG, "upload is BACKOFF", "w:d", "never", "12 s", "1.5/s", "at most 49"):
        assert wanted in text, wanted
    assert browser.value("document.documentElement.scrollWidth") <= width, "nothing lies beside the screen"


def test_a_code_that_waits_is_shown_with_its_picture_and_goes_when_it_is_approved(
    browser: Browser, device: Device
) -> None:
    device.state["identity"]["verification_code"] = "B334-P9GT"
    browser.open(device.url)
    eventually(lambda: browser.sees("B334-P9GT"), 10, "the code is shown")
    eventually(
        lambda: browser.value("document.getElementById('qr').naturalWidth > 50"), 10, "and its QR code"
    )
    device.state["identity"]["verification_code"] = None
    eventually(lambda: not browser.sees("B334-P9GT"), 10, "it is approved")


def test_a_streams_name_is_text_and_no_script_of_ours(browser: Browser, device: Device) -> None:
    name = "<img src=x onerror='document.title=1'>"
    device.state["streams"] = [{"stream": name, "messages": 1, "bytes": 1}]
    browser.open(device.url)
    eventually(lambda: browser.sees(name), 10, "the name is shown as it is")
    assert browser.value("document.title") == "edge runtime"


def test_a_device_that_answers_no_more_is_not_shown_as_healthy(browser: Browser, device: Device) -> None:
    browser.open(device.url)
    eventually(lambda: browser.sees("degraded"), 10, "the status is shown")
    device.state = {}  # a bug in the overview ends the connection
    eventually(lambda: browser.sees("no answer from the device"), 10, "silence is said")
    HTTPConnection("127.0.0.1", device.server.port, timeout=5).connect()
