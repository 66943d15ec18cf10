"""The wheel for a device holds what a device needs; stand-in, demo and benchmark come beside it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

TOP = Path(__file__).resolve().parents[2]
NOT_FOR_DEVICES = ("runtime/bench/", "runtime/cli/devcloud_", "runtime/demo/", "runtime/devcloud/")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, built from this tree by hatchling alone."""
    folder = tmp_path_factory.mktemp("wheels")
    roots = {"edge-runtime": TOP, "edge-devcloud": TOP / "deploy" / "devcloud"}
    return {
        name: Path(next(iter(WheelBuilder(str(root)).build(directory=str(folder)))))
        for name, root in roots.items()
    }


def modules(wheel: Path) -> set[str]:
    """The files of a wheel without its own description."""
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def unpack(folder: Path, *wheels: Path) -> Path:
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def device(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("device"), wheels["edge-runtime"])


def python(site: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` with the modules in `site` and this environment's packages, without this checkout."""
    start = f"import sys; sys.path[:0] = [{str(site)!r}, {sysconfig.get_path('purelib')!r}]\n"
    return subprocess.run(
        [sys.executable, "-S", "-I", "-c", start + code], capture_output=True, text=True, timeout=60
    )


def edgectl(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return python(site, f"from runtime.__main__ import main; sys.exit(main({list(words)!r}))")


def test_the_two_wheels_share_no_file_and_hold_every_module_between_them(wheels: dict[str, Path]) -> None:
    device, beside = modules(wheels["edge-runtime"]), modules(wheels["edge-devcloud"])
    assert not device & beside
    assert not [name for name in device if name.startswith(NOT_FOR_DEVICES)]
    assert all(name.startswith(NOT_FOR_DEVICES) for name in beside)
    tree = {str(path.relative_to(TOP)) for path in (TOP / "runtime").rglob("*.py")}
    assert {name for name in device | beside if name.endswith(".py")} == tree
    assert {"runtime/supervisord.conf", "runtime/py.typed"} <= device


def test_every_module_for_a_device_can_be_imported_without_the_others(device: Path) -> None:
    code = (
        "import importlib, pathlib\n"
        f"site = pathlib.Path({str(device)!r})\n"
        "for path in sorted(site.glob('runtime/**/*.py')):\n"
        "    name = '.'.join(path.relative_to(site).with_suffix('').parts).removesuffix('.__init__')\n"
        "    importlib.import_module(name)\n"
        "import runtime; print(runtime.__file__)"
    )
    ran = python(device, code)
    assert ran.returncode == 0, ran.stderr
    assert Path(ran.stdout.strip()) == device / "runtime" / "__init__.py", "not this checkout"


def test_a_device_says_in_one_sentence_how_to_add_the_stand_in(device: Path) -> None:
    listed = edgectl(device, "--help")
    assert listed.returncode == 0 and "devcloud" in listed.stdout
    for words in (["devcloud"], ["devcloud", "--dir", "x", "approve", "--all"], ["demo", "--yes"]):
        ran = edgectl(device, *words)
        assert ran.returncode == 2
        assert "edge-devcloud: pip install . deploy/devcloud" in ran.stderr
        assert ran.stderr.count("\n") == 1


def test_the_second_wheel_brings_the_stand_in_and_the_demo(wheels: dict[str, Path], tmp_path: Path) -> None:
    site = unpack(tmp_path, *wheels.values())
    for words in (["devcloud", "approve", "--help"], ["demo", "--help"]):
        ran = edgectl(site, *words)
        assert ran.returncode == 0, ran.stderr
    assert python(site, "import runtime.bench, runtime.demo.script, runtime.devcloud.server").stderr == ""
