"""Connection strings as people paste them: names in any case, and nothing that we would pass over."""

from __future__ import annotations

import base64

import pytest

from runtime.core.identity.connection_string import parse, parse_direct
from runtime.core.secret import Secret

KEY = base64.b64encode(b"k" * 32).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"HostName=hub.example;DeviceId=dev-1;SharedAccessKey={KEY}",
        f"hostname=hub.example;deviceid=dev-1;sharedaccesskey={KEY}",
        f"HOSTNAME=hub.example;DEVICEID=dev-1;SHAREDACCESSKEY={KEY}\n",
        f" DeviceID=dev-1; Hostname=hub.example ;SharedAccesskey = {KEY};",
    ],
)
def test_a_connection_string_whose_names_are_in_another_case_is_understood(text: str) -> None:
    known = parse(text)
    assert (known.hub_host, known.device_id, known.x509) == ("hub.example", "dev-1", False)
    assert known.key is not None and known.key.reveal() == KEY


@pytest.mark.parametrize("x509", ["x509=true", "X509=true", "X509=True", "x509=TRUE", "X509 = true"])
def test_a_certificate_serves_however_x509_is_written(x509: str) -> None:
    assert parse(f"HostName=hub;DeviceId=dev;{x509}").x509


def test_a_sas_keeps_the_equals_signs_in_its_value() -> None:
    known = parse("HostName=hub;DeviceId=d;sharedAccessSignature=SharedAccessSignature sr=hub&sig=a%3D&se=17")
    assert known.sas is not None
    assert known.sas.reveal() == "SharedAccessSignature sr=hub&sig=a%3D&se=17"


@pytest.mark.parametrize("name", ["GatewayHostName", "gatewayhostname", "GATEWAYHOSTNAME"])
@pytest.mark.parametrize(
    "where", ["HostName=h;DeviceId=d;{};x509=true", "{};HostName=h;DeviceId=d;x509=true"]
)
def test_a_gateway_in_any_case_is_refused(name: str, where: str) -> None:
    for text in (where.format(f"{name}=edge"), where.format(f" {name} =edge")):
        with pytest.raises(ValueError, match="straight to the hub"):
            parse_direct(Secret(text))


@pytest.mark.parametrize("name", ["ModuleId", "moduleId", "moduleid", "MODULEID"])
def test_a_module_in_any_case_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="without GatewayHostName and ModuleId"):
        parse_direct(Secret(f"HostName=h;DeviceId=d;{name}=m;x509=true"))


def test_a_name_that_stands_twice_is_refused_without_its_value() -> None:
    with pytest.raises(ValueError, match="twice") as caught:
        parse(f"HostName=h;DeviceId=d;SharedAccessKey={KEY};sharedaccesskey=another")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("odd", ["c2ln\nbmF0", "c2ln\x00", "c2l\u00f1", "c2ln\u65e5"])
def test_a_sas_that_no_header_takes_is_refused_without_a_word_of_it(odd: str) -> None:
    """Wrapped by an editor, it stood whole among the reasons that `status` shows."""
    with pytest.raises(ValueError, match="printable ASCII on one line") as refused:
        parse(
            f"HostName=hub.example;DeviceId=d;SharedAccessSignature=SharedAccessSignature sr=h&sig={odd}&se=1"
        )
    assert "c2l" not in str(refused.value)
