"""Whose a name is, on disk and in the names of messages."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runtime.core.ingest.ownership import AFTER_ALL_OWNERS, key_prefix, of_row, row_boot
from runtime.core.ingest.protocol import ProducerKey

parts = st.from_regex(r"[A-Za-z0-9_.-]{1,12}", fullmatch=True)
owners = st.just("") | st.integers(0, 2**32).map("user {}".format) | st.text(min_size=1).map("key {}".format)
keys = st.builds(ProducerKey, parts, parts, owners)


@given(keys, st.booleans())
def test_what_is_on_disk_says_whose_it_is(key: ProducerKey, apart: bool) -> None:
    boot = row_boot(key, apart=apart)
    assert of_row(key.producer, boot) == (key, apart and bool(key.owner))
    assert not key.owner or f"{key.boot}@" < boot < f"{key.boot}{AFTER_ALL_OWNERS}"


@given(keys, keys)
def test_no_two_owners_name_their_messages_alike_where_one_stands_apart(
    one: ProducerKey, other: ProducerKey
) -> None:
    assert key_prefix(one, apart=False) == f"{one.producer}/{one.boot}/"
    assert key_prefix(one, apart=False) != key_prefix(other, apart=True)
    if one != other:
        assert key_prefix(one, apart=True) != key_prefix(other, apart=True)
