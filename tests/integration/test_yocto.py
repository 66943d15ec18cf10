"""The layer for Yocto: linted, and of this version. Nothing builds it."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from deploy.packaging.deb import UNIT
from deploy.packaging.targets import RELEASES, Target, all_targets
from deploy.packaging.tree import PREFIX, SCRIPTS
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


def text_of(name: str) -> str:
    (file,) = LAYER.glob(f"recipes-*/*/{name}")
    return file.read_text()


def test_every_file_that_a_recipe_takes_is_there() -> None:
    texts = [path.read_text() for path in LAYER.rglob("*") if path.suffix in (".bb", ".inc")]
    inside = {name for text in texts for name in re.findall(r"\$\{EDGE_RUNTIME_SOURCE\}/([\w./-]+)", text)}
    inside |= {name for text in texts for name in re.findall(r"\b(deploy/packaging/[\w./-]+)", text)}
    inside -= {"dist"}  # made by `make packages`
    assert len(inside) >= 4
    assert {name for name in inside if not (YOCTO.parents[1] / name).exists()} == set()


def test_a_recipe_installs_what_the_packages_do_and_where() -> None:
    shared, built = text_of("*.inc"), text_of("edge-runtime_*.bb")
    assert PREFIX.relative_to("/usr").as_posix() in re.findall(r"^EDGE_PREFIX = .*\}/(.*)\"", shared, re.M)
    scripts = dict(
        re.findall(r"(\w+):([\w.]+)", built[built.index("for script in") : built.index("; do\n        {")])
    )
    assert {name: f"from {module} import main" for name, module in scripts.items()} == SCRIPTS
    assert Path(UNIT).name in shared
    unit = (YOCTO.parent / "edge-runtime.service").read_text()
    places = re.findall(r"^ExecSearchPath=(.*)$", unit, re.M)
    changed = [place.replace("/opt/edge-runtime/", f"{PREFIX}/") for place in places[0].split(":")]
    assert f"{PREFIX}/bin" in changed, "what sed makes of the unit has the program in its path"
    wheels = re.findall(r"^EDGE_RUNTIME_WHEELS .*/wheels/(\S+)\"", built, re.M)
    assert wheels[0] in {f"{target.arch}-{target.release}" for target in all_targets()}
    page = (LAYER / "README.md").read_text()
    for release in RELEASES:
        assert f"{Target('amd64', release).python} (`DEBIAN={release}`)" in page
