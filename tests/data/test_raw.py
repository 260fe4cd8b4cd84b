"""`raw_data`: what arrived on a day, again when the day has changed, nothing on a day without records."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime

import pytest

from dl_pipelines.brief.sections import Data
from dl_pipelines.data.augmentation import make_augmented_dataset
from dl_pipelines.data.raw import make_raw_data
from dl_pipelines.data.validation import make_validated_data
from dl_pipelines.data.window import make_training_window
from dl_pipelines.store.artifacts import ArtifactError, StageSkipped
from dl_pipelines.store.home import Home
from dl_pipelines.store.records import read_records
from dl_pipelines.store.workspace import Partition, Workspace

DAY = Partition(date(2026, 3, 1))
DIGITS = Data.model_validate({"source": "digits"})


def test_the_records_of_a_day(home, album, data_of, animals):
    (album / "cat/000.png").write_bytes(b"rubbish")
    made = make_raw_data(home, Partition(date(2026, 3, 2)), data_of(album), animals)
    assert read_records(made).num_rows == 12
    assert made.read_json("source.json")["types"] == "PNG and JPEG images, one class each"
    assert {gate.name: gate.passed for gate in made.gates} == {"schema": True, "readable": True}
    assert made.show["records"] == 12
    assert made.measured["megabytes"] == pytest.approx(read_records(made).nbytes / 1e6, abs=1e-6)


def test_a_day_without_records_is_skipped(home, digits_task):
    for day in (date(2026, 1, 9), date(2025, 12, 31)):
        with pytest.raises(StageSkipped) as caught:
            make_raw_data(home, Partition(day), DIGITS, digits_task)
        assert caught.value.reason == f"no records arrived on {day}; the last day with records is 2026-01-08"
    late = DIGITS.model_copy(update={"start": date(2027, 1, 1)})
    with pytest.raises(StageSkipped) as caught:
        make_raw_data(home, Partition(date(2026, 1, 1)), late, digits_task)
    assert caught.value.reason == "no records arrived on 2026-01-01"
    assert home.partitions("raw_data") == []


@pytest.mark.parametrize("make", [make_validated_data, make_augmented_dataset, make_training_window])
def test_every_later_stage_skips_it_too(home, digits_task, make):
    with pytest.raises(StageSkipped) as caught:
        make(home, Partition(date(2026, 1, 9)), DIGITS, digits_task)
    assert caught.value.reason == "no records arrived on 2026-01-09; the last day with records is 2026-01-08"


def test_the_same_day_has_the_same_digest_everywhere(home, tmp_path, album, data_of, animals):
    other = Workspace(Home(tmp_path / "other").prepare(), "animals")
    made = [make_raw_data(place, DAY, data_of(album), animals) for place in (home, other, home)]
    assert len({artifact.digest for artifact in made}) == 1
    assert len(home.made) == 1


def test_a_file_that_changes_makes_the_day_again_and_no_other(home, album, data_of, animals, paint):
    data, second = data_of(album), Partition(date(2026, 3, 2))
    before = [make_raw_data(home, day, data, animals).digest for day in (DAY, second)]
    paint(album / "cat/000.png", 999)
    after = [make_raw_data(home, day, data, animals).digest for day in (DAY, second)]
    assert after[0] != before[0]
    assert after[1] == before[1]
    assert home.get("raw_data", DAY).digest == after[0]


def test_what_is_unreadable_or_of_no_day_is_told(home, album, data_of, animals, set_time, paint):
    paint(album / "loose|file.png", 1)
    (album / "cat/000.png").write_bytes(b"rubbish")
    set_time(album / "cat/000.png", datetime(2026, 3, 1, tzinfo=UTC))
    made = make_raw_data(home, DAY, data_of(album), animals)
    reason = "not a readable PNG or JPEG: cannot identify image file it"
    assert made.read_json("quarantine.json") == [{"uri": "cat/000.png", "reason": reason}]
    assert made.show["quarantine"]["md"].splitlines()[-1] == f"| cat/000.png | {reason} |"
    assert made.show["overlooked"] == 1
    assert made.show["of_no_day"]["md"].splitlines()[-1] == "| loose\\|file.png | not in a class folder |"
    assert made.gates[1].summary == "59 records read, 1 unreadable"
    assert sum(len(str(value)) for value in made.show.values()) < 20_000


def test_a_day_with_unreadable_files_only_blocks(home, tmp_path, paint, data_of, animals, set_time):
    paint(tmp_path / "x/cat/1.png", 1).write_bytes(b"rubbish")
    set_time(tmp_path / "x/cat/1.png", datetime(2026, 3, 1, tzinfo=UTC))
    made = make_raw_data(home, DAY, data_of(tmp_path / "x"), animals)
    first = (
        r"found readable: 0 records read, 1 unreadable; the first: cat/1\.png: not a readable PNG or JPEG: .*; expected"
    )
    with pytest.raises(ArtifactError, match=first):
        made.require_gates()


@pytest.mark.parametrize("harm", ["flip", "remove", "cut"])
def test_a_corrupt_dataset_is_never_read(home, album, data_of, animals, harm):
    made = make_raw_data(home, DAY, data_of(album), animals)
    path = max((made.path / "records.lance").rglob("*.lance"), key=lambda item: item.stat().st_size)
    content = bytearray(path.read_bytes())
    if harm == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content if harm == "flip" else content[:100])
    name = path.relative_to(made.path).as_posix()
    with pytest.raises(ArtifactError) as caught:
        read_records(home.get("raw_data", DAY))
    said = str(caught.value)
    if harm == "remove":
        assert said.startswith(f"found No such file or directory for {name} of raw_data {made.short}")
    else:
        assert said.startswith(f"found {name} of raw_data {made.short} damaged in {made.path}; expected sha256")
    assert said.endswith("remove the folder and run raw_data again")


def test_a_removed_dataset_is_made_again_the_same(home, album, data_of, animals):
    made = make_raw_data(home, DAY, data_of(album), animals)
    shutil.rmtree(made.path)
    again = make_raw_data(home, DAY, data_of(album), animals)
    assert again.digest == made.digest
    assert read_records(again).num_rows == 60
