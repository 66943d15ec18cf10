"""`edgectl update`: apply a signed bundle, look at one, see how it went, and go back."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.cli import Commands, load_config, seconds
from runtime.cli.terminal import TextRow, write_error, write_json, write_lines

if TYPE_CHECKING:
    from runtime.adapters.update.bundle_file import UpdateBundle
    from runtime.adapters.update.service import Called
    from runtime.config import Config
    from runtime.core.update.manifest import Judgement
    from runtime.core.update.progress import LastUpdate, UpdateRecord
    from runtime.operations.slot_update import SlotUpdate
    from runtime.operations.update_steps import SideBySideUpdate

WAIT_S = 1200.0
HOLD_S = 600.0
CAME_BACK = 1
IMPORTS = (
    "azure.iot.device", "requests", "zmq", "supervisor.supervisord", "runtime.adapters.supervisor.main",
    "runtime.workers.ingest", "runtime.workers.upload", "runtime.workers.provisioning",
    "runtime.workers.refresh", "runtime.workers.sentinel",
)  # fmt: skip
"""What a version imports before it may be tried: a fault here would end every worker at its start."""


def register(commands: Commands) -> None:
    group = commands.add_parser("update", help="apply a signed bundle, and go back to the version before")
    actions = group.add_subparsers(metavar="ACTION", required=True)
    apply = _action(actions, "apply", _apply, "check a bundle wholly, and bring it into service")
    apply.add_argument("file", type=Path, metavar="FILE")
    apply.add_argument(
        "--one-way", action="store_true", help="also where the version before could not take over"
    )
    apply.add_argument("--older", action="store_true", help="also where it is older than what is installed")
    apply.add_argument("--no-wait", action="store_true", help="leave when its trial begins")
    inspect = _action(actions, "inspect", _inspect, "say what a bundle is, and what it would do here")
    inspect.add_argument("file", type=Path, metavar="FILE")
    _action(actions, "status", _status, "what is under way, and how the last update ended")
    rollback = _action(actions, "rollback", _rollback, "bring the version before into service again")
    rollback.add_argument("--no-wait", action="store_true", help="leave when its trial begins")
    confirm = _action(
        actions,
        "confirm",
        _confirm,
        "confirm the version on trial if it works: its workers live, and it stores",
    )
    confirm.add_argument(
        "--wait", type=seconds, metavar="SECONDS", help="give it so long; default: update.confirm_s"
    )
    hold = _action(actions, "hold", _hold, "put off updates for a while", homeless=False)
    hold.add_argument(
        "--for", dest="for_s", type=seconds, default=HOLD_S, metavar="SECONDS", help="default %(default)g"
    )
    hold.add_argument("--name", default="operator", help="who says so; several may (default: %(default)s)")
    release = _action(actions, "release", _release, "put off updates no longer", homeless=False)
    release.add_argument("--name", default="operator")
    _register_inner(actions)


def _register_inner(actions: Commands) -> None:
    """What the watch, and one version of another, call."""
    _action(actions, "watch", _watch, "see an update through to its end; a service calls it")
    _action(actions, "imports", _imports, "import every part; a version is called so before its trial")
    _action(
        actions,
        "probe",
        _probe,
        "exit 0 where this version works in the home; it stores a message",
        homeless=False,
    )
    rehearse = _action(
        actions, "rehearse", _rehearse, "run this version on a copy of the store, before a one-way update",
        homeless=False,
    )  # fmt: skip
    rehearse.add_argument("--wait", type=seconds, required=True, metavar="SECONDS")


def _action(
    actions: Commands,
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,
    *,
    homeless: bool = True,
) -> argparse.ArgumentParser:
    """An action. Homeless: it opens nothing in the home, and stays root."""
    action = actions.add_parser(name, help=help)
    action.add_argument("--json", action="store_true", help="for a program")
    action.set_defaults(run=run, homeless=homeless)
    return action


def _apply(arguments: argparse.Namespace) -> int:
    from runtime.operations.update_steps import ApplyOptions

    update = _update(arguments)
    options = ApplyOptions(one_way=arguments.one_way, older=arguments.older)
    update.apply(arguments.file, options)
    return _see_through(arguments, update)


def _rollback(arguments: argparse.Namespace) -> int:
    update = _update(arguments)
    update.roll_back()
    return _see_through(arguments, update)


def _see_through(arguments: argparse.Namespace, update: SideBySideUpdate | SlotUpdate) -> int:
    """Wait for the end, but in an image: there the machine has to be restarted."""
    from runtime.operations.update_steps import SideBySideUpdate, see_through

    if not isinstance(update, SideBySideUpdate):
        return _status(arguments)
    try:
        last = see_through(update, 0.0 if arguments.no_wait else WAIT_S)
    except KeyboardInterrupt:
        write_error("the update goes on by itself, or at the next start: edgectl update status")
        raise
    return _ended(arguments, last)


def _ended(arguments: argparse.Namespace, last: LastUpdate | None) -> int:
    from runtime.core.update.progress import UpdateResult

    status = 1 if last is not None and last.result is not UpdateResult.CONFIRMED else 0
    if arguments.json or last is None:
        _status(arguments)
    elif status:
        write_lines(TextRow(f"{last.version} came back: {last.reason}", last.version, "red"))
    return status


def _inspect(arguments: argparse.Namespace) -> int:
    bundle, judgement = _update(arguments).inspect(arguments.file)
    if arguments.json:
        write_json(_described(bundle, judgement))
    else:
        write_lines(*_rows(bundle, judgement))
    return 1 if judgement.refused else 0


def _described(bundle: UpdateBundle, judgement: Judgement) -> dict[str, Any]:
    return {
        **bundle.manifest.record(),
        "signed": bundle.comment,
        "refused": list(judgement.refused),
        "one_way": judgement.one_way,
        "older": judgement.older,
        "same": judgement.same,
    }


def _rows(bundle: UpdateBundle, judgement: Judgement) -> list[TextRow | str]:
    manifest = bundle.manifest
    schemas = ", ".join(f"{n} {known.oldest} to {known.writes}" for n, known in manifest.schemas.items())
    rows: list[TextRow | str] = [
        f"version   {manifest.version} ({manifest.kind}, {manifest.architecture})",
        f"commit    {manifest.commit}",
        f"signed    {bundle.comment}",
        f"opens     {schemas}",
        f"room      {manifest.unpacked_bytes / 1e6:.1f} MB",
    ]
    if judgement.same:
        rows.append("is what is installed")
    if judgement.older:
        rows.append(TextRow("OLDER     than what is installed: apply needs --older", "OLDER", "yellow", 10))
    if judgement.one_way:
        text = f"ONE WAY   {judgement.one_way}: apply needs --one-way, and there is no way back"
        rows.append(TextRow(text, "ONE WAY", "yellow", 10))
    rows += [TextRow(f"REFUSED   {sentence}", "REFUSED", "red", 10) for sentence in judgement.refused]
    return rows


def _status(arguments: argparse.Namespace) -> int:
    from runtime.adapters.update.journal_file import journal_facts

    facts = journal_facts(load_config(arguments).settings.update.journal_folder)
    if arguments.json:
        write_json(facts)
        return 0
    if facts["phase"] != "none":
        write_lines(f"under way  {facts['version']}: {facts['phase']}")
    last = facts["last"]
    if last:
        reason = f": {last['reason']}" if last["reason"] else ""
        write_lines(f"last       {last['version']} {last['result']}{reason}")
    back = facts["previous"] or "none"
    note = " (cannot open what this version writes)" if facts["no_way_back"] else ""
    write_lines(f"before     {back}{note}")
    return 0


def _confirm(arguments: argparse.Namespace) -> int:
    """In an image: the slot that was started. Side by side the watch confirms: be it, or wait for it."""
    from runtime.core.update.progress import UpdatePhase
    from runtime.operations.update_steps import SideBySideUpdate, see_through

    update = _update(arguments)
    wait_s = arguments.wait if arguments.wait is not None else update.config.settings.update.confirm_s
    if isinstance(update, SideBySideUpdate):
        under_way = update.versions.record().phase is not UpdatePhase.NONE
        return _ended(arguments, see_through(update, wait_s) if under_way else None)
    return 0 if update.confirm(wait_s, lambda record: _proof(update.config, record)) else 1


def _proof(config: Config, record: UpdateRecord) -> Called:
    """Call ourselves as the owner of the home; a one-way update is rehearsed, before it opens the store."""
    import sys

    from runtime.adapters.update.service import call

    file = ["--config", str(config.file)] if config.file else []
    action = ["rehearse"] if record.one_way else ["probe"]
    words = ["--home", str(config.layout.home), *file, "update", *action, "--json"]
    limit_s = 2 * config.settings.update.confirm_s
    return call(Path(sys.prefix), words, limit_s)


def _watch(arguments: argparse.Namespace) -> int:
    from runtime.operations.update_steps import SideBySideUpdate

    update = _update(arguments)
    if isinstance(update, SideBySideUpdate):
        _ended(arguments, update.watch())
    return 0


def _imports(arguments: argparse.Namespace) -> int:
    import importlib

    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except Exception as exc:  # a new version may raise anything at all
            _reasoned(arguments, f"{name} cannot be imported: {type(exc).__name__}: {exc}")
            return 1
    return _reasoned(arguments, "")


def _probe(arguments: argparse.Namespace) -> int:
    from runtime.adapters.process.clock import SystemClock
    from runtime.operations.provenance import provenance
    from runtime.operations.update_probe import probe

    facts = provenance()
    version = facts["package"] or facts["version"]
    probed = probe(load_config(arguments, warn=False), SystemClock(), version)
    return _reasoned(arguments, probed.reason, crash_loop=probed.crash_loop)


def _rehearse(arguments: argparse.Namespace) -> int:
    from runtime.adapters.process.clock import SystemClock
    from runtime.operations.provenance import provenance
    from runtime.operations.update_rehearsal import rehearse

    facts = provenance()
    version = facts["package"] or facts["version"]
    return _reasoned(
        arguments, rehearse(load_config(arguments, warn=False), SystemClock(), version, arguments.wait)
    )


def _reasoned(arguments: argparse.Namespace, reason: str, *, crash_loop: bool = False) -> int:
    if arguments.json:
        write_json({"ok": not reason, "reason": reason, "crash_loop": crash_loop}, indent=None)
    elif reason:
        write_lines(reason)
    return 1 if reason else 0


def _hold(arguments: argparse.Namespace) -> int:
    from runtime.adapters.update.holds import hold

    config = load_config(arguments)
    for_s = min(arguments.for_s, config.settings.update.hold_max_s)
    hold(config.layout.run, _plain(arguments.name), time.time() + for_s)
    if arguments.json:
        write_json({"name": arguments.name, "for_s": for_s})
    else:
        write_lines(f"updates wait for {for_s:.0f} s at most")
    return 0


def _release(arguments: argparse.Namespace) -> int:
    from runtime.adapters.update.holds import release

    released = release(load_config(arguments).layout.run, _plain(arguments.name))
    if arguments.json:
        write_json({"name": arguments.name, "released": released})
    elif not released:
        write_lines("nothing was put off under this name")
    return 0


def _plain(name: str) -> str:
    from runtime.errors import UsageError

    if not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError(f"--name {name!r} must be letters, digits, - and _")
    return name


def _update(arguments: argparse.Namespace) -> SideBySideUpdate | SlotUpdate:
    from runtime.operations.slot_update import SlotUpdate
    from runtime.operations.update_steps import SideBySideUpdate

    config = load_config(arguments)

    def report(text: str) -> None:
        if not arguments.json:
            write_lines(text)

    kind = SlotUpdate if config.settings.update.boot_dir else SideBySideUpdate
    return kind.of_device(config, report)
