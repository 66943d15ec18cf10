"""What was sent over the link, on disk."""

from __future__ import annotations

from pathlib import Path

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
