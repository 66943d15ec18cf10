"""The file of authorities: each way to connect trusts the same by it, or says what is wrong with it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from runtime.adapters.hub.https_api import HttpsRoute, HubHttps, HubUnreachable
from runtime.adapters.identity import dps
from runtime.adapters.net import https
from runtime.adapters.net.probe import NetworkProbe
from runtime.adapters.net.tls_options import TrustedAuthorities, UnusableFile, authorities
from runtime.config import load
from runtime.core.delivery.events import Cause, Lost
from runtime.core.identity.platform_answer import Outcome
from runtime.core.secret import Secret
from runtime.wiring import hub_route, registration_route
from tests.integration.test_dps import Service
from tests.support.harness import Cloud, Home, eventually
from tests.support.scripted import scripted
from tests.support.upload import Line, backlog, losses, put, register, uploading

COMMENTS = {
    "none": b"",
    "UTF-8": "# Főtanúsítvány, Üst Kök\n".encode(),
    "Latin-1": "# Autoridade de Certifica\xe7\xe3o\n".encode("latin-1"),
    "a byte order mark": b"\xef\xbb\xbf",
    "DOS": b"# one\r\n# two\r\n",
    "nonsense": bytes(range(128, 256)) + b"\n",
}
BROKEN = {
    "empty": lambda pem: b"",
    "blank": lambda pem: b"\n\n  \n",
    "comments only": lambda pem: "# Főtanúsítvány\n".encode(),
    "a key": lambda pem: b"-----BEGIN PRIVATE KEY-----\nMC4=\n-----END PRIVATE KEY-----\n",
    "cut off": lambda pem: pem[: len(pem) // 2],
    "damaged": lambda pem: pem.replace(b"M", b"!", 5),
    "no certificate inside": lambda pem: b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
}  # fmt: skip


def bundle(folder: Path, pem: bytes, comment: bytes) -> Path:
    """As a distribution ships it: authorities that nobody needs here, comments, and ours."""
    path = folder / "bundle.pem"
    others = trustme.CA().cert_pem.bytes()
    path.write_bytes(comment + others + comment + pem + comment)
    return path


@pytest.mark.parametrize("comment", COMMENTS.values(), ids=COMMENTS)
def test_a_bundle_with_comments_of_any_encoding_counts_for_mqtt_https_files_and_the_doctor_alike(
    cloud: Cloud, folder: Path, comment: bytes
) -> None:
    """MQTT never connected with Fedora's, and a Latin-1 comment was blamed on the credentials."""
    pem, credentials = Path(cloud.facts["ca_file"]).read_bytes(), register(cloud)
    path = bundle(folder, pem, comment)
    line = Line(cloud, ca_file=path)
    number = line.connect(credentials)
    line.discard(number)
    hub = HubHttps(HttpsRoute(path, cloud.facts["https_port"]), credentials)
    hub.post("/messages/events", "a message", headers={"iothub-messageid": "1"})
    hub.close()
    url = f"https://{cloud.facts['instance']}/devices/register"
    reply = https.request("PUT", url, b"{}", Secret("no token"), TrustedAuthorities(path), 10)
    assert isinstance(reply, https.Reply) and reply.status == 401, reply


def _probe(home: Home) -> NetworkProbe:
    settings = load({}, home=home.folder).settings
    return NetworkProbe(registration_route(settings), hub_route(settings))


def test_a_bundle_with_comments_counts_for_the_provisioning_service(cloud: Cloud, folder: Path) -> None:
    service = Service(cloud)
    asked = service.question("single-1", service.enrol("single-1"))
    path = bundle(folder, Path(cloud.facts["ca_file"]).read_bytes(), COMMENTS["Latin-1"])
    told = dps.assign(dps.DpsRequest(**{**asked.__dict__, "ca_file": path}))
    assert told.outcome is Outcome.OK, told


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_file_without_a_usable_certificate_connects_nobody_and_is_named(
    cloud: Cloud, folder: Path, broken: Callable[[bytes], bytes]
) -> None:
    """An empty text means to the libraries that nothing was configured: upload trusted the machine's."""
    path, credentials = folder / "ca.pem", register(cloud)
    path.write_bytes(broken(Path(cloud.facts["ca_file"]).read_bytes()))
    with pytest.raises(UnusableFile, match=str(path)):
        authorities(path)
    line = Line(cloud, ca_file=path)
    line.hub.open(credentials)
    line.until(lambda seen: bool(losses(seen)))
    lost = losses(line.seen)[0]
    assert isinstance(lost, Lost) and lost.cause is Cause.LOCAL, "a fault of ours is no refusal by the hub"
    assert str(path) in lost.reason
    line.discard(1)
    with pytest.raises(HubUnreachable, match=str(path)):
        HubHttps(HttpsRoute(path, cloud.facts["https_port"]), credentials).post("/files", "nothing")
    url = f"https://{cloud.facts['instance']}/devices/register"
    failure = https.request("PUT", url, b"{}", Secret("no token"), TrustedAuthorities(path), 10)
    assert isinstance(failure, https.Failure) and failure.outcome is Outcome.NO_CERTIFICATE, failure
    assert str(path) in failure.reason
    told = dps.assign(dps.DpsRequest(cloud.facts["dps_host"], "scope", "who", Secret("a2V5"), ca_file=path))
    assert told.outcome is Outcome.NO_CERTIFICATE and str(path) in told.reason, told
    assert cloud.connections() == []


def test_the_doctor_reads_the_file_of_authorities_as_upload_does(cloud: Cloud, home: Home) -> None:
    path = home.folder / "ca.pem"
    path.write_bytes(b"")
    home.write_config(cloud.config_toml().replace(cloud.facts["ca_file"], str(path)))
    checks = list(_probe(home).platform())
    assert [check.verdict for check in checks] == ["ok", "error"] and str(path) in checks[1].text, checks
    path.write_bytes(COMMENTS["Latin-1"] + Path(cloud.facts["ca_file"]).read_bytes())
    checks = list(_probe(home).platform())
    assert [check.verdict for check in checks] == ["ok", "ok"], checks


def test_the_machines_own_authorities_do_not_count_where_a_file_is_configured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither those of the system, nor those that `requests` brings or finds in the environment."""
    other = folder / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    with scripted(folder) as server:
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.setenv(name, str(server.ca_file))
        failure = https.request(
            "PUT", f"https://{server.instance}/x", b"", None, TrustedAuthorities(other), 10
        )
    assert isinstance(failure, https.Failure) and failure.outcome is Outcome.TLS_FAILED, failure


def test_a_file_that_is_put_right_counts_at_the_next_attempt(home: Home, cloud: Cloud) -> None:
    """And meanwhile the device does not register again: nobody refused it."""
    path = home.folder / "ca.pem"
    path.write_bytes(b"")
    uploading(home, cloud, toml=f'ca_file = "{path}"')
    put(home, {"stream": "s"}, b"1")
    words = "a local file is unusable"
    eventually(lambda: words in home.edgectl("status").stdout)
    path.write_bytes(COMMENTS["Latin-1"] + Path(cloud.facts["ca_file"]).read_bytes())
    eventually(lambda: backlog(home) == 0)


def test_a_pipe_in_the_place_of_the_authorities_is_named_and_waited_for_by_none(folder: Path) -> None:
    """Each worker that connects hung in it before its first attempt."""
    pipe = folder / "authorities.pem"
    os.mkfifo(pipe)
    said: list[str] = []

    def read() -> None:
        try:
            authorities(pipe)
        except UnusableFile as exc:
            said.append(str(exc))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(10)
    assert said == [f"the file of authorities {pipe} cannot be read: not a regular file"]
