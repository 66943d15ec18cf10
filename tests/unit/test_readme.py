"""README against reality: its settings, commands, codes, examples and links."""

from __future__ import annotations

import argparse
import json
import re

import pytest

from runtime.cli import parser
from runtime.core.protocol import (
    BadRequest,
    Code,
    Limits,
    Operation,
    Refused,
    decode_reply,
    decode_request,
    encode_reply,
)
from tests.readme import README, with_settings

TEXT = README.read_text()
LIMITS = Limits(message_bytes=4_194_304, request_bytes=8_388_608)
EXCHANGES = re.findall(r"^>> (.+)\n<< (.+)$", TEXT, re.MULTILINE)


def commands() -> dict[str, argparse.ArgumentParser]:
    actions = parser()._actions
    return next(a.choices for a in actions if isinstance(a, argparse._SubParsersAction))


def test_every_setting_is_in_the_table() -> None:
    assert with_settings(TEXT) == TEXT, "run: python -m tests.readme"


def test_every_command_is_documented_and_exists() -> None:
    named = set(re.findall(r"edgectl(?: --home \S+)? ([a-z]+)", TEXT))
    assert named <= set(commands()), "README names commands that do not exist"
    assert set(commands()) - {"worker"} <= named, "README leaves out commands"


def test_every_error_code_is_documented() -> None:
    assert {code for code in Code if f"`{code}`" not in TEXT} == set()
    assert {operation for operation in Operation if f"`{operation}`" not in TEXT} == set()


@pytest.mark.parametrize(("request_", "reply"), EXCHANGES, ids=[e[0][:40] for e in EXCHANGES])
def test_the_protocol_examples_are_what_the_codec_says(request_: str, reply: str) -> None:
    header, *payloads = re.split(r" {3}", request_)
    answer = decode_reply([reply.encode()])
    if not isinstance(answer, Refused):
        decode_request([header.encode(), *map(str.encode, payloads)], LIMITS)
        assert json.loads(encode_reply(answer)) == json.loads(reply)
        return
    with pytest.raises(BadRequest) as caught:
        decode_request([header.encode(), *map(str.encode, payloads)], LIMITS)
    assert (caught.value.code, str(caught.value)) == (answer.code, answer.message)


def test_there_are_examples_to_test() -> None:
    assert len(EXCHANGES) >= 5


def test_every_file_that_is_named_exists() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)|`((?:deploy|runtime|tests)/[\w./]+)`", TEXT):
        name = path[0] or path[1]
        assert (README.parent / name).exists(), name


def test_readme_owns_up_to_every_figure_that_is_out_of_reach_and_says_why() -> None:
    figures = re.findall(
        r"^\| (.+) \| ([\d.,]+) \S.* \| ([\d.]*) \| ([<>]=) ([\d.]+) \| (\S+) \|$", TEXT, re.M
    )
    assert len(figures) > 10
    for name, value, share, sign, bound, said in figures:
        measured = float(share or value.replace(",", ""))
        reached = measured >= float(bound) if sign == ">=" else measured <= float(bound)
        assert said == ("yes" if reached else "**no**"), name
        assert reached or f"- {name}: " in TEXT, name
