"""A flipped bit in the WAL: SQLite ends it there without a word, and what was acknowledged behind is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runtime.adapters.salvage.damaged_reader import ID_GAP, DamagedStore
from runtime.adapters.salvage.salvage import FOLDER, salvage, set_aside
from runtime.adapters.store.errors import StoreDamaged
from runtime.adapters.store.writer import MessageStore
from runtime.core.settlement import Settled
from tests.support.store_tools import ObedientClock, copy_as_killed, keep, put

HEADER, FRAME = 32, 24 + 4_096
COMMITS, EACH = 12, 5


def killed(folder: Path) -> tuple[Path, Path]:
    """A store and its WAL as SIGKILL leaves them, all but the first commit in the WAL; one was delivered."""
    store = MessageStore(folder / "messages.db", ObedientClock())
    keep(store, put([b"x" * 50] * EACH, stream="s"))
    store._db.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
    store.commit(None, Settled(delivered=[2]))
    for _ in range(COMMITS - 1):
        keep(store, put([b"x" * 50] * EACH, stream="s"))
    copy = copy_as_killed(folder / "messages.db", folder / "killed")
    store.close()
    return copy, copy.with_name(f"{copy.name}-wal")


def flip(file: Path, at: int) -> None:
    content = bytearray(file.read_bytes())
    content[at] ^= 4
    file.write_bytes(content)


def last_commits(wal: Path) -> list[int]:
    """Where the frames begin that end a commit."""
    return [at for at, current in commit_frames(wal) if current]


def commit_frames(wal: Path) -> list[tuple[int, bool]]:
    """The same, with those left behind the end by an earlier WAL; False stands for these."""
    content = wal.read_bytes()
    frames = range(HEADER, len(content) - FRAME + 1, FRAME)
    return [
        (at, content[at + 8 : at + 16] == content[16:24])
        for at in frames
        if content[at + 4 : at + 8] != bytes(4)
    ]


@pytest.mark.parametrize(("commit", "inside"), [(-4, 500), (-4, 2), (-4, 9), (-4, 17), (-2, 500), (None, 3)])
def test_a_flipped_bit_in_the_wal_gives_no_id_of_an_acknowledged_message_to_another(
    tmp_path: Path, commit: int | None, inside: int
) -> None:
    """The store opened as if nothing was: all behind the bit was lost without a word, its ids came again."""
    path, wal = killed(tmp_path)
    flip(wal, inside if commit is None else last_commits(wal)[commit] + inside)
    with pytest.raises(StoreDamaged):
        MessageStore(path, ObedientClock())
    *_, report = salvage(path, "for the test")
    ((first, last),) = report.lost_ranges
    assert first <= COMMITS * EACH < last
    store = MessageStore(path, ObedientClock())
    assert {1, *range(3, first)} <= set(stored(store)) <= {*range(1, first)}
    assert store.next_id == last + 1
    store.close()


@pytest.mark.parametrize("inside", [500, 2, 9, 17])
def test_what_a_power_cut_tore_is_no_damage(tmp_path: Path, inside: int) -> None:
    """Nobody holds an acknowledgement of what nothing was written behind."""
    path, wal = killed(tmp_path)
    flip(wal, last_commits(wal)[-1] + inside)
    store = MessageStore(path, ObedientClock())
    assert stored(store) == [1, *range(3, (COMMITS - 1) * EACH + 1)]
    store.close()


def test_a_wal_that_sqlite_had_begun_anew_when_the_disk_failed_is_no_damage(tmp_path: Path) -> None:
    """Its index says so, the file does not yet: a healthy store was salvaged, and 2^32 ids named as lost."""
    path = tmp_path / "messages.db"
    told = subprocess.run([sys.executable, "-c", BEGUN_ANEW, str(path)], capture_output=True, text=True)
    assert told.stdout.split() == ["SQLITE_IOERR_WRITE", "True"], told.stderr


BEGUN_ANEW = """
import resource, signal, sqlite3, sys
from pathlib import Path
from runtime.adapters.store.wal import ends_early

path = Path(sys.argv[1])
ingest, upload = sqlite3.connect(path, isolation_level=None), sqlite3.connect(path, isolation_level=None)
ingest.execute("PRAGMA journal_mode = WAL")
for _ in range(3):
    ingest.execute(f"CREATE TABLE t{_} (a)")
upload.execute("SELECT * FROM t0").fetchall()
ingest.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
try:
    ingest.execute("CREATE TABLE t3 (a)")
except sqlite3.Error as exc:
    failed = exc.sqlite_errorname
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
ingest.close()
again = sqlite3.connect(path, isolation_level=None)
((_, frames, _),) = again.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
assert frames == 0, "it has begun anew"
print(failed, not ends_early(again, path))
"""


def test_what_an_earlier_wal_left_behind_the_end_is_no_damage(tmp_path: Path) -> None:
    """SQLite begins the file anew and shortens it later."""
    store = MessageStore(tmp_path / "messages.db", ObedientClock())
    for _ in range(COMMITS):
        keep(store, put([b"x"]))
    store._db.execute("PRAGMA wal_checkpoint(FULL)").fetchall()
    keep(store, put([b"x"]))
    copy = copy_as_killed(tmp_path / "messages.db", tmp_path / "killed")
    store.close()
    found = [current for _, current in commit_frames(copy.with_name("messages.db-wal"))]
    assert found[0] and found.count(False) > 1
    MessageStore(copy, ObedientClock()).close()


def test_a_salvage_that_begins_again_still_knows_that_commits_are_lost(tmp_path: Path) -> None:
    """For lack of room: SQLite had cleared the WAL away when it came back, and nothing was named."""
    path, wal = killed(tmp_path)
    flip(wal, last_commits(wal)[-4] + 500)
    set_aside(path)
    DamagedStore(path.parent / FOLDER / path.name, blocks_lost=False).close()
    *_, report = salvage(path, "for the test")
    assert [last - first for first, last in report.lost_ranges] == [ID_GAP - 1]


def stored(store: MessageStore) -> list[int]:
    return [number for (number,) in store._db.execute("SELECT id FROM messages ORDER BY id")]
