"""The fit against costs that are exactly such a sum, features by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression.search_costs import features_of, fit_costs, measure_costs
from dl_pipelines.models.cnn import Cnn
from dl_pipelines.tasks.image_classification import ImageClassification


def test_features_by_hand():
    task = ImageClassification(ImageClassification.Params(classes=("a", "b", "c")))
    network = Cnn(Cnn.Params(widths=(4, 6), depths=(1, 2))).network(task, {"mean": [0.3], "std": [0.4]})
    multiplied = 64 * 9 * 4 + 16 * 9 * (4 * 6 + 6 * 6) + 6 * 3
    parameters = 9 * (4 + 4 * 6 + 6 * 6) + 2 * (4 + 6 + 6) + 6 * 3 + 3
    found = features_of(network, np.zeros((2, 8, 8, 1), np.uint8))
    assert found == (1.0, 4.0, pytest.approx(parameters / 1e6), pytest.approx(multiplied / 1e6))


def test_the_fit_finds_what_costs_are_made_of():
    rng = np.random.default_rng(0)
    features = [(1.0, *map(float, row)) for row in rng.uniform(0.1, 3, (9, 3))]
    weights = np.array([0.5, 0.0, 2.0, 0.3])
    found = fit_costs(features, [float(weights @ row) for row in np.array(features)])
    assert found.weights == pytest.approx(weights, abs=1e-9) and found.error < 1e-9
    assert found.cost((1.0, 9.0, 1.0, 10.0)) == pytest.approx(5.5)


def test_what_is_noise_makes_nothing_cheaper():
    features = [(1.0, layers, 1.0, 1.0) for layers in (1.0, 2.0, 3.0, 4.0)]
    found = fit_costs(features, [4.0, 3.0, 2.0, 1.0])
    assert min(found.weights) >= 0 and found.error > 0.3


def shop(objective: str, timed: dict[str, float]) -> Any:
    def time(files):
        assert list(files) == list(timed)
        return {name: {"p50_ms": value} for name, value in timed.items()}

    return SimpleNamespace(compression=Compression(objective=objective), time=time)  # type: ignore[arg-type]


def test_latency_is_that_of_the_faster_runtime(tmp_path: Path):
    timed = {"a@onnxruntime": 0.3, "a@openvino": 0.2, "b@onnxruntime": 0.1, "b@openvino": 0.4}
    files = {"a": tmp_path / "a.onnx", "b": tmp_path / "b.onnx"}
    for objective in ("latency", "energy"):
        assert measure_costs(files, shop(objective, timed)) == {"a": 0.2, "b": 0.1}


def test_size_is_that_of_the_file(tmp_path: Path):
    (tmp_path / "a.onnx").write_bytes(b"x" * 1500)
    assert measure_costs({"a": tmp_path / "a.onnx"}, shop("size", {})) == {"a": 0.0015}
