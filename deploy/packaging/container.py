"""The container: Debian's Python and the libraries it needs, no shell, no package manager, and our package.

Debian's packages are fetched and unpacked for the image's architecture, and none of their scripts runs. The
image is an OCI archive that `podman load` and `docker load` take. Root is read-only: what is written goes to
the home, a volume. There is no configuration in it, and none is needed: the environment says everything
(EDGE_PLATFORM_INSTANCE), or a file is mounted at /etc/edge-runtime/edge.toml, which may be missing.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deploy.packaging import sbom
from deploy.packaging.deb import normalise
from deploy.packaging.debian_root import mmdebstrap
from deploy.packaging.targets import Target
from deploy.packaging.tree import PREFIX, Origin
from deploy.packaging.wheels import BuildError, run, sha256

HOME = "var/lib/edge-runtime"
SOCKETS = "run/edge-runtime"
"""For the socket of producers in other containers: a new volume takes its owner from here."""
USER, GROUP = 999, 998
"""The service's user and the producers' group. Numbers, so that `runAsNonRoot` can be checked."""
_LIBRARIES = (
    *("libbz2-1.0", "libc6", "libcrypt1", "libexpat1", "libffi8", "libgcc-s1", "liblzma5", "libsqlite3-0"),
    *("libssl3", "libstdc++6", "libuuid1", "zlib1g"),
)
_DATA = ("base-files", "ca-certificates", "media-types", "netbase", "tzdata")
_UNUSED_MODULES = (
    *("ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "turtledemo", "unittest", "venv"),
)
_UNUSED = (
    *("usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/bug", "usr/share/gcc"),
    *("usr/share/gdb", "usr/lib/valgrind", "usr/share/base-files", "usr/share/zoneinfo/right"),
    *("usr/share/applications", "usr/share/binfmts", "usr/share/pixmaps", "usr/share/python3"),
    *("usr/share/menu", "usr/share/info", "usr/share/perl5", "usr/sbin", "etc/update-motd.d", "etc/issue"),
    *("usr/lib/x86_64-linux-gnu/gconv", "usr/lib/aarch64-linux-gnu/gconv"),
)
_PASSWD = (
    "root:x:0:0:root:/root:/usr/sbin/nologin\n"
    f"edge-runtime:x:{USER}:{USER}:Edge runtime:/{HOME}:/usr/sbin/nologin\n"
)
_GROUP = f"root:x:0:\nedge-producers:x:{GROUP}:edge-runtime\nedge-runtime:x:{USER}:\n"
_MERGED = ("bin", "lib", "sbin", "lib64")
_OCI_ARCH = {"amd64": {"architecture": "amd64"}, "arm64": {"architecture": "arm64", "variant": "v8"}}


def base_packages(target: Target) -> list[str]:
    """Debian's packages in the image."""
    python = [
        f"python{target.python}-minimal",
        f"libpython{target.python}-minimal",
        f"libpython{target.python}-stdlib",
    ]
    native = (
        [] if not target.of_system else ["python3-zmq", "libzmq5", "libsodium23", "libpgm-5.3-0", "libnorm1"]
    )
    return sorted([*_LIBRARIES, *_DATA, *python, *native])


def fetch_debs(target: Target, folder: Path) -> list[Path]:
    """Debian's packages for a target, checked by apt against the archive's signatures."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.glob("*.deb")):
        download = f"apt-get -q -o APT::Sandbox::User=root download {' '.join(base_packages(target))}"
        fetch = f'cd "{folder.resolve()}" && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" {download}'
        options = ["--variant=extract", "--include=netbase", f"--extract-hook={fetch}"]
        mmdebstrap(*options, f"--architectures={target.arch}", target.codename, "/dev/null")
    debs = sorted(folder.glob("*.deb"))
    foreign = [deb.name for deb in debs if _fields(deb)["Architecture"] not in (target.arch, "all")]
    if foreign:
        raise BuildError(
            f"{folder} holds packages for another architecture, as {foreign[0]}; remove the folder"
        )
    return debs


def make_base(target: Target, debs: list[Path], root: Path, epoch_s: int) -> None:
    """Unpack Debian's packages, and write what their scripts would have made."""
    for name in _MERGED:
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in debs:
        _unpack(package, root)
    _remove_unused(root, target)
    certificates = sorted((root / "usr/share/ca-certificates/mozilla").glob("*.crt"))
    if not certificates:
        raise BuildError("ca-certificates holds no certificate; has its layout changed?")
    bundle = root / "etc/ssl/certs/ca-certificates.crt"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    bundle.write_text("".join(file.read_text() for file in certificates))
    shutil.rmtree(root / "usr/share/ca-certificates")
    for file, text in (("passwd", _PASSWD), ("group", _GROUP), ("nsswitch.conf", "hosts: files dns\n")):
        (root / "etc" / file).write_text(text)
    for folder in (HOME, SOCKETS, "etc/edge-runtime", "proc", "sys", "dev", "tmp", "run", "root"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    compile_modules(root, target, f"usr/lib/python{target.python}")
    normalise(root, epoch_s)


def _unpack(package: Path, root: Path) -> None:
    """Unpack a package through the links of a merged /usr."""
    archive = root.with_name(f"{root.name}.tar")
    with archive.open("wb") as content:
        subprocess.run(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=content, check=True)
    into = ["--keep-directory-symlink", "--no-same-owner", "-C", str(root)]
    run("tar", "--extract", *into, "-f", str(archive))
    archive.unlink()


def _remove_unused(root: Path, target: Target) -> None:
    modules = [f"usr/lib/python{target.python}/{name}" for name in _UNUSED_MODULES]
    for name in (*_UNUSED, *modules):
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).unlink(missing_ok=True)
    for path in (root / "usr/share/doc").rglob("*"):
        if path.name != "copyright" and (path.is_symlink() or path.is_file()):
            path.unlink()
    (root / "usr/sbin").mkdir(exist_ok=True)


def compile_modules(root: Path, target: Target, folder: str) -> None:
    """Bytecode for a root that is never written, where this Python makes the same as the image's."""
    if target.python != "{}.{}".format(*sys.version_info[:2]):
        return
    options = ["-q", "-f", "-s", str(root), "-p", "/", "--invalidation-mode", "unchecked-hash"]
    run(sys.executable, "-I", "-m", "compileall", *options, str(root / folder))


def add_runtime(root: Path, target: Target, package: Path, epoch_s: int) -> None:
    """Unpack our package; unit, user and configuration are a device's, not a container's."""
    _unpack(package, root)
    for name in ("usr/lib/systemd", "usr/lib/sysusers.d", "usr/share/lintian", "etc"):
        shutil.rmtree(root / name, ignore_errors=True)
    for path in (root / "usr/share/doc/edge-runtime").rglob("*"):
        if path.is_file() and path.name not in ("copyright", "sbom.cdx.json"):
            path.unlink()
    shutil.rmtree(root / "usr/share/doc/edge-runtime/examples", ignore_errors=True)
    compile_modules(root, target, str(PREFIX.relative_to("/") / "lib"))
    normalise(root, epoch_s)


@dataclass(frozen=True)
class Blob:
    """A piece of an image, named by its content."""

    media_type: str
    data: bytes
    plain_digest: str = ""
    """Of a layer: the digest of its tar before compression."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": f"sha256:{self.digest}", "size": len(self.data)}


def layer(root: Path, epoch_s: int) -> Blob:
    """A tree as a layer: in order, with one time; only its own two folders have an owner."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            info = archive.gettarinfo(path, str(path.relative_to(root)))
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            info.mtime = epoch_s
            if info.name in (HOME, SOCKETS):
                info.uid, info.gid, info.mode = USER, GROUP, 0o711
            if info.islnk():  # a second name of the same file, in the order of names
                info.type, info.linkname = tarfile.REGTYPE, ""
                info.size = path.stat().st_size
            if info.isreg():
                with path.open("rb") as content:
                    archive.addfile(info, content)
            else:
                archive.addfile(info)
    data = plain.getvalue()
    packed = gzip.compress(data, 9, mtime=0)
    return Blob("application/vnd.oci.image.layer.v1.tar+gzip", packed, hashlib.sha256(data).hexdigest())


def write_image(layers: list[Blob], target: Target, origin: Origin, version: str, file: Path) -> None:
    """Write an OCI archive with one image in it."""
    created = datetime.fromtimestamp(origin.epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    about = {"title": "edge-runtime", "version": version, "revision": origin.commit, "licenses": "Apache-2.0"}
    labels = {f"org.opencontainers.image.{name}": text for name, text in about.items()}
    image = {
        "created": created, "os": "linux", **_OCI_ARCH[target.arch],
        "config": {
            "User": f"{USER}:{GROUP}",
            "Env": [f"PATH={PREFIX}/bin", f"EDGE_HOME=/{HOME}", "EDGE_INGEST_GROUP=edge-producers"],
            "Entrypoint": ["edgectl"], "Cmd": ["up"], "WorkingDir": "/", "StopSignal": "SIGTERM",
            "Volumes": {f"/{HOME}": {}}, "Labels": labels,
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{each.plain_digest}" for each in layers]},
        "history": [{"created": created, "created_by": "deploy.packaging"} for _ in layers],
    }  # fmt: skip
    config = Blob("application/vnd.oci.image.config.v1+json", json.dumps(image, sort_keys=True).encode())
    manifest = Blob("application/vnd.oci.image.manifest.v1+json", json.dumps({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config.descriptor(), "layers": [each.descriptor() for each in layers],
    }, sort_keys=True).encode())  # fmt: skip
    name = {
        "io.containerd.image.name": f"docker.io/library/edge-runtime:{tag(version)}",  # containerd, docker
        "org.opencontainers.image.ref.name": f"edge-runtime:{tag(version)}",  # podman
    }
    index = {"schemaVersion": 2, "manifests": [{**manifest.descriptor(), "annotations": name}]}
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as archive:
        for path, data in _files([*layers, config, manifest], index):
            info = tarfile.TarInfo(path)
            info.size, info.mtime, info.mode = len(data), origin.epoch_s, 0o644
            archive.addfile(info, io.BytesIO(data))


def _files(blobs: list[Blob], index: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    yield "oci-layout", b'{"imageLayoutVersion": "1.0.0"}'
    yield "index.json", json.dumps(index, sort_keys=True).encode()
    for blob in sorted(blobs, key=lambda each: each.digest):
        yield f"blobs/sha256/{blob.digest}", blob.data


def tag(version: str) -> str:
    """A version as an image's tag may be written."""
    return version.replace("+", "-").replace("~", "-")


def build(target: Target, package: Path, origin: Origin, version: str, out: Path) -> Path:
    """Build the image for a target around its package. Raises BuildError."""
    if target.arch not in _OCI_ARCH:
        raise BuildError(f"there is no container for {target.arch}: PyPI has no pyzmq for it")
    debs = fetch_debs(target, out / "debian" / f"{target.arch}-{target.release}")
    roots = [out / "container" / f"{target.arch}-{part}" for part in ("base", "runtime")]
    for root in roots:
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
    make_base(target, debs, roots[0], origin.epoch_s)
    add_runtime(roots[1], target, package, origin.epoch_s)
    file = out / f"edge-runtime_{version}_{target.arch}.oci.tar"
    write_image([layer(root, origin.epoch_s) for root in roots], target, origin, version, file)
    parts = json.loads((package.with_name(f"{package.name}.cdx.json")).read_text())["components"]
    parts += [sbom.of_debian(roots[0], _fields(deb), sha256(deb)) for deb in debs]
    purl = f"pkg:oci/edge-runtime@{version}?arch={target.arch}"
    file.with_name(f"{file.name}.cdx.json").write_text(
        sbom.document("edge-runtime", version, purl, parts, origin)
    )
    return file


def _fields(package: Path) -> dict[str, str]:
    output = run("dpkg-deb", "--field", str(package), "Package", "Version", "Architecture")
    return dict(line.split(": ", 1) for line in output.splitlines())
