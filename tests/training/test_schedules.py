import warnings

import numpy as np
import pytest
import torch

from dl_pipelines.brief.sections import Training
from dl_pipelines.training.schedules import Plateau, Stopping, rate

STEPS = 8


def given(schedule, warmup=0.5, epochs=4):
    return Training(epochs=epochs, schedule=schedule, warmup_epochs=warmup, learning_rate=0.01)


def torchs(training, make):
    """The rates of torch's scheduler, after its LinearLR in the warm-up, step by step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=training.learning_rate)
    total, rates = training.epochs * STEPS, []
    warm = int(training.warmup_epochs * STEPS) if training.schedule != "one_cycle" else 0
    chain = make(optimizer, total - warm)
    if warm:
        first = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / (warm + 1), 1.0, total_iters=warm)
        chain = torch.optim.lr_scheduler.SequentialLR(optimizer, [first, chain], [warm])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of what its own SequentialLR does
        for _ in range(total):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            chain.step()
    return rates


SCHEDULERS = {
    "cosine": lambda optimizer, steps: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
    "constant": lambda optimizer, steps: torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0),
    "one_cycle": lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.01, total_steps=steps, pct_start=0.5, cycle_momentum=False
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULERS)
@pytest.mark.parametrize("warmup", [0.0, 0.5, 2.0])
@pytest.mark.filterwarnings(
    "ignore:The epoch parameter in `scheduler.step", "ignore:Please also save or load the state"
)
def test_rates_are_those_of_torchs_schedulers(schedule, warmup):
    training = given(schedule, 2.0 if schedule == "one_cycle" else warmup)
    ours = [rate(training, step, STEPS) for step in range(4 * STEPS)]
    np.testing.assert_allclose(ours, torchs(training, SCHEDULERS[schedule]), rtol=1e-9, atol=1e-12)


def test_one_cycle_rises_for_three_tenths_where_the_warm_up_is_shorter():
    ours = [rate(given("one_cycle", 0.0, 10), step, STEPS) for step in range(80)]
    assert ours.index(max(ours)) == 23 and max(ours) == pytest.approx(0.01)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "constant", "plateau"])
def test_a_single_step_has_a_rate(schedule):
    for epochs in (1, 2):
        found = [rate(given(schedule, 0.5, epochs), step, 1) for step in range(epochs)]
        assert all(0 < value <= 0.01 for value in found)


@pytest.mark.parametrize("higher", [True, False])
def test_a_plateau_lowers_the_rate_as_torchs_does(higher):
    training = given("plateau", 0.0, 40)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, "max" if higher else "min", factor=0.3, patience=2, threshold=1e-4, min_lr=0, eps=0
    )
    ours, values = Plateau(higher), 0.5 + 0.1 * np.random.default_rng(0).normal(size=40).cumsum() / 3
    seen = []
    for value in np.abs(values).tolist():
        ours.see(value)
        reference.step(value)
        seen.append(optimizer.param_groups[0]["lr"])
        assert rate(training, 20, STEPS, ours.factor) == pytest.approx(seen[-1], rel=1e-12)
    assert len(set(seen)) > 2
    again = Plateau(**vars(ours))
    assert again == ours


def test_stopping_waits_for_as_many_epochs_as_it_is_patient():
    found = Stopping(2, higher=False)
    better = [found.see(epoch, value) for epoch, value in enumerate([0.5, 0.4, 0.4, float("nan")], 1)]
    assert better == [True, True, False, False]
    assert found.over and found.epoch == 2
    assert found.told("wape") == "no better wape for 2 epoch(s) after epoch 2"
    patient = Stopping(None, higher=True)
    for epoch in range(100):
        patient.see(epoch, 0.5)
    assert not patient.over
