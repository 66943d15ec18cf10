"""What was sent over the link, on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from loguru import logger

from runtime.adapters.hub.usage_file import UsageFile
from runtime.core.delivery.link_budget import LinkPolicy, LinkUsage
from runtime.layout import Layout


def test_what_was_sent_is_kept_once_the_disk_has_room_again(folder: Path) -> None:
    """Nothing more was sent, so it was not tried again: the next life began the month's budget anew."""
    layout, usage = Layout(folder), LinkUsage("2026-11-28", "2026-11", 7, 700, 7, 700)
    layout.create()
    blocked = layout.state / "link.new"
    blocked.mkdir()
    kept = UsageFile(layout)
    kept.save(usage, LinkPolicy())
    blocked.rmdir()
    kept.save(usage, LinkPolicy())
    assert _after_a_power_cut(layout) == usage


def test_a_restart_forgets_no_message_and_a_power_cut_those_since_the_last_write(folder: Path) -> None:
    layout, policy = Layout(folder), LinkPolicy(messages_per_day=1_000)
    layout.create()
    saved = LinkUsage("2026-11-28", "2026-11", 10, 700, 10, 700)
    kept = UsageFile(layout)
    kept.save(saved, policy)
    inode = (layout.state / "link.json").stat().st_ino
    now = replace(saved, day_messages=19, month_messages=19)
    kept.save(now, policy)
    assert (layout.state / "link.json").stat().st_ino == inode, "nothing was written to the disk"
    assert UsageFile(layout).load() == now
    assert _after_a_power_cut(layout) == saved


def test_the_later_of_both_files_counts(folder: Path) -> None:
    """A copy that a power cut left behind, where run/ is on the disk, is older than the file."""
    layout, policy = Layout(folder), LinkPolicy()
    layout.create()
    before, after = (
        LinkUsage("2026-11-28", "2026-11", 1, 1, 1, 1),
        LinkUsage("2026-11-29", "2026-11", 1, 1, 2, 2),
    )
    kept = UsageFile(layout)
    kept.save(before, policy)
    copy = (layout.run / "link.json").read_bytes()
    again = UsageFile(layout)
    again.load()
    again.save(after, policy)
    (layout.run / "link.json").write_bytes(copy)
    assert UsageFile(layout).load() == after


def test_the_usage_is_on_the_disk_at_the_end(folder: Path) -> None:
    layout = Layout(folder)
    layout.create()
    usage = LinkUsage("2026-11-28", "2026-11", 10, 700, 10, 700)
    kept = UsageFile(layout)
    kept.save(usage, LinkPolicy())
    kept.save(replace(usage, day_messages=11), LinkPolicy(), at_end=True)
    assert _after_a_power_cut(layout).day_messages == 11


def _after_a_power_cut(layout: Layout) -> LinkUsage:
    (layout.run / "link.json").unlink(missing_ok=True)
    return UsageFile(layout).load()


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
