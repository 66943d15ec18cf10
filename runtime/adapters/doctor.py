"""Measurements for `edgectl doctor`: nothing here needs a running runtime, or disturbs one."""

from __future__ import annotations

import email.utils
import http.client
import os
import resource
import shutil
import socket
import sqlite3
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

from runtime.adapters.identity import IdentityReader
from runtime.adapters.vault import Vault
from runtime.config import Config
from runtime.core.checkup import (
    Check,
    judge_certificate,
    judge_disk,
    judge_fsync,
    judge_skew,
    judge_sqlite,
    judge_tokens,
)
from runtime.errors import EdgeError
from runtime.layout import Layout

FSYNCS = 20
DEADLINE_S = 5.0
HUB_PORT = 8883
WANTED_FILES = 1024
OPEN_BITS = 0o077


def examine(config: Config) -> Iterator[Check]:
    """Every check, in the order in which a person would look."""
    yield Check("configuration", "ok", f"{config.file or 'no file'}, home {config.layout.home}")
    yield from _folders(config.layout)
    yield from _disk(config)
    yield _databases(config.layout)
    yield judge_sqlite(sqlite3.sqlite_version_info, f"SQLite {sqlite3.sqlite_version}")
    yield _open_files()
    yield _proxy()
    yield from _network(config)


def _folders(layout: Layout) -> Iterator[Check]:
    for folder in (layout.state, layout.run):
        name = f"folder {folder.name}"
        if not folder.exists():
            yield Check(name, "warning", f"{folder} does not exist yet", "`edgectl up` makes it")
        elif not os.access(folder, os.W_OK | os.X_OK):
            yield Check(name, "error", f"{folder} is not writable for us", f"chown -R edge-runtime {folder}")
        elif folder.stat().st_mode & OPEN_BITS:
            yield Check(name, "warning", f"{folder} is open to others", f"chmod 700 {folder}")
        else:
            yield Check(name, "ok", "private, and writable")


def _disk(config: Config) -> Iterator[Check]:
    layout = config.layout
    place = next(p for p in (layout.state, *layout.state.parents) if p.exists())
    yield judge_disk(shutil.disk_usage(place).free, config.settings.store.min_free_bytes)
    if not os.access(place, os.W_OK):
        return
    try:
        yield judge_fsync(_fsyncs_ms(place))
    except OSError as exc:
        yield Check("fsync", "error", f"cannot write to {place}: {exc.strerror}", "make room, or mount it rw")


def _fsyncs_ms(folder: Path) -> list[float]:
    """What it costs there to have a small append really on disk."""
    path = folder / f".doctor.{os.getpid()}"
    samples = []
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for _ in range(FSYNCS):
            began_s = time.perf_counter()
            os.write(fd, bytes(4096))
            os.fdatasync(fd)
            samples.append((time.perf_counter() - began_s) * 1000)
    finally:
        os.close(fd)
        path.unlink()
    return samples


def _databases(layout: Layout) -> Check:
    """`quick_check` reads everything but compares no index: seconds per GB, and it holds nobody up."""
    seen = [path for path in (layout.messages_db, layout.identity_db) if path.exists()]
    for path in seen:
        try:
            db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=DEADLINE_S)
            try:
                found = [row[0] for row in db.execute("PRAGMA quick_check(3)").fetchall()]
            finally:
                db.close()
        except sqlite3.Error as exc:
            found = [str(exc)]
        if found != ["ok"]:
            remedy = "restart ingest: it sets a damaged file aside and saves what can be read"
            return Check("databases", "error", f"{path.name}: {found[0]}", remedy)
    return Check("databases", "ok", ", ".join(p.name for p in seen) + " in order" if seen else "none yet")


def _open_files() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < WANTED_FILES:
        return Check("open files", "warning", f"at most {soft}", f"ulimit -n {WANTED_FILES}, or LimitNOFILE=")
    return Check("open files", "ok", f"at most {soft}")


def _proxy() -> Check:
    named = sorted(name for name in os.environ if name.lower() in ("https_proxy", "all_proxy", "no_proxy"))
    return Check("proxy", "ok", f"from {', '.join(named)}" if named else "none in this environment")


def _network(config: Config) -> Iterator[Check]:
    """Name, port and TLS of every host that the runtime talks to."""
    platform, identity = config.settings.platform, config.settings.identity
    named = {"dps": identity.dps_host, "connection-string": None}.get(identity.mode, platform.instance)
    if named is not None:
        host, _, port = named.partition(":")
        yield _tls(f"platform {named}", host, int(port or 443), platform.ca_file)
        yield judge_skew(_skew_s(host, int(port or 443)))
    elif identity.mode != "connection-string":
        yield Check("platform", "warning", "platform.instance is not set", "messages stay on the device")
    try:
        known = IdentityReader(config.layout, Vault.of(identity)).read()
    except EdgeError as exc:
        yield Check("identity", "warning", str(exc), "`edgectl status` says who works on it")
        return
    yield judge_tokens(identity.encrypt, known.sealed, known.locked)
    if known.hub is None or known.sas is None:
        yield Check("identity", "warning", "not registered yet", "approve the device; see `edgectl status`")
        return
    yield Check("identity", "ok", f"{known.hub.device_id} on {known.hub.host}")
    trusted = config.settings.upload.ca_file or platform.ca_file
    yield _tls(f"hub {known.hub.host}:{HUB_PORT}", known.hub.host, HUB_PORT, trusted)


def _tls(name: str, host: str, port: int, ca_file: Path | None) -> Check:
    try:
        context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        with socket.create_connection((host, port), DEADLINE_S) as plain:
            with context.wrap_socket(plain, server_hostname=host) as secured:
                certificate = secured.getpeercert() or {}
    except socket.gaierror as exc:
        return Check(name, "error", f"name not found: {exc.strerror}", "check DNS: getent hosts " + host)
    except ssl.SSLCertVerificationError as exc:
        remedy = "set platform.ca_file (or upload.ca_file), and check the clock"
        return Check(name, "error", f"certificate refused: {exc.verify_message}", remedy)
    except TimeoutError:
        return Check(name, "error", f"no answer within {DEADLINE_S:g} s", f"open port {port} in the firewall")
    except OSError as exc:
        return Check(
            name, "error", str(exc.strerror or exc), f"check the address, and port {port} on the way"
        )
    ends = certificate.get("notAfter")
    remaining_s = ssl.cert_time_to_seconds(str(ends)) - time.time() if ends else 0.0
    return judge_certificate(name, remaining_s)


def _skew_s(host: str, port: int) -> float | None:
    """How far the platform's clock is ahead of ours; certificates are not checked: a bad clock fails them."""
    try:
        context = ssl._create_unverified_context()  # noqa: S323  # only a Date is read, nothing is sent
        call = http.client.HTTPSConnection(host, port, timeout=DEADLINE_S, context=context)
        try:
            call.request("HEAD", "/")
            said = call.getresponse().getheader("Date")
        finally:
            call.close()
        return email.utils.parsedate_to_datetime(said).timestamp() - time.time() if said else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
