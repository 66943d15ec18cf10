"""Fetching what a package is made of: wheels by their hashes, through pip; our own by hatchling."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from deploy.packaging.lock import LEFT_OUT, SOURCE_ONLY, TOP, Locked, load, normalised, pinned, render, wanted
from deploy.packaging.targets import Target, all_targets

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
PATIENCE_S = 600


class BuildError(Exception):
    """A package could not be built. The message is one sentence for the person who builds."""


def run(*command: str, environment: dict[str, str] | None = None, patience_s: float = PATIENCE_S) -> str:
    """Run a tool and return its output. Raises BuildError with what it wrote last."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=patience_s,
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError as exc:
        raise BuildError(
            f"{command[0]} is missing; on Debian: apt-get install {_package_of(command[0])}"
        ) from exc
    except subprocess.TimeoutExpired as exc:
        raise BuildError(f"{' '.join(command[:4])} did not end within {patience_s:.0f} s") from exc
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        raise BuildError(f"{' '.join(command[:4])} ended with {done.returncode}:\n{last}")
    return done.stdout


def _package_of(tool: str) -> str:
    return f"binutils-{tool.removesuffix('-strip').replace('_', '-')}" if tool.endswith("-strip") else tool


def fetch(target: Target, folder: Path) -> list[Path]:
    """The wheels for a target, without ours; pip compares each with the lock. They stay in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    locked = [each for each in load() if each.name not in target.of_system]
    sources = [each for each in locked if each.name in SOURCE_ONLY]
    missing = [each for each in locked if each.name not in SOURCE_ONLY and not _wheel_of(folder, each)]
    if missing:
        command = [
            *PIP,
            "download",
            "--no-deps",
            "--require-hashes",
            "--dest",
            str(folder),
            *target.pip_options(),
        ]
        run(*command, "-r", str(_requirements(folder, missing)))
    for each in sources:
        if not _wheel_of(folder, each):
            run(*PIP, "wheel", "--no-deps", "--require-hashes", "--no-binary", each.name,
                "--wheel-dir", str(folder), "-r", str(_requirements(folder, [each])))  # fmt: skip
    found = [_wheel_of(folder, each) for each in locked]
    return [wheel for wheel in found if wheel]


def _requirements(folder: Path, locked: list[Locked]) -> Path:
    file = folder / "requirements.txt"
    file.write_text(render(locked))
    return file


def _wheel_of(folder: Path, locked: Locked) -> Path | None:
    """The wheel that is there already, where its hash is in the lock (one that was made here has none)."""
    for wheel in folder.glob("*.whl"):
        name, version = wheel.name.split("-")[:2]
        if (normalised(name), version) == (locked.name, locked.version) and (
            locked.name in SOURCE_ONLY or sha256(wheel) in locked.hashes
        ):
            return wheel
    return None


def sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def own_wheel(folder: Path, epoch_s: int, root: Path = TOP) -> Path:
    """Our wheel, or the producer's (`root`: deploy/producer); the same bytes for the same commit."""
    code = (
        "import sys; from hatchling.builders.wheel import WheelBuilder;"
        "print(*WheelBuilder(sys.argv[1]).build(directory=sys.argv[2]))"
    )
    output = run(
        sys.executable, "-c", code, str(root), str(folder), environment={"SOURCE_DATE_EPOCH": str(epoch_s)}
    )
    return Path(output.split()[-1])


def make_lock(scratch: Path) -> list[Locked]:
    """Ask the index which files every target would get, and keep their hashes."""
    versions: dict[str, str] = {}
    hashes: dict[str, set[str]] = {}
    sources = [f"{name}=={pinned()[name]}" for name in SOURCE_ONLY]
    run(*PIP, "wheel", "--no-deps", "--wheel-dir", str(scratch), *sources)
    for target in all_targets():
        for name, version, digest in _resolved(target, scratch):
            versions[name] = version
            hashes.setdefault(name, set()).add(digest)
    for name, _, digest in _reported(scratch / "sources.json", "--no-deps", "--no-binary=:all:", *sources):
        hashes[name] = {digest}
    return [
        Locked(name, versions[name], tuple(sorted(hashes[name]))) for name in versions if name not in LEFT_OUT
    ]


def _resolved(target: Target, scratch: Path) -> list[tuple[str, str, str]]:
    """Name, version and hash of each file that pip would take for a target."""
    asked = [each for each in wanted() if normalised(each.split(">")[0]) not in target.of_system]
    options = ["--target", str(scratch / "none"), "--find-links", str(scratch), *target.pip_options()]
    report = scratch / f"{target.arch}-{target.release}.json"
    return _reported(report, *options, "-c", str(TOP / "constraints.txt"), *asked)


def _reported(report: Path, *words: str) -> list[tuple[str, str, str]]:
    run(*PIP, "install", "--dry-run", "--ignore-installed", "--report", str(report), *words)
    return [
        (
            normalised(each["metadata"]["name"]),
            each["metadata"]["version"],
            each["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for each in json.loads(report.read_text())["install"]
    ]
