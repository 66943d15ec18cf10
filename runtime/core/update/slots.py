"""Slot choice: the small file by which a boot chooser knows which of two slots to start. Pure.

The contract between the runtime and what starts the machine (U-Boot, GRUB, a script of an initramfs). One
folder, `update.boot_dir`, on a partition that both can write, holds

    choice      three lines, written whole: into `choice.new`, flushed, renamed, the folder flushed
                    active=a        the slot that is confirmed
                    trial=b         the slot on trial; empty otherwise
                    tries=3         starts that the slot on trial still gets
    slot-a      block device or file (or a link to one) that holds the image of slot a
    slot-b      the same of slot b
    booted      `a` or `b`: the slot that was started, where the kernel's command line has no `edge.slot=b`
    update.json the journal of the runtime; nothing of the chooser

The chooser, at each power-on
    `trial` is set and `tries` above 0: writes `tries` less one, flushed, and only then starts the trial.
    Else: starts `active`. `trial` stays as it is, so that the runtime sees that its trial came back.
    A slot that cannot even be mounted: starts the other one.
    `choice` is missing or unreadable: starts a, or b where a cannot be mounted.

The runtime
    update apply     writes the image into the slot that is not booted, reads it back, compares its sha256,
                     and then writes trial=OTHER, tries=3. The machine has to be restarted.
    update confirm   in the slot on trial: active=OTHER, trial=, tries=0. In the image a service calls
                     `edgectl update confirm --wait 180` at each start; where it fails the machine restarts.
    update rollback  trial=OTHER, tries=3 for the slot of the version before, which confirms itself as well.
    At the start in `active` with a trial that has no tries left: notes why, and clears the trial.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

SLOTS = ("a", "b")
TRIES = 3
"""Starts that a slot on trial gets: a power cut during one of them is no fault of the version."""
_LINE = re.compile(r"(active|trial|tries)=([a-z0-9]*)")


@dataclass(frozen=True, slots=True)
class SlotChoice:
    """Content of the file `choice`."""

    active: str = "a"
    trial: str = ""
    tries: int = 0

    def text(self) -> str:
        """The content of the file."""
        return f"active={self.active}\ntrial={self.trial}\ntries={self.tries}\n"


def parse_choice(text: str) -> SlotChoice:
    """Read the content of the file. Raises ValueError where it is not one."""
    lines = [_LINE.fullmatch(line.strip()) for line in text.splitlines()]
    values = {str(line[1]): str(line[2]) for line in lines if line}
    if values.get("active", "") not in SLOTS or values.get("trial", "-") not in ("", *SLOTS):
        raise ValueError("no slot is named as active, or a wrong one as the trial")
    if not values.get("tries", "").isdigit():
        raise ValueError("no number of tries")
    return SlotChoice(values["active"], values["trial"], int(values["tries"]))


def other(slot: str) -> str:
    """The other one of the two slots."""
    return "b" if slot == "a" else "a"


def power_on(choice: SlotChoice | None) -> tuple[str, SlotChoice | None]:
    """The slot that the chooser starts, and the choice that it writes first (None: nothing to write).

    It is here as the reference that a chooser is compared with; `None` stands for a file that is missing.
    """
    if choice is None:
        return "a", None
    if choice.trial and choice.tries > 0:
        return choice.trial, replace(choice, tries=choice.tries - 1)
    return choice.active, None


def begin_trial(choice: SlotChoice, slot: str) -> SlotChoice:
    """Give a slot its tries. Raises ValueError where it is the active one."""
    if slot == choice.active:
        raise ValueError(f"slot {slot} is the active one")
    return SlotChoice(choice.active, slot, TRIES)


def confirm(choice: SlotChoice, booted: str) -> SlotChoice:
    """Keep the slot that was started; unchanged where it is not on trial."""
    return SlotChoice(booted) if booted == choice.trial else choice


def came_back(choice: SlotChoice, booted: str) -> bool:
    """True if the trial has used its tries, and the active slot was started again."""
    return bool(choice.trial) and booted != choice.trial and choice.tries == 0


def clear_trial(choice: SlotChoice) -> SlotChoice:
    """The choice without its trial."""
    return SlotChoice(choice.active)


def booted_slot(kernel_command_line: str, booted_file: str) -> str:
    """The slot that was started, by the kernel's command line, else by the chooser's file; else empty."""
    for word in kernel_command_line.split():
        if word.startswith("edge.slot=") and word.partition("=")[2] in SLOTS:
            return word.partition("=")[2]
    return booted_file.strip() if booted_file.strip() in SLOTS else ""
