"""Cached rows: the bytes of rows that are made in one piece, written once, and never half of them."""

from __future__ import annotations

import json
import os
import time
from datetime import date

import numpy as np
import pytest

from dl_pipelines.data import row_cache
from dl_pipelines.data.batches import splits_of, window_rows, window_table
from dl_pipelines.data.row_cache import ABOUT, cached_rows, count_of, statistics_of, unused_rows
from dl_pipelines.data.window import make_training_window
from dl_pipelines.store import durable, garbage
from dl_pipelines.store.artifacts import ArtifactError
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.image_classification import ImageClassification
from dl_pipelines.training.job import write_rows
from tests.data.conftest import FIRST, stored

SECOND = date(2026, 3, 2)


class Crash(BaseException):
    """The process dies here."""


@pytest.fixture
def window(home, two_days, animals):
    """Two days, the second with longer ids, and a stored copy of each train record."""
    stored(home, animals, FIRST, [{}] * 40, factor=2)
    stored(home, animals, SECOND, [{"id": f"of the second day {number}"} for number in range(30)], factor=2)
    return make_training_window(home, Partition(SECOND), two_days, animals)


def bytes_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.npy")}


def arrays(folder, split: str = "train"):
    return [np.load(folder / f"{split}_{name}.npy") for name in ("inputs", "targets", "ids")]


class Whole(ImageClassification):
    """A task whose rows may depend on each other, as far as anybody knows."""

    row_by_row = False


@pytest.mark.parametrize("piece", [1, 1000, 10**9])
@pytest.mark.parametrize("task", ["pieces", "whole"])
def test_pieces_give_the_bytes_of_the_whole(home, two_days, animals, window, tmp_path, monkeypatch, piece, task):
    task = animals if task == "pieces" else Whole(animals.params)
    seen, rows = [], task.rows
    monkeypatch.setattr(task, "rows", lambda table, *given, **named: (seen.append(table.num_rows),
                                                                      rows(table, *given, **named))[1])  # fmt: skip
    monkeypatch.setattr(row_cache, "PIECE_BYTES", piece)
    folder = cached_rows(home, window, two_days, task)
    if task is animals:
        assert max(seen) in {1: [1], 1000: range(3, 8), 10**9: range(60, 80)}[piece], "records decoded at once"
    else:
        assert max(seen) > 110
    for split in ("train", "validation"):
        write_rows(tmp_path, split, window_rows(home, window, split, two_days, animals, copies=split == "train"))
        assert count_of(folder, split) == len(np.load(tmp_path / f"{split}_ids.npy"))
    assert bytes_of(folder) == bytes_of(tmp_path)
    table = window_table(home, window, animals)
    assert statistics_of(folder) == animals.fit(table, splits_of(window, table, two_days, animals) == "train")


def test_rows_are_written_once_for_all_that_ask_for_the_same(home, two_days, animals, window, monkeypatch):
    folder = cached_rows(home, window, two_days, animals)
    assert folder.is_relative_to(home.home.cache / home.project / "rows")
    monkeypatch.setattr(row_cache, "_write", None)
    assert cached_rows(Workspace(home.home, home.project), window, two_days, animals, seed=3) == folder
    other = two_days.model_copy(update={"split": two_days.split.model_copy(update={"test": 0.2})})
    larger = ImageClassification(animals.params.model_copy(update={"classes": ("cat", "dog", "owl", "rat")}))
    for given in ((window, other, animals), (window, two_days, larger), (window, two_days, animals, 20)):
        with pytest.raises(TypeError):  # it would be written
            cached_rows(home, *given)


def test_fewer_train_rows_are_drawn_by_the_seed(home, two_days, animals, window, monkeypatch):
    everything = arrays(cached_rows(home, window, two_days, animals))
    count = len(everything[2])
    drawn = {seed: cached_rows(home, window, two_days, animals, 30, seed) for seed in (0, 1)}
    for seed, folder in drawn.items():
        inputs, targets, ids = arrays(folder)
        places = [everything[2].tolist().index(name) for name in ids]
        assert len(ids) == count_of(folder, "train") == 30
        assert places == sorted(places)
        assert (inputs == everything[0][places]).all()
        assert (targets == everything[1][places]).all()
        validation = arrays(folder, "validation")
        assert len(validation[2]) == count_of(folder, "validation") > 0
        assert statistics_of(folder) == statistics_of(cached_rows(home, window, two_days, animals)), "of all records"
        whole = Whole(animals.params)
        again = cached_rows(home, window, two_days, whole, 30, seed)
        assert again == folder
        durable.remove_tree(folder)
        again = cached_rows(home, window, two_days, whole, 30, seed)
        assert (arrays(again)[2] == ids).all(), "the same in one piece"
    assert set(arrays(drawn[0])[2]) != set(arrays(drawn[1])[2])
    more = cached_rows(home, window, two_days, animals, count + 1)
    assert (arrays(more)[2] == everything[2]).all()


def test_a_crash_or_a_full_disk_leaves_nothing_that_is_taken_for_rows(home, two_days, animals, window, monkeypatch):
    wanted = bytes_of(cached_rows(home, window, two_days, animals))
    steps = []
    durable.remove_tree(cached_rows(home, window, two_days, animals))
    with durable.inject(lambda operation, path: steps.append((operation, path.name))):
        folder = cached_rows(home, window, two_days, animals)
    assert [name for operation, name in steps if operation == "write"] == [ABOUT]
    assert steps[-2] == ("rename", folder.name)
    for place in range(len(steps)):
        durable.remove_tree(folder)
        done = []

        def crash(operation, path, done=done, place=place):
            done.append(operation)
            if len(done) > place:  # nothing more is done once the process is dead
                raise Crash

        with pytest.raises(Crash), durable.inject(crash):
            cached_rows(home, window, two_days, animals)
        assert place == len(steps) - 1 or not folder.exists()
        assert bytes_of(cached_rows(home, window, two_days, animals)) == wanted
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]

    def full(*_):
        raise OSError(28, "No space left on device")

    durable.remove_tree(folder)
    monkeypatch.setattr(row_cache._Column, "add", full)
    with pytest.raises(OSError, match="No space left"):
        cached_rows(home, window, two_days, animals)
    assert list(folder.parent.iterdir()) == []


def test_what_a_killed_process_left_is_written_anew(home, two_days, animals, window):
    folder = cached_rows(home, window, two_days, animals)
    wanted = bytes_of(folder)
    folder.rename(folder.with_name(f".draft-{folder.name}"))
    (folder.with_name(f".draft-{folder.name}") / "train_inputs.npy").write_bytes(b"half")
    assert bytes_of(cached_rows(home, window, two_days, animals)) == wanted
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("spoil", ["cut", "gone", "about", "json"])
def test_damaged_rows_are_written_anew(home, two_days, animals, window, spoil):
    folder = cached_rows(home, window, two_days, animals)
    wanted = bytes_of(folder)
    file = folder / "train_inputs.npy"
    if spoil == "cut":
        os.truncate(file, 1000)
    elif spoil == "gone":
        file.unlink()
    else:
        (folder / ABOUT).write_text(json.dumps([]) if spoil == "about" else "{")
    assert bytes_of(cached_rows(home, window, two_days, animals)) == wanted


def test_a_window_without_its_datasets(home, two_days, animals, window):
    durable.remove_tree(next((home.home.artifacts / home.project / "augmented_dataset").iterdir()))
    with pytest.raises(ArtifactError, match=r"found no manifest.json in .*; expected a finished artifact"):
        cached_rows(home, window, two_days, animals)
    assert list((home.home.cache / home.project / "rows").iterdir()) == []


def aged(folder, seconds: float):
    """As if it had last been used so long ago."""
    place = folder / ABOUT if (folder / ABOUT).exists() else folder
    os.utime(place, (time.time() - seconds,) * 2)
    return folder


def test_what_is_no_longer_used_can_go(home, two_days, animals, window):
    assert unused_rows(home, set()) == []
    all_rows, some = cached_rows(home, window, two_days, animals), cached_rows(home, window, two_days, animals, 20)
    assert unused_rows(home, {window.digest}) == []
    aged(some, 60)
    assert unused_rows(home, {"another"}) == [some, all_rows], "the one unused for the longest first"
    assert unused_rows(home, {window.digest}) == []
    aged(some, garbage.WORK_AGE + 1)
    assert unused_rows(home, {window.digest}) == [some]
    assert cached_rows(home, window, two_days, animals, 20) == some
    assert unused_rows(home, {window.digest}) == [], "it was used just now"
    draft = some.with_name(".draft-x")
    draft.mkdir()
    assert unused_rows(home, {window.digest}) == []
    aged(draft, garbage.DRAFT_AGE + 1)
    assert unused_rows(home, {window.digest}) == [draft]


def test_nothing_goes_while_something_is_made(home, two_days, animals, window):
    folder = cached_rows(home, window, two_days, animals)
    seen = []

    def build(draft):
        seen.append(unused_rows(home, set()))
        draft.write_text("a", "b")

    home.make("trained_model", Partition(SECOND, "base"), build, settings={}, parents={})
    assert seen == [[]]
    assert unused_rows(home, set()) == [folder]
