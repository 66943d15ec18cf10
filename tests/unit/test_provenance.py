"""The facts of `edgectl version --json`, from a package and from a checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime import __version__
from runtime.operations.provenance import provenance


def test_a_package_states_its_commit_and_a_checkout_none(tmp_path: Path) -> None:
    file = tmp_path / "build.json"
    file.write_text('{"commit": "abc", "builder": "Debian 12", "built_of_s": 1, "package": "1+r2"}')
    packaged, checkout = provenance(file), provenance(tmp_path / "none.json")
    assert (packaged["commit"], packaged["builder"], packaged["package"]) == ("abc", "Debian 12", "1+r2")
    assert (checkout["commit"], checkout["version"]) == (None, __version__)
    assert packaged["dependencies"]["pyzmq"] == checkout["dependencies"]["pyzmq"]


@pytest.mark.parametrize("text", ["", "[1]", "{", "\x00"])
def test_a_damaged_record_says_nothing_instead_of_ending_the_command(tmp_path: Path, text: str) -> None:
    file = tmp_path / "build.json"
    file.write_text(text)
    assert provenance(file)["commit"] is None
