"""All pages against reality: their links lead somewhere, their commands and configurations are understood."""

from __future__ import annotations

import ast
import re
import shlex
import textwrap
from argparse import ArgumentParser
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from runtime.cli import parser
from runtime.config import load
from tests.support.readme import PAGES, TOP
from tests.support.rooms import source

BLOCKS = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
TARGETS = set(re.findall(r"^([a-z]+):", (TOP / "Makefile").read_text(), re.MULTILINE))


def name(value: object) -> str:
    return str(value.relative_to(TOP)) if isinstance(value, Path) else str(value).strip()[:60]


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    """Every code block in this language, by its page."""
    for page in PAGES:
        for indent, of, code in BLOCKS.findall(page.read_text()):
            if of == language:
                yield page, textwrap.dedent(indent + code)


@cache
def all_code() -> str:
    return "".join(source(path) for path in (TOP / "runtime").rglob("*.py"))


@cache
def module_names() -> set[str]:
    return {path.name for folder in ("runtime", "tests", "deploy") for path in (TOP / folder).rglob("*.py")}


def prose(page: Path) -> str:
    return BLOCKS.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The fragments by which a browser finds the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_are_pages_to_test() -> None:
    named = {name(page) for page in PAGES}
    assert {"README.md", "SECURITY.md", "docs/guarantees.md", "deploy/RUNBOOK.md"} <= named
    assert list(blocks("sh")) and list(blocks("toml")) and list(blocks("python"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_to_a_file_and_to_a_heading_in_it(page: Path) -> None:
    for path, fragment in re.findall(r"\]\((?!\w+:)([^)#]*)#?([^)]*)\)", prose(page)):
        there = page.parent / path if path else page
        assert there.exists(), f"{path} is not there"
        if fragment:
            assert fragment in anchors(there), f"{path} has no heading #{fragment}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    """CHANGELOG speaks of what was there."""
    if page.name != "CHANGELOG.md":
        for path in re.findall(r"`((?:deploy|docs|runtime|tests)/[\w./-]*)`", page.read_text()):
            assert (TOP / path).exists(), f"{path} is not there"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_module_and_class_that_a_page_names_is_there(page: Path) -> None:
    """Also where a folder that was named before is left out: `sequences.py`."""
    if page.name != "CHANGELOG.md":
        assert set(re.findall(r"`(\w+\.py)`", page.read_text())) <= module_names()
    if page.name in ("CONTRIBUTING.md", "architecture.md"):
        code = all_code()
        named = set(re.findall(r"`([A-Z][a-z]+[A-Z]\w+)(?:\.\w+)?`", page.read_text()))
        assert {one for one in named if f"class {one}" not in code} == set()


VAGUE = re.compile(r"\b(whoever|nobody|somebody|everybody|anybody|anew|for good|weather)\b", re.IGNORECASE)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_sentence_of_a_page_has_a_subject(page: Path) -> None:
    """Say which process, user or peer it is, and what happens to what."""
    if page.name != "CHANGELOG.md":
        assert VAGUE.findall(re.sub(r"`[^`]*`", "", prose(page))) == []


def test_every_line_that_the_page_of_style_praises_stands_in_the_code() -> None:
    page = (TOP / "docs" / "style.md").read_text()
    praised = re.findall(r"^ +- so: `(.+?)`(?: - .*)?$", page, re.MULTILINE)
    code = " ".join(all_code().split())
    assert len(praised) == 10
    assert [line for line in praised if " ".join(line.split()) not in code] == []


@cache
def command_line() -> ArgumentParser:
    """The parser of edgectl, which is dear to build and keeps nothing of what it parsed."""
    return parser()


def commands() -> Iterator[tuple[Path, str]]:
    """Every call of edgectl that a page shows whole: in a block, or as a phrase with an argument."""
    for page in PAGES:
        if page.name == "CHANGELOG.md":
            continue
        for _, language, code in BLOCKS.findall(page.read_text()):
            if language in ("", "sh"):
                yield from ((page, line) for line in re.findall(r"^\S*(edgectl .+)$", code, re.MULTILINE))
        yield from ((page, line) for line in re.findall(r"`(?:sudo )?(edgectl [^`|]+)`", prose(page)))


@pytest.mark.parametrize(("page", "line"), sorted(set(commands())), ids=name)
def test_every_call_of_edgectl_is_understood(
    page: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, *words = shlex.split(re.split(r"   |\.\.\.| #|[\[;]", line)[0].replace(" ID", " 7"))
    try:
        command_line().parse_args(words)
    except SystemExit as left:
        said = capsys.readouterr().err
        incomplete = "the following arguments are required" in said or "required: " in said
        assert left.code == 0 or incomplete, f"edgectl {' '.join(words)}: {said}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_target_of_make_exists(page: Path) -> None:
    named = set(re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(), re.MULTILINE))
    assert named <= TARGETS, named - TARGETS


@pytest.mark.parametrize(("page", "code"), list(blocks("toml")), ids=name)
def test_every_configuration_is_taken_as_it_stands(page: Path, code: str, tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text(code)
    assert not load({}, home=tmp_path, file=file).warnings


@pytest.mark.parametrize(("page", "code"), list(blocks("python")), ids=name)
def test_every_example_in_python_can_be_read(page: Path, code: str) -> None:
    """They run as well: those of docs/device.md in test_device_page, the others in the integration tier."""
    ast.parse(code)
    assert page.name in ("README.md", "device.md", "packing.md", "producer.md", "protocol.md"), (
        "where does it run?"
    )


def test_every_guarantee_names_the_test_that_shows_it() -> None:
    page = (TOP / "docs" / "guarantees.md").read_text()
    rows = re.findall(r"^\| (?!what happens)[^-].*\|$", page, re.MULTILINE)
    assert len(rows) >= 40
    assert [row for row in rows if not re.search(r"\| `tests/[^|]*` \|$", row)] == []
