"""Bundles: only what is signed by a key of ours, whole and for this device is applied, and nothing is written
before that is known."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.adapters.update.bundle_file import MANIFEST, SIGNATURE, BadBundle, open_bundle
from runtime.adapters.update.signature import verify
from runtime.core.update.manifest import (
    BadManifest,
    BundleKind,
    InstalledVersion,
    Manifest,
    SchemaRange,
    judge,
    parse_manifest,
    version_order,
)
from runtime.core.update.minisign import BadSignature, PublicKey, parse_public_key, parse_signature
from tests.support.harness import Home, require_tool
from tests.support.minisign import SigningKey
from tests.support.update_world import INSTALLED, manifest_of, tree_part

KEY = SigningKey()
OURS: tuple[PublicKey, ...] = (parse_public_key(KEY.public),)
PART = tree_part("1.1.0")
MANIFEST_OF_PART = manifest_of("1.1.0", PART)


def bundle_file(
    folder: Path,
    manifest: Manifest = MANIFEST_OF_PART,
    part: bytes = PART,
    key: SigningKey = KEY,
    signed: bytes | None = None,
) -> Path:
    content = manifest.text().encode()
    file = folder / "new.update"
    with tarfile.open(file, "w") as archive:
        for name, data in (
            (MANIFEST, content),
            (SIGNATURE, key.sign(signed or content).encode()),
            (manifest.part.name, part),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file


def test_a_signed_bundle_is_opened_and_whole(tmp_path: Path) -> None:
    bundle = open_bundle(bundle_file(tmp_path), OURS)
    bundle.check()
    assert bundle.manifest == MANIFEST_OF_PART
    assert bundle.comment == "a test"


def test_bundles_that_are_not_ours_or_not_whole_say_what_is_wrong(tmp_path: Path) -> None:
    other, same_id = SigningKey(b"another!"), SigningKey()
    cases = {
        "none of update.keys": bundle_file(tmp_path, key=other),
        "not that of this manifest": bundle_file(tmp_path, key=same_id),
    }
    for sentence, file in cases.items():
        bundle_file(tmp_path, key=other if "keys" in sentence else same_id)
        with pytest.raises(BadBundle, match=sentence):
            open_bundle(file, OURS)
    bundle_file(tmp_path, signed=b"{}")
    with pytest.raises(BadBundle, match="not that of this manifest"):
        open_bundle(file, OURS)


def test_a_bundle_without_a_signature_is_said_to_be_unsigned(tmp_path: Path) -> None:
    file = tmp_path / "unsigned.update"
    with tarfile.open(file, "w") as archive:
        for name in (MANIFEST, MANIFEST_OF_PART.part.name):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(BadBundle, match="is not signed"):
        open_bundle(file, OURS)


def test_a_part_that_was_changed_or_cut_off_is_noticed(tmp_path: Path) -> None:
    damaged = bytearray(PART)
    damaged[len(PART) // 2] ^= 1
    with pytest.raises(BadBundle, match="damaged"):
        open_bundle(bundle_file(tmp_path, part=bytes(damaged)), OURS).check()
    with pytest.raises(BadBundle, match="signed are"):
        open_bundle(bundle_file(tmp_path, part=PART[:-7]), OURS)
    file = bundle_file(tmp_path)
    whole, end = file.read_bytes(), open_bundle(file, OURS).offset_bytes + len(PART)
    for size in (0, 100, 600, 1500, 2600, end - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(BadBundle):
            open_bundle(file, OURS).check()


def test_the_tool_minisign_and_we_agree(tmp_path: Path) -> None:
    require_tool("minisign")
    (tmp_path / "file").write_bytes(b"content")
    run = ["minisign", "-G", "-W", "-p", "key.pub", "-s", "key"]
    subprocess.run(run, cwd=tmp_path, check=True, capture_output=True)
    sign = ["minisign", "-S", "-s", "key", "-m", "file", "-t", "version 1"]
    subprocess.run(sign, cwd=tmp_path, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    public = (tmp_path / "key.pub").read_text().splitlines()[1]
    theirs = (parse_public_key(public),)
    assert verify(b"content", (tmp_path / "file.minisig").read_text(), theirs) == "version 1"
    (tmp_path / "file.minisig").write_text(KEY.sign(b"content", "version 2"))
    check = ["minisign", "-V", "-P", KEY.public, "-m", "file"]
    assert (
        "version 2" in subprocess.run(check, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    )


def test_a_trusted_comment_that_was_changed_is_no_signature() -> None:
    text = KEY.sign(b"content").replace("a test", "a text")
    with pytest.raises(BadSignature):
        verify(b"content", text, OURS)


@pytest.mark.parametrize(
    "text", ["", "a\nb\nc\nd", "x\nRWQ=\ntrusted comment: x\nRWQ=", "x\n!\ntrusted comment: x\n!"]
)
def test_what_is_no_signature_is_said_to_be_none(text: str) -> None:
    with pytest.raises(BadSignature):
        parse_signature(text)


def changed(**changes: object) -> Manifest:
    return replace(MANIFEST_OF_PART, **changes)  # type: ignore[arg-type]


def test_what_a_bundle_may_do_here_is_judged_by_device_version_and_schemas() -> None:
    assert judge(MANIFEST_OF_PART, INSTALLED).refused == ()
    assert not judge(MANIFEST_OF_PART, INSTALLED).one_way
    refusals = {
        "it is for arm64": changed(architecture="arm64"),
        "it is for Python 3.13": changed(python="3.13"),
        "it is for a slot of an image": changed(kind=BundleKind.IMAGE),
        "needs version 2.0": changed(minimum_version="2.0"),
        "opens messages.db from schema 2 on": changed(schemas={"messages.db": SchemaRange(2, 3)}),
        "does not say which schemas": changed(schemas={}),
    }
    for sentence, manifest in refusals.items():
        (found,) = judge(manifest, INSTALLED).refused
        assert sentence in found
    one_way = judge(changed(schemas={"messages.db": SchemaRange(1, 2)}), INSTALLED)
    assert not one_way.refused
    assert "schema 2" in one_way.one_way
    newer = replace(INSTALLED, schemas={"messages.db": SchemaRange(1, 2)})
    assert "up to schema 1" in judge(MANIFEST_OF_PART, newer).refused[0]
    assert judge(changed(version="0.9"), INSTALLED).older
    assert judge(changed(version="1.0.0"), INSTALLED).same


def test_versions_are_compared_by_their_numbers() -> None:
    rising = ["0.1.0", "0.1.0+r9.gabc", "0.1.0+r390.g01", "0.2", "0.10.0", "1"]
    assert sorted(rising, key=version_order) == rising


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"version": "../x"},
        {"part": {}},
        {"unpacked_bytes": -1},
        {"kind": "disk"},
        {"schemas": 3},
    ],
)
def test_a_manifest_that_breaks_a_rule_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BadManifest):
        parse_manifest(json.dumps({**MANIFEST_OF_PART.record(), **change}).encode())


def installed_here() -> InstalledVersion:
    from runtime.config import load
    from runtime.operations.updates import installed

    return installed(load({}, home=Path("/nonexistent")).settings.update)


def test_the_command_says_what_a_bundle_would_do_and_writes_nothing_of_a_wrong_one(
    home: Home, tmp_path: Path
) -> None:
    folder, here = tmp_path / "versions.d", installed_here()
    manifest = changed(architecture=here.architecture, python=here.python, schemas=dict(here.schemas))
    file = bundle_file(tmp_path, manifest)
    home.write_config(f'[update]\nfolder = "{folder}"\n')
    answer = home.edgectl("update", "apply", str(file))
    assert answer.returncode == 1
    assert 'set keys = ["RW..."]' in answer.stderr
    home.write_config(
        f'[update]\nkeys = ["{KEY.public}"]\nfolder = "{folder}"\nrestart = ["true"]\nwatch = []\n'
    )
    shown = json.loads(home.edgectl("update", "inspect", str(file), "--json").stdout)
    assert shown["version"] == "1.1.0" and shown["refused"] == [] and shown["one_way"] == ""
    wrong = bundle_file(tmp_path, replace(manifest, architecture="pdp11"))
    answer = home.edgectl("update", "apply", str(wrong))
    assert "it is for pdp11" in answer.stderr
    assert not folder.exists()
    one_way = bundle_file(
        tmp_path, replace(manifest, schemas={**here.schemas, "messages.db": SchemaRange(1, 99)})
    )
    answer = home.edgectl("update", "apply", str(one_way))
    assert "is one way" in answer.stderr and "--one-way" in answer.stderr
    assert not folder.exists()
    answer = home.edgectl("update", "apply", str(bundle_file(tmp_path, manifest)))
    assert "does not start here" in answer.stderr  # its edgectl is no program
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "update.json"]
    assert json.loads(home.edgectl("update", "status", "--json").stdout)["phase"] == "none"
