"""Which hubs upload trusts, and how soon it notices silence, as the settings say, end to end."""

from __future__ import annotations

import json

import pytest
import trustme

from tests.support.harness import Cloud, Home, eventually
from tests.support.upload import backlog, endings, put, uploading


def other_authority(home: Home) -> str:
    path = home.folder / "other-ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return str(path)


@pytest.mark.parametrize("websockets", ["false", "true"])
def test_a_hub_of_another_authority_learns_nothing_from_us_and_the_state_has_a_name(
    home: Home, cloud: Cloud, websockets: str
) -> None:
    """Believed, it would get the SAS; taken for a refusal of the SAS, the device would register anew."""
    if websockets == "true" and cloud.facts["websocket_port"] != 443:
        pytest.skip("port 443 is for the privileged here")
    uploading(home, cloud, toml=f'ca_file = "{other_authority(home)}"\nwebsockets = {websockets}')
    put(home, {"stream": "s"}, b"1")

    def hub() -> dict[str, object]:
        return dict(json.loads(home.edgectl("status", "--json").stdout)["hub"])

    eventually(lambda: str(hub()["last_loss"]).startswith("certificate not trusted: "))
    assert cloud.connections() == [], "a CONNECT, and with it the SAS, was sent"
    assert backlog(home) == 1


def test_a_platform_of_another_authority_learns_nothing_from_us(home: Home, cloud: Cloud) -> None:
    toml = cloud.config_toml().replace(cloud.facts["ca_file"], other_authority(home))
    home.write_config(toml)
    worker = home.start_worker("provisioning")
    eventually(lambda: "TLS failed" in worker.said() and "is not trusted" in worker.said())
    assert cloud.waiting() == [], "the Provisioning Token was sent"


def test_a_shorter_keepalive_notices_a_hub_that_falls_silent_in_idleness_sooner(
    home: Home, cloud: Cloud
) -> None:
    uploading(home, cloud, toml="keepalive_s = 1")
    put(home, {"stream": "s"}, b"1")
    eventually(lambda: backlog(home) == 0)
    cloud.faults(silent=True)
    eventually(lambda: endings(home), 10)
    cloud.no_faults()
    put(home, {"stream": "s"}, b"2")
    eventually(lambda: backlog(home) == 0)
