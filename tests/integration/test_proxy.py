"""Through a proxy, and through nothing else: the hub has a name that only the proxy can resolve."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from runtime.adapters.identity.dps import DpsRequest, assign
from runtime.adapters.net import https
from runtime.adapters.net.proxies import dial
from runtime.adapters.net.tls_options import TrustedAuthorities
from runtime.core.identity.platform_answer import Outcome
from runtime.core.proxy_url import parse
from runtime.core.secret import Secret
from runtime.devcloud.addresses import HTTPS_PORT, HUB_PORT
from runtime.errors import ConfigError
from tests.support.harness import Cloud, Home, eventually
from tests.support.proxy import FAR_NAME as NAME
from tests.support.proxy import KINDS, PASSWORD, USER, WRITTEN, Proxy, proxy_to, proxying
from tests.support.upload import Line, backlog, check_arrivals, losses, put, register, uploading


def everything_written(home: Home) -> str:
    """All that the home holds in logs and status, as text; not the configuration."""
    written = []
    for path in (p for d in (home.layout.log, home.layout.run) for p in d.rglob("*") if p.is_file()):
        with suppress(FileNotFoundError):  # a worker has just replaced its status
            written.append(path.read_text(errors="replace"))
    return "".join(written)


@pytest.mark.parametrize("kind", KINDS)
def test_provisioning_telemetry_and_files_all_go_through_the_proxy_and_nothing_beside_it(
    home: Home, far_cloud: Cloud, kind: str
) -> None:
    proxy = proxy_to(far_cloud, kind, user=USER, password=PASSWORD)
    home.write_config(far_cloud.config_toml(platform=f'proxy = "{proxy.url(WRITTEN)}"'))
    home.start_all()
    eventually(lambda: far_cloud.approve_all(), what="the platform is reached")
    eventually(home.layout.messages_db.exists)
    payloads = [b"%d" % n for n in range(100)]
    put(home, {"stream": "s"}, *payloads)
    put(home, {"stream": "files"}, b"x" * 300_000)
    eventually(lambda: far_cloud.message_count() == 101, what="telemetry and the link of a file")
    eventually(lambda: backlog(home) == 0)
    assert set(proxy.targets) == {f"{NAME}:{HUB_PORT}", far_cloud.facts["instance"]}
    assert proxy.refusals == 0
    seen = everything_written(home) + home.edgectl("config").stdout + home.edgectl("status").stdout
    assert PASSWORD not in seen and "p%3A4" not in seen
    proxy.close()


def test_a_proxy_whose_answer_comes_in_several_segments_does_not_bar_the_hub_for_ever(cloud: Cloud) -> None:
    """What came behind its first line was taken for the hub's first words, and TLS failed each time."""
    proxy = Proxy("http", hesitant=True)
    line = Line(cloud, proxy=parse(Secret(proxy.url())))
    number = line.connect(register(cloud))
    assert not losses(line.seen)
    line.discard(number)
    proxy.close()


@pytest.mark.parametrize("kind", KINDS)
def test_websockets_go_through_a_proxy_to_port_443(home: Home, far_cloud: Cloud, kind: str) -> None:
    proxy = proxy_to(far_cloud, kind)
    uploading(home, far_cloud, toml=f'proxy = "{proxy.url()}"\nwebsockets = true')
    payloads = [b"%d" % n for n in range(100)]
    put(home, {"stream": "s"}, *payloads)
    eventually(lambda: backlog(home) == 0)
    check_arrivals(far_cloud, payloads)
    assert set(proxy.targets) == {f"{NAME}:{HTTPS_PORT}"}
    proxy.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_that_refuses_the_password_is_named_and_not_taken_for_the_hub(
    home: Home, far_cloud: Cloud, kind: str
) -> None:
    """Taken for the hub, it would have the device register anew, and provision anew in the end."""
    proxy = proxy_to(far_cloud, kind, user=USER, password="another")
    uploading(home, far_cloud, toml=f'proxy = "{proxy.url(WRITTEN)}"')
    put(home, {"stream": "s"}, b"1")

    def hub() -> dict[str, object]:
        return dict(json.loads(home.edgectl("status", "--json").stdout)["hub"])

    eventually(lambda: str(hub().get("last_loss", "")).startswith("no way through the proxy: "))
    assert "lost, refused" not in home.workers["upload"].said()
    assert proxy.refusals and backlog(home) == 1
    assert PASSWORD not in everything_written(home) and "p%3A4" not in everything_written(home)
    proxy.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_that_refuses_the_password_is_named_to_whoever_waits_for_the_platform(
    home: Home, far_cloud: Cloud, kind: str
) -> None:
    proxy = proxy_to(far_cloud, kind, user=USER, password="another")
    home.write_config(far_cloud.config_toml(platform=f'proxy = "{proxy.url(WRITTEN)}"'))
    worker = home.start_worker("provisioning")
    eventually(lambda: "no way through the proxy" in worker.said())
    assert PASSWORD not in everything_written(home) and "p%3A4" not in everything_written(home)
    proxy.close()


@pytest.mark.parametrize("kind", KINDS)
def test_a_proxy_that_is_away_or_cannot_reach_the_hub_is_named(cloud: Cloud, kind: str) -> None:
    credentials = register(cloud)
    for proxy in (Proxy(kind), Proxy(kind, ports={HUB_PORT: 1})):
        if not proxy.ports:
            proxy.close()
        line = Line(cloud, proxy=parse(Secret(proxy.url())))
        line.hub.open(credentials)
        line.until(lambda seen: bool(losses(seen)))
        assert losses(line.seen)[0].cause.value == "no way through the proxy"
        line.discard(1)
        proxy.close()


@pytest.fixture
def dripping() -> Iterator[int]:
    """The port of a proxy whose answer to CONNECT never ends: a byte at a time, each well within a wait."""
    over = threading.Event()

    def drip(guest: socket.socket) -> None:
        with guest, suppress(OSError):
            guest.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not over.wait(0.05):
                guest.sendall(b"x")

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        over.set()
        server.shutdown(socket.SHUT_RDWR)


def test_a_proxy_whose_answer_never_ends_costs_one_deadline_and_keeps_no_thread(dripping: int) -> None:
    """Each call to the platform left a thread and a descriptor there, until none could be had any more."""
    proxy = parse(Secret(f"http://127.0.0.1:{dripping}"))
    found = https.request("GET", "https://platform.example/", b"", None, TrustedAuthorities(proxy=proxy), 0.5)
    assert isinstance(found, https.Failure) and found.outcome is Outcome.TIMED_OUT
    eventually(lambda: not any(thread.name == "https" for thread in threading.enumerate()))
    with pytest.raises(OSError):
        dial("hub.example", 8883, proxy, 0.5)


def test_the_provisioning_service_of_azure_is_asked_through_the_proxy(folder: Path) -> None:
    with proxying(ports={HUB_PORT: 1}) as proxy:
        asked = DpsRequest("dps.test", "0ne", "dev-1", Secret("a2V5"), proxy=parse(Secret(proxy.url())))
        assert assign(asked).outcome is Outcome.PROXY
        assert set(proxy.targets) == {f"dps.test:{HUB_PORT}"}


@pytest.mark.parametrize(
    "wrong", ["proxy", "ftp://a:1", "http://host", "http://host:port", "http://a:b@c@d:1"]
)
@pytest.mark.parametrize("setting", ["platform", "upload"])
def test_a_proxy_that_is_no_address_is_a_wrong_setting_and_not_repeated(
    home: Home, wrong: str, setting: str
) -> None:
    home.write_config(f'[{setting}]\nproxy = "{wrong}"')
    with pytest.raises(ConfigError) as caught:
        _ = home.config
    assert f"{setting}.proxy = *** must be" in str(caught.value)


def test_user_and_password_of_a_proxy_are_decoded_and_encoded_again() -> None:
    found = parse(Secret(f"socks5://{WRITTEN}@proxy.example:1080"))
    assert found is not None and found.password is not None
    assert (found.kind, found.host, found.port) == ("socks5", "proxy.example", 1080)
    assert (found.user, found.password.reveal()) == (USER, PASSWORD)
    assert found.url() == f"socks5h://{WRITTEN}@proxy.example:1080", "the proxy resolves the names"
    assert PASSWORD not in repr(found) + str(found)
    with pytest.raises(ValueError, match="socks5://"):
        parse(Secret(""))
