"""The end of a certificate, as a full-grown library reads it; and garbage as anybody might."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.identity.certificate import not_after_s

AUTHORITY = trustme.CA()


def der_until(end: datetime) -> bytes:
    begin = datetime(1990, 1, 1, tzinfo=UTC)
    pem = AUTHORITY.issue_cert("device.example", not_before=begin, not_after=end).cert_chain_pems[0].bytes()
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


@pytest.mark.parametrize("year", [1999, 2026, 2049, 2050, 9999])
def test_the_end_is_found_in_every_century(year: int) -> None:
    end = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert not_after_s(der_until(end)) == end.timestamp()


SOUND = der_until(datetime(2040, 1, 1, tzinfo=UTC))


@given(st.binary() | st.builds(lambda n: SOUND[:n], st.integers(0, len(SOUND))), st.integers(0, 400))
def test_anything_else_is_a_value_error_and_nothing_worse(der: bytes, flip: int) -> None:
    damaged = der[:flip] + bytes([der[flip] ^ 0x80]) + der[flip + 1 :] if flip < len(der) else der
    for one in (der, damaged):
        with contextlib.suppress(ValueError):
            assert isinstance(not_after_s(one), float)
