"""Tokens sealed at rest: no copy of the folder gives one away, no missing key loses a device its identity."""

from __future__ import annotations

import base64
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runtime.adapters.bus.sockets import Hints
from runtime.adapters.identity.database import IdentityReader, IdentityStore
from runtime.adapters.identity.vault import Vault
from runtime.adapters.process.clock import SystemClock, read_moment
from runtime.adapters.process.crash import describe
from runtime.adapters.process.status_file import read_status
from runtime.core.identity import renewal
from runtime.core.identity.enrolment import Enrolment, EnrolmentState
from runtime.core.identity.escalation import Task
from runtime.core.identity.platform_answer import PlatformResult, Registration
from runtime.core.identity.renewal import RenewalPolicy
from runtime.core.secret import Secret
from runtime.errors import NeedsHuman
from runtime.workers.provisioning import ProvisioningLoop
from runtime.workers.refresh import RefreshLoop
from tests.support.harness import Home, clean_environment, heart
from tests.support.scripted import Says, Scripted, scripted

TOKENS = {kind: f"the-{kind}-token-" + "x" * 600 for kind in ("parent", "registration", "sas")}


def make_key(path: Path, seed: int = 1) -> str:
    text = base64.b64encode(bytes([seed]) * 32).decode()
    path.write_text(text + "\n")
    path.chmod(0o600)
    return text


@pytest.fixture
def key_file(folder: Path) -> Path:
    path = folder / "key"
    make_key(path)
    return path


def fill(store: IdentityStore) -> None:
    """All three kinds of token."""
    now = read_moment(SystemClock())
    done = Enrolment(EnrolmentState.PROVISIONED, "platform * mark", at=now)
    store.save_provisioned(done, PlatformResult(Secret(TOKENS["parent"]), 3600.0), now, 0.5)
    first = store.read().registration
    assert first is not None
    store.save_registered(first.serial, Registration("hub", "w:d", 600.0, Secret(TOKENS["sas"])), now, 0.5)
    store.save_refreshed(first.serial, PlatformResult(Secret(TOKENS["registration"]), 3600.0), now, 0.5)


def texts(reader: IdentityReader) -> dict[str, str | None]:
    found = reader.read()
    return {
        kind: token.secret.reveal() if token and token.secret else None
        for kind, token in (
            ("parent", found.parent),
            ("registration", found.registration),
            ("sas", found.sas),
        )
    }


def in_the_clear(home: Home) -> set[str]:
    """Tokens that a copy of the state folder gives away."""
    files = [path.read_bytes() for path in home.layout.state.rglob("*") if path.is_file()]
    return {kind for kind in TOKENS if any(f"the-{kind}-token-".encode() in content for content in files)}


def test_switching_it_on_seals_what_is_there_and_nothing_of_it_stays_in_any_file(
    home: Home, key_file: Path
) -> None:
    plain = IdentityStore(home.layout)
    for _ in range(5):
        fill(plain)  # pages that were used before may keep something
    assert in_the_clear(home) == set(TOKENS), "there was something to be found"
    sealing = IdentityStore(home.layout, Vault(True, key_file))
    assert sealing.read().sealed is False
    sealing.rewrite()
    assert in_the_clear(home) == set()
    assert sealing.read().sealed is True and texts(sealing) == TOKENS


def test_what_is_stored_from_then_on_never_touches_the_disk_in_the_clear(home: Home, key_file: Path) -> None:
    store = IdentityStore(home.layout, Vault(True, key_file))
    fill(store)
    assert in_the_clear(home) == set() and texts(store) == TOKENS
    store.drop_registration(2)
    assert texts(store) == {**TOKENS, "registration": None}, "the parent was sealed anew under its new name"


def test_switching_it_off_opens_them_again(home: Home, key_file: Path) -> None:
    fill(IdentityStore(home.layout, Vault(True, key_file)))
    store = IdentityStore(home.layout, Vault(False, key_file))
    store.rewrite()
    assert texts(IdentityReader(home.layout)) == TOKENS and store.read().sealed is False


def test_a_key_is_changed_by_putting_the_new_one_above_the_old_one(home: Home, key_file: Path) -> None:
    store = IdentityStore(home.layout, Vault(True, key_file))
    fill(store)
    old = key_file.read_text()
    new = make_key(key_file, 2)
    key_file.write_text(f"{new}\n{old}")
    assert not any(token.as_wanted for token in store.read().tokens)
    store.rewrite()
    key_file.write_text(new)
    assert texts(store) == TOKENS


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "not there"),
        ("", "not there"),
        ("c2hvcnQ=", "not 32 bytes"),
        ("not base64!", "not 32 bytes"),
        (base64.b64encode(bytes(32)).decode(), "another key"),
    ],
    ids=["missing", "empty", "short", "garbage", "another"],
)
def test_without_the_right_key_the_tokens_are_locked_and_the_right_one_opens_them_again(
    content: str | None, why: str, home: Home, key_file: Path
) -> None:
    store = IdentityStore(home.layout, Vault(True, key_file))
    fill(store)
    right = key_file.read_text()
    if content is None:
        key_file.unlink()
    else:
        key_file.write_text(content)
    found = store.read()
    assert why in found.locked
    assert found.registration is not None and found.registration.secret is None, "known, and not to be used"
    with pytest.raises(NeedsHuman, match=why) as caught:
        store.hub_credentials()
    assert "identity.encryption_key_file" in caught.value.hint
    with pytest.raises(NeedsHuman):
        store.save_refreshed(2, PlatformResult(Secret("child"), None), read_moment(SystemClock()), 0.5)
    key_file.write_text(right)
    assert texts(store) == TOKENS and not store.read().locked


def test_a_sealed_token_in_another_tokens_row_is_not_taken(home: Home, key_file: Path) -> None:
    store = IdentityStore(home.layout, Vault(True, key_file))
    fill(store)
    with closing(sqlite3.connect(home.layout.identity_db)) as db, db:
        db.execute(
            "UPDATE tokens SET text = (SELECT text FROM tokens WHERE kind = 'parent') WHERE kind = 'sas'"
        )
    assert texts(store)["sas"] is None and store.read().locked == "", "it is asked for anew"


def test_a_worker_killed_while_it_seals_leaves_every_token_readable(home: Home, key_file: Path) -> None:
    fill(IdentityStore(home.layout))
    child = os.fork()
    if child == 0:
        from runtime.adapters.identity import rows

        put = rows.put_token

        def put_and_die(db: sqlite3.Connection, keys: object, kind: str, *rest: object) -> None:
            put(db, keys, kind, *rest)  # type: ignore[arg-type]  # handed on as it came
            db.execute("PRAGMA cache_size = 0")
            db.execute("CREATE TABLE bulk AS SELECT randomblob(500000) AS b")  # spills: a hot journal stays
            os.kill(os.getpid(), 9)

        rows.put_token = put_and_die  # type: ignore[assignment]  # in this child only
        IdentityStore(home.layout, Vault(True, key_file)).rewrite()
    os.waitpid(child, 0)
    store = IdentityStore(home.layout, Vault(True, key_file))
    assert texts(store) == TOKENS
    store.rewrite()
    assert texts(store) == TOKENS and in_the_clear(home) == set()


def test_without_the_extra_it_says_what_to_install(
    home: Home, key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert "pip install '.[encrypt]'" in IdentityStore(home.layout, Vault(True, key_file)).read().locked


def test_whoever_does_not_seal_does_not_pay_for_it(home: Home) -> None:
    fill(IdentityStore(home.layout))
    code = (
        "import sys; from pathlib import Path; from runtime.layout import Layout;"
        "from runtime.adapters.identity.database import IdentityStore;"
        "from runtime.adapters.identity.vault import Vault;"
        f"s = IdentityStore(Layout(Path({str(home.folder)!r})), Vault()); assert s.hub_credentials();"
        "s.rewrite(); assert 'cryptography' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=clean_environment(), timeout=30)


def test_a_crash_while_a_token_is_stored_reports_no_token(home: Home, key_file: Path) -> None:
    for vault in (Vault(), Vault(True, key_file)):
        store = IdentityStore(home.layout, vault)
        with closing(sqlite3.connect(home.layout.identity_db)) as db, db:
            db.execute("DROP TABLE IF EXISTS tokens")
            db.execute("CREATE TABLE tokens (kind TEXT)")
        try:
            store.save_provisioned(
                Enrolment(), PlatformResult(Secret(TOKENS["sas"]), None), read_moment(SystemClock()), 0.5
            )
        except Exception as exc:
            told = str(describe("refresh", exc, exc.__traceback__))
            assert TOKENS["sas"] not in told and key_file.read_text().strip() not in told
        else:
            pytest.fail("it was to crash")


@pytest.fixture
def server(folder: Path) -> Iterator[Scripted]:
    with scripted(folder) as running:
        running.answer = lambda asked: Says(401, {})
        yield running


def configure(home: Home, server: Scripted, key_file: Path, *, encrypt: bool = True) -> None:
    token = home.folder / "token"
    token.write_text("the-provisioning-token")
    home.write_config(
        f'[platform]\ninstance = "{server.instance}"\nca_file = "{server.ca_file}"\n'
        f'provisioning_token_file = "{token}"\n[identity]\nencrypt = {str(encrypt).lower()}\n'
        f'encryption_key_file = "{key_file}"\n'
    )


def test_a_missing_key_asks_nothing_of_the_platform_and_loses_no_identity(
    home: Home, server: Scripted, key_file: Path
) -> None:
    configure(home, server, key_file)
    fill(IdentityStore(home.layout, Vault(True, key_file)))
    right = key_file.read_text()
    key_file.unlink()
    with closing(Hints(home.layout, "refresh")) as hints:
        keeper = RefreshLoop(home.config, heart(home, "refresh"), hints)
        clerk = ProvisioningLoop(home.config, heart(home, "provisioning"), hints)
        for _ in range(3):
            keeper.turn(True)
            clerk.turn()
        for worker in ("refresh", "provisioning"):
            told = read_status(home.layout.status_file(worker))
            assert told is not None and told["state"] == "tokens locked: no key opens them"
            assert "not there" in told["reason"]
        assert server.asked == []
        key_file.write_text(right)
        keeper.turn(False)
        told = read_status(home.layout.status_file("refresh"))
    assert told is not None and told["state"] != "tokens locked: no key opens them"
    assert texts(IdentityStore(home.layout, Vault(True, key_file))) == TOKENS


def test_a_new_device_whose_key_is_missing_is_not_provisioned_in_the_clear(
    home: Home, server: Scripted, folder: Path
) -> None:
    configure(home, server, folder / "key that comes later")
    with closing(Hints(home.layout, "provisioning")) as hints:
        ProvisioningLoop(home.config, heart(home, "provisioning"), hints).turn()
    assert server.asked == []


def test_a_key_that_comes_with_the_next_start_seals_at_once_and_people_see_that(
    home: Home, server: Scripted, key_file: Path
) -> None:
    configure(home, server, key_file, encrypt=False)
    fill(IdentityStore(home.layout))
    assert "in the clear" in home.edgectl("identity").stdout
    configure(home, server, key_file)
    with closing(Hints(home.layout, "refresh")) as hints:
        RefreshLoop(home.config, heart(home, "refresh"), hints).turn(False)
    assert in_the_clear(home) == set()
    told = read_status(home.layout.status_file("refresh"))
    assert told is not None and told["sealed"] is True
    shown = home.edgectl("identity")
    assert "sealed" in shown.stdout and "locked" not in shown.stdout
    assert "tokens: sealed at rest" in home.edgectl("doctor").stdout
    key_file.unlink()
    assert "tokens: the key that seals the tokens is not there" in home.edgectl("doctor").stdout


def test_a_systemd_credential_holds_the_key_as_well(home: Home, folder: Path) -> None:
    make_key(folder / "identity-key")
    vault = Vault(encrypt=True)
    keys = vault.keys({"CREDENTIALS_DIRECTORY": str(folder)})
    sealed = keys.seal("sas", Secret("text"))
    assert isinstance(sealed, bytes) and b"text" not in sealed
    opened = keys.open("sas", sealed)
    assert opened is not None and opened.secret == Secret("text")
    assert vault.keys({}).trouble


@pytest.mark.parametrize(("kind", "at"), [("registration", 0), ("registration", 40), ("sas", 40)])
def test_one_flipped_bit_in_a_sealed_token_waits_for_no_person(
    kind: str, at: int, home: Home, key_file: Path
) -> None:
    """The key that opens the others is the right one: the token is damaged, and is asked for anew."""
    store = IdentityStore(home.layout, Vault(True, key_file))
    fill(store)
    with closing(sqlite3.connect(home.layout.identity_db)) as db, db:
        ((sealed,),) = db.execute("SELECT text FROM tokens WHERE kind = ?", (kind,)).fetchall()
        flipped = bytes([*sealed[:at], sealed[at] ^ 0x80, *sealed[at + 1 :]])
        db.execute("UPDATE tokens SET text = ? WHERE kind = ?", (flipped, kind))
    store.rewrite()
    found = store.read()
    assert found.locked == "" and getattr(found, kind) is None, "it is locked, or offered for ever"
    now = read_moment(SystemClock())
    step = renewal.next_step(found.held(now), RenewalPolicy(), now)
    assert (step.task, step.in_s <= 5) == (Task.REGISTER if kind == "sas" else Task.REFRESH_PARENT, True)
