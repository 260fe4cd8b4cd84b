"""Structured pruning: whole channels go, so that a dense runtime has less to do; what is left is fine-tuned.

A ladder of shares, each begun from the fine-tuned weights of the one before (Molchanov et al., 2017); one that is not
within the budget is tried at once too (Li et al., 2017), from the whole network. Which channels: `models/pruned.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.compression.base import Network, Technique, TechniqueError, Variant, share_name
from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.store import durable

if TYPE_CHECKING:
    import torch

    from dl_pipelines.compression.workshop import Workshop

CUT = "cut.safetensors"
"""In a variant's folder: the weights that fine-tuning begins from."""
ROWS = 4
"""Inputs that a network is traced and compared with."""
GRADIENT_ROWS = 512
"""Train rows whose loss says what a channel matters, for `importance: taylor`."""
PATIENCE = 2.0
"""The ladder ends where a rung loses more than so many times the budget."""


class Pruning(Technique):
    """A variant for each share of channels that goes: `pruned_30`, `pruned_50`, `pruned_70`, `pruned_70_at_once`."""

    name = "pruning"
    phase = "prune"
    template_row = "PRUNE"
    trains = True

    class Params(BaseParams):
        """Which shares are tried, what tells the channels that matter least, and how the rest is fine-tuned."""

        shares: tuple[float, ...] = Field(
            default=(0.3, 0.5, 0.7), min_length=1, description="of the channels of each layer, rising, between 0 and 1"
        )
        importance: Literal["magnitude", "taylor", "batch_norm"] = Field(
            default="magnitude", description="of a channel: its weights, what the loss would change by, or its scale"
        )
        multiple: int = Field(default=8, ge=1, le=64, description="channels that are left are a multiple of it")
        epochs: int | None = Field(
            default=None, ge=1, le=10_000, description="of fine-tuning, each share; None: those of the training"
        )
        learning_rate: float = Field(default=1.0, gt=0, le=10, description="as a factor of the training's")

        @field_validator("shares")
        @classmethod
        def _rising(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
            apart = len(set(map(share_name, shares))) == len(shares)
            if not all(0 < share < 1 for share in shares) or list(shares) != sorted(shares) or not apart:
                told = f"each larger than the one before in its first four digits, not {list(shares)}"
                raise ValueError(f"shares between 0 and 1, {told}")
            return shares

    params: Params

    def unsuited(self, start: Network, shop: Workshop) -> str | None:
        """A family whose training needs other networks beside the served one."""
        from dl_pipelines.training.change_cut import alone

        try:
            alone(_recipe(start.plan, shop))
        except ValueError as error:
            return str(error)
        return None

    def variants(self, start: Network, shop: Workshop) -> list[Variant]:
        """See Technique.variants. After a share that can't be made the next begins from the last that was."""
        made, last, budget = list[Variant](), start, shop.compression.max_loss
        for share in self.params.shares:
            name = f"pruned_{share_name(share)}"
            tried = [self._try(name, share, start, last, shop)]
            if last is not start and _worst_of(tried[0]) > budget:
                tried.append(self._try(f"{name}_at_once", share, start, start, shop))
            made += tried
            best = min(tried, key=_loss_of)
            if best.network is None:
                continue
            last, lost = best.network, _loss_of(best)
            if lost > PATIENCE * budget:
                told = f"ends here: loses {lost:.3g}, more than {PATIENCE:g} times the budget"
                made[-1] = replace(made[-1], details={**made[-1].details, "ladder": told})
                break
        return made

    def _try(self, name: str, share: float, start: Network, last: Network, shop: Workshop) -> Variant:
        """What becomes of `start` without `share` of its channels, begun from `last`, which lost some already."""
        shop.say(f"pruning: {name}")
        folder = shop.folder / name
        training: dict[str, Any] = {"epochs": self._epochs(shop), "learning_rate": self._rate(shop)}
        try:
            plan = self._cut(folder, share, start, last, shop)
            job = shop.job_for(name, plan, start=folder / CUT, **training)
            network = shop.export(name, plan, shop.train(job))
            became = _became(start, network, shop)
        except TechniqueError as error:
            return Variant(name, self.name, "fp32", None, str(error))
        details = {"share": share, "begun_from": last.name, "importance": self.params.importance, **training, **became}
        return Variant(name, self.name, "fp32", network.onnx, network=network, details=details)

    def _cut(self, folder: Path, share: float, start: Network, last: Network, shop: Workshop) -> NetworkPlan:
        """The plan and the weights that fine-tuning begins from; the same after an interruption."""
        from safetensors.torch import save

        from dl_pipelines.models.channel_groups import NotPrunable
        from dl_pipelines.models.pruned import prune, widths

        record = folder / "cuts.json"
        if record.exists():
            return NetworkPlan.read(durable.read_json(record))
        given, network, of = self.params, shop.module(last), widths(shop.module(start))
        loss = self._loss(last.plan, shop) if given.importance == "taylor" else None
        try:
            cuts = prune(network, shop.task, shop.calibrate(ROWS), share, of, given.importance, given.multiple, loss)
        except NotPrunable as error:
            raise TechniqueError(str(error)) from error
        plan = replace(last.plan, cuts=(*last.plan.cuts, *cuts))
        weights = {name: value.contiguous() for name, value in network.state_dict().items()}
        durable.write_bytes(folder / CUT, save(weights))
        durable.write_json(record, plan.plain())
        return plan

    def _loss(self, plan: NetworkPlan, shop: Workshop) -> Callable[[torch.nn.Module], torch.Tensor]:
        """The loss that the family trains by, on train rows taken evenly."""
        import numpy as np
        import torch

        from dl_pipelines.training.change_cut import alone

        recipe = alone(_recipe(plan, shop))
        objective = recipe.phases[-1].objectives[0]
        rows = shop.make_job(shop.folder / "gradients").rows
        inputs, targets = (np.load(rows / f"train_{name}.npy", mmap_mode="r") for name in ("inputs", "targets"))
        chosen = np.unique(np.linspace(0, len(inputs) - 1, min(GRADIENT_ROWS, len(inputs))).astype(int))
        batch = torch.from_numpy(inputs[chosen]), torch.from_numpy(targets[chosen])
        return lambda network: objective.loss({recipe.served: network}, *batch)

    def _epochs(self, shop: Workshop) -> int:
        return self.params.epochs or _training(shop).epochs

    def _rate(self, shop: Workshop) -> float:
        return self.params.learning_rate * _training(shop).learning_rate


def _training(shop: Workshop) -> Any:
    return shop.make_job(shop.folder).training


def _recipe(plan: NetworkPlan, shop: Workshop) -> Any:
    """How the family trains, with the loss that it has."""
    from dl_pipelines.evaluation.candidates import loss_of
    from dl_pipelines.models.registry import FAMILIES

    training = _training(shop)
    training = training.model_copy(update={"loss": loss_of(plan.family, training.loss)})
    return FAMILIES.make(plan.family).recipe(shop.task, plan.statistics, training)


def _became(start: Network, network: Network, shop: Workshop) -> dict[str, Any]:
    """The loss of a pruned network, and what it has of what the network had that it came from."""
    from dl_pipelines.inference.parity import torch_outputs

    before, after = (_costs(each, shop) for each in (start, network))
    outputs = torch_outputs(shop.module(network), shop.rows.inputs)
    return {
        "loss": dict(shop.loss(outputs)), "worst": shop.worst(outputs),
        "parameters": [before["parameters"], after["parameters"]], "macs": [before["macs"], after["macs"]],
        "channels": {name: [wide, after["widths"][name]] for name, wide in before["widths"].items()},
    }  # fmt: skip


def _loss_of(variant: Variant) -> float:
    """Its loss; endless where there is no network."""
    return variant.details["loss"]["value"] if variant.network is not None else float("inf")


def _worst_of(variant: Variant) -> float:
    """The end of the interval of its loss, overall or on a slice; endless where there is no network."""
    return variant.details["worst"] if variant.network is not None else float("inf")


def _costs(network: Network, shop: Workshop) -> dict[str, Any]:
    """Parameters, multiply-adds of one row, and outputs of each layer."""
    from dl_pipelines.models.counting import counted
    from dl_pipelines.models.layers import count_parameters
    from dl_pipelines.models.pruned import widths

    module = shop.module(network)
    macs = sum(row["macs"] for row in counted(module, shop.rows.inputs[:1]))
    return {"parameters": count_parameters(module), "macs": macs, "widths": widths(module)}
