from dataclasses import replace

import numpy as np
import pytest

from dl_pipelines.brief.targets import Target
from dl_pipelines.compression.base import Variant
from dl_pipelines.compression.candidates import on_runtimes
from dl_pipelines.compression.ledger import Rules, decide
from dl_pipelines.compression.static_int8 import quantize
from dl_pipelines.compression.trials import Bench, Candidate
from dl_pipelines.evaluation.metrics import paired_difference
from dl_pipelines.inference.runtimes import OnnxRuntimeSession
from dl_pipelines.tasks.base import Rows
from dl_pipelines.training.energy import Counter

RUNTIMES = ("onnxruntime", "openvino")


@pytest.fixture(scope="module")
def bench(wide_task, wide_rows, wide_reference):
    return Bench(wide_task, wide_rows, wide_reference, threads=1, rounds=5)


@pytest.fixture(scope="module")
def candidates(wide_onnx, wide_rows, tmp_path_factory):
    """The uncompressed model and its int8 on both runtimes."""
    folder = tmp_path_factory.mktemp("tried")
    quantize(wide_onnx, folder / "int8.onnx", wide_rows.inputs, False, True)
    fp32 = Variant("fp32", "none", "fp32", wide_onnx)
    return on_runtimes([fp32, Variant("int8", "static_int8", "int8", folder / "int8.onnx")], RUNTIMES, folder)


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


class Own(dict):
    """The trained network's outputs for whatever variant is asked for."""

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs

    def __missing__(self, name):
        return self.outputs


def run(bench, candidates, strongest=None):
    told = []
    trials, strong = bench.run(
        candidates, Own(bench.reference), candidates[0], strongest or candidates[0],
        lambda *given: told.append(given),
    )  # fmt: skip
    return trials, strong, told


def judge(bench, candidates, objective="latency", max_loss=0.005):
    trials, strongest, _ = run(bench, candidates)
    return trials, decide(trials[1:], strongest, Rules(objective, max_loss, "accuracy"))


def test_every_candidate_is_measured_on_the_same_rows(bench, candidates):
    trials, strongest, told = run(bench, candidates, candidates[1])
    assert [(trial.variant, trial.runtime) for trial in trials] == [
        (variant, runtime) for variant in ("fp32", "int8") for runtime in RUNTIMES
    ]
    assert strongest is trials[1]
    assert trials[0].gain == pytest.approx({"value": 1, "low": 1, "high": 1})
    for trial in trials:
        assert trial.failure is None
        assert trial.parity_passed
        assert trial.latency["low"] <= trial.latency["p50_ms"] <= trial.latency["high"]
        assert trial.gain["value"] == pytest.approx(trials[0].latency["p50_ms"] / trial.latency["p50_ms"])
        # What is to beat is the faster of two sessions of the strongest, the same for all; its latency is of the first.
        beaten = trial.speed_up["value"] * trial.latency["p50_ms"]
        assert beaten == pytest.approx(trials[1].speed_up["value"] * trials[1].latency["p50_ms"])
        assert 0 < beaten <= trials[1].latency["p50_ms"] * (1 + 1e-6)
        assert 0.95 <= trial.metrics["accuracy"]["value"] <= 1
        assert trial.size_mb == pytest.approx(2.4 if trial.precision == "fp32" else 0.65, rel=0.15)
        assert trial.energy is trial.saving is None
    assert told[0] == ("scoring fp32 on onnxruntime", 0, 5)
    assert told[-1] == ("timing them in turns", 4, 5)


def test_the_strongest_and_the_baseline_are_timed_with_what_is_tried(bench, candidates):
    told = []
    trials, strongest = bench.run(
        candidates[3:], Own(bench.reference), candidates[0], candidates[1], lambda *given: told.append(given[0])
    )
    assert [(trial.variant, trial.runtime) for trial in (*trials, strongest)] == [
        ("int8", "openvino"), ("fp32", "openvino"),
    ]  # fmt: skip
    assert told == [
        "scoring fp32 on onnxruntime", "scoring fp32 on openvino", "scoring int8 on openvino", "timing them in turns",
    ]  # fmt: skip
    assert strongest.speed_up["value"] <= 1 + 1e-6
    assert trials[0].speed_up["value"] == pytest.approx(
        strongest.speed_up["value"] * strongest.latency["p50_ms"] / trials[0].latency["p50_ms"]
    )


def test_a_loss_is_measured_row_by_row_and_breaks_the_budget(bench, candidates, careless):
    trials, judged = judge(bench, [candidates[0], Candidate(careless, "onnxruntime")], "size")
    assert trials[0].loss == {"value": 0, "low": 0, "high": 0}
    assert trials[1].loss["value"] == pytest.approx(3 / 200)
    assert 0 <= trials[1].loss["low"] < 3 / 200 < trials[1].loss["high"] < 0.05
    assert judged[0].reason.startswith("loses 0.015 [")
    assert judged[0].reason.endswith("] accuracy; the budget is 0.005")


@pytest.mark.parametrize("half", [False, True])
def test_a_loss_is_the_paired_difference_turned_to_worse(bench, wide_rows, half):
    changed = bench.reference.copy()
    changed[::17] = -changed[::17]
    chosen = np.arange(200) % 2 == 0 if half else np.ones(200, bool)
    drop = paired_difference(
        bench.task, "accuracy", bench.reference[chosen], changed[chosen], wide_rows.targets[chosen], 1000, 0.95, 0
    )
    for _ in range(2):  # what is known of the reference the second time is of these rows
        loss = bench.loss(changed, chosen if half else None)
        assert loss == pytest.approx({"value": -drop["value"], "low": -drop["high"], "high": -drop["low"]})
        assert loss["value"] > 0.03


def test_a_slice_is_judged_from_a_hundred_rows_on(bench, candidates, careless, wide_rows):
    order = wide_rows.inputs.sum(axis=(1, 2, 3)).argsort().argsort()
    slices = {"bright": order >= 100, "brightest": order >= 101, "dark": order < 100}
    sliced = replace(bench, rows=Rows(wide_rows.inputs, wide_rows.targets, wide_rows.ids, slices),
                     targets=(Target(metric="accuracy", value=0.98, slice="bright", where="compressed"),))  # fmt: skip
    trials, judged = judge(sliced, [candidates[0], Candidate(careless, "onnxruntime")], "size", 0.04)
    assert set(trials[1].slices) == {"bright", "dark"}
    assert trials[1].slices["bright"]["value"] == pytest.approx(0.03)
    assert trials[1].slices["dark"] == {"value": 0, "low": 0, "high": 0}
    assert judged[0].reason.startswith("loses 0.03 [")
    assert judged[0].reason.endswith("] accuracy on bright; its interval reaches beyond the budget of 0.04")
    assert trials[0].targets[0]["met"] and not trials[1].targets[0]["met"]
    assert trials[1].targets[0]["value"] == pytest.approx(trials[0].targets[0]["value"] - 0.03)


def test_the_worst_is_of_the_slice_that_loses_most(bench, wide_rows):
    changed = bench.reference.copy()
    changed[:6:2] = -changed[:6:2]  # three dark rows
    slices = {"dark": wide_rows.targets == 0, "bright": wide_rows.targets == 1, "few": np.arange(200) < 6}
    sliced = replace(bench, rows=Rows(wide_rows.inputs, wide_rows.targets, wide_rows.ids, slices))
    assert bench.worst(changed) == bench.loss(changed)["high"]
    assert sliced.worst(changed) == bench.loss(changed, slices["dark"])["high"] > bench.loss(changed)["high"]
    assert sliced.worst(bench.reference) == 0


def test_a_damaged_candidate_has_its_reason_and_the_others_are_measured(bench, candidates, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(candidates[2].variant.path.read_bytes()[:5000])
    damaged = Candidate(Variant("damaged", "static_int8", "int8", path), "onnxruntime")
    missing = Candidate(Variant("missing", "static_int8", "int8", None, "found no convolution"), "onnxruntime")
    trials, judged = judge(bench, [candidates[0], damaged, missing])
    assert judged[0].reason.startswith("could not be made: found model.onnx, which onnxruntime can't load (")
    assert judged[1].reason == "could not be made: found no convolution"
    assert trials[1].latency is trials[1].size_mb is trials[2].loss is None
    assert trials[0].latency


def test_a_model_that_answers_otherwise_fails_parity(bench, candidates, careless):
    exact = replace(careless, precision="fp32")
    _, judged = judge(bench, [candidates[0], Candidate(exact, "onnxruntime")], max_loss=1.0)
    assert judged[0].reason.startswith("parity failed: 200 rows: largest difference")
    assert not judged[0].kept


def test_a_model_that_answers_with_nan_is_named(bench, candidates, wide_network, wide_task, wide_rows, tmp_path):
    import torch

    from dl_pipelines.inference.export import export_onnx

    bound = float(np.sort(wide_rows.inputs.sum(axis=(1, 2, 3)))[-4])

    class Overflowing(torch.nn.Module):
        def forward(self, image):
            total = image.float().sum(dim=(1, 2, 3)).unsqueeze(1)
            return torch.where(total >= bound, torch.inf, total).repeat(1, 2)

    path = export_onnx(Overflowing().eval(), wide_task, tmp_path / "model.onnx")
    made = Candidate(Variant("fp16", "mixed_precision", "fp16", path), "onnxruntime")
    _, judged = judge(bench, [candidates[0], made])
    assert judged[0].reason == "could not be made: it answers with NaN or infinity to 4 of 200 rows"


def test_rows_that_do_not_determine_the_metric_leave_the_loss_out(bench, candidates, monkeypatch):
    measure = type(bench.task).measure
    monkeypatch.setattr(
        type(bench.task), "measure",
        lambda self, outputs, targets: {n: v for n, v in measure(self, outputs, targets).items() if n != "accuracy"},
    )  # fmt: skip
    trials, judged = judge(bench, candidates[:2])
    assert trials[0].loss is None
    assert judged[0].reason.startswith("the loss of accuracy could not be measured on the validation rows")


def test_instances_are_timed_side_by_side(bench, candidates, monkeypatch):
    opened, at_once, most = [], set(), []
    again, answer = OnnxRuntimeSession.again, OnnxRuntimeSession._run

    def noted(self):
        opened.append(again(self))
        return opened[-1]

    def counted(self, inputs):
        at_once.add(id(self))
        most.append(len(at_once))
        try:
            return answer(self, inputs)
        finally:
            at_once.discard(id(self))

    monkeypatch.setattr(OnnxRuntimeSession, "again", noted)
    monkeypatch.setattr(OnnxRuntimeSession, "_run", counted)
    trials, _, _ = run(replace(bench, instances=3), candidates[:1])
    assert len(opened) >= 2
    assert 1 < max(most) <= 3
    assert trials[0].latency["low"] <= trials[0].latency["p50_ms"]


class Meter:
    """A folder of the kernel's power capping that a thousand answers of a model cost so many joules in."""

    def __init__(self, folder):
        self.zone, self.microjoules = folder / "intel-rapl:0", 0
        self.zone.mkdir()
        self.counter = Counter((self.zone,))
        (self.zone / "max_energy_range_uj").write_text("262143328850\n")
        self.spend(0)

    def spend(self, joules):
        self.microjoules += round(joules * 1e6)
        (self.zone / "energy_uj").write_text(f"{self.microjoules}\n")


def test_energy_is_read_while_a_model_answers_alone(bench, candidates, tmp_path, monkeypatch):
    meter = Meter(tmp_path)
    thrifty = {"onnxruntime": 0.008, "openvino": 0.002}
    for runtime in RUNTIMES:
        session = type(bench.open(candidates[RUNTIMES.index(runtime)].variant.path, runtime))

        def answer(self, inputs, inner=session._run, cost=thrifty[runtime]):
            meter.spend(cost * len(inputs))
            return inner(self, inputs)

        monkeypatch.setattr(session, "_run", answer)
    monkeypatch.setattr("dl_pipelines.compression.trials.ENERGY_SECONDS", 0.01)
    metered = replace(bench, counter=meter.counter, objective="energy")
    trials, strongest, _ = run(metered, candidates[:2])
    assert trials[0].energy["value"] == pytest.approx(8.0)
    assert trials[1].energy["value"] == pytest.approx(2.0)
    assert trials[1].saving["value"] == pytest.approx(4.0)
    (judged,) = decide(trials[1:], strongest, Rules("energy", 0.005, "accuracy"))
    assert judged.taken
    assert judged.reason == (
        "4 [4, 4] times as thrifty as fp32 on onnxruntime; the thriftiest of its step within the budget"
    )


def test_a_thriftier_session_of_the_strongest_is_what_is_to_beat(bench, candidates, tmp_path, monkeypatch):
    meter, again, answer = Meter(tmp_path), OnnxRuntimeSession.again, OnnxRuntimeSession._run
    opened = []

    def noted(self):
        opened.append(again(self))
        return opened[-1]

    def spend(self, inputs):
        meter.spend(0.006 if self in opened else 0.008)
        return answer(self, inputs)

    monkeypatch.setattr(OnnxRuntimeSession, "again", noted)
    monkeypatch.setattr(OnnxRuntimeSession, "_run", spend)
    monkeypatch.setattr("dl_pipelines.compression.trials.ENERGY_SECONDS", 0.01)
    metered = replace(bench, counter=meter.counter, objective="energy")
    trials, strongest, _ = run(metered, [candidates[0], candidates[2]])
    assert len(opened) == 1
    assert strongest.energy["value"] == trials[1].energy["value"] == pytest.approx(8.0)
    # The same joules as the strongest's first session, and more than its second.
    assert strongest.saving["value"] == trials[1].saving["value"] == pytest.approx(0.75)


def test_energy_of_what_can_not_be_opened_is_not_measured(bench, candidates, tmp_path, monkeypatch):
    monkeypatch.setattr("dl_pipelines.compression.trials.ENERGY_SECONDS", 0.01)
    gone = Candidate(Variant("gone", "none", "fp32", tmp_path / "no.onnx"), "onnxruntime")
    metered = replace(bench, counter=Meter(tmp_path).counter)
    trials, strongest = metered.run(candidates[:1], Own(bench.reference), candidates[0], gone, lambda *given: None)
    assert strongest.energy is trials[0].saving is None
    assert strongest.failure.startswith("found no file")
