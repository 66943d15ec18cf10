"""A real browser without a window: Chromium, driven over its debugging protocol."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import requests
from websockets.sync.client import connect

from tests.support.harness import eventually, require_tool

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--ignore-certificate-errors", "--remote-debugging-port=0", "--remote-allow-origins=*",
)  # fmt: skip


class Browser:
    """One page of a browser of its own; close it, or use it as a context."""

    def __init__(self, profile: Path) -> None:
        program = require_tool("chromium")
        self._process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        port_file = profile / "DevToolsActivePort"
        eventually(lambda: port_file.exists() and "\n" in port_file.read_text(), 60)
        port = port_file.read_text().split()[0]
        pages = eventually(
            lambda: [
                page
                for page in requests.get(f"http://127.0.0.1:{port}/json", timeout=10).json()
                if page["type"] == "page"
            ]
        )
        self._socket = connect(pages[0]["webSocketDebuggerUrl"], max_size=None)
        self._numbers = itertools.count(1)

    def command(self, method: str, **parameters: Any) -> Any:
        """The answer to one command of the debugging protocol."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=30))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url: str, width: int = 1280, height: int = 800) -> None:
        """Go to `url` in a window of this size."""
        self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self.value("window.before = true")
        self.command("Page.navigate", url=url)
        eventually(lambda: self.value("!window.before && document.readyState === 'complete'"))

    def value(self, expression: str) -> Any:
        """What a JavaScript expression, perhaps a promise, evaluates to in the page."""
        result = self.command(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def sees(self, text: str) -> bool:
        """Whether the text can be read on the page."""
        return text in (self.value("document.body ? document.body.innerText : ''") or "")

    def picture(self, path: Path) -> None:
        """Save what the window shows, as PNG."""
        path.write_bytes(base64.b64decode(self.command("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(20)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
