"""Secrets are in no log: each is registered where it enters, and its plaintext is taken out from then on."""

from __future__ import annotations

import ast
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from loguru import logger

import runtime
from runtime.adapters.identity import token_files
from runtime.adapters.identity.platform_api import PlatformClient
from runtime.adapters.identity.registrars import registrar
from runtime.adapters.identity.vault import Vault
from runtime.adapters.process import logs
from runtime.adapters.process.known_secrets import MOST_KNOWN, hidden, hide_known
from runtime.config import load
from runtime.core.identity.registration_route import SecretLocation
from runtime.core.secret import Secret
from runtime.layout import WORKERS
from runtime.wiring import registration_route
from tests.support.rooms import nodes

DEVICE_KEY = "Y2FuYXJ5LWtleS1vZi10aGlzLXRlc3Q="
PACKAGE = Path(runtime.__file__).parent


@dataclass(frozen=True)
class Answer:
    """A value with a secret in one of its fields."""

    name: str
    secret: Secret | None


def test_a_token_that_is_in_use_is_still_hidden_after_any_number_of_others() -> None:
    from_the_environment = hidden(Secret("provisioning-token-of-the-configuration"))
    for number in range(3 * MOST_KNOWN):
        hidden(Secret(f"sas-of-one-day-{number:04}"))
    assert hide_known("with provisioning-token-of-the-configuration, and more") == "with ***, and more"
    assert from_the_environment


def test_a_secret_stays_hidden_for_a_while_after_its_last_object_is_gone() -> None:
    hidden(Secret("sas-that-was-replaced"))
    gc.collect()
    assert hide_known("an error that shows sas-that-was-replaced") == "an error that shows ***"


def test_of_two_equal_secrets_the_second_still_counts_when_the_first_is_gone() -> None:
    first, second = hidden(Secret("the-same-token-twice")), hidden(Secret("the-same-token-twice"))
    del first
    for number in range(2 * MOST_KNOWN):
        hidden(Secret(f"sas-of-another-day-{number:04}"))
    assert hide_known("the-same-token-twice") == "***" and second


def test_a_secret_is_hidden_in_the_fields_of_a_value_and_within_a_longer_one() -> None:
    kept = (
        hidden(Answer("x", hidden(Secret("proxy-password")))),
        hidden(Secret("http://u:proxy-password@p:1")),
    )
    assert hide_known("through http://u:proxy-password@p:1 with proxy-password") == "through *** with ***"
    assert hidden(Answer("x", None)).secret is None and kept


def _configuration(folder: Path, canary: str) -> None:
    load({"EDGE_PLATFORM_PROVISIONING_TOKEN": canary}, home=folder)


def _file(folder: Path, canary: str) -> None:
    (folder / "token").write_text(f"{canary}\n")
    assert token_files.secret_at(SecretLocation("table.token", "x", file=folder / "token"), {})


def _setting(folder: Path, canary: str) -> None:
    assert token_files.secret_at(SecretLocation("table.token", "x", Secret(canary)), {})


def _database(folder: Path, canary: str) -> None:
    assert Vault().keys({}).open("registration", canary)


def _grant(folder: Path, canary: str) -> None:
    from runtime.adapters.identity import platform_api

    platform_api._grant({"registrationToken": canary}, float)


def _proxy(folder: Path, canary: str) -> None:
    config = load({"EDGE_PLATFORM_PROXY": f"http://user:{canary}@proxy:3128"}, home=folder)
    assert config.settings.platform.proxy


@pytest.mark.parametrize("enters", [_configuration, _file, _setting, _database, _grant, _proxy])
@pytest.mark.parametrize("worker", [*WORKERS, "sentinel"])
@pytest.mark.parametrize("form", ["text", "json"])
def test_no_worker_logs_a_secret_whichever_way_it_came_in(
    enters: Callable[[Path, str], None],
    worker: str,
    form: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The plaintext is logged as a library would show it: in the message, a field, and an exception."""
    canary = f"canary-of-{enters.__name__}-{worker}-{form}"
    enters(tmp_path, canary)
    logs.configure(worker, form=form)
    try:
        raise RuntimeError(f"cannot send {canary}")
    except RuntimeError as exc:
        logger.exception("failed: {}", exc)
    logger.bind(header=canary).warning("refused")
    shown = capsys.readouterr().err
    assert "***" in shown and "cannot send" in shown and canary not in shown


def test_a_key_that_signs_and_what_it_signed_are_in_no_log(tmp_path: Path) -> None:
    text = f"HostName=hub.example;DeviceId=d;SharedAccessKey={DEVICE_KEY}"
    config = load(
        {"EDGE_IDENTITY_MODE": "connection-string", "EDGE_IDENTITY_CONNECTION_STRING": text}, home=tmp_path
    )
    answer = registrar(registration_route(config.settings)).register(None)
    assert answer.value is not None and answer.value.sas is not None
    sas = answer.value.sas.reveal()
    assert hide_known(f"{DEVICE_KEY} and {sas}") == "*** and ***"


def test_a_connection_string_that_the_platform_sent_is_in_no_log(tmp_path: Path) -> None:
    from runtime.adapters.net.tls_options import TrustedAuthorities

    signature = "SharedAccessSignature sr=hub.example&sig=canary-of-the-platform&se=9"
    client = PlatformClient("platform.example", TrustedAuthorities(None), 1.0, lambda: False)
    told = f"HostName=hub.example;DeviceId=d;SharedAccessSignature={signature}"
    client._registration({"connectionString": told}, float)
    assert hide_known(f"with {signature}") == "with ***"


PRODUCERS = {"Secret", "parse", "connection_string.parse", "connection_string.parse_direct"}
PRODUCERS |= {"connection_string.sign", "connection_string.derived_key", "proxy_url.parse"}
PRODUCERS |= {"self.rule.applied"}
"""The calls that make a `Secret` out of plain text."""
EMPTY = {"Secret('')"}


def unregistered(path: Path) -> Iterator[str]:
    """Calls that make a secret, and are not the argument of `hidden`."""
    calls = [node for node in nodes(path) if isinstance(node, ast.Call)]
    registered = {
        id(argument)
        for node in calls
        if isinstance(node.func, ast.Name) and node.func.id == "hidden"
        for argument in node.args
    }
    for node in calls:
        made = ast.unparse(node.func) in PRODUCERS
        passed = any(isinstance(argument, ast.Name) and argument.id == "Secret" for argument in node.args)
        if (made and id(node) not in registered and ast.unparse(node) not in EMPTY) or (
            passed and ast.unparse(node).startswith("map")
        ):
            yield ast.unparse(node)


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE).parts[0] not in ("core", "devcloud", "demo", "bench")
    ],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_every_secret_that_a_device_makes_is_registered_where_it_is_made(path: Path) -> None:
    assert list(unregistered(path)) == []


@pytest.mark.parametrize("line", ["a = Secret(text)", "tuple(map(Secret, texts))", "f(proxy_url.parse(x))"])
def test_an_unregistered_secret_would_be_noticed(line: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(line)
    assert list(unregistered(tmp_path / "module.py"))
