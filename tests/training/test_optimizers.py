import math

import pytest
import torch
from torch import nn

from dl_pipelines.brief.sections import Training
from dl_pipelines.training.optimizers import FlatMuon, Mover, NothingToTrain


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3), nn.Flatten(), nn.LayerNorm([8, 4]),
        nn.Linear(8, 7), nn.Embedding(5, 7), nn.Linear(7, 3),
    )  # fmt: skip


def mover(model, factors=None, **given):
    by_id = {id(value): (factors or {}).get(name, 1.0) for name, value in model.named_parameters()}
    return Mover("loss", Training(**given), list(model.named_parameters()), [model], by_id)


def draw(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for value in model.parameters():
        value.grad = torch.randn(value.shape, generator=generator)


def orthogonalised(matrix):
    """Newton-Schulz, as the reference has it: five steps of a quintic in bf16 (Jordan et al., 2024)."""
    a, b, c = 3.4445, -4.7750, 2.0315
    found = matrix.bfloat16()
    tall = matrix.shape[0] > matrix.shape[1]
    found = found.T if tall else found
    found = found / (found.norm() + 1e-7)
    for _ in range(5):
        square = found @ found.T
        found = a * found + (b * square + c * square @ square) @ found
    return (found.T if tall else found).float()


def test_muon_is_its_reference_formula():
    """Momentum, Nesterov, orthogonalised, scaled to AdamW's size of steps (Liu et al., 2025), decoupled decay."""
    model = network()
    weight = model[2].weight
    value, moment = weight.detach().clone().view(8, -1), torch.zeros(8, 54)
    moving = mover(model, optimizer="muon", weight_decay=0.1)
    for step in range(4):
        draw(model, step)
        grad = weight.grad.view(8, -1).clone()
        moving.step(0.02)
        moment = 0.95 * moment + 0.05 * grad
        update = orthogonalised(0.95 * moment + 0.05 * grad)
        value = value * (1 - 0.02 * 0.1) - 0.02 * 0.2 * math.sqrt(54) * update
        # bf16 has 8 bits: sums in another order differ in the last one.
        torch.testing.assert_close(weight.detach().view(8, -1), value, rtol=0.02, atol=2e-3)
    singular = torch.linalg.svdvals(orthogonalised(grad))
    assert singular.min() > 0.5 and singular.max() < 1.5


def test_muon_takes_hidden_matrices_and_adamw_the_rest():
    model = network()
    moving = mover(model, optimizer="muon", weight_decay=0.1)
    muon, adamw = moving.optimizers
    assert isinstance(muon, FlatMuon) and isinstance(adamw, torch.optim.AdamW)
    hidden = {value.data_ptr() for group in muon.param_groups for value in group["params"]}
    names = {name for name, value in model.named_parameters() if value.data_ptr() in hidden}
    assert names == {"2.weight", "5.weight"}
    rest = {name for name, value in model.named_parameters() if name not in names}
    assert sum(len(group["params"]) for group in adamw.param_groups) == len(rest)


def test_muon_without_hidden_matrices_is_adamw():
    model = nn.Linear(3, 2)
    (only,) = mover(model, optimizer="muon").optimizers
    assert isinstance(only, torch.optim.AdamW)


REFERENCES = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.01, foreach=False, fused=False),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.01, foreach=False, fused=False),
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, foreach=False, fused=False),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.01, foreach=False),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_weights_decay_and_norms_and_biases_do_not(name):
    ours, theirs = network(), network()
    moving = mover(ours, optimizer=name, weight_decay=0.1)
    decaying = {"0.weight", "2.weight", "5.weight", "6.weight", "7.weight"}
    named = dict(theirs.named_parameters())
    reference = REFERENCES[name]([
        {"params": [named[key] for key in named if key in decaying], "weight_decay": 0.1},
        {"params": [named[key] for key in named if key not in decaying], "weight_decay": 0.0},
    ])  # fmt: skip
    for step in range(3):
        draw(ours, step)
        draw(theirs, step)
        moving.step(0.01)
        reference.step()
    for key, value in ours.named_parameters():
        torch.testing.assert_close(value, named[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_optimizers_are_fused_where_torch_has_that(name):
    (optimizer,) = mover(network(), optimizer=name).optimizers
    assert optimizer.defaults["fused"] is True


def test_factors_are_factors_of_the_rate():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    moving = mover(model, {"0.weight": 0.25}, optimizer="sgd", weight_decay=0.0)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    for value in model.parameters():
        value.grad = torch.ones_like(value)
    moving.step(0.1)
    for name, value in model.named_parameters():
        torch.testing.assert_close(before[name] - value, torch.full_like(value, 0.025 if name == "0.weight" else 0.1))


def test_gradients_are_clipped_over_all_optimizers():
    model = network()
    moving = mover(model, optimizer="muon", clip=0.5)
    draw(model, 0)
    moving.step(0.01)
    total = torch.linalg.vector_norm(torch.cat([value.grad.flatten() for value in model.parameters()]))
    assert float(total) == pytest.approx(0.5, rel=1e-4)


def test_an_objective_that_may_move_nothing_is_an_error():
    with pytest.raises(NothingToTrain, match=r"found no parameter that objective loss may move; expected one; lower"):
        Mover("loss", Training(), [], [nn.Linear(2, 2)], {})
