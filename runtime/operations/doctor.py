"""Measurements for `edgectl doctor`: nothing here needs a running runtime, or disturbs one."""

from __future__ import annotations

import grp
import os
import resource
import shlex
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from runtime import wiring, wiring_management
from runtime.adapters.identity import token_files
from runtime.adapters.identity.database import IdentityReader
from runtime.adapters.identity.database_file import SCHEMA_VERSION as IDENTITY_VERSION
from runtime.adapters.identity.registrars import certificate_left_s, registrar
from runtime.adapters.identity.token_files import is_open_to_others
from runtime.adapters.identity.values import IdentityRecord
from runtime.adapters.net.probe import NetworkProbe
from runtime.adapters.process.clock import SystemClock, read_moment
from runtime.adapters.process.home_owner import user_name
from runtime.adapters.process.machine_names import copied_wall_s, read_names
from runtime.adapters.process.process import has_open, lock_holder
from runtime.adapters.process.status_file import last_record
from runtime.adapters.store.errors import SCHEMA_VERSION as STORE_VERSION
from runtime.adapters.store.opening import REMEDY as STORE_REMEDY
from runtime.adapters.store.opening import is_newer
from runtime.adapters.supervisor import internals
from runtime.adapters.update.journal_file import read_journal
from runtime.config import Config
from runtime.core.identity import renewal
from runtime.core.identity.enrolment import Enrolment
from runtime.core.identity.registration_route import IdentityMode
from runtime.core.operations.diagnosis import (
    Check,
    judge_connection,
    judge_disk,
    judge_fixed,
    judge_fsync,
    judge_inodes,
    judge_machine,
    judge_sqlite,
    judge_tokens,
    judge_unregistered,
)
from runtime.core.operations.machine_identity import MachineIdentity
from runtime.core.update.progress import UpdatePhase, trouble_of
from runtime.errors import ConfigError, EdgeError
from runtime.layout import Layout
from runtime.operations.flash import check_flash

FSYNCS = 20
DEADLINE_S = 5.0
WANTED_FILES = 1024
OPEN_BITS = 0o077


def examine(config: Config) -> Iterator[Check]:
    """Run every check, in the order in which a person would look."""
    yield Check("configuration", "ok", f"{config.file or 'no file'}, home {config.layout.home}")
    for warning in config.warnings:
        yield Check("configuration", "warning", warning, "correct it, then: edgectl reload")
    yield from _folders(config.layout)
    yield from _owners(config.layout)
    yield from _secret_files(config)
    yield from _disk(config)
    yield from check_flash(config.layout)
    yield from _management(config)
    yield _machine(config.layout)
    yield check_databases(config.layout)
    yield judge_sqlite(sqlite3.sqlite_version_info, f"SQLite {sqlite3.sqlite_version}")
    yield _supervisor()
    yield _open_files(config.layout)
    yield _update(config)
    yield from _network(config)


def _folders(layout: Layout) -> Iterator[Check]:
    for folder in (layout.state, layout.run):
        name = f"folder {folder.name}"
        if not folder.exists():
            yield Check(name, "warning", f"{folder} does not exist yet", "`edgectl up` makes it")
        elif os.statvfs(folder).f_flag & os.ST_RDONLY:
            remedy = "mount -o remount,rw; dmesg says whether it is failing"
            yield Check(name, "error", f"{folder} lies on a disk that is mounted read-only", remedy)
        elif not os.access(folder, os.W_OK | os.X_OK):
            yield Check(name, "error", f"{folder} is not writable for us", _right_user(layout, folder))
        elif folder.stat().st_mode & OPEN_BITS:
            yield Check(name, "warning", f"{folder} is open to others", f"chmod 700 {folder}")
        else:
            yield Check(name, "ok", "private, and writable")


def _management(config: Config) -> Iterator[Check]:
    """Find what would keep the worker management from its start, where it is switched on."""
    table = config.settings.management
    if not table.enabled:
        return
    try:
        grants = wiring_management.program_grants(config.settings)
        if table.group is not None:
            grp.getgrnam(table.group)
    except KeyError:
        remedy = f"groupadd {shlex.quote(table.group or '')}, or another management.group"
        yield Check("management", "error", f"this machine has no group {table.group}", remedy)
    except ConfigError as exc:
        yield Check("management", "error", str(exc), "correct [management.program...], then edgectl reload")
    else:
        who = f"{len(grants)} programs are named" if grants else "no program is named: each may do all"
        yield Check("management", "ok", f"switched on; {who}")


def _update(config: Config) -> Check:
    record = read_journal(config.settings.update.journal_folder)
    if trouble := trouble_of(record):
        remedy = "correct what the reason says, then apply another bundle; docs/deploy.md, Updates"
        return Check("update", "warning", trouble, remedy)
    if record.phase is not UpdatePhase.NONE:
        return Check("update", "ok", f"version {record.version} is under way: {record.phase}")
    return Check("update", "ok", f"none under way; {len(config.settings.update.keys)} keys may sign one")


def _machine(layout: Layout) -> Check:
    place = next(path for path in (layout.state, *layout.state.parents) if path.exists())
    return judge_machine(copied_wall_s(layout), known=read_names(place) != MachineIdentity())


def _owners(layout: Layout) -> Iterator[Check]:
    """Find files of another user than the home's: a command was run as root, and the
    service cannot write them.
    """
    if not layout.home.exists() or not os.access(layout.state, os.R_OK | os.X_OK):
        return
    owner = layout.home.stat().st_uid
    places = (layout.home, layout.state, layout.run, layout.log)
    files = (path for place in places if os.access(place, os.R_OK | os.X_OK) for path in place.iterdir())
    foreign = [path for path in files if path.lstat().st_uid != owner]
    if foreign:
        text = f"{len(foreign)} files belong to another user than {layout.home}, as {foreign[0]}"
        remedy = f"as root: chown -R --no-dereference {owner} {shlex.quote(str(layout.home))}"
        yield Check("owners", "error", text, remedy)


def _right_user(layout: Layout, folder: Path) -> str:
    """The remedy for this user: a user who may not look here must not be told to take
    the folder from its owner.
    """
    owner = layout.home.stat().st_uid
    if owner != os.geteuid():
        return f"run it as {user_name(owner)} or as root: sudo edgectl doctor"
    if folder.stat().st_uid == owner:
        return f"chmod 700 {shlex.quote(str(folder))}"
    return f"as root: chown -R --no-dereference {owner} {shlex.quote(str(folder))}"


def _secret_files(config: Config) -> Iterator[Check]:
    """Files that hold a secret, edge.toml only where it does."""
    platform, identity = config.settings.platform, config.settings.identity
    named = [
        *(platform.provisioning_token_file, platform.registration_token_file, identity.dps_key_file),
        *(identity.connection_string_file, identity.key_file, identity.encryption_key_file),
    ]
    inline = (platform.provisioning_token, platform.registration_token, identity.dps_key)
    if any(inline) or identity.connection_string:
        named.append(config.file)
    for path in filter(None, named):
        if path.exists() and is_open_to_others(path.stat().st_mode):
            yield Check("secrets", "warning", f"{path} is open to others", f"chmod 600 {path}")


def _disk(config: Config) -> Iterator[Check]:
    layout = config.layout
    place = next(p for p in (layout.state, *layout.state.parents) if p.exists())
    usage = shutil.disk_usage(place)
    yield judge_disk(usage.free, wiring.disk_reserve(config).bytes_of(usage.total), usage.total)
    disk = os.statvfs(place)
    if disk.f_files:
        yield judge_inodes(disk.f_favail, config.settings.store.min_free_inodes)
    if not os.access(place, os.W_OK):
        return
    try:
        yield judge_fsync(_fsyncs_ms(place))
    except OSError as exc:
        yield Check("fsync", "error", f"cannot write to {place}: {exc.strerror}", "make room, or mount it rw")


def _fsyncs_ms(folder: Path) -> list[float]:
    """Milliseconds until a small append there is really on disk."""
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


def check_databases(layout: Layout) -> Check:
    """`quick_check` of the databases: it reads everything but compares no index, seconds per
    GB, and blocks no process.
    """
    if layout.state.exists() and not os.access(layout.state, os.X_OK):
        return Check("databases", "error", f"{layout.state} is not ours to look into", "be root or its owner")
    seen = [path for path in (layout.messages_db, layout.identity_db) if path.exists()]
    for path in seen:
        try:
            db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=DEADLINE_S)
            try:
                problems = [row[0] for row in db.execute("PRAGMA quick_check(3)").fetchall()]
                newer = _newer(db, is_store=path == layout.messages_db)
            finally:
                db.close()
        except sqlite3.OperationalError as exc:  # cannot be opened now: no finding about its content
            remedy = "see the lines about folders and disk; if they are fine, dmesg"
            return Check("databases", "error", f"{path.name}: {exc}", remedy)
        except sqlite3.Error as exc:
            problems = [str(exc)]
        if problems != ["ok"]:
            remedy = "restart ingest: it sets a damaged file aside and saves what can be read"
            return Check("databases", "error", f"{path.name}: {problems[0]}", remedy)
        if newer:
            return Check("databases", "error", f"{path.name} {newer}", STORE_REMEDY)
    return Check("databases", "ok", ", ".join(p.name for p in seen) + " in order" if seen else "none yet")


def _newer(db: sqlite3.Connection, *, is_store: bool) -> str:
    """The reason why this runtime does not open a database that a newer one wrote;
    empty where it does open it.
    """
    ((version,),) = db.execute("PRAGMA user_version").fetchall()
    known = STORE_VERSION if is_store else IDENTITY_VERSION
    newer = is_newer(db, version) if is_store else version > known
    return f"has schema {version}, this runtime knows {known}: a newer one wrote it" if newer else ""


def _supervisor() -> Check:
    if difference := internals.difference():
        return Check("supervisor", "warning", difference, f"pip install supervisor=={internals.TESTED_WITH}")
    return Check("supervisor", "ok", f"supervisor {internals.installed_version()}")


def _open_files(layout: Layout) -> Check:
    """The limit of ingest's open files, as it needs one for each producer; our own
    where ingest's cannot be seen.
    """
    lock = layout.lock("ingest")
    pid = lock_holder(lock) or 0
    try:
        pid = pid if has_open(pid, lock) else 0
        soft, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    except OSError:  # it has gone
        pid, (soft, _) = 0, resource.getrlimit(resource.RLIMIT_NOFILE)
    whose = f"at most {soft} for ingest" if pid else f"at most {soft} here; no ingest is to be seen"
    if soft != resource.RLIM_INFINITY and soft < WANTED_FILES:
        remedy = f"LimitNOFILE={WANTED_FILES} in its unit, or ulimit -n {WANTED_FILES} before `edgectl up`"
        return Check("open files", "warning", whose, remedy)
    return Check("open files", "ok", whose)


def _network(config: Config) -> Iterator[Check]:
    """Probe every host that the runtime talks to, and compare their clocks with ours."""
    network = NetworkProbe(wiring.registration_route(config.settings), wiring.hub_route(config.settings))
    yield from network.platform()
    yield from _hub(config, network)
    yield network.clock()


def check_credentials(config: Config, known: IdentityRecord) -> Iterator[Check]:
    """Credentials that a person provides: the settings and files of the registrar, and a SAS made by hand."""
    way_in, now = registrar(wiring.registration_route(config.settings)), read_moment(SystemClock())
    missing = way_in.missing()
    if missing and config.settings.identity.mode is not IdentityMode.PLATFORM:
        remedy = "correct it; a systemd credential is the service's alone, and not to be seen from here"
        yield Check("credentials", "warning", missing, remedy)
    fixed = renewal.fixed_credential(known.held(now).fixed_left_s, certificate_left_s(way_in, now))
    if fixed is not None:
        yield judge_fixed(fixed)


def check_unregistered(config: Config, known: IdentityRecord) -> Check:
    """The thing that the device waits for: a token, another token, or an operator."""
    record, source = known.enrolment, token_files.token_source(wiring.provisioning_token(config.settings))
    unseen = not source.fault and source.lack is not None  # only the service can read a systemd credential
    if config.settings.identity.mode is not IdentityMode.PLATFORM or known.registration or unseen:
        return judge_unregistered(Enrolment())
    return judge_unregistered(record, source.where, source.fault)


def _hub(config: Config, network: NetworkProbe) -> Iterator[Check]:
    """The device id at the hub, and the route."""
    identity = config.settings.identity
    try:
        known = IdentityReader(config.layout, wiring.vault(config.settings)).read()
    except EdgeError as exc:
        yield Check("identity", "warning", str(exc), "`edgectl status` says who works on it")
        return
    yield judge_tokens(identity.encrypt, known.sealed, known.locked)
    yield from check_credentials(config, known)
    if known.hub is None or known.sas is None:
        yield check_unregistered(config, known)
        return
    yield Check("identity", "ok", f"{known.hub.device_id} on {known.hub.host}")
    if trouble := last_record(config.layout.status_file("upload"), SystemClock().boot_id()).text("trouble"):
        yield judge_connection(trouble)
    yield from network.hub(known.hub.host)
