"""`edgectl trace ID`: what became of one message, in one line."""

from __future__ import annotations

import argparse
from typing import Any

from runtime.cli import Commands, load_config
from runtime.cli.status import duration, size
from runtime.cli.terminal import write_json, write_lines
from runtime.core.printable import printable

MOST_OF_A_TEXT = 120
_STATES = {
    "stored": "is stored",
    "queued": "waits for its turn",
    "deferred": "waits behind another batch of its stream",
    "uploading": "is being uploaded as a file",
    "in flight": "is sent, and the hub has not acknowledged it yet",
    "suspect": "waits for a trial: connections ended when it was sent alone",
    "on trial": "is sent alone, to see whether the hub takes it",
    "acked": "is delivered, and ingest has not removed it yet",
    "set aside": "is in quarantine",
    "expired": "was dropped: its ttl was over",
    "shed": "was dropped: the budget of units cannot hold it",
    "settled": "has left the store (delivered, lost, or requeued from quarantine under another id), and when "
    "is no longer known",
}


def register(commands: Commands) -> None:
    trace = commands.add_parser(
        "trace",
        help="what became of one message: stored when, in which state, how often tried, delivered when",
        epilog="exit status: 0 it is stored, in quarantine, or known to be delivered; 1 it has left the "
        "store, and its outcome is no longer known; 2 there never was such a message",
    )
    trace.add_argument("id", type=int, metavar="ID", help="the message's number in the store, as in logs")
    trace.add_argument("--json", action="store_true", help="for a program")
    trace.set_defaults(run=_trace)


def _trace(arguments: argparse.Namespace) -> int:
    from runtime.adapters.process.clock import SystemClock
    from runtime.operations.trace import SETTLED, look_up

    facts = look_up(load_config(arguments).layout, SystemClock(), arguments.id)
    if arguments.json:
        write_json(facts)
    else:
        write_lines(sentence(facts))
    return 1 if facts["state"] == SETTLED else 0


def sentence(facts: dict[str, Any]) -> str:
    """Everything about the message in one line."""
    return f"message {facts['id']} " + ", ".join(
        filter(None, [_state(facts), *_history(facts), *_lost(facts), *_row(facts), *_owner(facts)])
    )


def _state(facts: dict[str, Any]) -> str:
    if facts["state"] == "delivered":
        gone = "" if facts["removed"] else ", and ingest has not removed it yet"
        return f"was delivered {duration(facts['delivered_s'])} ago{gone}"
    since = facts.get("since_s")
    state = _STATES.get(facts["state"], str(facts["state"]))
    reason = f": {_short(facts['reason'])}" if facts.get("reason") else ""
    return state + (f" (for {duration(since)})" if since is not None else "") + reason


def _history(facts: dict[str, Any]) -> list[str]:
    """How often it was tried, and what it waits for."""
    pieces = facts.get("pieces") or 1
    return [
        f"sent {facts['attempts']:.0f} times" if (facts.get("attempts") or 0) > 1 else "",
        f"{facts['reached']:.0f} of {pieces:.0f} pieces acknowledged" if pieces > 1 else "",
        f"its upload failed {facts['upload_failures']:.0f} times" if facts.get("upload_failures") else "",
        f"{facts['failures']:.0f} connections ended with it alone" if facts.get("failures") else "",
        *_on_its_way(facts),
        *_waits_for(facts),
    ]


def _on_its_way(facts: dict[str, Any]) -> list[str]:
    """What the connection says while the message's PUBACK is awaited."""
    if facts["state"] not in ("in flight", "on trial", "suspect"):
        return []
    puback_s, trouble = facts.get("puback_age_s"), facts.get("trouble")
    return [
        f"the last PUBACK came {duration(puback_s)} ago" if puback_s is not None else "",
        _short(trouble) if trouble else "",
    ]


def _lost(facts: dict[str, Any]) -> list[str]:
    """The losses among which it is, or may be: only of a message that left the store unseen."""
    if facts["state"] != "settled":
        return []
    losses = facts.get("losses") or ()
    if not losses:
        return ["and no loss is counted under this id"]
    certain = [loss for loss in losses if loss["certain"]]
    if certain:
        return [f"lost: {_short(certain[0]['reason'])}"]
    return [f"perhaps lost: {_loss(loss)}" for loss in losses]


def _loss(loss: dict[str, Any]) -> str:
    count = "some" if loss["messages"] is None else f"{loss['messages']}"
    first, last = loss["ids"]
    return (
        f"{count} of {_short(loss['stream'])} were {_short(loss['reason'])}, with ids from {first} to {last}"
    )


def _owner(facts: dict[str, Any]) -> list[str]:
    return [f"stored by {_short(facts['owner'])}"] if facts.get("owner") else []


def _waits_for(facts: dict[str, Any]) -> list[str]:
    if facts["state"] not in ("stored", "queued", "deferred"):
        return []
    ahead, upload = facts.get("ahead"), facts.get("upload")
    standing = facts.get("connected_s")
    up = "" if standing is None else f"the connection stands since {duration(standing)}"
    link = {"down": "upload does not run or is not connected", "up": up}
    return [
        f"behind {ahead} earlier of its stream" if ahead else "",
        link.get(upload or "down", f"the connection is {upload}"),
        f"the link may not be used now: {facts['barred']}" if facts.get("barred") else "",
    ]


def _row(facts: dict[str, Any]) -> list[str]:
    """The facts about a message in the store, as phrases."""
    if "damage" in facts:
        return [f"its row is damaged: {_short(facts['damage'])}"]
    if "key" not in facts:
        return []
    age_s = facts["stored_age_s"]
    stored = facts["stored"] or ""
    ago = f" ({duration(age_s)} ago)" if stored and age_s is not None else f" {duration(age_s)} ago"
    return [
        f"stored{f' {stored}' if stored else ''}{ago if age_s is not None else ''}",
        f"key {_short(facts['key'])}",
        f"stream {_short(facts['stream'])}",
        f"batch {_short(facts['batch'])}" if facts["batch"] else "",
        size(facts["bytes"]) + (f" in {facts['file']}" if facts["file"] else ""),
    ]


def _short(text: str) -> str:
    return printable(text, MOST_OF_A_TEXT)
