"""Pack notes: which messages were sent together, and which alone, so that a later run sends them so again.

The platform drops a repeat by its name, and the name of a pack says its members. Cut otherwise after a crash,
messages would come twice: in the one pack and in the other. So the members are noted before they are sent,
and until ingest has confirmed their removal. A note can be old: then the same messages come twice at most.

What is noted counts as sent: neither a ttl nor a budget drops it, for it may have arrived. So messages of
streams that pack, or did, are noted, and of others those that could be dropped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runtime.core.delivery.envelope import Compression
from runtime.core.delivery.outgoing import Outgoing
from runtime.core.delivery.pack_names import MOST_MEMBERS, numbers_of, runs
from runtime.core.delivery.packing import PackFormat, PackRule
from runtime.core.delivery.packs import Pack


class PackNotes:
    """The packs and single messages that were sent and may be sent again."""

    def __init__(self) -> None:
        self._store: str | None = None
        """The uuid of the store that all ids belong to."""
        self._packs: dict[Pack, int] = {}
        """With the number of members whose removal is confirmed."""
        self._alone: dict[int, None] = {}
        self._earlier: dict[int, Pack] = {}
        """The packs of an earlier run by the ids of members that were not read again."""
        self._changed = False

    @property
    def changed(self) -> bool:
        """True if what is on the disk no longer holds."""
        return self._changed or any(pack.dissolved for pack in self._packs)

    def sending(self, store: str | None, message: Outgoing) -> None:
        """Note that `message` is about to be sent, with its pack."""
        if store != self._store:
            self._store = store
            self._packs.clear()
            self._alone.clear()
            self._earlier.clear()
        if message.pack is None:
            self._changed |= message.candidate.id not in self._alone
            self._alone[message.candidate.id] = None
        elif message.pack not in self._packs:
            self._changed = True
            self._packs[message.pack] = 0

    def confirmed(self, messages: Iterable[Outgoing]) -> None:
        """Ingest has removed these messages. What is on the disk may go on naming them."""
        for message in messages:
            self._alone.pop(message.candidate.id, None)
            pack = message.pack
            if pack is not None and pack in self._packs:
                self._packs[pack] += 1
                if self._packs[pack] >= len(pack.ids):
                    del self._packs[pack]

    # -- after a restart -----------------------------------------------------------------------------

    def rule_of(self, store: str | None, id: int) -> PackRule | None:
        """The rule by which a message was packed in an earlier run; None where it was not."""
        pack = self._earlier.get(id) if store == self._store else None
        return None if pack is None else pack.rule

    def sent_before(self, store: str | None, id: int) -> bool:
        """True if an earlier run sent the message, as far as that is noted: alone or in a pack."""
        return store == self._store and (id in self._alone or id in self._earlier)

    @property
    def waits(self) -> bool:
        """True if members of packs of an earlier run were not read again yet."""
        return bool(self._earlier)

    def all_read(self) -> None:
        """All that is stored was read: the members that were not are gone."""
        self._earlier.clear()

    def restore(self, store: str | None, message: Outgoing) -> None:
        """Let a message that is read again be sent as it was in an earlier run."""
        id = message.candidate.id
        if store != self._store:
            return
        pack = self._earlier.pop(id, None)
        if pack is None or pack.closed or message.part is None:
            return  # a closed pack goes without those that are read again too late
        if pack.members and pack.members[0].stream is not message.stream:
            return  # the rest of it drains in another lane now
        message.pack = pack
        pack.members.append(message)

    def begin(self, store: str | None, oldest: int | None) -> None:
        """A run begins, and the store has no message before this one (None: none at all)."""
        if store != self._store:
            self._earlier.clear()
            return
        first = float("inf") if oldest is None else oldest
        self._alone = {id: None for id in self._alone if id >= first}
        self._earlier = {id: pack for id, pack in self._earlier.items() if id >= first}
        self._packs = {pack: gone for pack, gone in self._packs.items() if pack.ids[-1] >= first}

    # -- on the disk ---------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        """The form that is written to the disk."""
        self._changed = False
        for pack in [pack for pack in self._packs if pack.dissolved]:
            del self._packs[pack]
            self._alone.update(dict.fromkeys(pack.ids))
        alone = sorted(self._alone)
        chunks = [alone[at : at + MOST_MEMBERS] for at in range(0, len(alone), MOST_MEMBERS)]
        return {
            "store": self._store,
            "packs": [[*_written(pack.ids), *_rule(pack.rule)] for pack in self._packs],
            "alone": [_written(chunk) for chunk in chunks],
        }

    @classmethod
    def of_json(cls, saved: Any) -> PackNotes:
        """Read the form on the disk. Where it cannot be read, nothing counts as sent."""
        notes = cls()
        try:
            notes._store = saved["store"]
            for first, text, format, as_message_id, compression, *fold in saved["packs"]:
                rule = PackRule(
                    PackFormat(format),
                    as_message_id=bool(as_message_id),
                    compression=Compression[compression],
                    fold_completion=any(fold),
                )
                pack = Pack(rule, tuple(numbers_of(int(first), text)))
                notes._packs[pack] = 0
                notes._earlier.update(dict.fromkeys(pack.ids, pack))
            for first, text in saved["alone"]:
                notes._alone.update(dict.fromkeys(numbers_of(int(first), text)))
        except (KeyError, TypeError, ValueError):
            return cls()
        return notes


def _written(ids: Iterable[int]) -> tuple[int, str]:
    numbers = list(ids)
    return numbers[0], "".join(run for _, run in runs(numbers))


def _rule(rule: PackRule) -> tuple[str | bool, ...]:
    rest = (True,) if rule.fold_completion else ()
    return rule.format.value, rule.as_message_id, rule.compression.name, *rest
