"""`edgectl send`: store messages from the command line; it returns when they are on disk."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from runtime.cli import Commands, seconds
from runtime.errors import Rejected, Retryable, UsageError

LINES_AT_ONCE = 100
PATIENCE_S = 2.0
"""After this silence a person at a terminal is told what the command waits for."""


def register(commands: Commands) -> None:
    send = commands.add_parser(
        "send",
        help="store a message; returns when it is on disk",
        description="Store a message from the argument or from stdin.",
        epilog="exit status: 0 it is on disk, 1 not now, 2 never as it is",
    )
    send.add_argument(
        "text", nargs="?", default="-", metavar="TEXT", help="the payload; - (default) reads stdin"
    )
    send.add_argument("--lines", action="store_true", help="every line of stdin is a message, as it comes")
    send.add_argument("--stream", metavar="NAME", help="stream of the message")
    send.add_argument("--group", metavar="NAME", help="stream group of the message")
    send.add_argument("--leaf", metavar="ID", help="device behind this one whose message it is")
    send.add_argument("--batch", metavar="ID", help="batch id")
    send.add_argument("--message", metavar="ID", help="message id")
    send.add_argument("--content-type", metavar="TYPE", help="such as application/json")
    send.add_argument(
        "--property",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="handed on to the cloud; repeatable",
    )
    send.add_argument("--priority", type=int, metavar="0-9", help="9 is the most important (default 4)")
    send.add_argument("--ttl", type=float, metavar="SECONDS", help="of no use after so long")
    send.add_argument(
        "--complete-batch", metavar="ID", help="say that a batch is whole, instead of a message"
    )
    send.add_argument(
        "--retry-for",
        type=seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long to try (default %(default)g)",
    )
    send.set_defaults(run=_send, sends_only=True)


def _send(arguments: argparse.Namespace) -> int:
    from runtime.producer import Fields, NoAnswer, Producer
    from runtime.producer_config import load_as_producer

    config = load_as_producer(os.environ, home=arguments.home, file=arguments.config)
    if arguments.text != "-" and (arguments.lines or arguments.complete_batch):
        raise UsageError("TEXT would be lost beside --lines or --complete-batch; leave one of them out")
    pairs = [text.partition("=") for text in arguments.property]
    if not all(equals for _, equals, _ in pairs):
        raise UsageError("--property must read NAME=VALUE")
    fields = Fields(
        stream_group=arguments.group,
        stream=arguments.stream,
        leaf=arguments.leaf,
        batch_id=arguments.complete_batch or arguments.batch,
        message_id=arguments.message,
        content_type=arguments.content_type,
        properties={name: value for name, _, value in pairs} or None,
        priority=arguments.priority,
        ttl_s=arguments.ttl,
    )
    endpoint, most_bytes = str(config.endpoint), config.max_message_bytes
    try:
        producing = Producer(endpoint, name="edgectl-send", retry_for_s=arguments.retry_for)
        with _patience_named(endpoint, arguments), producing as producer:
            if arguments.complete_batch:
                producer.complete_batch(**fields)
            elif arguments.lines:
                for lines in _as_they_come(_stdin(), most_bytes):
                    producer.put_many(lines, **fields)
            elif arguments.text == "-":
                producer.put(_bounded(_stdin().read(most_bytes + 1), most_bytes), **fields)
            else:
                producer.put(os.fsencode(arguments.text), **fields)  # the bytes that were given, UTF-8 or not
    except NoAnswer as exc:
        raise Retryable(f"{exc} at {endpoint}; {_why_silent(endpoint)}") from exc
    except Rejected as exc:
        raise UsageError(str(exc)) from exc
    return 0


@contextlib.contextmanager
def _patience_named(endpoint: str, arguments: argparse.Namespace) -> Iterator[None]:
    """Report on a terminal what a command waits for, if it takes longer than a moment."""
    from threading import Timer

    waits = f"edgectl send: waiting for ingest at {endpoint}, {arguments.retry_for:g} s at most\n"
    timer = Timer(PATIENCE_S, sys.stderr.write, [waits])
    timer.daemon = True
    if sys.stderr.isatty() and not arguments.lines:  # input that is read as lines comes at its own pace
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _why_silent(endpoint: str) -> str:
    """The likely reason that no process answers there."""
    path = endpoint.removeprefix("ipc://")
    if endpoint.startswith("ipc://") and os.access(path, os.F_OK) and not os.access(path, os.W_OK):
        return "this user may not connect to it: its group may (ingest.group)"
    return "is the runtime up? `edgectl status` tells"


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise UsageError("stdin is closed: give the message as an argument")
    return sys.stdin.buffer


def _bounded(payload: bytes, most_bytes: int) -> bytes:
    """Bounded reading: of stdin's input no more is held in memory than can be stored."""
    if len(payload) > most_bytes:
        raise UsageError(f"a message has at most {most_bytes} bytes (ingest.max_message_bytes)")
    return payload


def _as_they_come(stdin: BinaryIO, most_bytes: int) -> Iterator[list[bytes]]:
    """Lines without their ends: those that are there at once, never waiting for more when there is one."""
    rest = b""
    while True:
        chunk = stdin.read1(65_536)  # type: ignore[attr-defined]  # a BufferedReader, whatever its declared type
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        yield from _parts(lines)
        _bounded(rest, most_bytes)
    if rest:
        yield [rest]


def _parts(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    remaining = iter(lines)
    while part := list(itertools.islice(remaining, LINES_AT_ONCE)):
        yield part
