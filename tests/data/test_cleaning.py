"""Which records are kept: each reason for keeping one out, repeats and contradictions of a day and of earlier days."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dl_pipelines.data.cleaning import Known, clean, facts, with_targets

DAY = date(2026, 3, 1)


def table_of(task, *rows: dict[str, Any]) -> pa.Table:
    """Records with the given fields; what is not given is sound and different for each."""
    whole = []
    for number, row in enumerate(rows):
        pixels = np.random.default_rng(number).integers(0, 256, 64).tolist()
        whole.append({
            "id": f"r{number}", "date": DAY, "event_time": datetime(2026, 3, 1, tzinfo=UTC), "group": f"r{number}",
            "image": pixels, "label": number % 3, "mode": "L", "source_height": 8, "source_width": 8,
            "sha256": f"hash {number}", "uri": f"file {number}", **row,
        })  # fmt: skip
    return pa.Table.from_pylist(whole, schema=task.arrow_schema())


def kept(cleaned) -> list[str]:
    return cleaned.table["id"].to_pylist()


def reasons(cleaned) -> dict[str, str]:
    return {item.uri: item.reason for item in cleaned.quarantined}


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"id": None}, "no id"),
        ({"id": ""}, "no id"),
        ({"sha256": None}, "no checksum"),
        ({"event_time": None}, "no time"),
        ({"image": None}, "no content"),
        ({"label": None}, "no label"),
        ({"id": None, "sha256": None, "label": None}, "no id, no checksum, no label"),
        ({"label": 3}, "label 3 out of range; expected 0 to 2"),
        ({"label": -1}, "label -1 out of range; expected 0 to 2"),
    ],
)
def test_an_unfit_record_is_kept_out(animals, wrong, reason):
    cleaned = clean(table_of(animals, {}, wrong, {}), animals, {})
    assert kept(cleaned) == ["r0", "r2"]
    assert reasons(cleaned) == {"file 1": reason}
    assert cleaned.duplicates == 0
    assert cleaned.kept.tolist() == [True, False, True]


def test_sound_records_stay_as_they_are(animals):
    table = table_of(animals, {}, {}, {})
    cleaned = clean(table, animals, {})
    assert cleaned.table.equals(table)
    assert not cleaned.quarantined


def test_of_equal_records_the_first_stays(animals):
    same = {"sha256": "same", "label": 1}
    cleaned = clean(table_of(animals, same, {}, same, same), animals, {})
    assert kept(cleaned) == ["r0", "r1"]
    assert reasons(cleaned) == dict.fromkeys(["file 2", "file 3"], "repeats r0 of the same day")
    assert cleaned.repeats.tolist() == [0, 0, 1, 1]
    assert cleaned.duplicates == 2


def test_the_same_content_with_two_labels_is_used_by_none(animals):
    rows = [{"sha256": "same", "label": label} for label in (2, 0, 2)]
    cleaned = clean(table_of(animals, *rows, {}), animals, {})
    assert kept(cleaned) == ["r3"]
    assert set(reasons(cleaned).values()) == {"the same content with the label 0, 2; nobody knows which is right"}
    assert cleaned.duplicates == 2


def test_an_unfit_record_contradicts_nobody(animals):
    rows = [{"sha256": "same", "label": 1}, {"sha256": "same", "label": 7}]
    cleaned = clean(table_of(animals, *rows), animals, {})
    assert kept(cleaned) == ["r0"]
    assert reasons(cleaned) == {"file 1": "label 7 out of range; expected 0 to 2"}


def test_an_id_counts_once(animals):
    cleaned = clean(table_of(animals, {"id": "a"}, {"id": "a"}), animals, {})
    assert reasons(cleaned) == {"file 1": "the id 'a' a second time (first on the same day)"}


def test_content_of_a_record_that_is_kept_out_may_come_again(animals):
    rows = [{"id": "a"}, {"id": "a", "sha256": "new", "label": 1}, {"id": "b", "sha256": "new", "label": 1}]
    cleaned = clean(table_of(animals, *rows), animals, {})
    assert kept(cleaned) == ["a", "b"]
    assert reasons(cleaned) == {"file 1": "the id 'a' a second time (first on the same day)"}


def test_earlier_days_come_first(animals):
    earlier = {"old": Known("x", 1, "2026-02-27"), "older": Known("y", 0, "2026-02-26")}
    rows = [{"sha256": "old", "label": 1}, {"sha256": "older", "label": 2}, {"id": "x"}, {}]
    cleaned = clean(table_of(animals, *rows), animals, earlier)
    assert kept(cleaned) == ["r3"]
    assert reasons(cleaned) == {
        "file 0": "repeats x of 2026-02-27",
        "file 1": "the same content as y of 2026-02-26 with another label (2, there 0)",
        "file 2": "the id 'x' a second time (first on 2026-02-27)",
    }
    assert cleaned.repeats.tolist() == [1, 1, 0, 0]


def test_no_record_at_all(animals):
    cleaned = clean(table_of(animals), animals, {})
    assert (cleaned.table.num_rows, cleaned.quarantined, cleaned.duplicates) == (0, [], 0)


def test_facts_against_numpy(animals, monkeypatch):
    monkeypatch.setattr("dl_pipelines.tasks.image_classification.CHUNK", 2)
    table = table_of(animals, {}, {"image": None}, {"label": None}, {"label": 9}, {"sha256": "hash 0", "label": 0})
    frame = facts(table, animals, clean(table, animals, {}))
    assert frame["id"].tolist() == ["r0", "r2", "r3", "r4"]
    pixels = np.array([table["image"][place].as_py() for place in (0, 2, 3, 4)])
    np.testing.assert_allclose(frame["mean"], pixels.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(frame["std"], pixels.std(axis=1), rtol=1e-12)
    assert set(frame["shape"]) == {"8x8x1"}
    assert set(frame["dtype"]) == {"uint8"}
    assert frame["label"].isna().tolist() == [False, True, False, False]
    assert frame["duplicates"].tolist() == [0, 0, 0, 1]
    assert frame["kept"].tolist() == [1, 0, 0, 0]
    assert set(frame["mode"]) == {"L"}


def test_a_missing_target_is_zero_for_inputs_only(animals):
    table = table_of(animals, {"label": None}, {"label": 2})
    assert with_targets(table, animals)["label"].to_pylist() == [0, 2]
    sound = table_of(animals, {})
    assert with_targets(sound, animals) is sound
