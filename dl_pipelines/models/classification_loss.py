"""Losses of K classes from logits: cross entropy and focal loss, with label smoothing and class weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from dl_pipelines.brief.sections import Training
from dl_pipelines.models.recipe import Objective, Phase

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
GAMMA = 2.0
"""How far the focal loss turns from what is easy; the value of its paper."""


def supervised(name: str, criterion: Criterion, share: float = 1.0) -> Phase:
    """The phase in which the module `network` learns the targets; its objective is called as the loss."""

    def loss(modules: Mapping[str, Any], inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return criterion(modules["network"](inputs), targets)

    return Phase("supervised", (Objective(name, ("network",), loss),), share)


def classification_loss(name: str, training: Training, statistics: Mapping[str, Any]) -> Criterion:
    """Logits [N, K], labels int64 [N] -> mean over the batch in nats, as the training says.

    `name` is `cross_entropy` or `focal`. Balanced class weights come from the `class_counts` of the statistics. Raises
    ValueError for another name, or counts that are not there.
    """
    losses = {"cross_entropy": cross_entropy, "focal": focal}
    if name not in losses:
        raise ValueError(f"found the loss {name!r}; expected one of {', '.join(losses)}; set training.loss")
    weights: torch.Tensor | None = None
    if training.class_weights == "balanced":
        if "class_counts" not in statistics:
            raise ValueError(
                "found no class_counts in the statistics; expected them for class_weights: balanced; fit the task again"
            )
        weights = balanced_weights(statistics["class_counts"])

    def criterion(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal weights
        if weights is not None:
            weights = weights.to(logits.device)  # copied once; later steps find them there
        return losses[name](logits, targets, training.label_smoothing, weights)

    return criterion


def balanced_weights(counts: list[int]) -> torch.Tensor:
    """float32 [K]: rows / (classes with rows * rows of the class), 1 for a class without any.

    As scikit-learn's `compute_class_weight("balanced")` (King and Zeng, 2001). Their mean over the train rows is 1, so
    that losses need not be divided by them: batches and workers count alike, whatever classes they hold.
    """
    rows = torch.tensor(counts, dtype=torch.float64)
    found = rows.sum() / ((rows > 0).sum() * rows)
    return torch.where(rows > 0, found, torch.ones_like(rows)).to(torch.float32)


def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean of -sum_k w_k q_k log p_k, where q is the target, smoothed (Szegedy et al., 2016)."""
    if weights is None:
        return functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    found = functional.cross_entropy(logits, targets, weights, reduction="none", label_smoothing=smoothing)
    return found.mean()


def focal(
    logits: torch.Tensor, targets: torch.Tensor, smoothing: float = 0.0, weights: torch.Tensor | None = None,
    gamma: float = GAMMA,
) -> torch.Tensor:  # fmt: skip
    """Mean of -sum_k w_k q_k (1 - p_k)^gamma log p_k: FL of Lin et al. (2017), over classes and smoothed targets."""
    logs = functional.log_softmax(logits.float(), dim=1)
    each = -((1 - logs.exp()).clamp_min(1e-12) ** gamma) * logs
    if weights is not None:
        each = each * weights
    found = (1 - smoothing) * each.gather(1, targets[:, None])[:, 0]
    if smoothing:
        found = found + smoothing * each.mean(dim=1)
    return found.mean()
