"""What was sent over the link, on disk."""

from __future__ import annotations

from pathlib import Path

from loguru import logger

from runtime.adapters.hub.usage_file import UsageFile
from runtime.core.delivery.link_budget import LinkUsage
from runtime.layout import Layout


def test_what_was_sent_is_kept_once_the_disk_has_room_again(folder: Path) -> None:
    """Nothing more was sent, so it was not tried again: the next life began the month's budget anew."""
    layout, usage = Layout(folder), LinkUsage("2026-11-28", "2026-11", 7, 700, 7, 700)
    layout.create()
    blocked = layout.state / "link.new"
    blocked.mkdir()
    kept = UsageFile(layout)
    kept.save(usage)
    blocked.rmdir()
    kept.save(usage)
    assert UsageFile(layout).load() == usage


def test_a_link_that_was_switched_off_stays_off_while_the_disk_does_not_say(folder: Path) -> None:
    """An error of the disk counted as "not off", or ended upload."""
    layout = Layout(folder)
    layout.create()
    usage = UsageFile(layout)
    assert not usage.switched_off()
    usage.switch(on=False)
    assert usage.switched_off()
    aside = layout.state.rename(folder / "aside")
    layout.state.symlink_to(layout.state)  # from here on every look ends with ELOOP
    reasons: list[str] = []
    sink = logger.add(reasons.append, format="{message}")
    try:
        assert usage.switched_off() and usage.switched_off()
    finally:
        logger.remove(sink)
    assert len(reasons) == 1 and "cannot be looked for" in reasons[0]
    layout.state.unlink()
    aside.rename(layout.state)
    usage.switch(on=True)
    assert not usage.switched_off()
