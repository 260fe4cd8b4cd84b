"""What moves the parameters of one objective: torch's optimizers, fused where torch has that, and their rates."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dl_pipelines.brief.sections import Training

Named = Sequence[tuple[str, nn.Parameter]]
Group = dict[str, Any]

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
MATRICES = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase, nn.MultiheadAttention)


class NothingToTrain(ValueError):
    """An objective is left without a parameter that may move."""


def _keep_compiler_out() -> None:
    """Torch's optimizers import its compiler, to be kept out of what it compiles: 2 s of each worker, for nothing.

    Ours are never compiled. Read in torch 2.15: where another version does it otherwise, the import is back, no more.
    """
    for name in ("add_param_group", "state_dict", "load_state_dict", "zero_grad"):
        plain = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            setattr(plain, "__dynamo_disable", plain)


_keep_compiler_out()


class FlatMuon(torch.optim.Muon):
    """Muon (Jordan et al., 2024) over matrices and convolutions' kernels, seen as [first dimension, the rest].

    Each orthogonalised step is scaled by 0.2 sqrt(max(rows, columns)) (Liu et al., 2025), so that rates and decay that
    suit AdamW suit it too.
    """

    def __init__(self, groups: list[Group], lr: float):
        self._pairs: list[tuple[nn.Parameter, nn.Parameter]] = []
        flat = [{**group, "params": [self._flatten(value) for value in group["params"]]} for group in groups]
        super().__init__(flat, lr=lr, adjust_lr_fn="match_rms_adamw")

    def _flatten(self, parameter: nn.Parameter) -> nn.Parameter:
        flat = nn.Parameter(parameter.detach().view(len(parameter), -1))  # the same memory
        self._pairs.append((parameter, flat))
        return flat

    def take_gradients(self) -> None:
        """See the parameters' gradients of this step."""
        for parameter, flat in self._pairs:
            flat.grad = None if parameter.grad is None else parameter.grad.view_as(flat)


class Mover:
    """The optimizers of one objective. `named` are the parameters that it moves, `modules` those they belong to.

    `factors` (a parameter's id -> factor of its learning rate) are kept in the groups. Weights decay, norms and biases
    do not. Raises NothingToTrain.
    """

    def __init__(
        self, name: str, training: Training, named: Named, modules: Sequence[nn.Module], factors: Mapping[int, float]
    ):
        if not named:
            raise NothingToTrain(
                f"found no parameter that objective {name} may move; expected one; lower architecture.pretrained.freeze"
            )
        self.parameters = [value for _, value in named]
        self._clip = training.clip
        norms = _parameters_of(modules, NORMS)
        decay = [0.0 if value.ndim <= 1 or id(value) in norms else training.weight_decay for value in self.parameters]
        self._factors = factors
        self.optimizers = self._make(training, dict(zip(self.parameters, decay, strict=True)), modules)

    def step(self, rate: float, scaler: torch.amp.GradScaler | None = None) -> None:
        """Move the parameters by their gradients, whose global norm is bounded first (Pascanu et al., 2013)."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            if isinstance(optimizer, FlatMuon):
                optimizer.take_gradients()
            if scaler is not None:
                scaler.unscale_(optimizer)
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters, self._clip)
        for optimizer in self.optimizers:
            if scaler is None:
                _step(optimizer)
            else:
                scaler.step(optimizer)

    def _make(
        self, training: Training, decay: Mapping[nn.Parameter, float], modules: Sequence[nn.Module]
    ) -> list[torch.optim.Optimizer]:
        lr, kind = training.learning_rate, training.optimizer
        if kind != "muon":
            return [PLAIN[kind](self._grouped(self.parameters, decay), lr)]
        hidden = _hidden(self.parameters, modules)
        others = [value for value in self.parameters if id(value) not in {id(one) for one in hidden}]
        found: list[torch.optim.Optimizer] = [FlatMuon(self._grouped(hidden, decay), lr)] if hidden else []
        return [*found, PLAIN["adamw"](self._grouped(others, decay), lr)] if others else found

    def _grouped(self, parameters: Sequence[nn.Parameter], decay: Mapping[nn.Parameter, float]) -> list[Group]:
        found: dict[tuple[float, float], Group] = {}
        for value in parameters:
            key = decay[value], self._factors.get(id(value), 1.0)
            group = found.setdefault(key, {"params": [], "weight_decay": key[0], "factor": key[1]})
            group["params"].append(value)
        return list(found.values())


@torch.no_grad()
def _step(optimizer: torch.optim.Optimizer) -> None:
    """Its step, without what torch wraps it in: hooks that nobody sets, and the import of the compiler."""
    step = optimizer.step
    plain = inspect.unwrap(step)  # the function below the wrappers; a step that is not wrapped is its own
    step() if plain is step else plain(optimizer)


def _hidden(parameters: Sequence[nn.Parameter], modules: Sequence[nn.Module]) -> list[nn.Parameter]:
    """Weights of layers that multiply by matrices, but for the first and the last: input and output are no hidden."""
    there = _parameters_of(modules, MATRICES)
    found = [value for value in parameters if value.ndim >= 2 and id(value) in there]
    return found[1:-1]


def _parameters_of(modules: Sequence[nn.Module], kinds: tuple[type, ...]) -> set[int]:
    return {
        id(value)
        for module in modules
        for layer in module.modules()
        if isinstance(layer, kinds)
        for value in layer.parameters(recurse=False)
    }


PLAIN: dict[str, Callable[[list[Group], float], torch.optim.Optimizer]] = {
    "adamw": lambda groups, lr: torch.optim.AdamW(groups, lr=lr, fused=True),
    "adam": lambda groups, lr: torch.optim.Adam(groups, lr=lr, fused=True),
    "sgd": lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9, fused=True),
    "rmsprop": lambda groups, lr: torch.optim.RMSprop(groups, lr=lr),  # torch has no fused one
}
