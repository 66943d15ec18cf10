"""The reply route: any frames in front of a request are taken apart, and every request can be answered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.ingest.reply_route import MOST_HOP_BYTES, MOST_HOPS, split_envelope

HEADER = b'{"stream": "s"}'


@pytest.mark.parametrize(
    ("hops", "what"),
    [
        ([], "a REQ socket"),
        ([b"\x00\x00\x01\x02"], "a number of ZMQ_REQ_CORRELATE"),
        ([b"{}ab"], "a number that begins as a header does"),
        ([b"\x00abcd"], "a proxy"),
        ([b"\x00abcd", b"{8d3c7f1e}", b"\x01\x02\x03\x04"], "two proxies, a name of its own, a number"),
        ([b"h"] * (MOST_HOPS - 1), "as many as are read"),
    ],
)
def test_the_way_back_is_everything_up_to_the_first_empty_frame(hops: list[bytes], what: str) -> None:
    route, request = split_envelope([b"peer", *hops, b"", HEADER, b"", b"x"])
    assert (route, request) == ([b"peer", *hops, b""], [HEADER, b"", b"x"]), what


@pytest.mark.parametrize("frames", [[b"peer", b""], [b"proxy", b"\x00abcd", b""]])
def test_one_empty_frame_is_a_probe_and_asks_for_nothing(frames: list[bytes]) -> None:
    assert split_envelope(frames).is_probe


@pytest.mark.parametrize(
    "frames",
    [
        [HEADER, b"x"],
        [HEADER, b""],
        [b"{}", b"", b"x"],
        [b"h" * (MOST_HOP_BYTES + 1), b"", HEADER],
        [*[b"h"] * MOST_HOPS, b"", HEADER],
    ],
)
def test_where_no_way_back_can_be_told_the_peer_is_answered(frames: list[bytes]) -> None:
    assert split_envelope([b"peer", *frames]) == ([b"peer"], None)


@given(st.lists(st.binary(max_size=4) | st.just(b"{}") | st.binary(min_size=250, max_size=300), max_size=30))
def test_any_frames_at_all_are_a_probe_or_have_a_way_back_to_their_peer(frames: list[bytes]) -> None:
    route, request = split_envelope([b"peer", *frames])
    assert route[0] == b"peer" and len(route) <= MOST_HOPS + 2
    assert request is None or [*route, *request] == [b"peer", *frames]
    assert sum(map(len, route)) <= (MOST_HOPS + 1) * MOST_HOP_BYTES
