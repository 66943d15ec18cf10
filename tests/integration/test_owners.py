"""Sequences belong to whoever came with them: no producer can take another's next one away."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from runtime.adapters.bus.curve import make_keys, read_key
from runtime.adapters.bus.producer_socket import ANYONE, ProducerSocket
from runtime.adapters.store import producer_memory
from runtime.adapters.store.writer import MessageStore
from runtime.core.address import Listener, parse_endpoint
from runtime.core.delivery.envelope import mid
from runtime.core.ingest.protocol import ProducerKey, Stored
from runtime.core.settlement import Settled
from tests.support.harness import Home, eventually, short_folder
from tests.support.store_tools import ObedientClock, keep, put

A, B, C = "user 1000", "key " + "x" * 40, "user 7"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "messages.db"


def reopened(store: MessageStore, path: Path) -> MessageStore:
    store.close()
    return MessageStore(path, ObedientClock())


def stored(path: Path) -> list[tuple[str, bytes]]:
    with sqlite3.connect(path) as db:
        return db.execute("SELECT key, payload FROM messages ORDER BY id").fetchall()


def rows(path: Path) -> tuple[int, int]:
    """How many producers are remembered, and how many are said to be."""
    with sqlite3.connect(path) as db:
        counted = db.execute("SELECT count(*), (SELECT producers FROM store) FROM producers").fetchone()
        return int(counted[0]), int(counted[1])


def test_the_next_sequence_of_another_is_stored_and_named_apart(path: Path) -> None:
    """It was acknowledged as a repeat, and was on no disk."""
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"a1", b"a2"], producer="p", first=1, owner=A))
    assert keep(store, put([b"b3"], producer="p", first=3, owner=B)) == [Stored(range(3, 4))]
    assert keep(store, put([b"a3"], producer="p", first=3, owner=A)) == [Stored(range(4, 5))]
    store = reopened(store, path)
    assert keep(store, put([b"b4"], producer="p", first=4, owner=B)) == [Stored(range(5, 6))]
    assert keep(store, put([b"a4"], producer="p", first=4, owner=A)) == [Stored(range(6, 7))]
    store.close()
    keys, payloads = zip(*stored(path), strict=True)
    assert payloads == (b"a1", b"a2", b"b3", b"a3", b"b4", b"a4")
    assert keys[0:2] + keys[3:4] + keys[5:] == ("p/b/1", "p/b/2", "p/b/3", "p/b/4")
    assert len({*map(mid, keys)}) == 6, "the cloud takes none for a repeat of another"
    assert rows(path) == (2, 2)


def test_who_stores_first_has_the_plain_names_also_within_one_commit(path: Path) -> None:
    store = MessageStore(path, ObedientClock())
    keep(store, *(put([owner.encode()], producer="p", first=1, owner=owner) for owner in (B, A, C)))
    keep(store, *(put([owner.encode()], producer="p", first=2, owner=owner) for owner in (C, A, B)))
    store.close()
    named: dict[bytes, list[str]] = {}
    for key, payload in stored(path):
        named.setdefault(payload, []).append(key)
    assert named[B.encode()] == ["p/b/1", "p/b/2"]
    assert len({key for keys in named.values() for key in keys}) == 6
    for keys in named.values():
        assert keys[0].rpartition("/")[0] == keys[1].rpartition("/")[0]


@pytest.mark.parametrize("in_memory", [1, 1_024])
def test_repeats_are_recognised_by_their_owner_over_restarts(
    path: Path, in_memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer_memory, "IN_MEMORY", in_memory)
    store = MessageStore(path, ObedientClock())
    said = [put([owner.encode()], producer="p", first=1, owner=owner) for owner in (A, B, C)]
    first = [keep(store, each)[0] for each in said]
    for _ in range(2):
        for each, before in zip(said, first, strict=True):
            (again,) = keep(store, each)
            assert isinstance(again, Stored) and isinstance(before, Stored)
            assert (list(again.ids), again.repeated) == (list(before.ids), 1)
        store = reopened(store, path)
    store.close()
    assert rows(path) == (3, 3) and len(stored(path)) == 3


def test_a_commit_of_more_producers_than_are_kept_in_memory_counts_each_once(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were counted as met with every commit, until no new one was taken."""
    monkeypatch.setattr(producer_memory, "IN_MEMORY", 2)
    store = MessageStore(path, ObedientClock())
    for first in range(1, 4):
        keep(store, *(put([b"x"], producer=f"p{number}", first=first, owner=A) for number in range(5)))
    store.close()
    assert rows(path) == (5, 5)


def test_what_was_remembered_without_an_owner_recognises_its_repeats_whoever_comes(path: Path) -> None:
    """As after an upgrade: no producer can say whose it was, and none may take it from the others."""
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"1", b"2"], producer="p", first=1))
    store = reopened(store, path)
    for owner in (A, B):
        (again,) = keep(store, put([b"1", b"2"], producer="p", first=1, owner=owner))
        assert isinstance(again, Stored) and (list(again.ids), again.repeated) == ([1, 2], 2)
    keep(store, put([b"a3"], producer="p", first=3, owner=A))
    store = reopened(store, path)
    assert keep(store, put([b"b3"], producer="p", first=3, owner=B)) == [Stored(range(4, 5))]
    (again,) = keep(store, put([b"2", b"b3"], producer="p", first=2, owner=B))
    assert isinstance(again, Stored) and again.repeated == 2
    store.close()
    keys = [key for key, _ in stored(path)]
    assert keys[:3] == ["p/b/1", "p/b/2", "p/b/3"] and len({*keys}) == 4
    assert rows(path) == (3, 3)


def test_the_silent_are_forgotten_whoever_owns_them_and_the_present_are_not(path: Path) -> None:
    clock = ObedientClock()
    store = MessageStore(path, clock, max_producers=10)
    for owner in (A, B, C):
        keep(store, put([b"x"], producer="p", first=1, owner=owner))
    clock.boot += 1_000
    present = store.known(ProducerKey("p", "b", owner) for owner in (A, B))
    assert store.forget_producers(600, but=present) == 1
    (again,) = keep(store, put([b"x"], producer="p", first=1, owner=B))
    assert isinstance(again, Stored) and again.repeated == 1
    assert keep(store, put([b"x"], producer="p", first=1, owner=C)) == [Stored(range(4, 5))]
    assert store.figures()["producers"] == 3
    store.close()
    assert rows(path) == (3, 3)


def test_a_delivered_message_of_one_is_no_repeat_of_the_other(path: Path) -> None:
    store = MessageStore(path, ObedientClock())
    keep(store, put([b"a"], producer="p", first=1, owner=A))
    store.commit(None, Settled(delivered=[1]))
    (reply,) = keep(store, put([b"b"], producer="p", first=1, owner=B))
    assert reply == Stored(range(2, 3))
    store.close()


# --- who asks, as the door finds out ---


def free_place() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


def owner_of(door: ProducerSocket) -> str:
    def letter() -> str:
        door.socket.poll(200)
        return next((letter.owner for letter, _ in door.receive()), "")

    return eventually(letter)


def ask_as(user: int, where: str) -> subprocess.Popen[bytes]:
    asking = f"""
import os, zmq
os.setgroups([]), os.setuid({user})
s = zmq.Context.instance().socket(zmq.REQ)
s.linger = 0
s.connect({where!r})
s.send_multipart([b"{{}}", b"x"])
s.poll(10_000)
"""
    return subprocess.Popen([sys.executable, "-c", asking])


def test_the_kernel_says_which_user_asks() -> None:
    if os.geteuid():
        pytest.skip("only root may be another user")
    with short_folder() as folder:
        folder.chmod(0o755)
        door = ProducerSocket(Listener(parse_endpoint(f"ipc://{folder}/in.sock"), 1_000))
        (folder / "in.sock").chmod(0o666)
        try:
            for user in (0, 65_534):
                asking = ask_as(user, str(door.endpoint))
                assert owner_of(door) == f"user {user}"
                asking.kill()
                asking.wait()
        finally:
            door.close()


def test_by_tcp_without_keys_all_are_one() -> None:
    door = ProducerSocket(Listener(parse_endpoint(free_place()), 1_000))
    with zmq.Context.instance().socket(zmq.REQ) as sock:
        sock.linger = 0
        sock.connect(str(door.endpoint))
        sock.send_multipart([b"{}", b"x"])
        assert owner_of(door) == ANYONE
    door.close()


@pytest.fixture
def guarded() -> Iterator[tuple[Home, str]]:
    with short_folder() as folder:
        (folder / "clients").mkdir()
        for name in ("ingest", "a", "b"):
            make_keys(name, folder)
        for name in ("a", "b"):
            (folder / "clients" / f"{name}.public").write_bytes((folder / f"{name}.public").read_bytes())
        where = free_place()
        home = Home(
            folder,
            f'[ingest]\ntcp_endpoint = "{where}"\ncurve_secret_file = "{folder}/ingest.secret"\n'
            f'curve_clients = "{folder}/clients"\n[store]\nmin_free_bytes = 0\n',
        )
        home.start_worker("ingest")
        yield home, where
        home.stop()


def client(home: Home, where: str, name: str) -> zmq.Socket[bytes]:
    sock = zmq.Context.instance().socket(zmq.REQ)
    sock.linger = 0
    sock.curve_serverkey = read_key(home.folder / "ingest.public")
    sock.curve_publickey = read_key(home.folder / f"{name}.public")
    sock.curve_secretkey = read_key(home.folder / f"{name}.secret")
    sock.connect(where)
    return sock


def say(sock: zmq.Socket[bytes], sequence: int, payload: bytes) -> dict[str, Any]:
    header = {"producer": "a", "boot": "boot", "sequence": sequence}
    sock.send_multipart([json.dumps(header).encode(), payload])
    assert sock.poll(15_000)
    return dict(json.loads(sock.recv()))


def test_over_curve_a_client_cannot_have_anothers_next_message_taken_for_a_repeat(
    guarded: tuple[Home, str],
) -> None:
    home, where = guarded
    with client(home, where, "a") as a, client(home, where, "b") as b:
        assert say(a, 1, b"a1")["ids"] == [1]
        assert say(b, 2, b"b2")["ids"] == [2]
        assert say(a, 2, b"a2") == {"ok": True, "stored": 1, "ids": [3]}
        home.workers["ingest"].kill()
    home.start_worker("ingest")
    with client(home, where, "a") as a, client(home, where, "b") as b:
        assert say(a, 2, b"a2") == {"ok": True, "stored": 1, "ids": [3], "repeated": 1}
        assert say(b, 2, b"b2") == {"ok": True, "stored": 1, "ids": [2], "repeated": 1}
    names = [key for key, _ in stored(home.layout.messages_db)]
    assert names[0::2] == ["a/boot/1", "a/boot/2"] and len({*names}) == 3
