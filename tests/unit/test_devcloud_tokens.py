"""What the stand-in signs: nobody else can, the SDK agrees, and any text at all is harmless."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from runtime.devcloud.state.tokens import claims_of, mint, parse_sas, sas_holds, sign_sas

SECRET = b"s" * 32
KEY = base64.b64encode(b"k" * 32).decode()
CLAIMS = st.dictionaries(st.text(max_size=8), st.text(max_size=20), max_size=4)


@given(CLAIMS)
def test_a_token_says_what_was_signed(claims: dict[str, str]) -> None:
    assert claims_of(mint(claims, SECRET), SECRET) == claims


@given(CLAIMS, st.integers(min_value=0), st.characters(codec="ascii"))
def test_a_token_changed_in_one_character_counts_for_nothing(
    claims: dict[str, str], where: int, other: str
) -> None:
    token = mint(claims, SECRET)
    where %= len(token)
    if token[where] != other:
        assert claims_of(token[:where] + other + token[where + 1 :], SECRET) is None


@given(st.text())
def test_any_text_at_all_is_no_token_of_ours_and_breaks_nothing(text: str) -> None:
    assert claims_of(text, SECRET) is None
    sas = parse_sas(text)
    assert sas is None or not sas_holds(sas, KEY)


@given(st.text(), st.text(), st.text())
def test_any_fields_in_a_sas_break_nothing(sr: str, sig: str, se: str) -> None:
    sas = parse_sas(f"SharedAccessSignature sr={sr}&sig={sig}&se={se}")
    assert sas is None or not sas_holds(sas, KEY)


@given(st.text(min_size=1, max_size=90), st.integers(0, 2**40))
def test_a_sas_reads_back_as_signed(resource: str, expires_at_s: int) -> None:
    sas = parse_sas(sign_sas(resource, KEY, expires_at_s))
    assert sas is not None
    assert (sas.resource, sas.expires_at_s) == (resource, expires_at_s)
    assert sas_holds(sas, KEY)
    assert not sas_holds(sas, base64.b64encode(b"x" * 32).decode())


def test_a_sas_made_by_the_published_sdk_counts() -> None:
    from azure.iot.device.common.auth.sastoken import RenewableSasToken
    from azure.iot.device.common.auth.signing_mechanism import SymmetricKeySigningMechanism

    theirs = RenewableSasToken("hub.example/devices/demo:dev-1", SymmetricKeySigningMechanism(KEY), ttl=60)
    sas = parse_sas(str(theirs))
    assert sas is not None
    assert sas_holds(sas, KEY)
    assert sas.resource == "hub.example/devices/demo:dev-1"
