"""Losses against their formulas, written out, and against PyTorch and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dl_pipelines.brief.sections import Training
from dl_pipelines.models.classification_loss import balanced_weights, classification_loss, cross_entropy, focal

COUNTS = [1, 20, 4, 15]


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [40, 4], labels [40] as often as COUNTS says."""
    torch.manual_seed(0)
    return torch.randn(40, 4) * 3, torch.repeat_interleave(torch.arange(4), torch.tensor(COUNTS))


def by_hand(logits, targets, smoothing, weights, gamma):
    """The formula, row by row and class by class."""
    found = []
    for row, target in zip(logits.double().numpy(), targets.tolist(), strict=True):
        shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        wanted = np.full(4, smoothing / 4) + (1 - smoothing) * (np.arange(4) == target)
        found.append(-(weights * wanted * (1 - shares) ** gamma * np.log(shares)).sum())
    return np.mean(found)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("loss", "gamma"), [(cross_entropy, 0), (focal, 2)])
def test_a_loss_is_its_formula(batch, loss, gamma, weighted, smoothing):
    weights = torch.tensor([2.0, 0.5, 1.0, 0.25]) if weighted else None
    expected = by_hand(*batch, smoothing, np.ones(4) if weights is None else weights.numpy(), gamma)
    assert loss(*batch, smoothing, weights).item() == pytest.approx(expected, rel=1e-5)


def test_focal_without_gamma_is_pytorchs_cross_entropy(batch):
    weights = balanced_weights(COUNTS)
    expected = nn.CrossEntropyLoss(weights, label_smoothing=0.1)(*batch)
    # PyTorch divides by the weights of the batch, which over all train rows are their number.
    assert focal(*batch, 0.1, weights, gamma=0).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_focal_loss_has_gradients_where_it_is_sure():
    logits = torch.tensor([[200.0, 0.0], [0.0, 1.0]], requires_grad=True)
    focal(logits, torch.tensor([0, 0])).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.repeat(np.arange(4), COUNTS)
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    assert balanced_weights(COUNTS).numpy() == pytest.approx(expected)
    assert balanced_weights(COUNTS).numpy()[labels].mean() == pytest.approx(1)
    assert balanced_weights([*COUNTS, 0]).numpy() == pytest.approx([*expected, 1])


def test_the_training_says_which(batch):
    given = Training(label_smoothing=0.1, class_weights="balanced")
    for name, loss in (("cross_entropy", cross_entropy), ("focal", focal)):
        made = classification_loss(name, given, {"class_counts": COUNTS})
        assert made(*batch).item() == loss(*batch, 0.1, balanced_weights(COUNTS)).item()
    plain = classification_loss("cross_entropy", Training(), {})
    assert plain(*batch).item() == nn.CrossEntropyLoss()(*batch).item()


def test_what_cant_be_is_told():
    with pytest.raises(ValueError, match=r"found the loss 'hinge'; expected one of cross_entropy, focal; set training"):
        classification_loss("hinge", Training(), {})
    with pytest.raises(ValueError, match="found no class_counts in the statistics; expected them for class_weights"):
        classification_loss("focal", Training(class_weights="balanced"), {})
