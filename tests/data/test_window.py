"""The training window: which days it has, what makes it incomplete, and that no content is in two splits."""

from __future__ import annotations

import os
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest

from dl_pipelines.brief.sections import Data
from dl_pipelines.data.batches import splits_of, window_rows, window_table
from dl_pipelines.data.raw import make_raw_data
from dl_pipelines.data.validation import make_validated_data
from dl_pipelines.data.window import make_training_window, window_days
from dl_pipelines.store.artifacts import Artifact, ArtifactError, Gate
from dl_pipelines.store.records import write_records
from dl_pipelines.store.workspace import Partition
from tests.data.conftest import stored

DAY, SECOND = date(2026, 3, 1), date(2026, 3, 2)
DAYS = [DAY, SECOND, date(2026, 3, 5)]


@pytest.mark.parametrize(
    ("as_of", "length", "wanted"),
    [
        (date(2026, 3, 5), None, DAYS),
        (date(2026, 3, 4), None, DAYS[:2]),
        (date(2026, 3, 5), 1, DAYS[2:]),
        (date(2026, 3, 5), 4, DAYS[1:]),
        (date(2026, 3, 5), 5, DAYS),
        (date(2026, 2, 1), None, []),
    ],
)
def test_days_up_to_a_date(as_of, length, wanted):
    assert window_days(list(reversed(DAYS)), as_of, length) == wanted


def gates(window: Artifact) -> dict[str, Gate]:
    return {gate.name: gate for gate in window.gates}


def test_a_window_lists_days_and_splits_by_digest(home, two_days, animals):
    made = [stored(home, animals, day, [{}] * 60, factor=3) for day in (DAY, SECOND)]
    window = make_training_window(home, Partition(SECOND), two_days, animals).require_gates()
    content = window.read_json("window.json")
    assert content["as_of"] == "2026-03-02"
    assert content["days"] == [
        {"day": str(day), "digest": artifact.digest, "records": 60}
        for day, artifact in zip((DAY, SECOND), made, strict=True)
    ]
    assert sum(content["splits"].values()) == 120
    assert content["copies"] == 2 * content["splits"]["train"]
    assert window.parents == {
        f"augmented_dataset {day}": artifact.digest for day, artifact in zip((DAY, SECOND), made, strict=True)
    }
    assert window.show["days"] == 2


def test_the_splits_of_a_window_are_read_as_they_are_listed(home, two_days, animals):
    for day in (DAY, SECOND):
        stored(home, animals, day, [{}] * 60, factor=2)
    window = make_training_window(home, Partition(SECOND), two_days, animals)
    counts = window.read_json("window.json")["splits"]
    found = {split: window_rows(home, window, split, two_days, animals) for split in counts}
    assert {split: len(rows) for split, rows in found.items()} == counts
    assert len(set.union(*(set(rows.ids) for rows in found.values()))) == 120
    assert len(window_rows(home, window, "train", two_days, animals, copies=True)) == 2 * counts["train"]
    assert len(window_rows(home, window, "test", two_days, animals, copies=True)) == counts["test"]
    rows, table = found["train"], window_table(home, window, animals)
    statistics = animals.fit(table, splits_of(window, table, two_days, animals) == "train")
    assert statistics["mean"] == pytest.approx([(rows.inputs / 255).mean()], abs=1e-8)
    assert statistics["std"] == pytest.approx([(rows.inputs / 255).std()], abs=1e-8)


def groups_of(home, window, split: str, data: Data, task) -> set[str]:
    table = window_table(home, window, task)
    return set(table.filter(pa.array(splits_of(window, table, data, task) == split))["group"].to_pylist())


def test_a_split_is_the_groups_and_never_changes(home, two_days, animals):
    groups = [{"group": f"camera {number // 6}"} for number in range(60)]
    stored(home, animals, DAY, groups)
    first = make_training_window(home, Partition(DAY), two_days, animals)
    stored(home, animals, SECOND, groups)
    both = make_training_window(home, Partition(SECOND), two_days, animals)
    assert gates(both)["no_leak"].passed is True
    for split in ("train", "validation", "test"):
        before, after = (groups_of(home, window, split, two_days, animals) for window in (first, both))
        assert after == before


def test_the_split_is_a_hash_of_the_group(animals):
    """Against sha256 written out, and the shares over many groups."""
    import hashlib

    shares = Data.model_validate({"source": "digits", "split": {"validation": 0.2, "test": 0.1}}).split
    table = pa.table({"group": [f"g{number}" for number in range(5000)]})
    splits = animals.split(table, DAY, shares)
    places = np.array([int(hashlib.sha256(f"split:g{n}".encode()).hexdigest()[:16], 16) / 16**16 for n in range(5000)])
    wanted = np.select([places < 0.1, places < 0.3], ["test", "validation"], "train")
    assert (splits == wanted).all()
    assert (splits == animals.split(table, SECOND, shares)).all()
    for split, share in (("test", 0.1), ("validation", 0.2), ("train", 0.7)):
        assert (splits == split).mean() == pytest.approx(share, abs=0.02)


def test_a_missing_day_makes_the_window_incomplete(home, two_days, animals):
    stored(home, animals, DAY, [{}] * 60)
    window = make_training_window(home, Partition(SECOND), two_days, animals)
    assert gates(window)["complete"].summary == (
        "1 of 2 days; missing or outdated 2026-03-02: run the data stages for them"
    )
    with pytest.raises(
        ArtifactError, match=r"training_window \w+ may not be used: found complete: 1 of 2 days; missing"
    ):
        window.require_gates()
    stored(home, animals, SECOND, [{}] * 60)
    assert make_training_window(home, Partition(SECOND), two_days, animals).require_gates().digest != window.digest


@pytest.mark.parametrize("stage", ["raw_data", "validated_data"])
def test_an_outdated_day_makes_the_window_incomplete(home, two_days, animals, stage):
    for day in (DAY, SECOND):
        stored(home, animals, day, [{}] * 60)
    table = pa.table({"a": [1]})

    def build(draft):
        write_records(draft, table)
        draft.gate(Gate("fine", True, "", blocking=True))

    parents = {"raw_data": home.get("raw_data", Partition(DAY))} if stage == "validated_data" else {}
    home.make(stage, Partition(DAY), build, settings={"newer": True}, parents=parents)
    window = make_training_window(home, Partition(SECOND), two_days, animals)
    assert gates(window)["complete"].passed is False
    assert gates(window)["complete"].facts["missing"] == ["2026-03-01"]


def test_many_missing_days_are_told_shortly(home, tmp_path, paint, data_of, animals):
    for number in range(8):
        paint(tmp_path / "x/cat" / f"{number}.png", number, DAY + timedelta(days=number))
    stored(home, animals, DAY, [{}] * 60)
    window = make_training_window(home, Partition(date(2026, 3, 8)), data_of(tmp_path / "x"), animals)
    assert gates(window)["complete"].summary.startswith(
        "1 of 8 days; missing or outdated 2026-03-02, 2026-03-03, 2026-03-04, 2026-03-05, 2026-03-06 and 2 more: run"
    )


def test_a_window_of_some_days_needs_no_others(home, two_days, animals):
    stored(home, animals, SECOND, [{}] * 60)
    short = two_days.model_copy(update={"window_days": 1})
    window = make_training_window(home, Partition(SECOND), short, animals).require_gates()
    assert [entry["day"] for entry in window.read_json("window.json")["days"]] == ["2026-03-02"]


def test_one_class_only(home, two_days, animals):
    stored(home, animals, DAY, [{"label": 1}] * 60)
    window = make_training_window(home, Partition(DAY), two_days, animals)
    assert gates(window)["complete"].summary == (
        "1 of 1 days; found 1 class (dog) in the train split; expected at least two"
    )
    assert gates(window)["complete"].passed is False


def test_one_record(home, two_days, animals):
    stored(home, animals, DAY, [{"group": groups_by_split(animals, two_days)["train"]}])
    window = make_training_window(home, Partition(DAY), two_days, animals)
    assert gates(window)["complete"].summary == (
        "1 of 1 days; no records in validation, test: more records, or other shares in data.split; found 1 class (cat) "
        "in the train split; expected at least two"
    )


def groups_by_split(task, data: Data) -> dict[str, str]:
    names = [f"g{number}" for number in range(200)]
    splits = task.split(pa.table({"group": names}), DAY, data.split)
    return {split: names[list(splits).index(split)] for split in ("train", "validation", "test")}


def test_the_same_content_in_two_splits_is_a_leak(home, two_days, animals):
    place = groups_by_split(animals, two_days)
    stored(home, animals, DAY, [{}] * 60 + [{"group": place["train"], "sha256": "same"}])
    stored(home, animals, SECOND, [{}] * 60 + [{"group": place["test"], "sha256": "same"}])
    window = make_training_window(home, Partition(SECOND), two_days, animals)
    assert gates(window)["no_leak"].summary == (
        "the sha256 same is in more than one split: run validated_data of every day again, the earliest first"
    )
    with pytest.raises(ArtifactError, match="found no_leak: the sha256 same is in more"):
        window.require_gates()


def test_a_torn_group_is_a_leak(home, two_days, animals, monkeypatch):
    stored(home, animals, DAY, [{"group": f"g{number % 20}"} for number in range(60)])
    torn = np.array(["train", "validation", "test"] * 20)
    monkeypatch.setattr(type(animals), "split", lambda self, table, as_of, shares: torn)
    window = make_training_window(home, Partition(DAY), two_days, animals)
    assert gates(window)["no_leak"].passed is False
    assert gates(window)["no_leak"].facts == {"leaks": 20}


def test_a_dataset_that_changed_under_a_window(home, two_days, animals):
    import shutil

    made = stored(home, animals, DAY, [{}] * 60)
    window = make_training_window(home, Partition(DAY), two_days, animals)
    shutil.rmtree(made.path)
    with pytest.raises(
        ArtifactError, match=r"found no manifest.json in .*; expected a finished artifact; run the stage"
    ):
        window_rows(home, window, "train", two_days, animals)


def test_from_files_to_a_window(home, album, data_of, animals, run_day):
    """The whole room on drawn files: damaged, contradicting and late ones are kept out with the reason."""
    (album / "cat/000.png").write_bytes((album / "cat/003.png").read_bytes()[:100])
    os.utime(album / "cat/000.png", (1772366400, 1772366400))
    offline = {"factor": 2, "offline": ["rotation"]}
    data = data_of(album, augmentation=offline)
    first, second = (run_day(home, day, data, animals) for day in (DAY, SECOND))
    assert first["validated_data"].read_json("quarantine.json") == [
        {"uri": "cat/000.png", "reason": "not a readable PNG or JPEG: image file is truncated"}]  # fmt: skip
    assert second["validated_data"].read_json("quarantine.json") == []
    window = make_training_window(home, Partition(SECOND), data, animals).require_gates()
    content = window.read_json("window.json")
    assert [entry["records"] for entry in content["days"]] == [59, 12]
    assert content["copies"] == content["splits"]["train"]
    train = window_rows(home, window, "train", data, animals, copies=True)
    assert train.inputs.shape == (2 * content["splits"]["train"], 8, 8, 1)


def test_a_changed_file_makes_its_day_again_and_the_other_stays(home, album, data_of, animals, run_day, paint):
    data = data_of(album)
    before = [run_day(home, day, data, animals) for day in (DAY, SECOND)]
    old = make_training_window(home, Partition(SECOND), data, animals)
    paint(album / "dog/001.png", 999)
    make_raw_data(home, Partition(DAY), data, animals)
    assert gates(make_training_window(home, Partition(SECOND), data, animals))["complete"].facts["missing"] == [
        "2026-03-01"
    ]
    after = [run_day(home, day, data, animals) for day in (DAY, SECOND)]
    assert all(after[0][stage].digest != before[0][stage].digest for stage in after[0])
    assert all(after[1][stage].digest == before[1][stage].digest for stage in after[1])
    new = make_training_window(home, Partition(SECOND), data, animals).require_gates()
    assert new.digest != old.digest


def test_the_order_in_which_days_are_made_does_not_matter(tmp_path, album, data_of, animals, run_day, paint):
    """Where no content repeats; where it does, the later day is made again, and then it doesn't matter either."""
    from dl_pipelines.store.home import Home
    from dl_pipelines.store.workspace import Workspace

    paint(album / "cat/again.png", 0, SECOND)
    data = data_of(album, validation={"max_duplicates": 0.1, "max_quarantined": 0.1})
    windows = []
    for name, order in (("one", (DAY, SECOND)), ("two", (SECOND, DAY))):
        workspace = Workspace(Home(tmp_path / name).prepare(), "animals")
        for day in order:
            run_day(workspace, day, data, animals)
        make_validated_data(workspace, Partition(SECOND), data, animals)
        run_day(workspace, SECOND, data, animals)
        windows.append(make_training_window(workspace, Partition(SECOND), data, animals).require_gates())
    assert windows[0].digest == windows[1].digest
