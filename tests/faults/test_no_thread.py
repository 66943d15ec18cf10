"""No further thread can be had: that passes, as the network does, and ends no worker."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.harness import clean_environment

WITHOUT_MEMORY = """
import resource, threading
from pathlib import Path
from runtime.adapters.hub import mqtt_client
from runtime.adapters.net import https
from runtime.adapters.net.tls_options import TrustedAuthorities
from runtime.core.identity.credentials import HubCredentials
from runtime.core.secret import Secret

def no_more_threads():
    "As under TasksMax or ulimit -u, also for root: there is no room for a further stack."
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    threading.stack_size(256 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
    try:
        threading.Thread(target=print).start()
    except RuntimeError as exc:
        print(exc)

no_more_threads()
"""
CALL = """
print(https.request("GET", "https://127.0.0.1:1/", b"", None, TrustedAuthorities(), 5.0))
"""
CONNECT = """
line = mqtt_client.HubConnection(mqtt_client.HubOptions())
line.open(HubCredentials("127.0.0.1", "a", 1, sas=Secret("SharedAccessSignature sr=x&sig=x&se=9999999999")))
print(line.drain())
line.discard()
print(line.drain())
"""


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (CALL, ["UNREACHABLE", "no thread can be started now"]),
        (CONNECT, ["Lost(client=1", "UNREACHABLE", "no thread can be started now", "Closed(client=1)"]),
    ],
    ids=["call", "connect"],
)
def test_where_no_thread_can_be_had_it_is_tried_again_and_nothing_crashes(work: str, says: list[str]) -> None:
    """RuntimeError, as of a bug: the worker ended, and its crashes raised an alarm."""
    said = subprocess.run(
        [sys.executable, "-c", WITHOUT_MEMORY + work],
        capture_output=True, text=True, timeout=40, env=clean_environment(),
    )  # fmt: skip
    assert said.stdout.startswith("can't start new thread\n"), said.stderr
    assert all(words in said.stdout for words in says), said.stdout + said.stderr
