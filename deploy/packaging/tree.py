"""The tree of a package: a virtual environment made by hand out of wheels, for the device's own interpreter.

A wheel is unpacked as its format says (modules beside each other, `*.data/purelib` and `platlib` merged).
Then what no device uses goes: tests, type stubs, headers, symbols. The three scripts are written here,
because those of an installer name the interpreter of the machine that built them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deploy.packaging.lock import TOP
from deploy.packaging.targets import Target
from deploy.packaging.wheels import BuildError, run

PREFIX = PurePosixPath("/usr/lib/edge-runtime")
"""Where the environment stands on the device: below /usr, so that a read-only root holds it."""
SCRIPTS = {
    "edgectl": "from runtime.__main__ import main",
    "supervisord": "from supervisor.supervisord import main",
    "supervisorctl": "from supervisor.supervisorctl import main",
}
_LEFT_OUT_SUFFIXES = (".pyi", ".pyx", ".pxd", ".pxi", ".c", ".h", ".hpp", ".pyc")
_LEFT_OUT_FOLDERS = ("tests", "test", "skel", "__pycache__")
_LEFT_OUT_METADATA = ("RECORD", "INSTALLER", "REQUESTED", "WHEEL", "direct_url.json", "top_level.txt")
_COMPILED_TWINS = "charset_normalizer"
"""Its libraries have their own sources beside them, which do the same. requests guesses no charset for us, so
half a megabyte would be there for nothing."""


@dataclass(frozen=True)
class Origin:
    """What a build is made of, and when: everything that may differ between two builds."""

    version: str
    commit: str
    epoch_s: int
    builder: str

    def record(self, target: Target) -> str:
        """The file from which `edgectl version` knows."""
        values = {"commit": self.commit, "builder": self.builder, "built_of_s": self.epoch_s,
                  "package": self.version, "architecture": target.arch, "debian": target.release}  # fmt: skip
        return json.dumps(values, indent=1, sort_keys=True) + "\n"


def find_origin(version: str | None = None, epoch_s: int | None = None) -> Origin:
    """The origin of this checkout, by git. `version` and `epoch_s` win over it. Raises BuildError."""
    from runtime import __version__

    if _git("rev-parse", "--is-inside-work-tree") != "true":
        if epoch_s is None:
            raise BuildError("this is no git checkout; set SOURCE_DATE_EPOCH, and perhaps --version")
        return Origin(version or __version__, "unknown", epoch_s, _builder())
    commit = _git("rev-parse", "HEAD")
    changed = bool(_git("status", "--porcelain", "--untracked-files=no"))
    count = _git("rev-list", "--count", "HEAD")
    ours = f"{__version__}+r{count}.g{commit[:8]}{'.changed' if changed else ''}"
    seconds = int(_git("log", "-1", "--format=%ct")) if epoch_s is None else epoch_s
    return Origin(version or ours, commit + ("-changed" if changed else ""), seconds, _builder())


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(TOP), *words], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def _builder() -> str:
    """The release that built it; not the machine's name, by which two builds would differ."""
    lines = Path("/etc/os-release").read_text().splitlines()
    names = dict(line.split("=", 1) for line in lines if "=" in line)
    return names.get("PRETTY_NAME", "unknown").strip('"')


def make_environment(root: Path, target: Target, wheels: Iterable[Path], origin: Origin) -> Path:
    """Fill `root` with the environment below PREFIX; returns its folder of modules."""
    prefix = root / PREFIX.relative_to("/")
    site = prefix / "lib" / f"python{target.python}" / "site-packages"
    site.mkdir(parents=True)
    for wheel in wheels:
        unpack(wheel, site)
    prune(site)
    _strip(site, target)
    (site / "runtime" / "build.json").write_text(origin.record(target))
    _write_interpreter(prefix, target)
    return site


def unpack(wheel: Path, site: Path) -> None:
    """Unpack a wheel's modules; its scripts and headers stay out."""
    with zipfile.ZipFile(wheel) as archive:
        for name in sorted(archive.namelist()):
            parts = PurePosixPath(name).parts
            if parts[0].endswith(".data"):
                if parts[1] not in ("purelib", "platlib"):
                    continue
                parts = parts[2:]
            if not parts or name.endswith("/"):
                continue
            if ".." in parts or parts[0] == "/":
                raise BuildError(f"{wheel.name} holds {name}, which leads out of its folder")
            target = site.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as source, target.open("wb") as copy:
                shutil.copyfileobj(source, copy)


def prune(site: Path) -> None:
    """Remove what no device uses."""
    for path in sorted(site.rglob("*"), reverse=True):
        relative = path.relative_to(site)
        if path.is_dir():
            if path.name in _LEFT_OUT_FOLDERS:
                shutil.rmtree(path)
            elif not any(path.iterdir()):
                path.rmdir()
        elif _is_left_out(relative):
            path.unlink()


def _is_left_out(file: Path) -> bool:
    if file.parts[0].endswith(".dist-info"):
        return len(file.parts) == 2 and file.name in _LEFT_OUT_METADATA
    if file.parts[0] == _COMPILED_TWINS and file.suffix == ".so":
        return True
    return file.suffix in _LEFT_OUT_SUFFIXES or file.name.endswith("-nspkg.pth")


def _strip(site: Path, target: Target) -> None:
    libraries = sorted(
        str(path) for path in site.rglob("*") if ".so" in path.suffixes or path.suffix == ".so"
    )
    if libraries:
        run(target.strip, "--strip-unneeded", *libraries)


def _write_interpreter(prefix: Path, target: Target) -> None:
    """Links to the device's Python, and scripts that start with it."""
    with_system = "true" if target.of_system else "false"
    (prefix / "pyvenv.cfg").write_text(
        f"home = /usr/bin\ninclude-system-site-packages = {with_system}\nversion = {target.python}\n"
    )
    programs = prefix / "bin"
    programs.mkdir()
    (programs / f"python{target.python}").symlink_to(f"/usr/bin/python{target.python}")
    for name in ("python", "python3"):
        (programs / name).symlink_to(f"python{target.python}")
    for name, line in SCRIPTS.items():
        script = programs / name
        script.write_text(f"#!{PREFIX}/bin/python\nimport sys\n\n{line}\n\nsys.exit(main())\n")
        script.chmod(0o755)
