"""A file with a secret that others can read serves nevertheless, and is named in the log once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from loguru import logger

from runtime.adapters.hub.https_api import HttpsRoute, HubHttps, HubUnreachable
from runtime.adapters.identity import token_files
from runtime.adapters.identity.vault import Vault
from runtime.core.identity.credentials import HubCredentials
from runtime.core.identity.registration_route import SecretLocation
from runtime.core.secret import Secret

KEY = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="

READERS: dict[str, Callable[[Path], object]] = {
    "token": lambda path: token_files.token_at(SecretLocation("table.token", "none", file=path), {}),
    "systemd credential": lambda path: token_files.secret_at(
        SecretLocation("table.secret", path.name), {"CREDENTIALS_DIRECTORY": str(path.parent)}
    ),
    "key that seals tokens": lambda path: Vault(True, path).keys({}).secrets,
}


@pytest.fixture
def said() -> Iterator[list[str]]:
    lines: list[str] = []
    sink = logger.add(lines.append, format="{level} {message}")
    yield lines
    logger.remove(sink)


@pytest.mark.parametrize("reader", READERS)
def test_a_secret_that_others_can_read_is_named_once_and_still_serves(
    reader: str, folder: Path, said: list[str]
) -> None:
    path = folder / "secret"
    path.write_text(KEY + "\n")
    for mode in (0o600, 0o640, 0o440):
        path.chmod(mode)
        assert READERS[reader](path)
    assert said == []
    path.chmod(0o604)
    assert all(READERS[reader](path) for _ in range(3))
    assert said == [f"WARNING {path} holds a secret and is open to others; chmod 600 {path}\n"]
    assert KEY not in said[0]


@pytest.mark.parametrize(
    "content", ["first-token\nsecond-token\n", "a remark of some-token", "caf\u00e9-token"]
)
def test_a_file_with_more_than_one_token_is_named_and_goes_into_no_header_and_no_reason(
    content: str, folder: Path, said: list[str]
) -> None:
    path = folder / "secret"
    path.write_text(content)
    path.chmod(0o600)
    assert [READERS["token"](path) for _ in range(3)] == [None] * 3
    assert said == [f"WARNING {path} holds no token: it is not one word of printable ASCII\n"]


def test_a_mark_that_windows_puts_before_a_text_is_no_part_of_the_token(folder: Path) -> None:
    path = folder / "secret"
    path.write_bytes(b"\xef\xbb\xbfthe-token\r\n")
    path.chmod(0o600)
    assert READERS["token"](path) == Secret("the-token")


def test_a_sas_that_was_damaged_at_rest_stands_in_no_reason() -> None:
    """A flipped bit made a control character of a letter, and the library's refusal showed all the rest."""
    damaged = Secret("SharedAccessSignature sr=hub.example&sig=c2lnbmF0dXJl&s\x05=4102444800")
    credentials = HubCredentials("hub.example", "w:d", 1, damaged)
    with HubHttps(HttpsRoute(None, 443, None), credentials) as hub, pytest.raises(HubUnreachable) as refused:
        hub.post("/files", "a file")
    assert "c2lnbmF0dXJl" not in str(refused.value) and "not sent" in str(refused.value)
