"""Files that producers name: taken before the acknowledgement, uploaded in blocks, gone when delivered."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from runtime.adapters.clock import SystemClock
from runtime.adapters.spool import STRAY_S, Spool
from runtime.adapters.store import MessageStore
from runtime.adapters.storekeeper import Storekeeper
from runtime.core.settlement import Settled
from runtime.core.spooling import spool_name
from tests import store_tools
from tests.harness import Cloud, Home, eventually
from tests.integration.test_upload import blobs
from tests.lines import backlog, put, put_in_force, register
from tests.store_tools import ObedientClock

KEY = "p/b/9"


@pytest.fixture
def spool(folder: Path) -> Spool:
    (folder / "drop").mkdir()
    return Spool(folder / "spool", folder / "drop")


def test_a_file_is_taken_whole_and_a_second_request_finds_it_taken(spool: Spool, folder: Path) -> None:
    (folder / "drop" / "clip").write_bytes(b"film")
    assert spool.take([("clip", KEY)]) is None
    assert not (folder / "drop" / "clip").exists()
    assert (folder / "spool" / spool_name(KEY)).read_bytes() == b"film"
    assert spool.take([("clip", KEY)]) is None
    assert spool.take([("clip", "p/b/1")]) is not None


def test_links_folders_second_names_and_what_is_outside_are_refused_and_stay(
    spool: Spool, folder: Path
) -> None:
    drop, secret = folder / "drop", folder / "secret"
    secret.write_text("not yours")
    (drop / "link").symlink_to(secret)
    os.link(secret, drop / "hard")
    (drop / "sub").mkdir()
    os.mkfifo(drop / "pipe")
    for name in ("link", "hard", "sub", "pipe", "missing"):
        assert spool.take([(name, f"p/b/{name}")]) is not None, name
    assert sorted(path.name for path in drop.iterdir()) == ["hard", "link", "pipe", "sub"]
    assert list((folder / "spool").iterdir()) == []
    assert secret.read_text() == "not yours"


def test_a_file_of_a_refused_request_goes_back_and_never_passes_for_another(home: Home) -> None:
    """Else the next message under that key would be acknowledged with the file of the one before."""
    drop = home.folder / "drop"
    drop.mkdir()
    home.write_config(f'[ingest]\ndrop_folder = "{drop}"\n')
    home.start_worker("ingest")
    (drop / "first").write_bytes(b"first")
    key: dict[str, Any] = {"producer": "p", "boot": "b", "sequence": 9}
    with pytest.raises(AssertionError, match="bad_field"):
        put(home, {**key, "messages": [{"file": "first"}, {"file": "missing"}]}, b"", b"")
    assert (drop / "first").read_bytes() == b"first", "nothing of the request is stored"
    (drop / "second").write_bytes(b"second")
    put(home, {**key, "file": "second"}, b"")
    assert (home.layout.spool / spool_name(KEY)).read_bytes() == b"second"


def test_a_file_goes_back_where_the_commit_found_no_room_and_not_where_it_is_in_doubt(
    spool: Spool, folder: Path
) -> None:
    for number, stored in enumerate((False, True)):
        (folder / "drop" / "clip").write_bytes(b"film")
        assert spool.take([("clip", f"p/b/{number}")]) is None
        spool.settle(stored=stored)
        assert (folder / "drop" / "clip").exists() is not stored
        assert (folder / "spool" / spool_name(f"p/b/{number}")).exists() is stored


def test_a_file_that_cannot_go_back_never_passes_for_another(spool: Spool, folder: Path) -> None:
    """Its producer had written it anew: the key's next message was acknowledged with the old one."""
    (folder / "drop" / "latest").write_bytes(b"first")
    assert spool.take([("latest", KEY)]) is None
    (folder / "drop" / "latest").write_bytes(b"second")
    spool.settle(stored=False)
    assert spool.take([("latest", KEY)]) is None
    assert (folder / "spool" / spool_name(KEY)).read_bytes() == b"second"


def test_a_named_file_is_acknowledged_uploaded_and_removed(home: Home, cloud: Cloud) -> None:
    drop = home.folder / "drop"
    drop.mkdir()
    home.write_config(cloud.config_toml(ingest=f'drop_folder = "{drop}"', upload="block_bytes = 65536"))
    put_in_force(home.layout, register(cloud))
    home.start_worker("ingest")
    home.start_worker("upload")
    eventually(lambda: home.layout.messages_db.exists())
    content = os.urandom(500_000)
    (drop / "clip.mp4").write_bytes(content)
    header: dict[str, Any] = {"stream": "v", "file": "clip.mp4", "producer": "p", "boot": "b", "sequence": 9}
    ids = put(home, header, b"")
    assert put(home, header, b"") == ids, "a repeat is not a missing file"
    eventually(lambda: backlog(home) == 0)
    (arrived,) = cloud.messages()
    assert blobs(cloud) == {json.loads(arrived.payload)["link"]: content}
    eventually(lambda: list(home.layout.spool.iterdir()) == [])
    assert put(home, header, b"") == ids, "nor is one after the delivery"
    for wrong in ({"file": "../edge.toml"}, {"file": ".hidden"}, {"file": "missing"}):
        with pytest.raises(AssertionError, match="bad_field"):
            put(home, {**header, "sequence": 1, **wrong}, b"")


def test_strays_in_the_spool_go_late_and_never_what_a_message_names(folder: Path) -> None:
    """Taken and not committed, or delivered and not removed, and the process died: nobody else tidies up."""
    (folder / "drop").mkdir()
    (folder / "spool").mkdir()
    for name in ("stray", "named"):
        (folder / "spool" / name).write_bytes(b"film")
    again = Spool(folder / "spool", folder / "drop")
    (folder / "drop" / "clip").write_bytes(b"film")
    assert again.take([("clip", KEY)]) is None
    left = {"named", spool_name(KEY)}
    for now_s, there in ((0.0, {"stray", *left}), (STRAY_S - 1, {"stray", *left}), (STRAY_S, left)):
        again.tidy(now_s, lambda names: names & {"named"})
        assert {path.name for path in (folder / "spool").iterdir()} == there


def test_the_store_knows_which_files_its_messages_name(folder: Path) -> None:
    """In quarantine too; and after a salvage, which may have lost a row, every file counts as named."""
    home = Home(folder / "home")
    (home.folder / "drop").mkdir()
    home.write_config(f'[ingest]\ndrop_folder = "{home.folder / "drop"}"\n')
    keeper = Storekeeper(home.config, SystemClock())
    with sqlite3.connect(home.layout.messages_db) as db:
        columns = "stream, kind, priority, stored_boot_s, boot, bytes, payload, file"
        db.execute(f"INSERT INTO messages ({columns}) VALUES (1, 0, 4, 0.0, 1, 0, x'', 'a')")
        db.execute(f"INSERT INTO quarantine ({columns}, reason) VALUES (1, 0, 4, 0.0, 1, 0, x'', 'b', '')")
    assert keeper.files_named({"a", "b", "c"}) == {"a", "b"}
    keeper.close()
    keeper._alarm = "salvaged"
    assert keeper.files_named({"c"}) == {"c"}


def _with_limit(home: Home, store: str) -> Path:
    drop = home.folder / "drop"
    drop.mkdir()
    home.write_config(f'[ingest]\ndrop_folder = "{drop}"\n[store]\nmin_free_bytes = 0\n{store}\n')
    home.start_worker("ingest")
    return drop


def _put_file(home: Home, drop: Path, number: int, size: int = 40_000, **said: Any) -> list[int]:
    (drop / f"{number}").write_bytes(b"f" * size)
    return put(home, {"file": f"{number}", "producer": "p", "boot": "b", "sequence": number, **said}, b"")


def test_files_count_in_the_limits_before_they_are_taken(home: Home) -> None:
    """They filled the disk, whatever the limits said."""
    drop = _with_limit(home, "max_bytes = 100000")
    assert _put_file(home, drop, 1) + _put_file(home, drop, 2) == [1, 2]
    with pytest.raises(AssertionError, match="store_full"):
        _put_file(home, drop, 3)
    with pytest.raises(AssertionError, match="exceeds_limit"):
        _put_file(home, drop, 3, size=100_001)
    assert (drop / "3").exists()
    assert len(list(home.layout.spool.iterdir())) == 2


def test_the_file_of_a_message_that_gave_way_leaves_with_it(home: Home) -> None:
    """It stayed until an hour after the next start: a policy that drops did not bound the disk."""
    drop = _with_limit(home, 'stream_max_bytes = 100000\nstream_policy = "drop-oldest"')
    for number in (1, 2, 3):
        _put_file(home, drop, number, stream="v")
    left = {spool_name("p/b/2"), spool_name("p/b/3")}
    eventually(lambda: {path.name for path in home.layout.spool.iterdir()} == left)


def test_a_file_goes_with_its_message_and_never_while_that_is_set_aside(folder: Path) -> None:
    """What is in quarantine may be sent yet."""
    store = MessageStore(folder / "messages.db", ObedientClock())
    admission, _ = store_tools.decide(store, [])
    admission.take_files = lambda wanted: None
    for number in (1, 2, 3):
        admission.decide(store_tools.put([b""], producer="p", first=number, file="clip"))
    store.commit(admission, Settled())
    losses = store.commit(None, Settled(dropped=[(1, "expired")], quarantined=[(2, "poison")], delivered=[3]))
    assert {loss.reason: list(loss.files) for loss in losses} == {
        "expired": [spool_name("p/b/1")],
        "quarantined": [],
    }
    store.close()


def test_the_payload_of_a_message_in_quarantine_is_shown_also_where_it_is_a_file(home: Home) -> None:
    """Nothing was written, with exit status 0: who saved it and dropped the message then had lost both."""
    home.write_config("")
    store = MessageStore(home.layout.messages_db, ObedientClock())
    admission, _ = store_tools.decide(store, [])
    admission.take_files = lambda wanted: None
    admission.decide(store_tools.put([b""], producer="p", first=1, file="clip"))
    store.commit(admission, Settled())
    store.commit(None, Settled(quarantined=[(1, "poison")]))
    store.close()
    home.layout.spool.mkdir()
    (home.layout.spool / spool_name("p/b/1")).write_bytes(b"film")
    assert home.edgectl("quarantine", "show", "1", "--payload").stdout == "film"
    (home.layout.spool / spool_name("p/b/1")).unlink()
    shown = home.edgectl("quarantine", "show", "1", "--payload")
    assert shown.returncode == 1 and "is gone" in shown.stderr, shown


def test_a_file_taken_by_a_life_that_ended_at_once_is_looked_at_before_it_counts(
    spool: Spool, folder: Path
) -> None:
    """Renamed, neither looked at nor synced, and SIGKILL: a repeat counted whatever lay there."""
    (folder / "secret").write_text("not yours")
    (folder / "spool" / spool_name(KEY)).symlink_to(folder / "secret")
    assert spool.take([("clip", KEY)]) is not None
