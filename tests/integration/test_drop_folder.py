"""Files that producers name: taken before the acknowledgement, uploaded in blocks, gone when delivered."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from runtime.adapters.process.clock import SystemClock
from runtime.adapters.store import spool as spooling
from runtime.adapters.store.reader import StoreReader
from runtime.adapters.store.spool import REVIEW_AGAIN_S, STRAY_S, Spool, file_state
from runtime.adapters.store.writer import MessageStore
from runtime.core.ingest.admission import Admission
from runtime.core.ingest.protocol import Code, ProducerKey, Refusal, Reply, Stored
from runtime.core.ingest.taken_files import HASHED_BYTES, NotTaken, TakenFile, WantedFile, spool_name
from runtime.core.message import StoredMessage
from runtime.core.settlement import Settled
from runtime.workers.ingest import decide
from runtime.workers.store_manager import StoreManager
from tests.integration.test_upload import blobs
from tests.support import store_tools
from tests.support.harness import Cloud, Home, Process, eventually
from tests.support.store_tools import ObedientClock
from tests.support.upload import backlog, put, put_in_force, register

KEY = "p/b/9"
STRAY, NAMED = "5" * 40, "a" * 40


@pytest.fixture
def spool(folder: Path) -> Spool:
    (folder / "drop").mkdir()
    return Spool(folder / "spool", folder / "drop")


def taken(spool: Spool, *wanted: tuple[str, str]) -> bool:
    return not isinstance(spool.take([WantedFile(*one) for one in wanted]), NotTaken)


def test_a_file_is_taken_whole_and_a_second_request_finds_it_taken(spool: Spool, folder: Path) -> None:
    (folder / "drop" / "clip").write_bytes(b"film")
    assert taken(spool, ("clip", KEY))
    assert not (folder / "drop" / "clip").exists()
    assert (folder / "spool" / spool_name(KEY, "clip")).read_bytes() == b"film"
    assert taken(spool, ("clip", KEY))
    assert not taken(spool, ("clip", "p/b/1"))


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
        refused = spool.take([WantedFile(name, f"p/b/{name}")])
        assert isinstance(refused, NotTaken) and not refused.passing, name
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
    assert (home.layout.spool / spool_name(KEY, "second")).read_bytes() == b"second"


def test_a_file_goes_back_where_the_commit_found_no_room_and_not_where_it_is_in_doubt(
    spool: Spool, folder: Path
) -> None:
    for number, stored in enumerate((False, True)):
        (folder / "drop" / "clip").write_bytes(b"film")
        assert taken(spool, ("clip", f"p/b/{number}"))
        spool.settle(stored=stored)
        assert (folder / "drop" / "clip").exists() is not stored
        assert (folder / "spool" / spool_name(f"p/b/{number}", "clip")).exists() is stored


def test_a_file_that_cannot_go_back_never_passes_for_another(spool: Spool, folder: Path) -> None:
    """Its producer had written it anew: the key's next message was acknowledged with the old one."""
    (folder / "drop" / "latest").write_bytes(b"first")
    assert taken(spool, ("latest", KEY))
    (folder / "drop" / "latest").write_bytes(b"second")
    spool.settle(stored=False)
    assert taken(spool, ("latest", KEY))
    assert (folder / "spool" / spool_name(KEY, "latest")).read_bytes() == b"second"


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
    for name in (STRAY, NAMED):
        (folder / "spool" / name).write_bytes(b"film")
    again = Spool(folder / "spool", folder / "drop")
    (folder / "drop" / "clip").write_bytes(b"film")
    assert taken(again, ("clip", KEY))
    left = {NAMED, spool_name(KEY, "clip")}
    for now_s, there in ((0.0, {STRAY, *left}), (STRAY_S - 1, {STRAY, *left}), (STRAY_S, left)):
        again.tidy(now_s, lambda names: names & {NAMED})
        assert {path.name for path in (folder / "spool").iterdir()} == there


def test_the_store_knows_which_files_its_messages_name(folder: Path) -> None:
    """In quarantine too; and after a salvage, which may have lost a row, every file counts as named."""
    home = Home(folder / "home")
    (home.folder / "drop").mkdir()
    home.write_config(f'[ingest]\ndrop_folder = "{home.folder / "drop"}"\n')
    keeper = StoreManager(home.config, SystemClock())
    with sqlite3.connect(home.layout.messages_db) as db:
        columns = "stream, kind, priority, stored_boot_s, boot, bytes, payload, file"
        db.execute(f"INSERT INTO messages ({columns}) VALUES (1, 0, 4, 0.0, 1, 0, x'', 'a')")
        db.execute(f"INSERT INTO quarantine ({columns}, reason) VALUES (1, 0, 4, 0.0, 1, 0, x'', 'b', '')")
    assert keeper.files_named({"a", "b", "c"}) == {"a", "b"}
    keeper.close()
    assert keeper.files_named({"c"}) is None


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
    left = {spool_name("p/b/2", "2"), spool_name("p/b/3", "3")}
    eventually(lambda: {path.name for path in home.layout.spool.iterdir()} == left)


def test_a_file_goes_with_its_message_and_never_while_that_is_set_aside(folder: Path) -> None:
    """What is in quarantine may be sent yet."""
    store = MessageStore(folder / "messages.db", ObedientClock())
    admission, _ = store_tools.decide(store, [])
    for number in (1, 2, 3):
        store_tools.decide_file(admission, store_tools.put([b""], producer="p", first=number, file="clip"))
    store.commit(admission, Settled())
    losses = store.commit(None, Settled(dropped=[(1, "expired")], quarantined=[(2, "poison")], delivered=[3]))
    assert {loss.reason: list(loss.files) for loss in losses} == {
        "expired": [spool_name("p/b/1", "clip")],
        "quarantined": [],
    }
    store.close()


def test_the_payload_of_a_message_in_quarantine_is_shown_also_where_it_is_a_file(home: Home) -> None:
    """Nothing was written, with exit status 0: who saved it and dropped the message then had lost both."""
    home.write_config("")
    store = MessageStore(home.layout.messages_db, ObedientClock())
    admission, _ = store_tools.decide(store, [])
    store_tools.decide_file(admission, store_tools.put([b""], producer="p", first=1, file="clip"))
    store.commit(admission, Settled())
    store.commit(None, Settled(quarantined=[(1, "poison")]))
    store.close()
    home.layout.spool.mkdir()
    (home.layout.spool / spool_name("p/b/1", "clip")).write_bytes(b"film")
    assert home.edgectl("quarantine", "show", "1", "--payload").stdout == "film"
    (home.layout.spool / spool_name("p/b/1", "clip")).unlink()
    shown = home.edgectl("quarantine", "show", "1", "--payload")
    assert shown.returncode == 1 and "is gone" in shown.stderr, shown


def test_a_file_taken_by_a_life_that_ended_at_once_is_looked_at_before_it_counts(
    spool: Spool, folder: Path
) -> None:
    """Renamed, neither looked at nor synced, and SIGKILL: a repeat counted whatever lay there."""
    (folder / "secret").write_text("not yours")
    (folder / "spool" / spool_name(KEY, "clip")).symlink_to(folder / "secret")
    assert not taken(spool, ("clip", KEY))


class Life:
    """One life of ingest, as far as files go."""

    def __init__(self, home: Home) -> None:
        self.clock = ObedientClock()
        self.keeper = StoreManager(home.config, self.clock)
        self.spool = Spool(home.layout.spool, home.config.settings.ingest.drop_folder)
        self.spool.tidy(0.0, self.keeper.files_named)

    def decide(self, first: int, file: str) -> tuple[Admission, Reply]:
        admission = self.keeper.admission({ProducerKey("p", "b")}, Settled())
        request = store_tools.put([b""], producer="p", first=first, file=file)
        return admission, decide(admission, request, self.spool)

    def keep(self, first: int, file: str) -> Reply:
        admission, reply = self.decide(first, file)
        self.keeper.commit(admission, Settled())
        self.spool.settle(stored=True)
        return reply

    def killed(self) -> None:
        self.keeper.close()


@pytest.fixture
def dropping(home: Home) -> Home:
    drop = home.folder / "drop"
    drop.mkdir()
    home.write_config(f'[ingest]\ndrop_folder = "{drop}"\n[store]\nmin_free_bytes = 0\n')
    return home


def test_a_file_taken_by_a_life_that_ended_before_its_commit_is_back_in_the_drop_folder(
    dropping: Home,
) -> None:
    """It was gone from there, in nobody's hands, and unlinked an hour later."""
    drop, life = dropping.folder / "drop", Life(dropping)
    (drop / "ä clip").write_bytes(b"film")
    _, reply = life.decide(9, "ä clip")
    assert isinstance(reply, Stored) and not list(drop.iterdir())
    life.killed()
    life = Life(dropping)
    assert (drop / "ä clip").read_bytes() == b"film"
    assert isinstance(life.keep(9, "ä clip"), Stored)
    life.killed()


def test_a_file_whose_commit_stands_stays_though_its_life_ended_before_the_acknowledgement(
    dropping: Home,
) -> None:
    drop, life = dropping.folder / "drop", Life(dropping)
    (drop / "clip").write_bytes(b"film")
    admission, _ = life.decide(9, "clip")
    life.keeper.commit(admission, Settled())
    life.killed()
    life = Life(dropping)
    assert (dropping.layout.spool / spool_name(KEY, "clip")).read_bytes() == b"film"
    assert not list(drop.iterdir()) and not list(dropping.layout.spool.with_name("taking").iterdir())
    repeat = life.keep(9, "clip")
    assert isinstance(repeat, Stored) and repeat.repeated == 1
    life.killed()


@pytest.mark.parametrize("name", ["second", "first"])
def test_a_message_is_never_acknowledged_with_the_file_that_an_earlier_life_took_under_its_key(
    dropping: Home, name: str
) -> None:
    """A refusal did not give it back, and the next message under that key was stored with that content."""
    drop, life = dropping.folder / "drop", Life(dropping)
    (drop / "first").write_bytes(b"first")
    life.decide(9, "first")
    life.killed()
    (drop / name).write_bytes(b"second")
    life = Life(dropping)
    life.spool.take([WantedFile("missing", KEY)])
    assert isinstance(life.keep(9, name), Stored)
    assert (dropping.layout.spool / spool_name(KEY, name)).read_bytes() == b"second"
    life.killed()


def test_a_file_of_a_commit_in_doubt_goes_back_where_the_store_does_not_know_it(dropping: Home) -> None:
    drop, life = dropping.folder / "drop", Life(dropping)
    for number in (0, 1):
        (drop / f"{number}").write_bytes(b"film")
    admission, _ = life.decide(9, "0")
    life.keeper.commit(admission, Settled())  # and yet it seemed to fail
    life.decide(10, "1")
    life.spool.settle(stored=None)
    life.spool.tidy(1.0, lambda names: None)
    assert not list(drop.iterdir()), "the store is not open yet"
    life.spool.tidy(2.0, life.keeper.files_named)
    assert [path.name for path in drop.iterdir()] == ["1"]
    assert [path.name for path in dropping.layout.spool.iterdir()] == [spool_name(KEY, "0")]
    life.killed()


def test_a_drop_folder_that_does_not_take_its_file_back_gets_it_when_it_does(dropping: Home) -> None:
    drop, life = dropping.folder / "drop", Life(dropping)
    (drop / "clip").write_bytes(b"film")
    life.decide(9, "clip")
    life.killed()
    drop.rename(dropping.folder / "away")
    life = Life(dropping)
    (dropping.folder / "away").rename(drop)
    life.spool.tidy(REVIEW_AGAIN_S, life.keeper.files_named)
    assert (drop / "clip").read_bytes() == b"film"
    life.killed()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errno.EIO, Code.STORE_UNAVAILABLE),
        (errno.EROFS, Code.STORE_UNAVAILABLE),
        (errno.ESTALE, Code.STORE_UNAVAILABLE),
        (errno.EMFILE, Code.STORE_UNAVAILABLE),
        (errno.EACCES, Code.STORE_UNAVAILABLE),
        (errno.ENOSPC, Code.DISK_FULL),
        (errno.EDQUOT, Code.DISK_FULL),
        (errno.ENOENT, Code.BAD_FIELD),
        (errno.ENAMETOOLONG, Code.BAD_FIELD),
    ],
)
@pytest.mark.parametrize("call", ["rename", "fsync", "open"])
def test_what_may_pass_is_no_final_refusal_of_a_file(
    dropping: Home, monkeypatch: pytest.MonkeyPatch, error: int, code: Code, call: str
) -> None:
    """A full or failing disk, a drop folder that is not mounted: the producer threw its file away."""
    drop, life = dropping.folder / "drop", Life(dropping)
    (drop / "clip").write_bytes(b"film")
    real = getattr(os, call)

    def fails(*given: Any, **named: Any) -> Any:
        if call == "rename" and given[0] != b"clip":  # on its way back
            return real(*given, **named)
        if call == "open" and given[0] != drop:
            return real(*given, **named)
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as failing:
        failing.setattr(os, call, fails)
        _, reply = life.decide(9, "clip")
    assert isinstance(reply, Refusal)
    if call == "open":
        assert reply.code != Code.BAD_FIELD
    else:
        assert reply.code == code
    assert (reply.retry_after_ms is None) is (reply.code == Code.BAD_FIELD)
    life.spool.tidy(1.0, life.keeper.files_named)
    assert isinstance(life.keep(9, "clip"), Stored), "it had stayed, or was given back"
    life.killed()


@pytest.fixture
def disk(dropping: Home) -> Iterator[Path]:
    """The drop folder as a file system of its own."""
    drop = dropping.folder / "drop"
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "edge-drop", str(drop)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a tmpfs")
    try:
        yield drop
    finally:
        subprocess.run(["umount", "-l", str(drop)], capture_output=True, check=False)


def test_a_drop_folder_that_is_a_disk_of_its_own_is_taken_from(dropping: Home, disk: Path) -> None:
    """Every file was refused for good."""
    life = Life(dropping)
    (disk / "clip").write_bytes(b"film" * 1_000_000)
    os.utime(disk / "clip", ns=(1, 1_000_000_123))
    assert isinstance(life.keep(9, "clip"), Stored)
    assert not list(disk.iterdir()), "its place there is free"
    (spooled,) = dropping.layout.spool.iterdir()
    assert spooled.stat().st_size == 4_000_000 and spooled.stat().st_mtime_ns == 1_000_000_123
    assert life.spool.copies
    (disk / "clip").write_bytes(b"second")
    life.decide(10, "clip")
    life.killed()
    life = Life(dropping)
    assert (disk / "clip").read_bytes() == b"second" and list(dropping.layout.spool.iterdir()) == [spooled]
    os.mkfifo(disk / "pipe")
    for name in ("pipe", "missing"):
        _, reply = life.decide(10, name)
        assert isinstance(reply, Refusal) and reply.code == Code.BAD_FIELD
    admission, _ = life.decide(10, "clip")
    life.keeper.commit(admission, Settled())
    life.killed()
    life = Life(dropping)
    assert [path.name for path in disk.iterdir()] == ["pipe"], "what was stored does not come again"
    life.killed()


def test_a_drop_folder_whose_disk_is_not_mounted_is_no_missing_file(dropping: Home, disk: Path) -> None:
    """The empty folder under the mount was looked into, and each file refused for good."""
    life = Life(dropping)
    (disk / "clip").write_bytes(b"film")
    assert isinstance(life.keep(9, "clip"), Stored)
    life.killed()
    subprocess.run(["umount", str(disk)], check=True)
    life = Life(dropping)
    _, reply = life.decide(10, "next")
    assert isinstance(reply, Refusal)
    assert (reply.code, "not mounted" in reply.message) == (Code.STORE_UNAVAILABLE, True)
    life.killed()


def test_what_a_file_was_when_it_was_taken_is_stored_and_says_that_it_was_written_to_later(
    dropping: Home,
) -> None:
    """Its producer kept it open: a mixture of two files arrived, as whole."""
    drop, life = dropping.folder / "drop", Life(dropping)
    with (drop / "clip").open("wb", buffering=0) as kept:
        kept.write(b"film")
        life.keep(9, "clip")
        reader = StoreReader(dropping.layout.messages_db)
        (message,) = reader.after(0, 1, 1_000_000)
        reader.close()
        assert isinstance(message, StoredMessage) and message.file == spool_name(KEY, "clip")
        found = TakenFile.unpack(message.payload)
        with (dropping.layout.spool / message.file).open("rb") as spooled:
            assert found and found.contradiction(file_state(spooled.fileno())) is None
            os.utime(spooled.name)
            assert found.contradiction(file_state(spooled.fileno())) is None, "a copy of the folder, say"
            kept.seek(0)
            kept.write(b"FILM")
            assert "content" in (found.contradiction(file_state(spooled.fileno())) or "")
            kept.write(b"...")
            assert "4 bytes when it was taken" in (found.contradiction(file_state(spooled.fileno())) or "")
    life.killed()


def test_a_large_file_that_was_written_to_is_known_by_its_time(folder: Path) -> None:
    file = folder / "large"
    file.write_bytes(bytes(HASHED_BYTES + 1))
    with file.open("rb") as opened:
        before = file_state(opened.fileno())
        assert TakenFile.unpack(before.pack()) == before and before.sha256 is None
        os.utime(file, ns=(5, 5))
        assert "written to" in (before.contradiction(file_state(opened.fileno())) or "")
    for older in (b"", b"null", b"{}", b"[1]", b"5"):
        assert TakenFile.unpack(older) is None


def test_a_file_that_is_still_being_written_is_refused_for_now(
    dropping: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop, life = dropping.folder / "drop", Life(dropping)
    with (drop / "clip").open("wb", buffering=0) as kept:
        kept.write(b"film")

        def slowly(file: int) -> TakenFile:
            found = file_state(file)
            kept.write(b"more")
            return found

        monkeypatch.setattr(spooling, "file_state", slowly)
        _, reply = life.decide(9, "clip")
        assert isinstance(reply, Refusal) and reply.retry_after_ms and "still being written" in reply.message
    assert (drop / "clip").read_bytes() == b"filmmore"
    life.killed()


def test_folders_and_odd_names_in_the_spool_do_not_end_ingest(dropping: Home) -> None:
    """A person's, or lost+found where the spool is a disk of its own."""
    spool = dropping.layout.spool
    (spool / "lost+found").mkdir(parents=True)
    (spool / ("b" * 40)).mkdir()
    Path(os.fsdecode(bytes(spool) + b"/\xff")).write_bytes(b"x")
    (spool / STRAY).write_bytes(b"x")
    (spool / f"{STRAY}.part").write_bytes(b"half a copy")
    life = Life(dropping)
    life.spool.tidy(STRAY_S, life.keeper.files_named)
    assert {path.name for path in spool.iterdir()} == {"lost+found", "b" * 40, os.fsdecode(b"\xff")}
    life.killed()


def test_a_name_that_the_locale_cannot_say_is_taken(folder: Path) -> None:
    """UnicodeEncodeError ended ingest, at every attempt."""
    (folder / "drop").mkdir()
    (folder / "drop" / "größe").write_bytes(b"film")
    code = (
        "import sys; from pathlib import Path; from runtime.adapters.store.spool import Spool;"
        "folder = Path(sys.argv[1]); spool = Spool(folder / 'spool', folder / 'drop');"
        "name = 'gr\\xf6\\xdfe'; assert spool.size(name, 'k') == 4;"
        "print(sys.getfilesystemencoding(), ascii(spool.take([(name, 'k')])));"
        "spool.settle(stored=False); spool.take([(name, 'k')]); spool.settle(stored=True)"
    )
    environ = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    asked = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, env=environ, check=False
    )
    assert asked.stdout.startswith("ascii [TakenFile"), asked
    assert asked.returncode == 0, asked
    assert len(list((folder / "spool").iterdir())) == 1


def test_ingest_killed_in_its_commit_gives_the_file_back_and_takes_it_when_it_is_sent_again(
    dropping: Home,
) -> None:
    """With the process itself: SIGKILL when the file is renamed and the row is not on disk."""
    drop = dropping.folder / "drop"
    (drop / "clip").write_bytes(b"film")
    header: dict[str, Any] = {"file": "clip", "producer": "p", "boot": "b", "sequence": 9}
    doomed = Process(
        *(sys.executable, "-m", "tests.support.weak_ingest", "doomed"),
        log=dropping.layout.log / "ingest.log",
        EDGE_HOME=str(dropping.folder),
    )
    dropping.workers["ingest"] = doomed
    with contextlib.closing(zmq.Context.instance().socket(zmq.REQ)) as producer:
        producer.linger = 0
        producer.connect(dropping.config.producer_endpoint())
        producer.send_multipart([json.dumps(header).encode(), b""])
        eventually(lambda: not doomed.running(), what="it is dead")
    assert not (drop / "clip").exists(), doomed.said()
    dropping.start_worker("ingest")
    eventually((drop / "clip").exists, what="it is back")
    put(dropping, header, b"")
    (spooled,) = dropping.layout.spool.iterdir()
    assert spooled.read_bytes() == b"film"


def test_a_file_written_again_beside_its_copy_is_not_removed_with_it(dropping: Home, disk: Path) -> None:
    """With the same size and, on a coarse file system, at the same time."""
    life = Life(dropping)
    (disk / "latest").write_bytes(b"one")
    os.utime(disk / "latest", ns=(5, 5))
    admission, _ = life.decide(9, "latest")
    (disk / "latest").write_bytes(b"two")
    os.utime(disk / "latest", ns=(5, 5))
    life.keeper.commit(admission, Settled())
    life.spool.settle(stored=True)
    assert (disk / "latest").read_bytes() == b"two"
    assert (dropping.layout.spool / spool_name(KEY, "latest")).read_bytes() == b"one"
    life.killed()


def test_a_file_that_an_operator_requeues_is_sent_as_it_is_now(dropping: Home) -> None:
    """It contradicts what was acknowledged, for ever: it would have come back to quarantine at once."""
    drop, life = dropping.folder / "drop", Life(dropping)
    (drop / "clip").write_bytes(b"film")
    life.keep(9, "clip")
    life.keeper.commit(None, Settled(quarantined=[(1, "it was written to after it was taken")]))
    life.keeper.commit(None, Settled(requeued=[1]))
    reader = StoreReader(dropping.layout.messages_db)
    (message,) = reader.after(0, 1, 1_000_000)
    reader.close()
    assert isinstance(message, StoredMessage)
    assert (message.file, message.payload) == (spool_name(KEY, "clip"), b"")
    assert life.keeper.figures()["bytes"] == 4
    life.killed()
