"""The hub's documented size of a message, and the units that it bills for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.delivery.envelope import Telemetry
from runtime.core.delivery.metering import UNIT_BYTES, metered_bytes, units


@pytest.mark.parametrize(
    ("size_bytes", "billed"), [(0, 1), (1, 1), (UNIT_BYTES, 1), (UNIT_BYTES + 1, 2), (262_144, 64)]
)
def test_a_message_is_billed_in_steps_of_four_kibibytes_and_an_empty_one_is_one(
    size_bytes: int, billed: int
) -> None:
    assert units(size_bytes) == billed


def test_the_size_is_the_body_the_values_of_system_properties_and_names_and_values_of_the_others() -> None:
    telemetry = Telemetry("p:b:1", b"x" * 100, (("stream-name", "s"), ("unit", "°C")), "text/plain")
    assert telemetry.metered_bytes("dev-1") == (
        100 + len("p:b:1") + len("text/plain") + len("stream-name") + len("s") + len("unit") + 3
    )


def test_the_path_of_a_message_from_behind_a_gateway_counts_under_the_device_that_sends_it() -> None:
    own = Telemetry("p:b:1", b"")
    passed = Telemetry("p:b:1", b"", passed="")
    assert passed.metered_bytes("dev-12") - passed.metered_bytes("dev-1") == 1
    assert own.metered_bytes("dev-12") == own.metered_bytes("dev-1")


@given(st.binary(max_size=50), st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=4))
def test_text_counts_in_bytes_of_utf_8(body: bytes, properties: dict[str, str]) -> None:
    described = "".join(name + value for name, value in properties.items())
    assert metered_bytes(len(body), [], properties.items()) == len(body) + len(described.encode("utf-8"))
