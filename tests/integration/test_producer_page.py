"""README and docs/producer.md against reality: their examples run, the package needs pyzmq alone."""

from __future__ import annotations

import ast
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


def imports_of(names: list[str]) -> set[str]:
    """The files of these modules and of all of ours that they import, also late."""
    files: set[str] = set()
    while names:
        name = names.pop()
        path = TOP / (name.replace(".", "/") + ".py")
        path = path if path.exists() else TOP / name.replace(".", "/") / "__init__.py"
        if not path.exists() or str(path.relative_to(TOP)) in files:
            continue
        files.add(str(path.relative_to(TOP)))
        names += [name.rpartition(".")[0]] if "." in name else []
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module:
                names += [node.module, *(f"{node.module}.{one.name}" for one in node.names)]
    return files


def test_the_package_holds_what_the_clients_import_and_nothing_else(package: Path) -> None:
    brought = {str(path.relative_to(package)) for path in (package / "runtime").rglob("*.py")}
    clients = ["runtime.producer", "runtime.producer_async", "runtime.device", "runtime.device_async"]
    assert brought == imports_of(clients), "list them in deploy/producer/pyproject.toml"


def test_there_are_examples_to_run() -> None:
    assert len(EXAMPLES) >= 7


def test_every_error_of_the_page_exists_and_every_error_is_on_it() -> None:
    named = set(re.findall(r"^\| (`.*?`) \|", PAGE, re.MULTILINE))
    names = {name for cell in named for name in re.findall(r"`(\w+)`", cell)}
    assert names == {kind.__name__ for kind in NotStored.__subclasses__()}
    assert names <= set(runtime.producer.__all__)
