"""The image's boot chooser, a shell script, chooses as the reference in `core/update/slots.py` does."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from runtime.core.update.slots import SLOTS, TRIES, SlotChoice, begin_trial, other, parse_choice, power_on
from tests.support.harness import require_tool

IMAGE = Path(__file__).resolve().parents[2] / "deploy" / "image"


def choose(folder: Path) -> str:
    """The slot that is started first; the other one follows."""
    done = subprocess.run([IMAGE / "chooser", folder], capture_output=True, text=True, timeout=20)
    first, second = done.stdout.split()
    assert second == other(first)
    return first


@pytest.mark.parametrize("active", SLOTS)
@pytest.mark.parametrize("tries", [0, 1, TRIES, 12])
@pytest.mark.parametrize("on_trial", [False, True])
def test_it_chooses_as_the_reference_does(tmp_path: Path, active: str, tries: int, *, on_trial: bool) -> None:
    choice = SlotChoice(active, other(active) if on_trial else "", tries)
    (tmp_path / "choice").write_text(choice.text())
    slot, written = power_on(choice)
    assert choose(tmp_path) == slot
    assert (tmp_path / "choice").read_text() == (written or choice).text()


def test_a_slot_that_never_confirms_comes_back_after_its_tries(tmp_path: Path) -> None:
    (tmp_path / "choice").write_text(begin_trial(SlotChoice("b"), "a").text())
    assert [choose(tmp_path) for _ in range(TRIES + 2)] == ["a"] * TRIES + ["b", "b"]
    assert parse_choice((tmp_path / "choice").read_text()) == SlotChoice("b", "a", 0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"active=",
        b"active=c\ntrial=\ntries=0\n",
        b"active=a b\ntrial=b\ntries=3\n",
        b"active=b\nactive=a\ntrial=\ntries=0\n",
        b"trial=b\ntries=3\n",
        b"\0" * 512,
        b"\xff\xfeactive\0=b" * 40,
        b"$(reboot)\n",
    ],
)
def test_a_damaged_choice_starts_a_and_is_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "choice").write_bytes(content)
    assert choose(tmp_path) == "a"
    assert (tmp_path / "choice").read_bytes() == content


def test_no_choice_and_no_boot_partition_start_a(tmp_path: Path) -> None:
    assert choose(tmp_path) == "a"
    assert choose(tmp_path / "not mounted") == "a"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["active=b\ntrial=a\ntries=\n", "active=b\ntrial=a\ntries=-1\n", "active=b"])
def test_what_is_torn_behind_the_active_slot_starts_the_active_slot(tmp_path: Path, text: str) -> None:
    (tmp_path / "choice").write_text(text)
    assert choose(tmp_path) == "b"


def test_a_try_that_cannot_be_counted_is_none(tmp_path: Path) -> None:
    (tmp_path / "choice").write_text("active=a\ntrial=b\ntries=3\n")
    (tmp_path / "choice.new").mkdir()  # as a partition that is read-only would be, to root, too
    assert choose(tmp_path) == "a"


def test_a_cut_between_two_files_leaves_the_choice_before(tmp_path: Path) -> None:
    (tmp_path / "choice").write_text("active=a\ntrial=b\ntries=3\n")
    (tmp_path / "choice.new").write_text("active=a\ntri")
    assert choose(tmp_path) == "b"
    assert parse_choice((tmp_path / "choice").read_text()).tries == TRIES - 1


def test_the_scripts_of_the_image_are_clean() -> None:
    shellcheck = require_tool("shellcheck")
    scripts = [IMAGE / "chooser", IMAGE / "initramfs"]
    scripts += [path for path in (IMAGE / "root/usr/lib/edge-image").iterdir() if path.is_file()]
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    assert all(shutil.which(script) for script in scripts), "not executable"
