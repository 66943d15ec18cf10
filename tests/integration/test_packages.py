"""The Debian package for this machine, built once: what is in it, and that it starts from an extracted root.

Installing, upgrading and purging in a Debian root of their own is `make packages`.
"""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from deploy.packaging import deb, lock, release, sbom, update
from deploy.packaging.container import GROUP, HOME, SOCKETS, USER, layer
from deploy.packaging.targets import RELEASES, Target, all_targets
from deploy.packaging.tree import SCRIPTS, Origin
from deploy.packaging.wheels import BuildError, sha256
from runtime.adapters.update.bundle_file import open_bundle
from runtime.adapters.update.durable_files import DurableFiles
from runtime.adapters.update.side_by_side import SideBySide
from runtime.core.update.minisign import parse_public_key
from runtime.settings import keys
from tests.support.harness import require_tool

TOP = Path(__file__).resolve().parents[2]
ORIGIN = Origin("0.0.1", "0" * 40, 1_700_000_000, "a builder")
TARGET = Target("amd64", RELEASES[0])
LARGEST_BYTES = 12_000_000
"""As installed, without bytecode, each file rounded up to a KiB as Debian counts."""


@pytest.fixture(scope="module", autouse=True)
def _quickly_packed() -> Iterator[None]:
    """What xz makes smaller takes most of the time."""
    before, deb.COMPRESSION = deb.COMPRESSION, ("-Zgzip", "-z1")
    yield
    deb.COMPRESSION = before


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of edge-runtime; its folder has the tree it was packed from, too."""
    require_tool("dpkg-deb")
    require_tool(TARGET.strip)
    return deb.build_runtime(TARGET, ORIGIN, tmp_path_factory.mktemp("packages"))


@pytest.fixture(scope="module")
def root(built: Path) -> Path:
    """The package, extracted as into a root that an image builder makes."""
    folder = built.with_name("device")
    subprocess.run(["dpkg-deb", "-x", built, folder], check=True)
    return folder


def field(package: Path, name: str) -> str:
    return subprocess.run(
        ["dpkg-deb", "-f", package, name], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_the_same_commit_makes_the_same_bytes(built: Path, tmp_path: Path) -> None:
    shutil.copytree(built.parent / "wheels", tmp_path / "wheels")
    before = os.umask(0o077)
    try:
        again = deb.build_runtime(TARGET, ORIGIN, tmp_path)
    finally:
        os.umask(before)
    assert again.read_bytes() == built.read_bytes()
    assert int(field(built, "Installed-Size")) * 1024 <= LARGEST_BYTES


def test_the_package_holds_what_a_device_needs_and_nothing_of_the_builder(built: Path, root: Path) -> None:
    assert field(built, "Architecture") == "amd64"
    assert "python3 (<< 3.12)" in field(built, "Depends")
    site = root / "usr/lib/edge-runtime/lib/python3.11/site-packages"
    names = {path.name for path in site.iterdir()}
    assert {"runtime", "zmq", "supervisor", "paho", "brotli.py"} <= names
    assert not names & {"pip", "tzdata", "pytest", "mypy"}
    assert not [*site.rglob("tests"), *site.rglob("*.pyc"), *site.rglob("*.pyi"), site / "runtime/devcloud"][
        :-1
    ]
    assert not (site / "runtime/devcloud").exists()
    for name in SCRIPTS:
        script = root / "usr/lib/edge-runtime/bin" / name
        assert script.read_text().startswith("#!/usr/lib/edge-runtime/bin/python\n") and os.access(
            script, os.X_OK
        )
    assert (root / "usr/lib/edge-runtime/bin/python3.11").readlink() == Path("/usr/bin/python3.11")
    command = (root / "usr/bin/edgectl").read_text()
    assert command.splitlines()[-1] == 'exec /usr/lib/edge-runtime/bin/edgectl "$@"'
    here = str(built.parent).encode()
    assert not [path for path in site.rglob("*.py") if here in path.read_bytes()]
    assert oct((root / deb.CONFFILE).stat().st_mode & 0o777) == "0o640"


class Unflushed(DurableFiles):
    """Two thousand flushes of a test's folder prove nothing."""

    def flush(self, path: Path) -> None:
        pass


def test_the_bundle_of_the_package_is_signed_whole_and_runs_from_any_folder(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_tool("minisign")
    run = ["minisign", "-G", "-W", "-p", str(tmp_path / "key.pub"), "-s", str(tmp_path / "key")]
    subprocess.run(run, check=True, capture_output=True)
    monkeypatch.setenv("EDGE_UPDATE_KEY", str(tmp_path / "key"))
    monkeypatch.setattr(update, "PRESET", 0)
    file = update.bundle_of_tree(built.parent / "root/amd64-12", TARGET, ORIGIN, tmp_path)
    key = parse_public_key((tmp_path / "key.pub").read_text().splitlines()[1])
    bundle = open_bundle(file, (key,))
    assert bundle.manifest.version == ORIGIN.version and bundle.comment == f"edge-runtime {ORIGIN.version}"
    versions = SideBySide(tmp_path / "versions.d", None, Unflushed())
    versions.unpack(bundle)
    versions.complete(ORIGIN.version)
    edgectl = versions.path_of(ORIGIN.version) / "bin/edgectl"
    (tmp_path / "link").symlink_to(versions.path_of(ORIGIN.version))
    if Path("/usr/bin/python3.11").exists():
        command = [str(tmp_path / "link/bin/edgectl"), "version"]
        nowhere = {"PATH": "/nowhere", "LANG": "C.UTF-8"}  # as under a unit that sets it to the version's own
        said = subprocess.run(command, capture_output=True, text=True, check=True, env=nowhere).stdout
        assert f"package   {ORIGIN.version}" in said
    assert edgectl.read_text().startswith("#!/bin/sh\n")


def test_the_unit_starts_the_packages_own_command(root: Path) -> None:
    for name in (deb.UNIT, deb.UPDATE_UNIT):
        unit = (root / name).read_text()
        (places,) = re.findall(r"^ExecSearchPath=(\S+)", unit, re.MULTILINE)
        assert set(re.findall(r"^Exec(?:Start|Reload)=(\S+)", unit, re.MULTILINE)) == {"edgectl"}
        *updates, own = places.split(":")
        assert (root / own.lstrip("/") / "edgectl").exists()
        assert all(place.startswith("/opt/edge-runtime") for place in updates)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the package is for Python 3.11")
def test_the_extracted_package_starts_with_its_own_modules_alone(root: Path) -> None:
    prefix = root / "usr/lib/edge-runtime"
    link = prefix / "bin/python3.11"
    link.unlink()
    interpreter = Path(sys.executable).resolve()  # instead of /usr/bin/python3.11 on the device
    link.symlink_to(interpreter)
    settings = prefix / "pyvenv.cfg"
    settings.write_text(settings.read_text().replace("/usr/bin", str(interpreter.parent)))
    code = (
        "import sys, azure.iot.device, zmq, requests, sqlite_utils, brotli\n"
        "import supervisor.supervisord, runtime.workers.upload, runtime.workers.ingest\n"
        "import runtime.adapters.supervisor.main\n"
        "from runtime.__main__ import main\n"
        "sys.exit(main(['version', '--json']))"
    )
    ran = subprocess.run(
        [prefix / "bin/python", "-I", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["commit"] == ORIGIN.commit and said["builder"] == ORIGIN.builder
    assert said["dependencies"]["pyzmq"] == lock.pinned()["pyzmq"]
    assert "pytest" not in said["dependencies"]


def test_the_scripts_of_the_package_are_sound_and_purge_asks_nothing(built: Path, tmp_path: Path) -> None:
    subprocess.run(["dpkg-deb", "-e", built, tmp_path], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {*deb.SCRIPTS, "control", "conffiles", "md5sums"}
    for name in deb.SCRIPTS:
        subprocess.run(["sh", "-n", tmp_path / name], check=True)
        assert "read " not in (tmp_path / name).read_text() and "debconf" not in (tmp_path / name).read_text()
    assert (tmp_path / "conffiles").read_text() == f"/{deb.CONFFILE}\n"
    assert deb.CONFFILE not in (tmp_path / "md5sums").read_text()


def test_every_part_is_listed_with_its_licence_and_its_hash(built: Path) -> None:
    parts = json.loads(built.with_name(f"{built.name}.cdx.json").read_text())
    assert (parts["bomFormat"], parts["specVersion"]) == ("CycloneDX", "1.5")
    listed = {part["name"]: part for part in parts["components"]}
    expected = {each.name for each in lock.load()} - lock.NOT_UNPACKED | {
        "edge-runtime",
        "libzmq",
        "libsodium",
    }
    assert expected <= set(listed)
    for name, _, licence in sbom.licences(json.dumps(parts)):
        assert licence != "unknown", name
        assert re.fullmatch("[0-9a-f]{64}", listed[name]["hashes"][0]["content"])


def test_the_recipe_for_yocto_takes_no_library_of_another_processor_and_what_the_lock_allows(
    built: Path,
) -> None:
    """What is native comes from the distribution; what was not made here has its hash in the lock."""
    wheels = [*(built.parent / "wheels" / f"{TARGET.arch}-{TARGET.release}").glob("*.whl")]
    name_of = {wheel: lock.normalised(wheel.name.split("-")[0]) for wheel in wheels}
    hashes = {each.name: each.hashes for each in lock.load()}
    (recipe,) = (TOP / "deploy/yocto").rglob("edge-runtime_*.bb")
    listed = dict(re.findall(r'^EDGE_(NATIVE|MADE|UNUSED) = "(.*)"', recipe.read_text(), re.MULTILINE))
    native = {name for wheel, name in name_of.items() if "-none-any" not in wheel.name}
    other = {name for wheel, name in name_of.items() if name in hashes and sha256(wheel) not in hashes[name]}
    assert (native, other) == (set(listed["NATIVE"].split()), set(listed["MADE"].split()))
    assert set(listed["UNUSED"].split()) == lock.NOT_UNPACKED


def test_the_lock_is_of_the_tested_versions_and_whole() -> None:
    locked = lock.load()
    assert lock.render(locked) == lock.LOCK_FILE.read_text()
    assert {each.name: each.version for each in locked}.items() <= lock.pinned().items()
    named = {lock.normalised(re.split(r"[<>=]", each)[0]) for each in lock.wanted()}
    assert named <= {each.name for each in locked}, "run: python -m deploy.packaging lock"


def test_a_line_that_names_no_hash_is_refused() -> None:
    with pytest.raises(ValueError, match="no locked requirement: requests==2"):
        lock.parse("requests==2\n")


def test_every_target_has_a_python_of_its_release_and_a_newer_release_a_newer_version() -> None:
    assert {(target.arch, target.release) for target in all_targets()} >= {("armhf", "13"), ("amd64", "12")}
    for target in all_targets():
        assert f"python3 (>= {target.python}~)" in target.depends()
    older, newer = (deb.version_for(Target("arm64", release), ORIGIN) for release in RELEASES)
    require_tool("dpkg")
    assert subprocess.run(["dpkg", "--compare-versions", older, "lt", newer], check=False).returncode == 0


def test_a_layer_of_the_container_is_the_same_whatever_the_order_and_owner(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder, names in ((one, "ab"), (other, "ba")):
        folder.mkdir()
        for name in names:
            (folder / name).write_text(name)
        (folder / "link").symlink_to("a")
    assert layer(one, 1).digest == layer(other, 1).digest
    (other / "a").write_text("other")
    assert layer(one, 1).digest != layer(other, 1).digest


def test_one_archive_holds_everything_and_its_sums_hold(built: Path, tmp_path: Path) -> None:
    out = tmp_path / "dist"
    out.mkdir()
    for file in (built, built.with_name(f"{built.name}.cdx.json")):
        shutil.copy(file, out)
    shutil.copytree(built.parent / "wheels", out / "wheels")
    archive = release.bundle(ORIGIN, out, {})
    subprocess.run(["tar", "-C", tmp_path, "-xf", archive], check=True)
    folder = tmp_path / archive.stem
    for place in (folder, out):
        subprocess.run(["sha256sum", "--check", "--quiet", "--strict", release.SUMS], cwd=place, check=True)
    assert (folder / "packages" / built.name).exists() and (folder / "documents/docs/deploy.md").exists()
    assert [*(folder / "wheels").glob("paho_mqtt-*.whl")] and not (folder / f"{release.SUMS}.asc").exists()
    check_that_it_installs_by_hand(folder)
    before = archive.read_bytes()
    assert release.bundle(ORIGIN, out, {}).read_bytes() == before
    (folder / "packages" / built.name).write_bytes(b"other")
    changed = subprocess.run(
        ["sha256sum", "--check", "--quiet", release.SUMS], cwd=folder, capture_output=True
    )
    assert changed.returncode != 0


def check_that_it_installs_by_hand(bundle: Path) -> None:
    """Everything that install.sh takes from the checkout is there, and all that pip asks for."""
    taken = re.findall(r"\$top/([\w./-]+)", (bundle / "documents/deploy/install.sh").read_text())
    assert taken and [name for name in taken if not (bundle / "documents" / name).exists()] == []
    brought, asked = {"pip"}, set[str]()  # every virtual environment has a pip
    for wheel in (bundle / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            (file,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = email.message_from_bytes(archive.read(file))
        brought.add(lock.normalised(metadata["Name"]))
        requirements = map(Requirement, metadata.get_all("Requires-Dist", []))
        asked |= {
            each.name for each in requirements if not each.marker or each.marker.evaluate({"extra": ""})
        }
    assert len(asked) > 15 and {lock.normalised(name) for name in asked} <= brought


def test_the_sums_are_signed_by_the_key_that_was_given(tmp_path: Path) -> None:
    gpg = require_tool("gpg")
    home = {**os.environ, "GNUPGHOME": str(tmp_path / "keys")}
    (tmp_path / "keys").mkdir(mode=0o700)
    quiet = [gpg, "--batch", "--quiet", "--passphrase", "", "--pinentry-mode", "loopback"]
    subprocess.run([*quiet, "--quick-generate-key", "edge", "ed25519", "sign", "never"], env=home, check=True)
    (tmp_path / "keys/gpg.conf").write_text("quiet\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GNUPGHOME", home["GNUPGHOME"])
        release.write_sums(tmp_path / release.SUMS, "lines\n", "edge")
    verify = [gpg, "--batch", "--verify", f"{release.SUMS}.asc", release.SUMS]
    assert subprocess.run(verify, cwd=tmp_path, env=home, capture_output=True).returncode == 0
    (tmp_path / release.SUMS).write_text("other lines\n")
    assert subprocess.run(verify, cwd=tmp_path, env=home, capture_output=True).returncode != 0


def test_a_bundle_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="build it first"):
        release.bundle(ORIGIN, tmp_path, {})


def test_the_examples_of_containers_name_settings_that_exist_and_the_images_own_user() -> None:
    folder = TOP / "deploy" / "container"
    known = {key.variable for key in keys()} | {"EDGE_RUNTIME_TAG"}
    for name in ("compose.yaml", "kubernetes.yaml"):
        text = (folder / name).read_text()
        named = set(re.findall(r"\bEDGE_[A-Z_]*[A-Z]\b", re.sub(r"#.*", "", text)))
        assert named and named <= known, named - known
    compose = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["edge-runtime"]
    assert compose["user"] == f"{USER}:{GROUP}" and compose["read_only"] and compose["cap_drop"] == ["ALL"]
    documents = list(yaml.safe_load_all((folder / "kubernetes.yaml").read_text()))
    pod = documents[-1]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    asked = container["securityContext"]
    assert (asked["runAsUser"], asked["runAsGroup"]) == (USER, GROUP) and asked["readOnlyRootFilesystem"]
    mounted = {each["mountPath"] for each in container["volumeMounts"]}
    assert {f"/{HOME}", f"/{SOCKETS}"} <= mounted
    assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}
