"""README and docs/producer.md against reality: their examples run, the package needs pyzmq alone."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

import runtime.producer
from runtime.core.ingest.exchange import NotStored
from tests.support.harness import Home, short_folder

TOP = Path(__file__).resolve().parents[2]
PAGE = (TOP / "docs" / "producer.md").read_text()
EXAMPLES = re.findall(
    r"^```python\n(.*?)^```", PAGE + (TOP / "README.md").read_text(), re.MULTILINE | re.DOTALL
)


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with short_folder() as folder:
        (folder / "drop").mkdir()
        made = Home(
            folder,
            f'[store]\nmin_free_bytes = 0\n[ingest]\ndrop_folder = "{folder}/drop"\n[gateway]\nauto = true\n',
        )
        made.start_worker("ingest")
        yield made
        made.stop()


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the producer's wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*command, "--disable-pip-version-check", "-w", folder, TOP / "deploy" / "producer"], check=True
    )
    (wheel,) = folder.glob("*.whl")
    assert wheel.stat().st_size < 200_000
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run_alone(package: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run `code` where only the standard library, pyzmq and the package can be imported."""
    zmq_home = str(Path(zmq.__file__).parents[1])
    start = (
        f"import sys; sys.path[:0] = [{str(package)!r}]\n"
        "import importlib.util, importlib.machinery\n"
        f"finder = importlib.machinery.PathFinder.find_spec('zmq', [{zmq_home!r}])\n"
        "module = importlib.util.module_from_spec(finder); sys.modules['zmq'] = module\n"
        "finder.loader.exec_module(module)\n"
    )
    return subprocess.run(
        [sys.executable, "-S", "-I", "-c", start + code], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("example", EXAMPLES, ids=[str(n) for n in range(len(EXAMPLES))])
def test_every_example_runs_with_the_producers_package_alone(home: Home, package: Path, example: str) -> None:
    ran = run_alone(package, example.replace("/var/lib/edge-runtime", str(home.folder)))
    assert ran.returncode == 0, ran.stderr


def test_the_package_finds_the_runtime_of_this_machine_by_itself(home: Home, package: Path) -> None:
    code = (
        f"import os; os.environ['EDGE_HOME'] = {str(home.folder)!r}\n"
        "from runtime.producer import Producer\n"
        "with Producer() as producer: print(producer.put(b'x'))\n"
    )
    ran = run_alone(package, code)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 0


NEEDED = {
    *("", "adapters", "adapters/process", "core", "core/ingest", "core/management"),
}
"""The folders below `runtime` from which a client needs a module: no delivery, identity, store or worker."""


def test_the_package_holds_the_clients_and_what_they_import_alone(package: Path) -> None:
    brought = sorted(path.relative_to(package) for path in (package / "runtime").rglob("*.py"))
    assert {str(path.parent).removeprefix("runtime").strip("/") for path in brought} == NEEDED
    assert not {"config.py", "settings.py", "wiring.py"} & {path.name for path in brought}
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in brought]
    ran = run_alone(package, f"import importlib\nfor name in {names}: importlib.import_module(name)")
    assert ran.returncode == 0, ran.stderr


def test_there_are_examples_to_run() -> None:
    assert len(EXAMPLES) >= 7


def test_every_error_of_the_page_exists_and_every_error_is_on_it() -> None:
    named = set(re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE))
    names = {name for cell in named for name in re.findall(r"`(\w+)`", cell)}
    assert names == {kind.__name__ for kind in NotStored.__subclasses__()}
    assert names <= set(runtime.producer.__all__)
