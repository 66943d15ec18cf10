"""The stand-in's page in a real browser, as a person uses it: on a phone, with a code typed by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import Browser
from tests.support.devcloud_client import Client
from tests.support.harness import Cloud, eventually, short_folder

VERSION = {"api-version": "2021-04-12"}


@pytest.fixture(scope="module")
def shared() -> Iterator[Cloud]:
    with short_folder() as folder:
        running = Cloud(folder / "cloud")
        yield running
        running.close()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


def open_page(browser: Browser, cloud: Cloud, width: int = 1280) -> None:
    browser.open(cloud.call("POST", "/admin/page-link")["url"], width)
    eventually(lambda: browser.sees("Waiting for approval"))


class Device:
    """One device that sends over HTTPS."""

    def __init__(self, cloud: Cloud, name: str) -> None:
        self.client, self.sas = Client(cloud), Client(cloud).sas(name)
        self.path = f"/devices/{cloud.facts['workspace']}:{name}"

    def post(self, path: str, **how: Any) -> Any:
        headers = {"Authorization": self.sas} | how.pop("headers", {})
        return self.client.send("POST", self.path + path, params=VERSION, headers=headers, **how)

    def message(self, payload: bytes, **properties: str) -> None:
        told = {f"iothub-app-{name.replace('_', '-')}": value for name, value in properties.items()}
        assert self.post("/messages/events", data=payload, headers=told).status_code == 204

    def file(self, name: str, content: bytes) -> str:
        """Upload a file, and return the name of its blob."""
        address = self.post("/files", json={"blobName": name}).json()
        where = f"/{address['containerName']}/{address['blobName']}{address['sasToken']}"
        put = self.client.send("PUT", where, data=content, headers={"x-ms-blob-type": "BlockBlob"})
        assert put.status_code == 201
        return str(address["blobName"])


def test_on_a_phone_every_button_is_on_the_screen(browser: Browser, shared: Cloud) -> None:
    """ "Cancel" lay off the screen: who could not turn a device away did not know that they could."""
    Client(shared).init("a-device-with-quite-a-long-name-for-a-phone")
    open_page(browser, shared, width=390)
    eventually(lambda: browser.sees("a-device-with-quite-a-long-name-for-a-phone"))
    right_edges = (
        "[...document.querySelectorAll('.waiting button')].map(b => b.getBoundingClientRect().right)"
    )
    edges = browser.value(right_edges)
    assert len(edges) >= 2 and max(edges) <= 390
    assert browser.value("document.documentElement.scrollWidth") <= 390


def test_a_code_in_lower_case_finds_its_device_and_approves_it(browser: Browser, shared: Cloud) -> None:
    client = Client(shared)
    client.init("dev-another")
    wanted = client.init("dev-wanted")
    open_page(browser, shared)
    eventually(lambda: browser.sees("dev-wanted") and browser.sees("dev-another"))
    typed = wanted["verificationCode"].lower().replace("-", " ")
    browser.value(
        f"(box => {{ box.value = {typed!r}; box.dispatchEvent(new Event('input')); }})"
        "(document.querySelector('#find-code input'))"
    )
    assert browser.sees("dev-wanted") and not browser.sees("dev-another")
    approved = client.approve({"provisioningOperationId": typed})
    assert (approved.status_code, approved.json()["deviceId"]) == (200, "dev-wanted")


def test_messages_can_be_filtered_and_held(browser: Browser, shared: Cloud) -> None:
    device = Device(shared, "dev-talks")
    device.message(b"warm", stream_name="weather")
    device.message(b"fast", stream_name="traffic")
    open_page(browser, shared)
    eventually(lambda: browser.sees("warm") and browser.sees("fast"))
    set_filter = "(box => {{ box.value = {!r}; box.dispatchEvent(new Event('input')); }})($('filter'))"
    browser.value(set_filter.format("Traffic dev-talks"))
    assert browser.sees("fast") and not browser.sees("warm")
    browser.value(set_filter.format(""))
    browser.value("$('pause').click()")
    device.message(b"meanwhile")
    eventually(lambda: browser.sees("Go on (1 new)"))
    assert not browser.sees("meanwhile")
    browser.value("$('pause').click()")
    eventually(lambda: browser.sees("meanwhile"))


def test_a_file_can_be_opened_and_never_runs_in_the_operators_page(browser: Browser, shared: Cloud) -> None:
    device = Device(shared, "dev-files")
    script = b"<script>parent.hacked = window.hacked = 1</script> plain words"
    blob = device.file("page.html", script)
    device.message(b'{"link": "%s"}' % blob.encode(), has_externalized_payload="true")
    open_page(browser, shared)
    eventually(lambda: browser.sees("Open the file"))
    browser.value("document.querySelector('.blob button').click()")
    eventually(lambda: browser.sees("plain words"))
    assert browser.value("window.hacked") is None
    assert browser.value("document.querySelector('.blob a').download") == "page.html"


def test_a_person_edits_a_twin_sends_a_command_and_calls_a_method(browser: Browser, shared: Cloud) -> None:
    device = Client(shared)
    device.sas("dev-managed")
    base = f"{device.workspace}/devices/dev-managed"
    assert device.operator("PATCH", f"{base}/desired-properties", {"interval": 5}).ok
    open_page(browser, shared)
    row = "[...document.querySelectorAll('#devices details')].find(r => r.dataset.key === 'dev-managed')"
    eventually(lambda: browser.value(f"!!{row}"))
    browser.value(f"(window.row = {row}).open = true")
    eventually(lambda: browser.value("row.querySelector('textarea').value") == '{\n  "interval": 5\n}')
    fill = "(box => {{ box.value = {!r}; }})(row.querySelector('[aria-label=\"{}\"]'))"
    press = "[...row.querySelectorAll('button')].find(b => b.textContent === {!r}).click()"

    browser.value(fill.format('{"interval": 7, "<b>": "&"}', "Desired properties"))
    browser.value(press.format("Replace desired"))
    eventually(lambda: browser.sees("Desired properties are at version 3."))
    desired = device.operator("GET", f"{base}/desired-properties").json()
    assert desired == {"interval": 7, "<b>": "&", "$version": 3}
    browser.value(fill.format("{", "Desired properties"))
    browser.value(press.format("Replace desired"))
    eventually(lambda: browser.sees("JSON"))

    browser.value(fill.format("stop now", "Command payload"))
    browser.value(fill.format("command=stop&flag&empty=", "Command properties"))
    browser.value(press.format("Send command"))
    eventually(lambda: browser.sees("stop now"))
    (sent,) = device.operator("GET", f"{base}/c2d-messages").json()["messages"]
    assert (sent["text"], sent["state"]) == ("stop now", "enqueued")
    assert sent["properties"] == {"command": "stop", "flag": None, "empty": ""}

    browser.value(fill.format("ping", "Method name"))
    browser.value(press.format("Call method"))
    eventually(lambda: browser.sees("it did not listen for methods"))


def test_a_pack_shows_its_messages(browser: Browser, shared: Cloud) -> None:
    device = Device(shared, "dev-pack")
    headers = {"iothub-messageid": "p:b:7#+2", "iothub-app-pack": "lines"}
    assert device.post("/messages/events", data=b"cold\nwarm", headers=headers).status_code == 204
    open_page(browser, shared)
    eventually(lambda: browser.sees("pack of 2"))
    browser.value("document.querySelector('#messages details').open = true")
    eventually(lambda: browser.sees("p:b:8 warm"))


def test_the_configuration_that_it_writes_is_complete_and_replaces_no_file_of_others(folder: Path) -> None:
    cloud = Cloud(folder / "cloud")
    try:
        written = (folder / "cloud" / "edge.toml").read_text()
        for name in ("instance", "ca_file", "provisioning_token_file", "https_port"):
            assert f"\n{name} = " in written
        token = folder / "cloud" / "devcloud-provisioning-token"
        assert token.read_text().strip() == cloud.facts["provisioning_token"]
        assert token.stat().st_mode & 0o777 == 0o600
    finally:
        cloud.close()
    (folder / "cloud" / "edge.toml").write_text("# mine\n")
    (folder / "cloud" / "provisioning-token").write_text("an operator's")
    again = Cloud(folder / "cloud")
    again.close()
    assert (folder / "cloud" / "edge.toml").read_text() == "# mine\n"
    assert (folder / "cloud" / "provisioning-token").read_text() == "an operator's"
