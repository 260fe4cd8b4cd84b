"""Fine-tuning with int8 in mind through the workshop: when it is tried, what it gives, what it is compared with."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from dl_pipelines.brief.sections import Compression
from dl_pipelines.compression.chain import Chain
from dl_pipelines.compression.quantization_aware import QuantizationAware
from dl_pipelines.compression.static_int8 import quantize
from dl_pipelines.inference.parity import torch_outputs
from dl_pipelines.training import worker
from dl_pipelines.training.fit import TrainingFailed
from dl_pipelines.training.job import Job
from tests.compressing import workshop


def train_here(command, environment):
    """What the supervisor has a worker do, without their processes."""
    worker.run(Job.read(Path(command[-1])))


@pytest.fixture(scope="module")
def one_shop(trained_model, tmp_path_factory, brief, workspace, partition, task):
    compression = Compression(runtimes=("onnxruntime",), timing_rounds=5, max_loss=0.01)
    made = workshop(tmp_path_factory.mktemp("tuning"), brief, workspace, partition, task, compression)
    return dataclasses.replace(made, launcher=train_here)


@pytest.fixture
def here(one_shop, request):
    """With a folder of the test's own."""
    return one_shop.of(request.node.name)


def technique(**params):
    return QuantizationAware(QuantizationAware.Params(**params))


def row(variant="static_int8", precision="int8", phase="quantize", kept=False, high=0.02, **changed):
    loss = None if high is None else {"value": 0.0, "low": -0.01, "high": high}
    return {"variant": variant, "precision": precision, "phase": phase, "kept": kept, "loss": loss, "slices": {},
            "parity_passed": True, **changed}  # fmt: skip


NOT_NEEDED = "not needed: static_int8 stays within the budget"


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], None),
        ([row()], None),
        ([row(high=None)], None),
        ([row(high=0.01)], NOT_NEEDED),
        ([row(kept=True)], NOT_NEEDED),
        ([row(high=0.0, parity_passed=False)], None),
        ([row(high=0.0, parity_passed=None)], None),
        ([row(high=0.0), row("nncf_int8")], NOT_NEEDED),
        ([row("nncf_int8"), row(high=0.0)], NOT_NEEDED),
        ([row(high=0.0, slices={"bright": {"value": 0, "low": 0, "high": 0.1}})], None),
        ([row("fp32", "fp32", "runtime", kept=True), row("pruned_50", "fp32", "prune", kept=True)], None),
    ],
)
def test_it_is_tried_where_int8_without_training_is_beyond_the_budget(here, rows, why):
    shop = dataclasses.replace(here, ledger=lambda: rows)
    assert technique().unsuited(shop.trained, shop) == why
    assert technique(when="always").unsuited(shop.trained, shop) is None


def outlier(here):
    """The trained network, answering as it did, with activations whose range int8 can't resolve any more.

    Of each layer one channel is made 150 times as large, and read 150 times as little.
    """
    tensors = load_file(here.trained.weights)
    for norm, reader in (("2", "4"), ("5", "8"), ("9", "11"), ("12", "18")):
        for name in ("weight", "bias"):
            tensors[f"{norm}.{name}"][0] *= 150
        tensors[f"{reader}.weight"][:, 0] /= 150
    weights = here.folder / "outlier.safetensors"
    save_file(tensors, weights)
    return here.export("outlier", here.trained.plan, weights)


def test_it_mends_what_int8_loses(here):
    """A fine-tuned network comes with its int8 graph, which answers as the network does; the budget is met again."""
    start = outlier(here)
    before = torch_outputs(here.module(here.trained), here.rows.inputs)
    np.testing.assert_allclose(torch_outputs(here.module(start), here.rows.inputs), before, atol=1e-2)
    path = here.folder / "post_training.onnx"
    quantize(start.onnx, path, here.calibrate(256), False, True)
    (made,) = technique(epochs=2, rate=0.3).variants(start, here)
    assert (made.name, made.precision, made.failure) == ("quantization_aware", "int8", None)
    assert (made.network.name, made.network.plan) == ("quantization_aware", here.trained.plan)
    assert made.path != made.network.onnx and made.path.stat().st_size < made.network.onnx.stat().st_size / 2
    lost, mended = (here.loss(here.outputs(each, "onnxruntime", "int8")) for each in (path, made.path))
    assert lost["value"] > 0.02 and mended["value"] < lost["value"] / 2
    own = torch_outputs(here.module(made.network), here.rows.inputs)
    assert abs(here.outputs(made.network.onnx, "onnxruntime") - own).max() < 1e-3
    assert (own.argmax(1) == here.outputs(made.path, "onnxruntime", "int8").argmax(1)).mean() > 0.9
    job = Job.read(here.folder / "quantization_aware_fp32" / "job.json")
    assert (job.training.epochs, job.training.learning_rate) == (2, pytest.approx(0.3 * 0.003))
    assert made.details == {
        "of": "outlier", "epochs": 2, "learning_rate": job.training.learning_rate, "layers": 5, "calibration_rows": 256,
    }  # fmt: skip
    ranges = job.changes[0].params["ranges"]
    assert set(ranges) == {"1", "4", "8", "11", "18"} and ranges["4"][1] > 100


def test_each_range_of_weights_is_tuned_by_itself(here):
    seen = []

    def launcher(command, environment):
        job = Job.read(Path(command[-1]))
        seen.append(job.changes[0].params["reduced"])
        if not seen[-1]:
            raise TrainingFailed("found a training loss of nan")
        worker.run(job)

    shop = dataclasses.replace(here, launcher=launcher)
    full, reduced = technique(epochs=1, ranges=("full", "reduced")).variants(shop.trained, shop)
    assert seen == [False, True]
    assert (full.name, full.failure, full.runtimes) == (
        "quantization_aware", "found a training loss of nan", ("onnxruntime",)
    )  # fmt: skip
    assert reduced.name == "quantization_aware_reduced" and reduced.network.name == reduced.name
    weights = [onnx.numpy_helper.to_array(value) for value in onnx.load(reduced.path).graph.initializer]
    assert max(np.abs(value.astype(int)).max() for value in weights if value.dtype == np.int8) <= 64


def test_ranges_of_one_row_say_nothing_about_others():
    assert technique(calibration_rows=2).params.calibration_rows == 2
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        technique(calibration_rows=1)


def test_in_the_chain_it_is_measured_against_its_own_network_which_the_chain_goes_on_from(one_shop):
    shop = dataclasses.replace(one_shop, folder=one_shop.folder / "chain")
    chain = Chain(shop, shop.compression.model_copy(update={"max_loss": 1.0, "objective": "size"}))
    assert [each["variant"] for each in chain.shop.of("any").ledger()] == ["fp32"]
    chain.step(technique(when="always", epochs=1))
    assert technique().unsuited(chain.start, chain.shop) == ("not needed: quantization_aware stays within the budget")
    (_, tuned) = chain.rows()
    assert tuned["variant"] == "quantization_aware" and tuned["precision"] == "int8" and tuned["network"]
    assert tuned["taken"] and chain.start.name == "quantization_aware"
    candidate = chain.chosen()[1]
    own = torch_outputs(shop.module(chain.start), shop.rows.inputs)
    np.testing.assert_array_equal(chain.own(candidate), own)
    assert chain.network_of(candidate).onnx.name == "quantization_aware_fp32.onnx"
    assert chain.export_parity(candidate).passed
