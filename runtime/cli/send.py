"""`edgectl send`: store messages from the command line; it returns when they are on disk."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from runtime.cli import Commands, load_config

LINES_AT_ONCE = 100


def register(commands: Commands) -> None:
    send = commands.add_parser(
        "send",
        help="store a message; returns when it is on disk",
        description="Store a message from the argument or from stdin. Exit status 0: it is on disk.",
    )
    send.add_argument(
        "text", nargs="?", default="-", metavar="TEXT", help="the payload; - (default) reads stdin"
    )
    send.add_argument("--lines", action="store_true", help="every line of stdin is a message, as it comes")
    send.add_argument("--stream", metavar="NAME", help="stream of the message")
    send.add_argument("--group", metavar="NAME", help="stream group of the message")
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
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long to try (default %(default)g)",
    )
    send.set_defaults(run=_send)


def _send(arguments: argparse.Namespace) -> int:
    from runtime.errors import UsageError
    from runtime.producer import Fields, Producer

    config = load_config(arguments)
    pairs = [text.partition("=") for text in arguments.property]
    if not all(equals for _, equals, _ in pairs):
        raise UsageError("--property must read NAME=VALUE")
    fields = Fields(
        stream_group=arguments.group,
        stream=arguments.stream,
        batch_id=arguments.complete_batch or arguments.batch,
        message_id=arguments.message,
        content_type=arguments.content_type,
        properties={name: value for name, _, value in pairs} or None,
        priority=arguments.priority,
        ttl_s=arguments.ttl,
    )
    endpoint = config.producer_endpoint()
    with Producer(endpoint, name="edgectl-send", retry_for_s=arguments.retry_for) as producer:
        if arguments.complete_batch:
            producer.complete_batch(**fields)
        elif arguments.lines:
            for lines in _as_they_come(sys.stdin.buffer):
                producer.put_many(lines, **fields)
        elif arguments.text == "-":
            producer.put(sys.stdin.buffer.read(), **fields)
        else:
            producer.put(arguments.text, **fields)
    return 0


def _as_they_come(stdin: BinaryIO) -> Iterator[list[bytes]]:
    """Lines without their ends: at once what waits, never waiting for more when there is something."""
    rest = b""
    while True:
        chunk = stdin.read1(65_536)  # type: ignore[attr-defined]  # a BufferedReader, whatever its declared type
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        yield from _parts(lines)
    if rest:
        yield [rest]


def _parts(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    remaining = iter(lines)
    while part := list(itertools.islice(remaining, LINES_AT_ONCE)):
        yield part
