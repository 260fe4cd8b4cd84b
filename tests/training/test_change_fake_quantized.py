"""Rounding against numpy, ONNX Runtime's own scales and its int8 graph; a rounded training against itself."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from dl_pipelines.brief.references import FamilyRef
from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.models.recipe import Objective, Phase, Recipe
from dl_pipelines.tasks.registry import TASKS
from dl_pipelines.training.change_fake_quantized import (
    FakeQuantized,
    input_ranges,
    layers_of,
    rounded_weight,
    scale_and_zero,
)
from dl_pipelines.training.changes import ChangeRef
from tests.cpu import needs_exact_int8
from tests.training.test_changes import begin_from, changed_trainer
from tests.training.test_loop import Stop, rows, run, same, state


def network_of(job, **params):
    """With running statistics as after a training, and weights of very different size in each channel."""
    plan = NetworkPlan(FamilyRef(name="cnn", params={"width": 8, **params}), job.statistics)
    torch.manual_seed(3)
    network = plan.build(TASKS.make(job.task)).train()
    with torch.no_grad():
        for layer in network:
            if isinstance(layer, nn.Conv2d):
                layer.weight *= torch.logspace(-2, 1, layer.out_channels)[:, None, None, None]
            if isinstance(layer, nn.BatchNorm2d):
                layer.weight.uniform_(-2, 2)
        for _ in range(30):
            network(torch.from_numpy(rows(job, "train")[0][:200]))
    return network.eval()


def rounded(network, ranges, **params):
    """A copy of a network, changed."""
    phase = Phase("supervised", (Objective("loss", ("network",), lambda modules, x, y: modules["network"](x).sum()),))
    recipe = Recipe({"network": copy.deepcopy(network)}, "network", (phase,))
    change = FakeQuantized(FakeQuantized.Params(ranges=ranges, **params))
    return change.apply(recipe, None, {}, None).network


@pytest.mark.parametrize("highest", [127, 64])
def test_weights_are_rounded_by_the_largest_of_each_channel(highest):
    rng = np.random.default_rng(0)
    weight = (rng.normal(0, 1, (6, 3, 3, 3)) * np.geomspace(1e-3, 10, 6)[:, None, None, None]).astype(np.float32)
    weight[2] = 0
    scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / highest
    wanted = np.where(scale > 0, np.round(weight / np.where(scale > 0, scale, 1)) * scale, 0)
    given = torch.tensor(weight, requires_grad=True)
    found = rounded_weight(given, highest)
    np.testing.assert_allclose(found.detach().numpy(), wanted, atol=1e-6)
    assert np.unique(found[0].detach().numpy()).size <= 2 * highest + 1
    (found * 3).sum().backward()
    assert bool((given.grad == 3).all())  # straight through


@pytest.mark.parametrize("span", [(-1.5, 2.0), (0.25, 6.0), (-3.0, -1.0), (0.0, 0.0), (-1e-3, 700.0)])
def test_scale_and_zero_are_those_of_onnx_runtime(span):
    from onnxruntime.quantization.quant_utils import compute_scale_zp

    low, high = (np.array(value, np.float32) for value in span)
    zero, scale = compute_scale_zp(low, high, np.array(0, np.uint8), np.array(255, np.uint8))
    found = scale_and_zero(*span)
    assert found == (pytest.approx(float(scale), rel=1e-6), int(zero))


@pytest.mark.parametrize(("reduced", "weights"), [(False, 127), (True, 64)])
def test_inputs_are_rounded_in_their_range_and_learn_inside_of_it(reduced, weights):
    network = rounded(nn.Sequential(nn.Linear(1, 1, bias=False)), {"0": (-1.0, 3.0)}, reduced=reduced)
    given = torch.linspace(-3, 5, 401)[:, None].requires_grad_()
    with torch.no_grad():
        network[0].weight.fill_(1.0)
    found = network(given)
    step, zero = 4 / 255, 64
    whole = np.clip(np.round(given.detach().numpy() / step) + zero, 0, 255)
    np.testing.assert_allclose(found.detach().numpy(), (whole - zero) * step, atol=1e-6)
    assert network[0].weight_highest == weights
    found.sum().backward()
    low, high = (-zero - 0.5) * step, (255 - zero + 0.5) * step
    assert torch.equal(given.grad[:, 0] != 0, ((given > low) & (given < high))[:, 0])


@pytest.mark.parametrize("reduced", [True, pytest.param(False, marks=needs_exact_int8)])
def test_a_rounded_network_answers_as_the_int8_graph_does(make_job, tmp_path, reduced):
    """ONNX Runtime's static quantization of the float32 export, by the same rows: folded norms and all.

    What the graph rounds beyond the change (the input of the last pooling) is rounded here by hand.
    """
    from dl_pipelines.compression.static_int8 import quantize
    from dl_pipelines.inference.export import export_onnx
    from dl_pipelines.inference.parity import session_outputs, torch_outputs
    from dl_pipelines.inference.runtimes import open_runtime

    job = make_job()
    network, (inputs, _, _) = network_of(job), rows(job, "train")
    onnx = export_onnx(network, TASKS.make(job.task), tmp_path / "fp32.onnx")
    quantize(onnx, tmp_path / "int8.onnx", inputs[:256], reduced, True)
    int8 = session_outputs(open_runtime("onnxruntime", tmp_path / "int8.onnx", 1), inputs[256:])

    def by_hand(values, span):
        scale, zero = scale_and_zero(*(float(value) for value in span))
        return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, 255)

    seen = {}
    hook = network[13].register_forward_hook(lambda *given: seen.update(last=given[2]))
    logits = torch_outputs(network, inputs[:256])
    hook.remove()
    found = rounded(network, input_ranges(network, inputs[:256]), reduced=reduced)
    alone = torch_outputs(found, inputs[256:])
    found[13].register_forward_hook(lambda *given: by_hand(given[2], (0, seen["last"].max())))
    whole = torch_outputs(found, inputs[256:])
    step = scale_and_zero(float(logits.min()), float(logits.max()))[0]
    plain = torch_outputs(network, inputs[256:])
    # The answers stay in float: on the grid of eight bits they are alike, as those of a graph that rounds them too.
    span = logits.min(), logits.max()
    mine, graphs = (by_hand(torch.from_numpy(given), span).numpy() for given in (whole, int8))
    assert (np.abs(mine - graphs) < 0.01 * step).mean() > 0.97 and np.abs(mine - graphs).max() < 1.01 * step
    assert (np.abs(plain - int8) > 0.5 * step).mean() > 0.2
    assert np.abs(alone - int8).max() < 1.5 * step


def test_ranges_are_the_smallest_and_largest_inputs_of_each_layer():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    given = np.random.default_rng(0).normal(2, 1, (150, 3)).astype(np.float32)
    hidden = np.maximum(given @ network[0].weight.detach().numpy().T + network[0].bias.detach().numpy(), 0)
    found = input_ranges(network, given)
    assert found["0"] == (pytest.approx(min(given.min(), 0)), pytest.approx(given.max()))
    assert found["2"] == (0.0, pytest.approx(hidden.max(), rel=1e-5))
    assert not network[0]._forward_pre_hooks
    with pytest.raises(ValueError, match="found no calibration rows; expected rows of the train split"):
        input_ranges(network, given[:0])


def test_state_and_parameters_stay_those_of_the_plan(make_job):
    job = make_job()
    network = network_of(job)
    found = rounded(network, input_ranges(network, rows(job, "train")[0][:64]))
    assert {name: value.shape for name, value in found.state_dict().items()} == {
        name: value.shape for name, value in network.state_dict().items()
    }
    assert same(network.state_dict(), found.state_dict())
    assert list(layers_of(network)) == ["1", "4", "8", "11", "18"] and not layers_of(found)
    assert isinstance(found[1], nn.Conv2d) and isinstance(found[18], nn.Linear)


def test_convolutions_of_series_are_rounded_too():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv1d(2, 4, 3, padding=2, dilation=2), nn.GELU(), nn.Conv1d(4, 1, 1)).eval()
    given = np.random.default_rng(0).normal(0, 1, (8, 2, 12)).astype(np.float32)
    found = rounded(network, input_ranges(network, given))
    with torch.no_grad():
        one, other = network(torch.from_numpy(given)), found(torch.from_numpy(given))
    assert 0 < float((one - other).abs().max()) < 0.05
    assert one.shape == other.shape


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({"2": (0.0, 1.0)}, "found ranges of '2'; expected layers of the network that can be rounded: 1, 4, 8, 11, 18"),
        ({"1": (0.0, 1.0), "x": (0.0, 1.0)}, "found ranges of 'x'; expected layers"),
    ],
)
def test_layers_that_are_not_there_are_refused(make_job, ranges, message):
    with pytest.raises(ValueError, match=message):
        rounded(network_of(make_job()), ranges)


def tuned(job):
    """A job that fine-tunes a network with everything rounded."""
    network = network_of(job)
    ranges = input_ranges(network, rows(job, "train")[0][:64])
    ref = ChangeRef(name="fake_quantized", params={"ranges": ranges})
    return dataclasses.replace(begin_from(job, network), changes=(ref,)), network


@pytest.mark.parametrize("given", [{}, {"precision": "bf16", "ema": 0.9, "patience": 2, "optimizer": "muon"}])
def test_a_rounded_training_that_goes_on_is_bitwise_the_undisturbed_one(make_job, given):
    training = {"epochs": 2, "checkpoint_steps": 2, **given}
    one, other = (tuned(make_job(name=name, training=training))[0] for name in ("one", "other"))
    wanted, curves = run(other, changed_trainer(other))
    made, calls = changed_trainer(one), []
    step = made._step

    def counted(*args):
        if len(calls) == 9:
            raise Stop
        calls.append(1)
        step(*args)

    made._step = counted
    with pytest.raises(Stop):
        run(one, made)
    got, again = run(one, changed_trainer(one))
    assert same(wanted, got)
    assert [line.train_loss for line in again] == [line.train_loss for line in curves]


def test_norms_keep_the_statistics_that_are_exported(make_job):
    job, network = tuned(make_job(training={"epochs": 1}))
    made = changed_trainer(job)
    assert same(network.state_dict(), state(made))
    got, _ = run(job, made)
    before = network.state_dict()
    moved = {name for name, value in got.items() if not torch.equal(value, before[name])}
    still = {name for name in got if "running_" in name or "num_batches" in name or name in ("0.mean", "0.std")}
    assert moved == set(got) - still


def test_averaged_weights_are_rounded_as_they_are_validated(make_job):
    job, _ = tuned(make_job(training={"epochs": 1, "ema": 0.9}))
    made = changed_trainer(job)
    followed = made.averages.network
    assert followed[1].weight is not made.recipe.network[1].weight
    inputs = made.numerics.put(rows(job, "validation")[0])
    with torch.no_grad():
        before = followed(inputs)
        assert torch.equal(before, made.recipe.network.eval()(inputs))
        for value in made.recipe.network.parameters():
            value += 1
        assert torch.equal(before, followed(inputs))


def test_tuning_mends_what_rounding_breaks(make_job):
    """Ranges so narrow that the network decides wrongly: its weights learn to live with them."""
    job = make_job(training={"epochs": 10, "learning_rate": 0.02})
    whole, _ = run(job, changed_trainer(job))
    network = NetworkPlan(job.family, job.statistics).build(TASKS.make(job.task)).eval()
    network.load_state_dict(whole)
    ranges = {name: (low / 4, high / 4) for name, (low, high) in input_ranges(network, rows(job, "train")[0]).items()}
    inputs, targets, _ = rows(job, "validation")

    def accuracy(module):
        module = copy.deepcopy(module).cpu().eval()  # what is to be trained stays where it is
        with torch.no_grad():
            return float((module(torch.from_numpy(inputs)).argmax(1).numpy() == targets).mean())

    narrow = accuracy(rounded(network, ranges))
    tuned = begin_from(make_job(name="tuned", training={"epochs": 3, "learning_rate": 0.005}), network)
    ref = ChangeRef(name="fake_quantized", params={"ranges": ranges})
    made = changed_trainer(dataclasses.replace(tuned, changes=(ref,)))
    assert accuracy(made.recipe.network) == narrow < accuracy(network) - 0.1
    run(tuned, made)
    assert accuracy(made.recipe.network) > narrow + 0.1
