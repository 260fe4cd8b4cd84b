import numpy as np
import pytest

from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression.base import Variant
from dl_pipelines.compression.candidates import make_candidates
from dl_pipelines.compression.ledger import decide
from dl_pipelines.compression.trials import Bench


@pytest.fixture(scope="module")
def bench(wide_task, wide_rows, wide_reference):
    return Bench(wide_task, wide_rows, wide_reference, threads=1, rounds=5)


@pytest.fixture(scope="module")
def candidates(wide_onnx, wide_rows, tmp_path_factory):
    return make_candidates(wide_onnx, Compression(), lambda count: wide_rows.inputs, tmp_path_factory.mktemp("tried"))


@pytest.fixture(scope="module")
def careless(wide_network, wide_rows, wide_task, tmp_path_factory):
    """The network, but wrong on the brightest three of 200 rows."""
    import torch

    from dl_pipelines.inference.export import export_onnx

    bound = float(np.sort(wide_rows.inputs.sum(axis=(1, 2, 3)))[-3])

    class Careless(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = wide_network

        def forward(self, image):
            wrong = image.float().sum(dim=(1, 2, 3), keepdim=False).unsqueeze(1) >= bound
            logits = self.network(image)
            return torch.where(wrong, -logits, logits)

    path = export_onnx(Careless().eval(), wide_task, tmp_path_factory.mktemp("careless") / "model.onnx")
    return Variant("careless", "none", "int8", path)


def run(bench, candidates):
    told = []
    return bench.run(candidates, lambda message, done: told.append((message, done))), told


def test_every_candidate_is_measured_on_the_same_rows(bench, candidates, wide_rows):
    trials, told = run(bench, candidates)
    assert [(trial.variant, trial.runtime) for trial in trials] == list(candidates)
    assert trials[0].speed_up == pytest.approx({"value": 1, "low": 1, "high": 1})
    for trial in trials:
        assert trial.failure is None
        assert trial.parity_passed
        assert trial.latency["low"] <= trial.latency["p50_ms"] <= trial.latency["high"]
        assert trial.speed_up["value"] == pytest.approx(trials[0].latency["p50_ms"] / trial.latency["p50_ms"])
        assert 0.95 <= trial.metrics["accuracy"]["value"] <= 1
        assert trial.size_mb == pytest.approx(2.4 if trial.precision == "fp32" else 0.65, rel=0.15)
    assert told[0] == ("scoring fp32 on onnxruntime", 0)
    assert told[-1] == ("timing, interleaved", 6)


def test_a_loss_is_measured_row_by_row_and_breaks_the_budget(bench, candidates, careless):
    baseline = ("fp32", "onnxruntime")
    trials, _ = run(bench, {baseline: candidates[baseline], ("careless", "onnxruntime"): careless})
    assert trials[0].loss == {"value": 0, "low": 0, "high": 0}
    assert trials[1].loss["value"] == pytest.approx(3 / 200)
    assert 0 <= trials[1].loss["low"] < 3 / 200 < trials[1].loss["high"] < 0.05
    judged = decide(trials, "size", 0.005, "accuracy")
    assert judged[1].reason.startswith("loses 0.015 [")
    assert judged[1].reason.endswith("] accuracy; the budget is 0.005")
    assert judged[0].chosen


def test_a_damaged_candidate_has_its_reason_and_the_others_are_measured(bench, candidates, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(candidates["static_int8", "onnxruntime"].path.read_bytes()[:5000])
    baseline = ("fp32", "onnxruntime")
    damaged = Variant("damaged", "static_int8", "int8", path)
    missing = Variant("missing", "static_int8", "int8", None, "found no operator that int8 covers")
    trials, _ = run(
        bench,
        {
            baseline: candidates[baseline],
            ("damaged", "onnxruntime"): damaged,
            ("missing", "onnxruntime"): missing,
        },
    )
    judged = decide(trials, "latency", 0.005, "accuracy")
    assert judged[0].chosen
    assert judged[1].reason.startswith("could not be made: found model.onnx, which onnxruntime can't load (")
    assert judged[2].reason == "could not be made: found no operator that int8 covers"
    assert trials[1].latency is trials[1].size_mb is trials[2].loss is None


def test_a_model_that_answers_otherwise_fails_parity(bench, candidates, careless):
    baseline = ("fp32", "onnxruntime")
    exact = Variant("careless", "none", "fp32", careless.path)
    trials, _ = run(bench, {baseline: candidates[baseline], ("careless", "onnxruntime"): exact})
    judged = decide(trials, "latency", 1.0, "accuracy")
    assert judged[1].reason.startswith("parity failed: 200 rows: largest difference")
    assert not judged[1].kept
