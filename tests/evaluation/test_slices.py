"""Slices: each with its rows, gated from a hundred on, empty ones left out."""

from __future__ import annotations

import numpy as np
import pytest

from dl_pipelines.evaluation.metrics import with_intervals
from dl_pipelines.evaluation.slices import GATED_ROWS, slice_table
from dl_pipelines.tasks.base import Rows
from dl_pipelines.tasks.image_classification import ImageClassification

TASK = ImageClassification(ImageClassification.Params(classes=("a", "b", "c", "d")))


def rows_of(targets: np.ndarray) -> Rows:
    slices = {f"class:{name}": targets == label for label, name in enumerate("abcd")}
    return Rows(np.zeros((len(targets), 8, 8, 1), np.uint8), targets, np.arange(len(targets)), slices)


def test_a_slice_is_measured_on_its_own_rows():
    targets = np.repeat([0, 1, 2], [GATED_ROWS, GATED_ROWS - 1, 3])
    logits = np.eye(4)[targets]
    logits[:10] = np.eye(4)[3]
    table = slice_table(TASK, logits, rows_of(targets), 100, 0.95, 0)
    assert [(row["slice"], row["rows"], row["gated"], row["accuracy"]["value"]) for row in table] == [
        ("class:a", 100, True, 0.9),
        ("class:b", 99, False, 1.0),
        ("class:c", 3, False, 1.0),
    ]
    assert table[0]["accuracy"] == with_intervals(TASK, logits[:100], targets[:100], 100, 0.95, 0)["accuracy"]
    assert table[0]["accuracy"]["low"] < 0.9 < table[0]["accuracy"]["high"]


def test_outputs_that_are_not_finite_have_no_slices():
    targets = np.arange(4)
    assert slice_table(TASK, np.full((4, 4), np.nan), rows_of(targets), 100, 0.95, 0) == []


@pytest.mark.parametrize("rows", [GATED_ROWS - 1, GATED_ROWS])
def test_the_edge_of_the_gate(rows: int):
    targets = np.zeros(rows, int)
    (row,) = slice_table(TASK, np.eye(4)[targets], rows_of(targets), 100, 0.95, 0)
    assert row["gated"] is (rows >= 100)
