"""The devices that packages are built for: architecture and Debian release, and what follows. Pure."""

from __future__ import annotations

from dataclasses import dataclass

ARCHITECTURES = ("amd64", "arm64", "armhf")
RELEASES = ("12", "13")
_PYTHON = {"12": "3.11", "13": "3.13"}
_CODENAME = {"12": "bookworm", "13": "trixie"}
_GLIBC_MINOR = {"12": 36, "13": 41}
_MACHINE = {"amd64": "x86_64", "arm64": "aarch64", "armhf": "armv7l"}
_STRIP = {
    "amd64": "x86_64-linux-gnu-strip",
    "arm64": "aarch64-linux-gnu-strip",
    "armhf": "arm-linux-gnueabihf-strip",
}
OLDEST_GLIBC_MINOR = 17
"""glibc 2.17 is what manylinux2014 means; a wheel may be built against any between it and the device's."""


@dataclass(frozen=True)
class Target:
    """One architecture of one Debian release."""

    arch: str
    release: str

    @property
    def python(self) -> str:
        """The release's own Python, as `3.11`."""
        return _PYTHON[self.release]

    @property
    def next_python(self) -> str:
        major, minor = self.python.split(".")
        return f"{major}.{int(minor) + 1}"

    @property
    def codename(self) -> str:
        return _CODENAME[self.release]

    @property
    def of_system(self) -> dict[str, str]:
        """Distributions that Debian brings, by the name of its package: PyPI has no wheel for 32-bit ARM."""
        return {"pyzmq": "python3-zmq", "brotli": "python3-brotli"} if self.arch == "armhf" else {}

    @property
    def strip(self) -> str:
        """The tool that removes symbols from this architecture's libraries."""
        return _STRIP[self.arch]

    def pip_options(self) -> list[str]:
        """Options with which pip takes this device's wheels instead of those of the machine it runs on."""
        machine = _MACHINE[self.arch]
        tags = [
            f"manylinux_2_{minor}" for minor in range(_GLIBC_MINOR[self.release], OLDEST_GLIBC_MINOR - 1, -1)
        ]
        platforms = [f"{tag}_{machine}" for tag in (*tags, "manylinux2014")]
        options = ["--only-binary=:all:", "--implementation", "cp", "--python-version", self.python]
        return options + [word for platform in platforms for word in ("--platform", platform)]

    def depends(self) -> list[str]:
        """The packages that this one needs on the device."""
        native = [] if self.of_system else ["libgcc-s1", "libstdc++6"]
        return [
            "ca-certificates",
            "libc6 (>= 2.28)",
            *native,
            f"python3 (>= {self.python}~)",
            f"python3 (<< {self.next_python})",
            *sorted(self.of_system.values()),
            "systemd | systemd-standalone-sysusers | systemd-sysusers",
        ]


def all_targets() -> list[Target]:
    return [Target(arch, release) for release in RELEASES for arch in ARCHITECTURES]
