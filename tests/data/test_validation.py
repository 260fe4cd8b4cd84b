"""`validated_data`: every expectation can fail and then blocks, Data Docs say so, earlier days count."""

from __future__ import annotations

import os
import re
from datetime import date
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from dl_pipelines.brief.sections import Data
from dl_pipelines.data import earlier, validation
from dl_pipelines.data.augmentation import make_augmented_dataset
from dl_pipelines.data.cleaning import clean, facts
from dl_pipelines.data.expecting import validate_days
from dl_pipelines.data.raw import make_raw_data, make_raw_days
from dl_pipelines.data.sources.digits import Digits
from dl_pipelines.data.validation import expectations, gates_of, make_validated_data, make_validated_days
from dl_pipelines.data.window import make_training_window
from dl_pipelines.store.artifacts import ArtifactError
from dl_pipelines.store.digest import digest_json
from dl_pipelines.store.home import Home
from dl_pipelines.store.records import read_records, write_records
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.image_classification import ImageClassification

DAY, SECOND = Partition(date(2026, 3, 1)), Partition(date(2026, 3, 2))
STRICT = Data.model_validate(
    {"source": "digits", "validation": {"max_quarantined": 0.04, "max_duplicates": 0.1, "min_records": 30}}
)


@pytest.fixture(scope="module")
def sound(digits_task) -> pd.DataFrame:
    """The facts of a day of 40 digits."""
    table, _ = Digits(Digits.Params()).read_day(date(2026, 1, 2), digits_task)
    return facts(table, digits_task, clean(table, digits_task, {}))


@pytest.fixture(scope="module")
def docs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("docs")


def validate(frame: pd.DataFrame, suite, docs: Path, name: str) -> list[dict]:
    """One day."""
    return validate_days({name: frame}, suite, docs, name)[name]


def changed(frame: pd.DataFrame, column: str, rows: int, value) -> pd.DataFrame:
    frame = frame.copy()
    if value is None or isinstance(value, str):
        frame[column] = frame[column].astype(object)
    frame.loc[: rows - 1, column] = value
    return frame


BREAKS = {
    "enough_records": ("kept", 11, 0, "29"),
    "id_present": ("id", 2, None, "2 of 40 otherwise (None, None)"),
    "id_unique": ("id", 2, "twin", "2 of 40 otherwise (twin, twin)"),
    "shape": ("shape", 1, "9x8x1", "1 of 40 otherwise (9x8x1)"),
    "dtype": ("dtype", 1, "float", "1 of 40 otherwise (float)"),
    "label_present": ("label", 2, np.nan, "2 of 40 otherwise (nan, nan)"),
    "label_range": ("label", 2, 10, "2 of 40 otherwise (10, 10)"),
    "mean_range": ("mean", 1, 255.5, "1 of 40 otherwise (255.5)"),
    "not_blank": ("std", 1, 0.0, "1 of 40 otherwise (0.0)"),
    "sha256_present": ("sha256", 2, None, "2 of 40 otherwise (None, None)"),
    "duplicates": ("duplicates", 5, 1, "5 of 40 otherwise (1, 1, 1)"),
    "mode": ("mode", 1, "HSV", "1 of 40 otherwise (HSV)"),
}


def test_every_expectation_has_a_table_that_breaks_it(digits_task):
    assert set(BREAKS) == {item.name for item in expectations(STRICT, digits_task)}
    assert list(gates_of(STRICT, digits_task)) == [
        *(item.name for item in expectations(STRICT, digits_task)),
        "quarantine_share",
    ]


def test_a_sound_table_passes(sound, docs, digits_task):
    found = validate(sound, expectations(STRICT, digits_task), docs, "sound")
    assert {item["name"] for item in found if item["success"]} == set(BREAKS)


@pytest.mark.parametrize("name", BREAKS)
def test_exactly_one_expectation_fails(name, sound, docs, digits_task):
    column, rows, value, observed = BREAKS[name]
    found = validate(changed(sound, column, rows, value), expectations(STRICT, digits_task), docs, name)
    failed = {item["name"]: item["observed"] for item in found if not item["success"]}
    assert failed == {name: observed}


def test_as_many_as_the_brief_allows_pass(sound, docs, digits_task):
    frame = sound
    for name in ("id_present", "label_present", "sha256_present", "duplicates", "enough_records"):
        column, rows, value, _ = BREAKS[name]
        frame = changed(frame, column, rows - 1, value)
    found = validate(frame, expectations(STRICT, digits_task), docs, "within")
    assert [item["name"] for item in found if not item["success"]] == []


def test_an_expectation_without_a_result_fails_and_says_why(sound, docs, digits_task):
    found = validate(sound.drop(columns="std"), expectations(STRICT, digits_task), docs, "without")
    assert {item["name"]: item["observed"] for item in found if not item["success"]} == {
        "not_blank": 'no result: Error: The column "std" in BatchData does not exist.'
    }


def test_the_suite_follows_the_brief(digits_task):
    data = Data.model_validate({"source": "digits", "validation": {"mean_range": [20, 200], "min_records": 7}})
    suite = {item.name: item for item in expectations(data, digits_task)}
    assert suite["mean_range"].arguments == {"column": "mean", "min_value": 20, "max_value": 200}
    assert suite["enough_records"].arguments["min_value"] == 7
    assert suite["label_range"].arguments["max_value"] == 9
    assert suite["label_range"].arguments["mostly"] == 0.95
    assert suite["duplicates"].arguments["mostly"] == 0.99


class Text(HTMLParser):
    """The words of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.words: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_data(self, data):
        self.words.append(data)


def test_data_docs_open_and_lead_to_every_day(home, album, data_of, animals):
    data = data_of(album)
    for day in (DAY, SECOND):
        make_raw_data(home, day, data, animals)
        made = make_validated_data(home, day, data, animals)
    index = Path(made.show["data_docs"])
    assert index.is_relative_to(home.home.docs)
    links = re.findall(r"'_table_row_link_path': '([^']+)'", index.read_text(encoding="utf-8"))
    linked = {index.parent / link for link in links}
    assert all(path.is_file() for path in linked)
    suites = [path for path in linked if "expectations" in path.parts]
    results = [path for path in linked if "validations" in path.parts]
    assert {path.stem for path in suites} == {"2026-03-01", "2026-03-02"}
    assert len(results) == 2
    suite = Text(next(path for path in suites if path.stem == "2026-03-02")).text
    for item in expectations(data, animals):
        assert item.sentence in suite
    result = Text(next(path for path in results if "2026-03-02" in path.parts)).text
    assert "Evaluated Expectations 12" in result
    assert "Successful Expectations 12" in result


def test_what_the_stage_writes(home, album, data_of, animals, paint):
    paint(album / "cat/again.png", 0)
    data = data_of(album, validation={"max_duplicates": 0.05})
    make_raw_data(home, DAY, data, animals)
    made = make_validated_data(home, DAY, data, animals).require_gates()
    assert made.read_json("quality.json") == {
        "score": round(60 / 61, 6), "records": 61, "clean": 60, "quarantined": 1, "unreadable": 0, "duplicates": 1,
    }  # fmt: skip
    assert made.read_json("quarantine.json") == [
        {"uri": "cat/again.png", "reason": "repeats cat/000.png of the same day"}
    ]
    assert {item["name"] for item in made.read_json("expectations.json")} == set(BREAKS)
    assert all(gate.blocking and gate.passed for gate in made.gates)
    assert {gate.name for gate in made.gates} == set(gates_of(data, animals))
    assert (made.show["records"], made.show["quarantined"], made.show["failed"]) == (60, 1, 0)
    assert sum(len(str(value)) for value in made.show.values()) < 20_000


def refused(call) -> str:
    with pytest.raises(ArtifactError) as caught:
        call()
    return str(caught.value)


def test_a_bad_day_stops_everything_after_it_also_when_run_alone(home, album, data_of, animals):
    """10 of 60 files are rubbish: over the 5 % that the brief allows."""
    for number in range(10):
        path = album / ("cat", "dog", "owl")[number % 3] / f"{number:03d}.png"
        times = path.stat().st_mtime
        path.write_bytes(b"rubbish")
        os.utime(path, (times, times))
    data = data_of(album)
    make_raw_data(home, DAY, data, animals)
    made = make_validated_data(home, DAY, data, animals)
    assert made.read_json("quality.json")["score"] == round(50 / 60, 6)
    message = refused(lambda: make_augmented_dataset(home, DAY, data, animals))
    assert message == (
        f"validated_data {made.short} may not be used: found quarantine_share: 16.7% of the records are quarantined, "
        "at most 5.0%; the first: cat/000.png: not a readable PNG or JPEG: cannot identify image file it; expected "
        "every blocking gate to pass; mend its input and run validated_data again"
    )
    assert refused(lambda: make_training_window(home, DAY, data, animals)) == message


def test_an_old_dataset_does_not_stand_in_for_a_day_that_turned_bad(home, album, data_of, animals, run_day):
    data = data_of(album)
    for day in (DAY, SECOND):
        run_day(home, day.day, data, animals)
    make_training_window(home, SECOND, data, animals).require_gates()
    strict = data_of(album, validation={"min_records": 13})
    make_validated_data(home, SECOND, strict, animals)
    assert "found enough_records: at least 13 clean records: found 12" in refused(
        lambda: make_training_window(home, SECOND, strict, animals)
    )


def test_labels_out_of_range(home, album, data_of, animals):
    """Records as a source of ours never gives them: kept out one by one, and too many of them block."""
    data = data_of(album)
    real = make_raw_data(home, DAY, data, animals)
    table = read_records(real)
    labels = table["label"].to_numpy().copy()
    labels[:9] = 7
    table = table.set_column(table.schema.get_field_index("label"), "label", pa.array(labels))

    def build(draft):
        write_records(draft, table)
        draft.write_json("quarantine.json", [])
        for gate in real.gates:
            draft.gate(gate)

    home.make("raw_data", DAY, build, settings={"found": digest_json("other")}, parents={})
    made = make_validated_data(home, DAY, data, animals)
    assert made.read_json("quarantine.json")[0] == {
        "uri": table["uri"][0].as_py(), "reason": "label 7 out of range; expected 0 to 2"}  # fmt: skip
    assert {gate.name for gate in made.gates if not gate.passed} == {"label_range", "quarantine_share"}
    assert "label from 0 to 2: found 9 of 60 otherwise (7, 7, 7)" in refused(made.require_gates)


def test_a_brief_that_changed_since_the_records_were_read(home, album, data_of, animals):
    make_raw_data(home, DAY, data_of(album), animals)
    larger = ImageClassification(ImageClassification.Params(classes=animals.params.classes, height=16))
    assert refused(lambda: make_validated_data(home, DAY, data_of(album), larger)) == (
        "found records of 2026-03-01 with another schema than the task's (found pyarrow.Field<image: "
        "fixed_size_list<item: uint8>[64]>, expected pyarrow.Field<image: fixed_size_list<item: uint8>[128]>): the "
        "brief has changed since they were read; run raw_data again"
    )


def test_a_day_that_was_not_read(home, album, data_of, animals):
    assert refused(lambda: make_validated_data(home, DAY, data_of(album), animals)) == (
        "found no raw_data of animals for 2026-03-01; expected it to have run; run `dlp run` for that date, or "
        "materialise raw_data first"
    )


def two_days(home, data, task):
    for day in (DAY, SECOND):
        make_raw_data(home, day, data, task)
        made = make_validated_data(home, day, data, task)
    return {item["uri"]: item["reason"] for item in made.read_json("quarantine.json")}


def test_earlier_days_are_remembered(home, album, data_of, animals, paint):
    paint(album / "cat/again.png", 0, SECOND.day)
    paint(album / "owl/other.png", 3, SECOND.day)
    assert two_days(home, data_of(album), animals) == {
        "cat/again.png": "repeats cat/000.png of 2026-03-01",
        "owl/other.png": "the same content as cat/003.png of 2026-03-01 with another label (2, there 0)",
    }


def test_a_day_that_the_source_no_longer_has_does_not_count(home, album, data_of, animals, paint):
    """Files that are moved to another day are of that day, though the home still knows them from the first."""
    make_raw_data(home, DAY, data_of(album), animals)
    make_validated_data(home, DAY, data_of(album), animals)
    for number in range(60):
        paint(album / ("cat", "dog", "owl")[number % 3] / f"{number:03d}.png", number, SECOND.day)
    make_raw_data(home, SECOND, data_of(album), animals)
    made = make_validated_data(home, SECOND, data_of(album), animals)
    assert read_records(made).num_rows == 72
    assert made.read_json("quarantine.json") == []


def test_only_what_a_day_repeats_of_earlier_days_is_in_its_digest(home, album, data_of, animals, paint):
    data = data_of(album)
    two_days(home, data, animals)
    before = home.get("validated_data", SECOND).digest
    paint(album / "cat/more.png", 999)
    two_days(home, data, animals)
    assert home.get("validated_data", SECOND).digest == before
    paint(album / "cat/late.png", 60)
    assert two_days(home, data, animals) == {"cat/060.png": "repeats cat/late.png of 2026-03-01"}


def test_one_record(home, tmp_path, paint, data_of, animals):
    paint(tmp_path / "one/cat/1.png", 1)
    data = data_of(tmp_path / "one")
    make_raw_data(home, DAY, data, animals)
    make_validated_data(home, DAY, data, animals).require_gates()
    with pytest.raises(ArtifactError, match="found enough_records: at least 2 clean records: found 1;"):
        data = data_of(tmp_path / "one", validation={"min_records": 2})
        make_validated_data(home, DAY, data, animals).require_gates()


def meeting(folder: Path, paint) -> list[date]:
    """Six days: the second repeats the first and fails, so that the third repeats nothing; the fifth repeats that."""
    days = [date(2026, 3, number) for number in range(1, 7)]
    contents = [[1, 2, 3], [4, 5, 1], [4, 6, 7], [8, 9, 10], [4, 11, 12], [13, 14, 10]]
    for day, seeds in zip(days, contents, strict=True):
        for place, seed in enumerate(seeds):
            paint(folder / ("cat", "dog", "owl")[place] / f"{day}-{place}.png", seed, day)
    return days


def test_days_that_are_judged_together_are_as_if_each_was_judged_alone(tmp_path, paint, data_of, animals, monkeypatch):
    days = meeting(tmp_path / "images", paint)
    data = data_of(tmp_path / "images", validation={"max_duplicates": 0, "max_quarantined": 0.4})
    alone, together = (Workspace(Home(tmp_path / name).prepare(), "animals") for name in ("alone", "together"))
    for day in days:
        make_raw_data(alone, Partition(day), data, animals)
    expected = [make_validated_data(alone, Partition(day), data, animals) for day in days]
    list(make_raw_days(together, days, data, animals))
    asked = []

    def counted(frames, *rest):
        asked.append(list(frames))
        return validate_days(frames, *rest)

    monkeypatch.setattr(validation, "validate_days", counted)
    found = dict(make_validated_days(together, [*days, date(2026, 4, 1)], data, animals))
    assert str(found.pop(date(2026, 4, 1)).reason).startswith("no records arrived on 2026-04-01")
    assert [item.digest for item in found.values()] == [item.digest for item in expected]
    assert [earlier.passes(item) for item in found.values()] == [True, False, True, True, False, False]
    assert found[days[2]].read_json("quarantine.json") == []
    assert found[days[4]].read_json("quarantine.json")[0]["reason"] == f"repeats cat/{days[2]}-0.png of {days[2]}"
    names = [day.isoformat() for day in days]
    assert asked == [names, ["2026-03-03", "2026-03-05"]], "once for all, and again what a failed day had to do with"
    del asked[:]
    assert [item.digest for _, item in make_validated_days(together, days, data, animals)] == [
        item.digest for item in expected
    ]
    assert asked == [], "what is there is found"
