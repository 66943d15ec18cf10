"""`python -m deploy.packaging`: the commands behind `make deb`, `packages`, `container` and `image`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from deploy.packaging import container, deb, image, lock, release, update
from deploy.packaging.targets import ARCHITECTURES, RELEASES, Target
from deploy.packaging.tree import Origin, find_origin
from deploy.packaging.wheels import BuildError, make_lock

OUT = lock.TOP / "dist"


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="python -m deploy.packaging", description="Build what a device image takes."
    )
    root.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="default: dist")
    root.add_argument("--version", help="instead of the version and the commit's number")
    commands = root.add_subparsers(dest="command", required=True)
    package = commands.add_parser("deb", help="edge-runtime for one device, and edge-producer for all")
    package.add_argument("--arch", choices=(*ARCHITECTURES, "all"), default="amd64")
    package.add_argument("--release", choices=(*RELEASES, "all"), default="12", help="of Debian")
    bundle = commands.add_parser("update", help="the signed bundle of an update (EDGE_UPDATE_KEY)")
    bundle.add_argument("--arch", choices=ARCHITECTURES, default="amd64")
    bundle.add_argument("--release", choices=RELEASES, default="12", help="of Debian")
    bundle.add_argument("--image", type=Path, help="the image of a slot, instead of the program")
    oci = commands.add_parser("container", help="the container's image, as an OCI archive")
    oci.add_argument("--arch", choices=("amd64", "arm64"), default="amd64")
    disk = commands.add_parser("image", help="a bootable disk with two slots, for root")
    disk.add_argument("--arch", choices=ARCHITECTURES, default="amd64")
    disk.add_argument("--overlay", type=Path, metavar="DIR", help="files of the board, laid over the root")
    commands.add_parser("bundle", help="sums, signature and one archive of what is built")
    commands.add_parser("lock", help="take the present constraints into the lock, with hashes")
    return root


def main(words: list[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    try:
        _run(arguments)
    except BuildError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace) -> None:
    if arguments.command == "lock":
        with tempfile.TemporaryDirectory() as scratch:
            lock.LOCK_FILE.write_text(lock.render(make_lock(Path(scratch))))
        return
    epoch_s = os.environ.get("SOURCE_DATE_EPOCH")
    origin = find_origin(arguments.version, int(epoch_s) if epoch_s else None)
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    for file in _built(arguments, origin, out):
        print(f"{file} {file.stat().st_size / 1e6:.2f} MB")


def _built(arguments: argparse.Namespace, origin: Origin, out: Path) -> list[Path]:
    if arguments.command == "container":
        target = Target(arguments.arch, RELEASES[0])
        package = deb.build_runtime(target, origin, out)
        return [container.build(target, package, origin, origin.version, out)]
    if arguments.command == "image":
        target = Target(arguments.arch, RELEASES[0])
        package = deb.build_runtime(target, origin, out)
        built = image.build(target, package, origin, out, arguments.overlay)
        return [built.slot, built.disk, built.initramfs]
    if arguments.command == "bundle":
        return [release.bundle(origin, out)]
    if arguments.command == "update":
        return [_update(Target(arguments.arch, arguments.release), arguments.image, origin, out)]
    return _debs(arguments.arch, arguments.release, origin, out)


def _update(target: Target, image: Path | None, origin: Origin, out: Path) -> Path:
    if image is not None:
        return update.bundle_of_image(image, target, origin, out)
    deb.build_runtime(target, origin, out)
    return update.bundle_of_tree(out / "root" / f"{target.arch}-{target.release}", target, origin, out)


def _debs(arch: str, release: str, origin: Origin, out: Path) -> list[Path]:
    arches = ARCHITECTURES if arch == "all" else (arch,)
    releases = RELEASES if release == "all" else (release,)
    built = [deb.build_runtime(Target(a, r), origin, out) for r in releases for a in arches]
    return [*built, deb.build_producer(origin, out)]


if __name__ == "__main__":
    sys.exit(main())
