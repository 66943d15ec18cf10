"""What is still taken out of a text long after a secret came into hand."""

from __future__ import annotations

from runtime.core.secret import MOST_KNOWN, Secret, hide_known


def test_a_token_that_is_in_use_is_still_hidden_after_any_number_of_others() -> None:
    from_the_environment = Secret("provisioning-token-of-the-configuration")
    for number in range(3 * MOST_KNOWN):
        Secret(f"sas-of-one-day-{number:04}")
        from_the_environment.reveal()
    assert hide_known("with provisioning-token-of-the-configuration, and more") == "with ***, and more"
