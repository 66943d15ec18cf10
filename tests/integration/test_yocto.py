"""The layer for Yocto: linted, and of this version. Nothing builds it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from runtime import __version__

YOCTO = Path(__file__).parents[2] / "deploy/yocto"
LAYER = YOCTO / "meta-edge-runtime"
RECIPES = sorted(LAYER.glob("recipes-*/*/*.bb"))
NOT_WANTED = "oelint.var.bbclassextend"
"""A rule that asks for a build of the service on the build machine."""


def test_the_linter_finds_nothing() -> None:
    linter = shutil.which("oelint-adv")
    if linter is None:
        pytest.skip("oelint-adv is not installed: pip install oelint-adv, into an environment of its own")
    files = [*map(str, RECIPES), str(LAYER / "conf/layer.conf")]
    done = subprocess.run(
        [linter, "--quiet", "--relpaths", "--release", "scarthgap", "--suppress", NOT_WANTED,
         "--constantmods", f"+{YOCTO / 'oelint.json'}", "--", *files],
        capture_output=True, text=True, timeout=120, cwd=LAYER,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_recipe_is_of_this_version_and_knows_the_licence(recipe: Path) -> None:
    assert recipe.stem.endswith(f"_{__version__}")
    text = (recipe.parent / "edge-runtime.inc").read_text()
    licence = (YOCTO.parents[1] / "LICENSE").read_bytes()
    assert f"LICENSE;md5={hashlib.md5(licence, usedforsecurity=False).hexdigest()}" in text
    assert "deploy/edge-runtime.service" in text and (YOCTO.parent / "edge-runtime.service").exists()
