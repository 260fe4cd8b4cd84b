"""Digests: sha256 of one spelling, against hashlib by hand."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dl_pipelines.store.digest import canonical_json, digest_file, digest_folder, digest_json, list_files


def test_plain_data_has_one_spelling():
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"é","b":[1,2.5]}'.encode()
    assert (
        digest_json({"b": 1, "a": 2}) == digest_json({"a": 2, "b": 1}) == hashlib.sha256(b'{"a":2,"b":1}').hexdigest()
    )
    assert len({digest_json(value) for value in (1, 1.5, "1", [1], None, True)}) == 6


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_other_data_has_none(value: object):
    with pytest.raises((ValueError, TypeError)):
        canonical_json(value)


def test_a_folder_is_its_paths_and_contents(tmp_path: Path):
    for name in ("b/c", "a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    assert list_files(tmp_path) == ["a", "b/c"]
    assert digest_file(tmp_path / "a") == hashlib.sha256(b"a").hexdigest()
    before = digest_folder(tmp_path)
    (tmp_path / "a").rename(tmp_path / "d")
    assert digest_folder(tmp_path) != before
