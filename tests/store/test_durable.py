"""A process that dies before any one operation leaves the old value or the new one; a refused write leaves the old."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from dl_pipelines.store import durable

DiesBefore = Callable[[int, Callable[[], object]], bool]


def failures(action: Callable[[], object]) -> Iterator[str]:
    """Refuse each operation of `action` in turn (the disk is full); its names, as they are refused."""
    for number in count():
        seen, refused = count(), []

        def refuse(operation: str, path: Path, number: int = number, seen=seen, refused=refused) -> None:
            if next(seen) == number:
                refused.append(operation)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        with durable.inject(refuse):
            try:
                action()
            except OSError as error:
                assert error.errno == errno.ENOSPC
        if not refused:
            return
        yield refused[0]


def test_a_crash_anywhere_leaves_the_old_value_or_the_new(tmp_path: Path, dies_before: DiesBefore):
    path, states = tmp_path / "value.json", []
    for number in count():
        durable.write_json(path, {"value": "old"})
        died = dies_before(number, lambda: durable.write_json(path, {"value": "new"}))
        states.append(durable.read_json(path)["value"])
        if not died:
            break
    assert states == ["old", "old", "new", "new"]  # before write, rename, flush of the folder; none


def test_a_refused_write_keeps_the_old_value_and_leaves_nothing_beside_it(tmp_path: Path):
    path, names = tmp_path / "value.json", []
    durable.write_json(path, {"value": "old"})
    for name in failures(lambda: durable.write_json(path, {"value": "new"})):
        names.append(name)
        assert durable.read_json(path)["value"] == ("new" if name == "flush_folder" else "old")
        assert [entry.name for entry in tmp_path.iterdir()] == ["value.json"]
        durable.write_json(path, {"value": "old"})
    assert names == ["write", "rename", "flush_folder"]


def test_a_folder_is_removed_whole_or_not_at_all(tmp_path: Path, dies_before: DiesBefore):
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "below" / "file").write_text("x")
    assert dies_before(0, lambda: durable.remove_tree(folder))
    assert (folder / "below" / "file").read_text() == "x"
    durable.remove_tree(folder)
    assert list(tmp_path.iterdir()) == []
    durable.remove_tree(folder)


def test_a_removal_that_broke_off_is_not_in_the_way_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda path, ignore_errors: None)
        for _ in range(2):
            (tmp_path / "folder" / "below").mkdir(parents=True)
            durable.remove_tree(tmp_path / "folder")
            assert not (tmp_path / "folder").exists()
    assert all(left.name.startswith(".removed-folder-") for left in tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_could_not_be_measured_is_not_written(tmp_path: Path, value: float):
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        durable.write_json(tmp_path / "a.json", {"a": value})
    assert list(tmp_path.iterdir()) == []


def test_the_text_is_one_for_one_value(tmp_path: Path):
    durable.write_json(tmp_path / "a", {"b": "é", "a": [1]})
    assert (tmp_path / "a").read_text() == '{\n "a": [\n  1\n ],\n "b": "é"\n}\n'


def test_a_file_that_is_no_json_is_named(tmp_path: Path):
    (tmp_path / "a.json").write_text('{"a": 1,')
    with pytest.raises(ValueError) as caught:
        durable.read_json(tmp_path / "a.json")
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}: found ")
    assert str(caught.value).endswith(" at line 1; expected JSON")


def test_a_hook_is_gone_when_it_is_closed(tmp_path: Path):
    seen = []
    with durable.inject(lambda operation, path: seen.append((operation, path.name))):
        durable.write_text(tmp_path / "a", "x")
        durable.rename(tmp_path / "a", tmp_path / "below" / "b")
        durable.flush_tree(tmp_path / "below")
    durable.write_text(tmp_path / "a", "x")
    assert seen == [
        ("write", "a"), ("rename", "a"), ("flush_folder", tmp_path.name), ("rename", "b"), ("flush_folder", "below"),
        ("flush", "b"), ("flush_folder", "below"),
    ]  # fmt: skip
