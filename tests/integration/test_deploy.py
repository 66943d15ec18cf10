"""What goes onto a device: installed, installed again, removed; a unit that systemd accepts."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.cli.settings import example
from runtime.config import load
from runtime.layout import OPTIONAL_WORKERS, PROGRAMS, WORKERS
from runtime.settings import keys, value_of
from tests.support.harness import Cloud, Home, Process, eventually, kill_tree, require_tool

TOP = Path(__file__).parent.parent.parent
DEPLOY = TOP / "deploy"
UNIT = DEPLOY / "edge-runtime.service"
WORST_EXPOSURE = 1.7
"""0.2 of it for ProtectClock, which would also forbid to read whether the clock is synchronised."""


def install(*options: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(DEPLOY / "install.sh"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=env)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "etc").mkdir()
    return tmp_path


def into(root: Path) -> list[str]:
    """Below a folder, with this interpreter's environment instead of one from the network."""
    return ["--root", str(root), "--venv", str(Path(sys.prefix))]


def everything(root: Path) -> dict[str, tuple[int, int]]:
    """Every path with its mode and time of change."""
    return {
        str(path.relative_to(root)): (path.lstat().st_mode, path.lstat().st_mtime_ns)
        for path in sorted(root.rglob("*"))
        if not path.is_dir()
    }


def test_an_installation_puts_every_file_where_the_unit_expects_it(root: Path) -> None:
    done = install(*into(root))
    assert done.returncode == 0, done.stderr
    assert (root / "etc/edge-runtime/edge.toml").stat().st_mode & 0o777 == 0o640
    assert (root / "etc/systemd/system/edge-runtime.service").read_text() == UNIT.read_text()
    assert (root / "usr/local/bin/edgectl").readlink() == Path("/opt/edge-runtime/bin/edgectl")
    assert os.access(root / "opt/edge-runtime/bin/edgectl", os.X_OK)
    config = load({}, home=root, file=root / "etc/edge-runtime/edge.toml")
    assert config.settings.ingest.group == "edge-producers"


def test_installing_twice_changes_nothing_and_keeps_the_operators_configuration(root: Path) -> None:
    install(*into(root))
    (root / "etc/edge-runtime/edge.toml").write_text('[platform]\ninstance = "mine"\n')
    before = everything(root)
    again = install(*into(root))
    assert again.returncode == 0, again.stderr
    changed = {path for path, what in everything(root).items() if before.get(path) != what}
    assert changed <= {"opt/edge-runtime", "etc/edge-runtime/edge.toml"}, changed
    assert "mine" in (root / "etc/edge-runtime/edge.toml").read_text()


def test_uninstalling_keeps_configuration_and_undelivered_messages(root: Path) -> None:
    install(*into(root))
    messages = root / "var/lib/edge-runtime/state/messages.db"
    messages.parent.mkdir(parents=True)
    messages.write_bytes(b"undelivered")
    assert install("--uninstall", "--root", str(root)).returncode == 0
    assert messages.exists() and (root / "etc/edge-runtime/edge.toml").exists()
    assert not (root / "opt/edge-runtime").is_symlink()
    assert not (root / "etc/systemd/system/edge-runtime.service").exists()
    assert Path(sys.prefix).exists(), "a ready environment is not ours to delete"


def test_purging_leaves_no_file_of_ours(root: Path) -> None:
    install(*into(root))
    (root / "var/lib/edge-runtime").mkdir(parents=True)
    edited = root / "etc/systemd/system/edge-runtime.service.d/override.conf"
    edited.parent.mkdir()
    edited.write_text("[Service]\nLoadCredential=provisioning-token:/somewhere\n")
    assert install("--purge", "--root", str(root)).returncode == 0
    assert [path for path in everything(root) if "edge" in path] == []


def test_a_dry_run_does_nothing_but_tell(root: Path) -> None:
    told = install("--dry-run", *into(root))
    assert told.returncode == 0
    assert "would run: install" in told.stdout
    assert everything(root) == {}


FAKE_PYTHON = """#!/bin/sh
# Makes environments without a network. A file `pip` beside it says what pip does there.
case "$*" in
    *"-m venv "*)
        for new; do :; done
        mkdir -p "$new/bin" && cp "$0" "$new/bin/python"
        cp "$(dirname "$0")/pip" "$new/bin/pip"
        ;;
    *"-m pip "*)
        cd "$(dirname "$0")" && . ./pip
        { echo "#!$PWD/python"; echo "exec true"; } >edgectl && chmod 755 edgectl
        ;;
    *runtime.__main__*) [ -x "$(dirname "$0")/edgectl" ] && ! grep -q broken "$(dirname "$0")/pip" ;;
    *) exec REAL "$@" ;;
esac
"""


@pytest.fixture
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter whose environments need no package index."""
    file = tmp_path_factory.mktemp("python") / "python"
    file.write_text(FAKE_PYTHON.replace("REAL", sys.executable))
    file.chmod(0o755)
    file.with_name("pip").write_text("true first")
    return file


def made(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "opt/edge-runtime.d").iterdir() if path.is_dir())


def in_use(root: Path) -> Path:
    """The environment that the unit starts, which has to be whole at any moment."""
    link = root / "opt/edge-runtime"
    assert os.access(link / "bin/edgectl", os.X_OK)
    return link.resolve()


def test_an_installation_that_is_killed_while_pip_works_leaves_what_was_there(
    root: Path, python: Path
) -> None:
    """It worked in the environment in use: nothing started any more, at this boot and at every next one."""
    options = ["--root", str(root), "--python", str(python)]
    assert install(*options).returncode == 0
    before = in_use(root)
    pip, at_work = python.with_name("pip"), python.with_name("at-work")
    pip.write_text(f"touch {at_work}; sleep 600")
    for number in (signal.SIGKILL, signal.SIGTERM):
        command = ["sh", str(DEPLOY / "install.sh"), *options, "--source", str(python.parent / number.name)]
        installing = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        eventually(at_work.exists, 30, "pip works")
        second = install(*options, "--source", "another")
        assert second.returncode == 1 and "another installation is under way" in second.stderr
        os.killpg(installing.pid, number)
        installing.wait(20)
        at_work.unlink()
        assert in_use(root) == before
    pip.write_text("true later")
    assert install(*options, "--source", "later").returncode == 0
    assert in_use(root) != before
    assert made(root) == [in_use(root).name], "what was half done is gone"


@pytest.mark.parametrize("older", [False, True])
def test_an_installation_that_is_ended_as_soon_as_it_is_in_service_stays_there(
    root: Path, python: Path, older: bool
) -> None:
    """Its own trap removed it: /opt/edge-runtime led nowhere, and nothing started at the next boot."""
    options = ["--root", str(root), "--python", str(python)]
    if older:
        old = root / "opt/edge-runtime/bin/edgectl"
        old.parent.mkdir(parents=True)
        old.write_text("#!/bin/sh\n# old\n")
    else:
        assert install(*options).returncode == 0
    tool = python.with_name("tools") / ("rm" if older else "mv")
    tool.parent.mkdir()
    work = "" if older else f'{shutil.which("mv")} "$@";'  # the old folder is not even removed
    tool.write_text(
        f'#!/bin/sh\ncase "$*" in *opt/edge-runtime.new*) {work} kill -TERM $PPID; exit 0 ;; esac\n'
        f'exec {shutil.which(tool.name)} "$@"\n'
    )
    if older:
        tool.write_text(tool.read_text().replace("case", '[ -d "$2" ] && case', 1))
    tool.chmod(0o755)
    path = f"{tool.parent}:{os.environ['PATH']}"
    ended = install(*options, "--source", "second", env={**os.environ, "PATH": path})
    assert ended.returncode == 130
    assert "# old" not in (in_use(root) / "bin/edgectl").read_text()
    assert install(*options, "--source", "third").returncode == 0
    assert made(root) == [in_use(root).name]
    assert sorted(p.name for p in (root / "opt").iterdir()) == ["edge-runtime", "edge-runtime.d"]


def test_an_installation_that_does_not_start_is_not_put_into_service(root: Path, python: Path) -> None:
    options = ["--root", str(root), "--python", str(python)]
    assert install(*options).returncode == 0
    before = in_use(root)
    for pip in ("false", "true broken"):
        python.with_name("pip").write_text(f"{pip} || exit 1")
        failed = install(*options, "--source", pip)
        assert failed.returncode != 0
        assert in_use(root) == before and made(root) == [before.name]
    assert "does not start; nothing was changed" in failed.stderr


def test_the_same_installed_again_makes_no_new_environment(root: Path, python: Path) -> None:
    options = ["--root", str(root), "--python", str(python)]
    assert install(*options).returncode == 0
    before = everything(root)
    python.with_name("pip").write_text("exit 1")
    again = install(*options)
    assert again.returncode == 0 and "is up to date" in again.stdout
    assert everything(root) == before
    scripts = (root / "opt/edge-runtime/bin/edgectl").read_text().splitlines()
    assert scripts[0].startswith("#!/opt/edge-runtime.d/"), "its path on the device"


@pytest.mark.parametrize("ready", [False, True])
def test_the_folder_of_an_older_installation_gives_way_to_the_link(
    root: Path, python: Path, ready: bool
) -> None:
    """`ln -sfn` made the link inside of it, and the old program went on."""
    old = root / "opt/edge-runtime/bin/edgectl"
    old.parent.mkdir(parents=True)
    old.write_text("#!/bin/sh\n# old\n")
    options = into(root) if ready else ["--root", str(root), "--python", str(python)]
    assert install(*options).returncode == 0
    assert (root / "opt/edge-runtime").is_symlink()
    assert "# old" not in (in_use(root) / "bin/edgectl").read_text()
    assert sorted(p.name for p in (root / "opt").iterdir()) == ["edge-runtime", "edge-runtime.d"]
    if ready:
        assert in_use(root) == Path(sys.prefix).resolve()
        assert install("--root", str(root), "--python", str(python)).returncode == 0
        assert in_use(root) != Path(sys.prefix).resolve(), "a ready one is left as it is"
        assert install(*into(root)).returncode == 0
        assert in_use(root) == Path(sys.prefix).resolve()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize("action", [[], ["--uninstall"], ["--purge"]])
def test_whoever_is_not_root_is_told_so_before_anything_happens(action: list[str]) -> None:
    refused = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-s", "--", *action],
        input=(DEPLOY / "install.sh").read_text(), capture_output=True, text=True, timeout=60, cwd="/usr/bin",
    )  # fmt: skip
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "must be run as root" in refused.stderr and refused.stderr.count("\n") == 1


def test_an_unknown_option_is_refused_before_anything_happens(root: Path) -> None:
    assert install("--root", str(root), "--fast").returncode == 2
    assert everything(root) == {}


@pytest.mark.parametrize(
    "unit", [UNIT, UNIT.with_name("edge-runtime-update.service")], ids=lambda unit: unit.stem
)
def test_systemd_accepts_the_unit(tmp_path: Path, unit: Path) -> None:
    analyze = require_tool("systemd-analyze")
    here = tmp_path / unit.name  # the program is not installed on this machine
    here.write_text(unit.read_text().replace("=edgectl", "=true"))
    found = subprocess.run([analyze, "verify", str(here)], capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stderr) == (0, "")


def test_the_unit_stays_hardened() -> None:
    analyze = require_tool("systemd-analyze")
    found = subprocess.run(
        [analyze, "security", "--offline=yes", str(UNIT)], capture_output=True, text=True, timeout=60
    )
    score = re.search(r"exposure level for \S+: ([\d.]+)", found.stdout)
    assert score, found.stderr
    assert float(score[1]) <= WORST_EXPOSURE


def test_the_unit_allows_every_system_call_that_a_runtime_at_work_makes(device: Home, cloud: Cloud) -> None:
    """Once it did not: libzmq aborts where it may not set its threads' scheduling, and all workers did."""
    analyze, strace = require_tool("systemd-analyze"), require_tool("strace")
    summary = device.folder / "calls"
    runtime = Process(
        strace, "-f", "-c", "-U", "name", "-o", str(summary),
        sys.executable, "-m", "runtime", "--home", str(device.folder), "up", log=device.folder / "up.log",
    )  # fmt: skip
    try:
        eventually(lambda: device.layout.producer_socket.exists(), 40, "ingest serves")
        assert device.edgectl("send", "--stream", "s", "x").returncode == 0
        eventually(cloud.approve_all, 40, "the device asks for approval")
        eventually(cloud.message_count, 40, "it arrives")
        assert device.edgectl("down").returncode == 0
        runtime.popen.wait(20)
    finally:
        kill_tree(runtime.pid)
        runtime.close()
    called = {line.strip() for line in summary.read_text().splitlines()[2:-2]}
    assert {"fdatasync", "sched_setscheduler", "prctl"} <= called, called
    assert called - _allowed(analyze) == set()


def _allowed(analyze: str) -> set[str]:
    """System calls that the unit's filter lets through: lines add and, with a tilde, take away."""
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)", UNIT.read_text(), re.MULTILINE):
        calls = {call for name in line.removeprefix("~").split() for call in _expanded(analyze, name)}
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


def _expanded(analyze: str, name: str) -> set[str]:
    if not name.startswith("@"):
        return {name}
    found = subprocess.run([analyze, "syscall-filter", name], capture_output=True, text=True, timeout=20)
    names = [line.strip() for line in found.stdout.splitlines()[1:] if line.startswith("    ")]
    assert names, found.stderr
    return {call for each in names if not each.startswith("#") for call in _expanded(analyze, each)}


def test_nothing_in_the_unit_is_said_twice() -> None:
    """Of two limits the last one counts, and a person reads the first."""
    names = re.findall(r"^(\w+)=", UNIT.read_text(), re.MULTILINE)
    assert {name for name in names if names.count(name) > 1} == {"SystemCallFilter"}


def test_the_unit_waits_longer_than_all_workers_together() -> None:
    text = (TOP / "supervisord.conf").read_text()
    worst_s = sum(int(found) for found in re.findall(r"^stopwaitsecs=(\d+)", text, re.MULTILINE))
    patience = re.search(r"^TimeoutStopSec=(\d+)", UNIT.read_text(), re.MULTILINE)
    assert patience
    assert worst_s < int(patience[1])


def test_supervisord_conf_has_one_program_a_worker_and_no_door_to_the_network() -> None:
    text = (TOP / "supervisord.conf").read_text()
    assert set(re.findall(r"^\[program:(\w+)\]", text, re.MULTILINE)) == {*WORKERS, *OPTIONAL_WORKERS}
    assert re.findall(r"^\[eventlistener:(\w+)\]", text, re.MULTILINE) == ["sentinel"]
    assert not re.search(r"^\[inet_http_server\]", text, re.MULTILINE)
    assert text.count("logfile_maxbytes=") == 1 + len(PROGRAMS), "every log has a limit"


def test_the_example_is_what_the_settings_say() -> None:
    assert (DEPLOY / "edge.toml.example").read_text() == example(advanced=True), (
        "run: python -m tests.support.readme"
    )


def test_the_example_with_every_line_uncommented_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text(re.sub(r"^#(\w+ = |\[)", r"\1", example(advanced=True), flags=re.MULTILINE))
    told, silent = load({}, home=tmp_path, file=file), load({}, home=tmp_path / "elsewhere")
    for key in keys():
        assert value_of(told.settings, key) == key.default
        assert value_of(silent.settings, key) == key.default
