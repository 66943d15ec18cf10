"""The decoder that docs/packing.md gives to consumers: with Python's standard library and nothing else."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from runtime.core.delivery.envelope import Compression, Telemetry
from runtime.core.delivery.pack_names import named
from runtime.core.delivery.packing import PackFormat, PackRule, completes, join, unpack
from tests.support.readme import TOP

PAGE = (TOP / "docs" / "packing.md").read_text()
(DECODER,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FORMATS = (PackFormat.LINES, PackFormat.CONCAT, PackFormat.CBOR_SEQ)
BATCH, COMPLETION = (("batch-id", "b"),), (("complete-batch", "true"), ("ignore-payload", "true"))
Decoder = Callable[[bytes, dict[str, str], str], Iterator[tuple[str, bytes]]]

ALONE = """
import json, sys
for case in json.load(sys.stdin):
    found = messages(case["body"].encode("latin-1"), case["properties"], case["mid"])
    print(json.dumps([[id, payload.decode("latin-1")] for id, payload in found]))
assert not [name for name in sys.modules if "brotli" in name]
"""


def cases(compression: Compression = Compression.NONE) -> Iterator[Telemetry]:
    """Packs of many shapes, and a message that came alone."""
    chance = random.Random(5)
    for at in range(40):
        number, numbers = 1, [1]
        for _ in range(chance.randrange(1, 60)):
            numbers.append(number := number + chance.choice([1, 1, 1, 2, 3, 9]))
        _, fitting = named("p:b:1", numbers)
        parts = [
            Telemetry(f"p:b:{n}", chance.randbytes(n % 7).replace(b"\n", b""), BATCH, stored_ms=n << n % 40)
            for n in numbers[:fitting]
        ]
        if at % 4 == 0:
            parts[-1] = replace(parts[-1], payload=b"", properties=(*BATCH, *COMPLETION))
        yield join(parts, PackRule(FORMATS[at % 3], compression=compression))


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    names: dict[str, Any] = {}
    exec(compile(DECODER, "docs/packing.md", "exec"), names)  # the page under test
    decode: Decoder = names["messages"]
    return decode


def test_it_takes_packs_apart_in_a_python_without_a_single_package() -> None:
    packs = [*cases(), Telemetry("p:b:7", b"alone")]
    told = [
        {"body": p.payload.decode("latin-1"), "properties": dict(p.properties), "mid": p.mid} for p in packs
    ]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", DECODER + ALONE],
        input=json.dumps(told),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for pack, line in zip(packs, done.stdout.splitlines(), strict=True):
        wanted = [one for one in unpack(pack) if not completes(one)] if "#" in pack.mid else [pack]
        assert json.loads(line) == [[one.mid, one.payload.decode("latin-1")] for one in wanted]


def test_it_takes_compressed_packs_apart(decoder: Decoder) -> None:
    for pack in cases(Compression.FASTEST):
        found = list(decoder(pack.payload, dict(pack.properties), pack.mid))
        assert found == [(one.mid, one.payload) for one in unpack(pack) if not completes(one)]


def test_it_gives_what_a_sequence_says_of_each_message() -> None:
    names: dict[str, Any] = {}
    exec(compile(DECODER, "docs/packing.md", "exec"), names)  # the page under test
    parts = [
        Telemetry("p:b:1", b"\n" * 300, (("level", "1"), ("message-id", "m-1")), stored_ms=1_800_000_000_123),
        Telemetry("p:b:2", b"", (("level", "2"),)),
    ]
    pack = join(parts, PackRule(PackFormat.CBOR_SEQ))
    assert names["items"](pack.payload) == [
        ["p:b:1", b"\n" * 300, {"m": "m-1", "p": {"level": "1"}, "t": 1_800_000_000_123}],
        ["p:b:2", b"", {"p": {"level": "2"}}],
    ]


@pytest.mark.parametrize(
    ("properties", "body"),
    [
        ({"pack": "lines"}, b"a\nb"),
        ({"pack": "concat", "pack-lengths": "1*2"}, b"ab"),
        ({"pack": "concat", "pack-lengths": "1*3"}, b"abcd"),
        ({"pack": "lines", "complete-batch": "true"}, b"a\nb\nc"),
        ({"pack": "cbor-seq"}, b"\x83\x65p:b:1\x40\xa0\x83\x65p:b:2\x40\xa0"),
    ],
)
def test_it_refuses_to_guess_where_counts_differ(
    decoder: Decoder, properties: dict[str, str], body: bytes
) -> None:
    with pytest.raises(ValueError, match="does not hold what its name says"):
        list(decoder(body, properties, "p:b:1#+3"))


def test_it_is_short_enough_to_be_copied() -> None:
    assert len([line for line in DECODER.splitlines() if line.strip()]) <= 70
