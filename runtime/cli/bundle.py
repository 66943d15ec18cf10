"""`edgectl bundle`: everything that tells how this device is, in one archive without payloads and secrets."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cli import Commands, load_config, seconds

if TYPE_CHECKING:
    from runtime.config import Config
    from runtime.operations.bundle import Bundle, BundleRequest

STREAM = "_support"
"""The stream under which a bundle goes to the cloud."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?) *(B|KiB|MiB|kB|MB)?", re.IGNORECASE)
_UNITS_BYTES = {"": 1, "b": 1, "kib": 1024, "mib": 1_048_576, "kb": 1000, "mb": 1_000_000}


def register(commands: Commands) -> None:
    bundle = commands.add_parser(
        "bundle",
        help="one archive for support: status, doctor, settings, logs, crashes; no payload, no secret",
        description="Write one archive (tar.gz, mode 0600) with status, doctor, settings, supervisord's "
        "view, crash reports, figures of the databases, the machine, versions and the newest log lines. No "
        "payload, no property, no token, no password is in it. It works with everything down",
        epilog="exit status: 0 written; manifest.json in it names what is missing or was cut",
    )
    bundle.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="where to; - is standard output (default: edge-bundle-DATE.tar.gz in the current folder)",
    )
    bundle.add_argument("--since", metavar="WHEN", default="7d", help="log lines from then on (default 7d)")
    bundle.add_argument(
        "--max-size",
        type=_size,
        metavar="SIZE",
        default=None,
        help="largest archive, as in 5MiB (the default)",
    )
    bundle.add_argument("--force", action="store_true", help="replace FILE where it exists")
    bundle.add_argument(
        "--upload", action="store_true", help=f"send it to the cloud as a file, in the stream {STREAM}"
    )
    bundle.add_argument(
        "--retry-for",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="with --upload: how long to try to store it (default %(default)g)",
    )
    bundle.set_defaults(run=_bundle)


def _size(text: str) -> int:
    """A size on the command line, in bytes; argparse reports anything else in a sentence."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(text)
    return int(float(found[1]) * _UNITS_BYTES[(found[2] or "").lower()])


_size.__name__ = "size"  # as argparse names it in its sentence


def _bundle(arguments: argparse.Namespace) -> int:
    from runtime.adapters.process.clock import SystemClock
    from runtime.cli.terminal import write_error, write_lines
    from runtime.operations.bundle import collect, write_file

    target = _target(arguments)
    request = _request(arguments)
    progress = write_error if sys.stderr is not None and sys.stderr.isatty() else lambda sentence: None
    bundle = collect(request, SystemClock(), progress)
    if target == "-":
        sys.stdout.buffer.write(bundle.archive)
    elif target:
        write_file(Path(target), bundle.archive, force=arguments.force)
    say = write_error if target == "-" else write_lines
    if target and target != "-":
        say(_summary(target, bundle))
    for remark in bundle.remarks:
        say(f"  {remark}")
    if arguments.upload:
        say(_upload(request.config, bundle.archive, arguments.retry_for))
    return 0


def _target(arguments: argparse.Namespace) -> str:
    """Where the archive goes; empty where it is only sent. Raises UsageError."""
    from runtime.errors import UsageError

    file = arguments.file
    if file == "-" and (sys.stdout is None or sys.stdout.isatty()):
        raise UsageError("an archive is not for a terminal; write: edgectl bundle - > FILE")
    if file and file != "-" and Path(file).is_dir():
        raise UsageError(f"{file} is a folder; name the file to write")
    if file and file != "-" and not arguments.force and os.path.lexists(file):
        raise UsageError(f"{file} exists already; --force replaces it")
    return file or (
        "" if arguments.upload else time.strftime("edge-bundle-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime())
    )


def _request(arguments: argparse.Namespace) -> BundleRequest:
    """What is asked for. Raises UsageError."""
    from runtime.adapters.process.clock import LocalZone
    from runtime.config_file import find_home
    from runtime.core.operations.log_lines import since
    from runtime.errors import ConfigError, UsageError
    from runtime.layout import Layout
    from runtime.operations.bundle import DEFAULT_BYTES, LEAST_BYTES, BundleRequest

    try:
        since_s = since(arguments.since, time.time(), LocalZone())
    except ValueError:
        raise UsageError(f"--since {arguments.since!r} must read 2h, 30min, 7d or 2026-01-31T12:00") from None
    config, trouble = None, ""
    try:
        config = load_config(arguments, warn=False)
        layout = config.layout
    except ConfigError as exc:
        layout, trouble = Layout(find_home(os.environ, arguments.home)), f"configuration: {exc}"
    max_bytes = arguments.max_size if arguments.max_size is not None else DEFAULT_BYTES
    if max_bytes < LEAST_BYTES:
        raise UsageError(f"--max-size must be at least {LEAST_BYTES // 1024} KiB")
    if arguments.upload:
        if config is None:
            raise UsageError(f"--upload needs a valid configuration; {trouble}")
        max_bytes = min(max_bytes, _most_sent_bytes(config))
    return BundleRequest(layout, config, trouble, os.environ, since_s, max_bytes)


def _most_sent_bytes(config: Config) -> int:
    """The largest archive that ingest takes: a file of the drop folder may have any size."""
    ingest = config.settings.ingest
    return sys.maxsize if ingest.drop_folder else ingest.max_message_bytes


def _upload(config: Config | None, archive: bytes, retry_for_s: float) -> str:
    """Store the archive as a message whose payload goes to the cloud as a file; the sentence that says so.

    Raises Retryable where ingest does not take it now.
    """
    from runtime.cli.bundle_upload import send
    from runtime.errors import Rejected, Retryable
    from runtime.producer import NotStored

    assert config is not None
    try:
        id = send(config, archive, STREAM, retry_for_s)
    except Rejected as exc:
        raise Retryable(f"the bundle was not sent: {exc}") from exc
    except NotStored as exc:
        raise Retryable(f"the bundle was not sent: {exc}; write it to a FILE instead") from exc
    return (
        f"message {id} of stream {STREAM} is on disk and goes to the cloud; `edgectl trace {id}` follows it"
    )


def _summary(target: str, bundle: Bundle) -> str:
    from runtime.cli.status import size

    parts = len(bundle.manifest["members"])
    return f"{target}: {size(len(bundle.archive))}, {parts} parts, mode 0600"
