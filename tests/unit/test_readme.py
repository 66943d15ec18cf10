"""What the pages say against reality: settings, figures, commands, codes and limits of the protocol."""

from __future__ import annotations

import argparse
import re

import pytest

from runtime.adapters.identity.platform_api import STATUS_OUTCOMES
from runtime.cli import parser
from runtime.core.delivery.envelope import _MID_LIMIT_CHARACTERS
from runtime.core.identity.platform_answer import Outcome
from runtime.core.ingest.message_fields import (
    DEFAULT_PRIORITY,
    MAX_NAME_CHARACTERS,
    MAX_PROPERTIES,
    MAX_PROPERTIES_BYTES,
    RESERVED_PROPERTIES,
)
from runtime.core.ingest.protocol import (
    HEADER_FIELDS,
    MAX_HEADER_BYTES,
    MAX_MESSAGES,
    MAX_NESTING,
    MAX_SEQUENCE,
    WARNING_BACKWARDS,
    WARNING_GAP,
    BadRequest,
    Code,
    Operation,
    Refusal,
    SizeLimits,
    decode_reply,
    decode_request,
    encode_reply,
)
from runtime.core.ingest.reply_route import MOST_HOP_BYTES, MOST_HOPS
from runtime.core.retry_plan import LONGEST_WAIT_S
from runtime.layout import PROGRAMS
from runtime.settings import keys
from runtime.settings_ingest import IngestSettings
from runtime.workers.store_housekeeping import PRODUCER_MEMORY_S
from tests.support.readme import (
    COMMANDS,
    CONFIGURATION,
    PERFORMANCE,
    PLATFORM,
    PROTOCOL,
    README,
    with_settings,
)

PAGE = PROTOCOL.read_text()
LIMITS = SizeLimits(message_bytes=4_194_304, request_bytes=8_388_608)
EXCHANGES = re.findall(r"^>> (.+)\n<< (.+)$", PAGE, re.MULTILINE)


def commands() -> dict[str, argparse.ArgumentParser]:
    actions = parser()._actions
    return next(a.choices for a in actions if isinstance(a, argparse._SubParsersAction))


def test_every_setting_is_in_the_table() -> None:
    written = CONFIGURATION.read_text()
    assert with_settings(written) == written, "run: python -m tests.support.readme"


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len(README.read_text().splitlines()) <= 160


def test_every_process_has_its_row() -> None:
    rows = README.read_text().partition("| process | does |")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\| `(\w+)`", rows, re.MULTILINE)) == set(PROGRAMS)


def test_every_property_that_the_cloud_sees_has_its_row() -> None:
    rows = PAGE.partition("## What the cloud sees")[2].partition("\n## ")[0]
    assert {name for name in RESERVED_PROPERTIES if f"`{name}`" not in rows} == set()


def test_every_answer_of_the_platform_has_its_row() -> None:
    rows = re.findall(r"^\| ([\dx]+)[^|]* \| `(\w+)` \|", PLATFORM.read_text(), re.MULTILINE)
    assert {(str(status), outcome.name) for status, outcome in STATUS_OUTCOMES.items()} <= set(rows)
    assert {name for _, name in rows} <= set(Outcome.__members__)


def test_every_way_in_has_its_row() -> None:
    (mode,) = (key for key in keys() if key.dotted == "identity.mode")
    rows = CONFIGURATION.read_text().partition("## Ways in")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `([\w-]+)` \|", rows, re.MULTILINE) == list(mode.rule.choices or ())


def test_every_command_is_documented_and_exists() -> None:
    listed = re.findall(r"^\| `edgectl ([a-z]+)` \|", COMMANDS.read_text(), re.MULTILINE)
    assert set(listed) == set(commands()) - {"worker"}


def test_every_error_code_is_documented() -> None:
    assert {code for code in Code if f"`{code}`" not in PAGE} == set()
    assert {operation for operation in Operation if f"`{operation}`" not in PAGE} == set()
    assert {field for field in HEADER_FIELDS if f"`{field}`" not in PAGE} == set()
    assert f"`{WARNING_GAP}`" in PAGE and f"`{WARNING_BACKWARDS}`" in PAGE


def test_every_limit_of_the_page_is_the_one_in_force() -> None:
    ingest = IngestSettings()
    for limit in (
        MAX_HEADER_BYTES,
        MAX_MESSAGES,
        MAX_SEQUENCE,
        MAX_PROPERTIES_BYTES,
        ingest.max_message_bytes,
        ingest.max_request_bytes,
        ingest.memory_bytes // 4,
    ):
        assert f"{limit:,}" in PAGE, limit
    assert f"nested at most {MAX_NESTING} levels" in PAGE
    assert f"{MOST_HOPS} frames of {MOST_HOP_BYTES} bytes" in PAGE
    assert f"1 to {MAX_NAME_CHARACTERS} characters" in PAGE and f"at most {MAX_PROPERTIES}" in PAGE
    assert f"{DEFAULT_PRIORITY} if not given" in PAGE
    assert (
        f"{LONGEST_WAIT_S:.0f} s at\nmost" in PAGE and f"every {PRODUCER_MEMORY_S / 60:.0f} minutes" in PAGE
    )
    assert f"more than {_MID_LIMIT_CHARACTERS} characters" in PAGE


@pytest.mark.parametrize(("request_", "reply"), EXCHANGES, ids=[e[0][:40] for e in EXCHANGES])
def test_the_protocol_examples_are_what_the_codec_says(request_: str, reply: str) -> None:
    header, *payloads = re.split(r" {3}", request_)
    answer = decode_reply([reply.encode()])
    if not isinstance(answer, Refusal):
        decode_request([header.encode(), *map(str.encode, payloads)], LIMITS)
        assert encode_reply(answer).decode() == reply
        return
    with pytest.raises(BadRequest) as caught:
        decode_request([header.encode(), *map(str.encode, payloads)], LIMITS)
    assert (caught.value.code, str(caught.value)) == (answer.code, answer.message)


def test_there_are_examples_to_test() -> None:
    assert len(EXCHANGES) >= 5


def test_every_figure_that_is_out_of_reach_is_owned_up_to_with_its_reason() -> None:
    page = PERFORMANCE.read_text()
    figures = re.findall(
        r"^\| (.+) \| ([\d.,]+) \S.* \| ([\d.]*) \| ([<>]=) ([\d.]+) \| (\S+) \|$", page, re.M
    )
    assert len(figures) > 10
    for name, value, share, sign, bound, said in figures:
        measured = float(share or value.replace(",", ""))
        reached = measured >= float(bound) if sign == ">=" else measured <= float(bound)
        assert said == ("yes" if reached else "**no**"), name
        assert reached or f"- {name}: " in page, name
