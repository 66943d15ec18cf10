"""The support bundle: one archive with everything that tells how a device is, without its users' data.

Invariants: no payload and no secret is in it (see `core.operations.bundle_content`); it changes nothing on
the device; it is made within a bounded time and size, whatever is down or damaged. A part that fails, or
takes too long, is left out and named in `manifest.json`, as is what was cut to fit. The archive is whole in
memory before a byte of it is written.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import time
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runtime.adapters.process.clock import Clock
from runtime.adapters.process.crash import crash_reports
from runtime.adapters.process.logs import redact
from runtime.adapters.process.machine_facts import machine_facts, versions
from runtime.adapters.process.threads import start_thread
from runtime.adapters.store.database_facts import database_facts, stream_names
from runtime.adapters.supervisor.rpc import Supervisor
from runtime.config import Config
from runtime.core.operations.bundle_content import Redaction, dropped_to_fit, without_locals
from runtime.errors import EdgeError, UsageError
from runtime.layout import PROGRAMS, Layout
from runtime.operations.bundle_logs import LogExcerpt, newest_lines
from runtime.operations.bundle_secrets import known_secrets
from runtime.operations.doctor import examine
from runtime.operations.ledger_report import report as ledger_report
from runtime.operations.overview import observe
from runtime.operations.settings_report import settings_report, streams_report
from runtime.regular_file import read_regular

DEFAULT_BYTES = 5 * 1_048_576
LEAST_BYTES = 65_536
PART_S = 4.0
"""Longest time for a part; all of them are collected at the same time."""
LOGS_S = 4.0
MOST_OF_A_PART_BYTES = 2_097_152
SPARE_BYTES = 16_384
"""Bytes kept free for the manifest and the heads of the members."""
LOGS, MANIFEST = "logs.jsonl", "manifest.json"
LESS_WANTED = (
    "metrics.prom",
    "status-files.json",
    "crashes.json",
    "databases.json",
    "machine.json",
    "versions.json",
    "ledger.json",
    "doctor.json",
    "configuration.json",
)
"""What goes first where even the parts without logs are too large."""


@dataclass(frozen=True)
class BundleRequest:
    """What is asked for."""

    layout: Layout
    config: Config | None
    """None where the configuration is invalid; then `trouble` says why."""
    trouble: str
    environ: Mapping[str, str]
    since_s: float
    """Unix time from which on log lines are wanted."""
    max_bytes: int = DEFAULT_BYTES


@dataclass(frozen=True)
class Bundle:
    """A finished archive."""

    archive: bytes
    manifest: Mapping[str, Any]

    @property
    def remarks(self) -> list[str]:
        """What is not in it, each with the reason."""
        missing = [f"{name} is missing: {reason}" for name, reason in self.manifest["missing"].items()]
        cut = self.manifest["logs"]["cut_before"]
        return [*missing, *([f"log lines before {cut} were cut"] if cut else [])]


@dataclass
class _Part:
    """One part under collection, in a thread of its own."""

    name: str
    value: Any = None
    trouble: str = ""
    took_s: float = 0.0
    done: bool = False
    partial: list[Any] = field(default_factory=list)
    """What is there before the end: it is taken where the end does not come in time."""


def collect(request: BundleRequest, clock: Clock, report: Callable[[str], None]) -> Bundle:
    """Collect every part and pack them; `report` is told of each that is there."""
    parts = [_started(name, run) for name, run in _parts(request, clock).items()]
    config, layout = request.config, request.layout
    secrets = known_secrets(layout, config, request.environ)
    redaction = Redaction.of(secrets, stream_names(layout.messages_db))
    until_s = time.monotonic() + PART_S
    for part in parts:
        while not part.done and time.monotonic() < until_s:
            time.sleep(0.01)
        _settle(part)
        report(f"{part.name}: {part.trouble or f'{part.took_s:.1f} s'}")
    members = {part.name: _encoded(redaction, part.value) for part in parts if part.value is not None}
    missing = {part.name: redaction.text(redact(part.trouble)) for part in parts if part.trouble}
    return _packed(request, clock, members, missing, redaction, report)


def _parts(request: BundleRequest, clock: Clock) -> dict[str, Callable[[_Part], Any]]:
    """What is collected beside the logs, by the name of its member."""
    layout, config = request.layout, request.config
    settings = config.settings if config else None
    return {
        "status.json": lambda _: _without_code(observe(layout, clock, request.trouble, settings)),
        "doctor.json": lambda part: _diagnosis(part, config, request.trouble),
        "configuration.json": lambda _: _configuration(config, request.trouble),
        "supervisord.json": lambda _: _supervisord(layout),
        "crashes.json": lambda _: [without_locals(crash) for crash in crash_reports(layout)],
        "ledger.json": lambda _: _ledger(layout),
        "databases.json": lambda _: {
            path.name: database_facts(path, PART_S / 3) for path in _databases(layout)
        },
        "machine.json": lambda _: machine_facts(layout, clock, request.environ),
        "metrics.prom": lambda _: _text(layout.run / "metrics.prom"),
        "status-files.json": lambda _: {
            name: _without_code(_status_file(layout.status_file(name)))
            for name in PROGRAMS
            if layout.status_file(name).exists()
        },
        "versions.json": lambda _: versions(),
    }


def _started(name: str, run: Callable[[_Part], Any]) -> _Part:
    part = _Part(name)

    def work() -> None:
        began_s = time.monotonic()
        try:
            part.value = run(part)
        except Exception as exc:  # any at all: a bundle is made where something is broken
            part.trouble = f"{type(exc).__name__}: {exc}"[:300]
        part.took_s = time.monotonic() - began_s
        part.done = True

    try:
        start_thread(work, f"bundle-{name}")
    except BlockingIOError:  # no thread can be had: then one after the other
        work()
    return part


def _settle(part: _Part) -> None:
    """Take what a part that is not done has so far."""
    if not part.done:
        part.trouble = f"not complete within {PART_S:g} s"
        part.value = list(part.partial) or None


def _diagnosis(part: _Part, config: Config | None, trouble: str) -> list[Any]:
    if config is None:
        return [{"name": "configuration", "verdict": "error", "text": trouble, "remedy": ""}]
    for check in examine(config):
        part.partial.append(asdict(check))
    return part.partial


def _configuration(config: Config | None, trouble: str) -> dict[str, Any]:
    if config is None:
        return {"trouble": trouble}
    return {
        "home": str(config.layout.home),
        "file": str(config.file) if config.file else None,
        "settings": settings_report(config),
        "streams": streams_report(config),
        "warnings": list(config.warnings),
    }


def _supervisord(layout: Layout) -> dict[str, Any]:
    try:
        programs = Supervisor(layout.supervisor_socket, PART_S / 2).programs()
    except EdgeError as exc:
        return {"trouble": str(exc)}
    return {name: asdict(program) for name, program in programs.items()}


def _ledger(layout: Layout) -> dict[str, Any]:
    try:
        return ledger_report(layout.messages_db, check=True).as_record()
    except EdgeError as exc:  # there is no store yet, or none that can be read
        return {"trouble": str(exc)}


def _databases(layout: Layout) -> list[Path]:
    """Every database of this home, and those that should be there."""
    return sorted({layout.messages_db, layout.identity_db, *layout.state.glob("*.db")})


def _text(path: Path) -> str | None:
    try:
        return read_regular(path, MOST_OF_A_PART_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return None


def _status_file(path: Path) -> Any:
    text = _text(path) or ""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return {"unreadable_characters": len(text)}


def _without_code(value: Any) -> Any:
    """The same without the code that an operator approves by: it is for those who stand at the device."""
    if isinstance(value, dict):
        return {
            name: "***" if name == "verification_code" and part else _without_code(part)
            for name, part in value.items()
        }
    return value


def _encoded(redaction: Redaction, value: Any) -> bytes:
    """A member's content without secrets and payloads: a text as it is, any other value as JSON."""
    if isinstance(value, str):
        return "".join(f"{redaction.text(redact(line))}\n" for line in value.splitlines()).encode()
    lines = json.dumps(redaction.value(value), indent=1).splitlines()
    return "".join(f"{redact(line)}\n" for line in lines).encode()


def _packed(
    request: BundleRequest,
    clock: Clock,
    members: dict[str, bytes],
    missing: dict[str, str],
    redaction: Redaction,
    report: Callable[[str], None],
) -> Bundle:
    """The archive of these members and of as many log lines as fit beside them."""
    sizes = {name: len(zlib.compress(content)) for name, content in members.items()}
    room_bytes = request.max_bytes - SPARE_BYTES
    for name in dropped_to_fit(sizes, LESS_WANTED, room_bytes):
        missing[name] = f"too large for {request.max_bytes} bytes"
        del members[name], sizes[name]
    logs = newest_lines(
        request.layout.log, redaction, request.since_s, room_bytes - sum(sizes.values()), LOGS_S
    )
    report(f"{LOGS}: {logs.lines} lines")
    while True:
        manifest = _manifest(request, clock, members, missing, logs)
        archive = _archive(
            {MANIFEST: _encoded(redaction, manifest), **_sorted(members, logs)}, clock.wall_s()
        )
        if len(archive) <= request.max_bytes or not logs.lines:
            return Bundle(archive, manifest)
        logs = logs.shortened()


def _sorted(members: Mapping[str, bytes], logs: LogExcerpt) -> dict[str, bytes]:
    return {**{name: members[name] for name in sorted(members)}, LOGS: logs.content()}


def _manifest(
    request: BundleRequest,
    clock: Clock,
    members: Mapping[str, bytes],
    missing: Mapping[str, str],
    logs: LogExcerpt,
) -> dict[str, Any]:
    return {
        "made": _date(clock.wall_s()),
        "home": str(request.layout.home),
        "members": {**{name: len(members[name]) for name in sorted(members)}, LOGS: logs.size_bytes},
        "missing": {**missing, **({LOGS: logs.trouble} if logs.trouble else {})},
        "logs": {
            "since": _date(request.since_s),
            "lines": logs.lines,
            "cut_before": _date(logs.first_s) if logs.cut and logs.first_s is not None else None,
        },
        "max_bytes": request.max_bytes,
        "left_out_on_purpose": "payloads, properties, tokens, keys, passwords, texts in variables of crashes",
    }


def _archive(members: Mapping[str, bytes], wall_s: float) -> bytes:
    """A tar.gz in the order of `members`; readable by its owner alone when it is unpacked."""
    packed = io.BytesIO()
    with (
        gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=6, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, content in members.items():
            head = tarfile.TarInfo(f"edge-bundle/{name}")
            head.size, head.mode, head.mtime = len(content), 0o600, max(0, int(wall_s))
            tar.addfile(head, io.BytesIO(content))
    return packed.getvalue()


def _date(wall_s: float) -> str:
    return datetime.fromtimestamp(max(0.0, wall_s), UTC).isoformat(timespec="seconds")


def write_file(path: Path, archive: bytes, *, force: bool) -> None:
    """Write the archive as a whole, or nothing: mode 0600, and never over a file unless `force` says so.

    Raises UsageError.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(
            fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            with os.fdopen(descriptor, "wb") as out:
                out.write(archive)
                out.flush()
                os.fsync(out.fileno())
            if force:
                fresh.replace(path)
            else:
                path.hardlink_to(fresh)
        finally:
            with suppress(FileNotFoundError):
                fresh.unlink()
    except FileExistsError as exc:
        raise UsageError(f"{path} exists already; --force replaces it") from exc
    except OSError as exc:
        raise UsageError(
            f"cannot write {path}: {exc.strerror}; name another FILE, or - and a redirection: "
            "edgectl bundle - > FILE"
        ) from exc
