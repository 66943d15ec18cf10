"""The script of the demo: its events, in the order in which they happen."""

from __future__ import annotations

import sys
import time

from runtime.demo.console import ConsoleOutput
from runtime.demo.managed import Management
from runtime.demo.producers import AcknowledgedNames, Senders
from runtime.demo.stage import KILLED, Stage, wait_for
from runtime.demo.tally import CommandTally, Tally, command_table, count, table

QUIET_S = 3.0  # between two faults, so that a person can follow
HUB_AWAY_S = 5.0
APPROVAL_TIMEOUT_S = 1800.0
DRAIN_TIMEOUT_S = 300.0  # also with both cores busy with something else


def play(*, approve: bool, seconds: float) -> int:
    """Run the demo for about `seconds`; the exit status."""
    console = ConsoleOutput()
    with Stage() as stage:
        console.write("starting the stand-in cloud")
        stage.start_cloud()
        console.write("starting supervisord with provisioning, refresh, ingest, upload and management")
        config = stage.start_runtime()
        ledger = AcknowledgedNames()
        senders = Senders(config.producer_endpoint(), ledger)
        senders.start()
        console.write(
            "producers send: this machine's metrics every second, and bursts; the device is not approved yet"
        )
        _provision(stage, console, approve=approve)
        management = Management(f"ipc://{stage.layout.management_socket}", stage.remote, stage.registered())
        management.start()
        console.write("an operator sends commands and changes the twin; a program here carries them out")
        began_s = time.monotonic()
        _disasters(stage, console, ledger)
        while time.monotonic() - began_s < seconds and senders.failure is None and management.failure is None:
            _pass(stage, console, ledger, QUIET_S)
        senders.stop()
        management.stop_sending()
        for failure in (senders.failure, management.failure):
            if failure is not None:
                raise failure
        console.write(
            f"producers have stopped; they hold {len(ledger)} acknowledgements, and the hub took "
            f"{len(management.sent)} commands. Draining the backlog"
        )
        _drain(stage, console, ledger, management)
        results = stage.results()
        stored, difference = stage.ledger()
        tally = count(ledger.names(), stored - len(results), stage.arrivals(), stage.restarts(), difference)
        commands = management.tally(results)
        management.stop()
        return _end(console, tally, commands)


def _provision(stage: Stage, console: ConsoleOutput, *, approve: bool) -> None:
    """Show the code; approve it here, or have a person do it on the page."""
    operation = wait_for(stage.waiting_devices, APPROVAL_TIMEOUT_S, "the device asks to be provisioned")[0]
    console.write(
        f"the device asks to be provisioned; its verification code is {operation['verificationCode']}"
    )
    console.write(f"a person approves on the page: {stage.page_address()}")
    if approve:
        console.write(f"--yes: approved as {stage.approve(operation)}")
    else:
        console.write("waiting for you to approve it there (Ctrl-C ends the demo)")
    wait_for(stage.registered, APPROVAL_TIMEOUT_S, "an operator approves the device")
    wait_for(stage.arrived, DRAIN_TIMEOUT_S, "the first message arrives")
    console.write("provisioned and registered: messages flow")


def _disasters(stage: Stage, console: ConsoleOutput, ledger: AcknowledgedNames) -> None:
    for worker in KILLED:
        _pass(stage, console, ledger, QUIET_S)
        console.write(
            f"SIGKILL for {worker} (process {stage.kill(worker)}); supervisord has to bring it back"
        )
    _pass(stage, console, ledger, QUIET_S)
    console.write(f"the hub goes away for {HUB_AWAY_S:g} s")
    stage.hub(up=False)
    _pass(stage, console, ledger, HUB_AWAY_S)
    stage.hub(up=True)
    console.write("the hub is back")


def _pass(stage: Stage, console: ConsoleOutput, ledger: AcknowledgedNames, seconds: float) -> None:
    """Let time pass, and show the progress."""
    until_s = time.monotonic() + seconds
    while (left_s := until_s - time.monotonic()) > 0:
        stage.look()
        console.progress(f"acknowledged {len(ledger):>6}   at the hub {stage.arrived():>6}")
        time.sleep(min(0.5, left_s))


def _drain(stage: Stage, console: ConsoleOutput, ledger: AcknowledgedNames, management: Management) -> None:
    """Wait until every acknowledged message and every result has arrived, or until waiting is of no use."""
    acknowledged = ledger.names()
    until_s = time.monotonic() + DRAIN_TIMEOUT_S
    while time.monotonic() < until_s:
        _pass(stage, console, ledger, 0.5)
        arrivals = stage.arrived()
        if arrivals < len(acknowledged) or not acknowledged <= {a.name for a in stage.arrivals()}:
            continue
        if management.tally(stage.results()).ok:
            break
    console.progress("")


def _end(console: ConsoleOutput, tally: Tally, commands: CommandTally) -> int:
    console.write_plain("")
    for line in [*table(tally), *command_table(commands)]:
        console.write_plain(line)
    if tally.ok and commands.ok:
        console.write_plain("")
        console.write_plain("acknowledged = stored = delivered, nothing lost.")
        console.write_plain("commands sent = done, each once, and the twin is equal.")
        return 0
    sys.stderr.write("edgectl: the promise was broken: see the table\n")
    return 1
