"""identity.db that another process holds, or that changed how it rests: the data path goes on meanwhile."""

from __future__ import annotations

import base64
import faulthandler
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from runtime.adapters.identity.database import IdentityReader, IdentityStore
from runtime.adapters.net.certificate_pair import check_pair
from runtime.adapters.process.process import Stop
from runtime.core.identity.enrolment import Enrolment, EnrolmentState
from runtime.core.identity.platform_answer import PlatformResult, Registration
from runtime.core.moment import Moment
from runtime.core.secret import Secret
from runtime.errors import Retryable
from runtime.wiring import vault
from runtime.workers.upload import IDENTITY_BUSY_S, UploadLoop
from tests.support.harness import Home

NOW = Moment(1_800_000_000.5, 1000.25, "boot")
HOLDER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2:]:
    db.execute(statement).fetchall()
print("holds", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path, *statements: str) -> Iterator[int]:
    """Another process with a transaction open; its number."""
    command = [sys.executable, "-c", HOLDER, str(path), *statements]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdin is not None
        assert holder.stdout.readline() == "holds\n"
        yield holder.pid
        holder.stdin.close()


def registered(store: IdentityStore, sas: str = "first-sas") -> None:
    if store.read().registration is None:
        done = Enrolment(EnrolmentState.PROVISIONED, "basis", at=NOW)
        store.save_provisioned(done, PlatformResult(Secret("token"), None), NOW, 0.5)
    store.save_registered(1, Registration("hub", "w:d", 3600.0, Secret(sas)), NOW, 0.5)


@pytest.fixture
def store(home: Home) -> IdentityStore:
    made = IdentityStore(home.layout)
    registered(made)
    return made


@pytest.fixture
def uploader(home: Home, store: IdentityStore) -> Iterator[UploadLoop]:
    home.write_config("")
    made = UploadLoop(home.config, Stop())
    yield made
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("statements", [("BEGIN", "SELECT * FROM tokens"), ("BEGIN IMMEDIATE",)])
def test_a_transaction_left_open_is_told_by_the_name_of_the_process_that_left_it(
    statements: tuple[str, ...], store: IdentityStore, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader left open stopped every renewal, and nothing said which."""
    monkeypatch.setattr("runtime.adapters.identity.database_file.BUSY_TIMEOUT_S", 0.1)
    with held(home.layout.identity_db, *statements) as pid:
        with pytest.raises(Retryable, match=rf"locked: process {pid} \(python.*\) has a transaction open"):
            store.save_skew(1.0)
        assert store.read().registration is not None, "reading goes on beside it"
    store.save_skew(1.0)


def test_the_data_path_waits_for_no_lock_of_the_control_path(
    uploader: UploadLoop, store: IdentityStore, home: Home
) -> None:
    """113 of 1,620 messages in 40 s, though the SAS was in hand."""
    uploader.look()
    known = uploader._credentials
    assert known is not None
    with held(home.layout.identity_db, "BEGIN EXCLUSIVE"):
        began_s = time.monotonic()
        for _ in range(4):
            uploader.look()
        assert time.monotonic() - began_s < 4 * (IDENTITY_BUSY_S + 0.4)
        assert uploader._credentials == known, "what is in hand serves"
    registered(store, "second-sas")
    uploader.look()
    assert uploader._credentials != known


def test_tokens_that_are_sealed_by_a_change_of_edge_toml_can_be_read_by_upload_too(
    uploader: UploadLoop, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`refresh` sealed them, upload had no key: the hub was down for good at the next renewal."""
    for pause in ("SETTLE_S", "LOOK_EVERY_S"):
        monkeypatch.setattr(f"runtime.adapters.process.config_watch.{pause}", 0.0)
    uploader.look()
    key_file = home.folder / "identity.key"
    key_file.write_text(base64.b64encode(b"k" * 32).decode())
    key_file.chmod(0o600)
    home.write_config(f'[identity]\nencrypt = true\nencryption_key_file = "{key_file}"\n')
    sealing = IdentityStore(home.layout, vault(home.config.settings))
    sealing.rewrite()
    registered(sealing, "second-sas")
    assert b"second-sas" not in home.layout.identity_db.read_bytes()
    assert uploader._watch.changed()
    uploader._reconfigure(uploader._watch.config)
    uploader.look()
    found = uploader._credentials
    assert found is not None and found.sas is not None and found.sas.reveal() == "second-sas"
    home.write_config("")
    uploader.look()
    assert uploader._credentials == found, "what is in hand serves until they are in the clear again"


def test_a_reader_that_need_not_wait_does_not(home: Home, store: IdentityStore) -> None:
    with held(home.layout.identity_db, "BEGIN EXCLUSIVE"):
        began_s = time.monotonic()
        with pytest.raises(Retryable, match="has a transaction open"):
            IdentityReader(home.layout, busy_s=IDENTITY_BUSY_S).read()
        assert time.monotonic() - began_s < 1.0


@pytest.mark.parametrize("gone", ["certificate", "key"])
def test_a_local_file_that_is_gone_is_named_with_its_path(gone: str, folder: Path) -> None:
    paths = {name: folder / f"{name}.pem" for name in ("certificate", "key")}
    for name, path in paths.items():
        if name != gone:
            path.write_text("")
    with pytest.raises(FileNotFoundError, match=str(paths[gone])):
        check_pair(paths["certificate"], paths["key"])
