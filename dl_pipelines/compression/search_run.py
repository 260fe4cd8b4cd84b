"""One architecture search, step by step: share weights, measure some costs, look, choose, train what was chosen.

What was measured is decided once; what was trained is found again after an interruption.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dl_pipelines.compression.base import Network, TechniqueError
from dl_pipelines.compression.search_costs import CostModel, features_of, fit_costs, measure_costs
from dl_pipelines.compression.search_front import Looked, evenly, explore, shortlist
from dl_pipelines.compression.search_rank import ranked
from dl_pipelines.models.elastic import Parts, Point, Space, family_at, recalibrated
from dl_pipelines.models.plan import NetworkPlan
from dl_pipelines.store import durable
from dl_pipelines.training.changes import ChangeRef
from dl_pipelines.training.job import RESULT

if TYPE_CHECKING:
    import torch

    from dl_pipelines.compression.architecture_search import ArchitectureSearch
    from dl_pipelines.compression.workshop import Workshop

RECALIBRATED = 512
"""Train rows that batch norm's statistics of each network come from."""


@dataclass(frozen=True)
class Search:
    """Of the space around `start`, with the params of the technique."""

    given: ArchitectureSearch.Params
    start: Network
    shop: Workshop
    space: Space

    def share(self, blocks: int) -> Path:
        """Train all networks of so many blocks at once, from fresh weights: the file of the largest's.

        Networks of other lengths have a training of their own: all share the last layer, and what one that is shorter
        wants of it spoils it for the others. Raises TechniqueError.
        """
        given, shop, space = self.given, self.shop, self.space.of_length(blocks)
        shop.say(f"architecture search: {len(space)} networks of {blocks} blocks share weights")
        change = ChangeRef(name="weight_shared", params={
            "family": self.start.plan.family.model_dump(mode="json"), "widths": space.widths, "depths": space.depths,
            "shortest": space.shortest, "drawn": given.drawn,
        })  # fmt: skip
        more: dict[str, Any] = {"epochs": given.epochs or 2 * self._training.epochs, "compile": "off", "patience": None}
        return shop.train(shop.job_for(f"shared_{blocks}", self.plan(space.largest), (change,), **more))

    @cached_property
    def costs(self) -> dict[str, Any]:
        """`of`: the costs of the start and of a few networks, measured in turns; `seconds` that it took."""

        for blocks in self._blocks:  # before the clock starts
            self.share(blocks)

        def measure() -> dict[str, Any]:
            begun = time.monotonic()
            return {"of": self._measured(self._sample()), "seconds": time.monotonic() - begun}

        return self.shop.decide_once("costs", measure)

    @cached_property
    def model(self) -> CostModel:
        """Of costs, fitted to these."""
        inputs, points = self.shop.rows.inputs, self._sample()
        features = [features_of(self.plan(point).build(self.shop.task), inputs) for point in points]
        return fit_costs(features, [self.costs["of"][point.name] for point in points])

    def look(self) -> list[Looked]:
        """The networks that are looked at, with their scores by shared weights and their costs by the fit."""
        found = self._looked
        return [
            Looked(Point(tuple(one["widths"]), tuple(one["depths"])), one["score"], one["cost"])
            for one in found["networks"]
        ]

    def seconds(self) -> dict[str, float]:
        """What the search took but for the networks that are trained on their own."""
        folder = self.shop.folder
        shared = [durable.read_json(folder / f"shared_{blocks}" / RESULT)["seconds"] for blocks in self._blocks]
        found = {"sharing": sum(shared), "measuring": self.costs["seconds"], "scoring": self._looked["seconds"]}
        return {name: round(value, 2) for name, value in found.items()}

    def score(self, point: Point) -> float:
        """Of a network with its slice of the shared weights, on validation rows; higher is better."""
        return self._score(self._part(point))

    def choose(self, looked: list[Looked]) -> list[Looked]:
        """Those that are worth a training, with measured costs. Raises TechniqueError where none is cheaper."""
        given, budget = self.given, self.shop.compression.max_loss
        best = next(one.score for one in looked if one.point == self.space.largest)
        own = self.costs["of"][self.start.name]
        others = [one for one in looked if not self._is_start(one.point)]
        listed = shortlist(others, best, budget, given.slack, own, 2 * given.trained)
        costs = self.shop.decide_once("shortlist", lambda: self._measured([one.point for one in listed]))
        measured = [Looked(one.point, one.score, costs[one.point.name]) for one in listed]
        cheaper = sorted((one for one in measured if one.cost < costs[self.start.name]), key=lambda one: one.cost)
        if not cheaper:
            raise TechniqueError(
                f"found none of {len(looked)} networks that is cheaper than {self.start.name} and loses at most "
                f"{budget + given.slack:g} with shared weights; raise compression.max_loss or slack, or allow smaller "
                "widths and depths"
            )
        return evenly(cheaper, given.trained)

    def rank(self, looked: list[Looked]) -> dict[str, Any] | None:
        """How networks trained from scratch rank beside their shared scores; None where none is checked."""
        if not self.given.checked:
            return None
        some = evenly(sorted(looked, key=lambda one: (one.score, one.point.name)), self.given.checked)
        plans = {one.point.name: (one, self.plan(one.point)) for one in some}
        return self.shop.decide_once("rank", lambda: ranked(plans, self.shop, self._score))

    def trained(self, name: str, point: Point) -> Network:
        """A network trained on its own, by the brief's loop, from its slice of the weights. Raises TechniqueError."""
        from safetensors.torch import save

        shop, first = self.shop, self.shop.folder / "first" / f"{name}.safetensors"
        shop.say(f"architecture search: training {point.name}")
        state = self._part(point).state_dict()
        first.parent.mkdir(exist_ok=True)
        durable.write_bytes(first, save({key: value.contiguous() for key, value in state.items()}))
        plan = self.plan(point)
        return shop.export(name, plan, shop.train(shop.job_for(name, plan, start=first)))

    def plan(self, point: Point) -> NetworkPlan:
        """How a network of the space is built."""
        return NetworkPlan(family_at(self.start.plan.family, point), self.start.plan.statistics)

    @cached_property
    def _looked(self) -> dict[str, Any]:
        shop, most = self.shop, min(self.given.looked, len(self.space))
        model, told = self.model, 0

        def look(point: Point) -> Looked:
            nonlocal told
            shop.say(f"scoring {point.name}", told, most)
            told += 1
            network = self._part(point)
            return Looked(point, self._score(network), model.cost(features_of(network, shop.rows.inputs)))

        def decide() -> dict[str, Any]:
            begun = time.monotonic()
            found = explore(self.space, look, self.given.looked, self._training.seed)
            networks = [{**vars(one.point), "score": one.score, "cost": one.cost} for one in found]
            return {"networks": networks, "seconds": time.monotonic() - begun}

        return shop.decide_once("looked", decide)

    def _is_start(self, point: Point) -> bool:
        """Whether it is the network that the search began with: in another session that is faster or slower."""
        return self._shapes(self.plan(point)) == self._start_shapes

    @cached_property
    def _start_shapes(self) -> dict[str, torch.Size]:
        return self._shapes(self.start.plan)

    def _shapes(self, plan: NetworkPlan) -> dict[str, torch.Size]:
        return {name: value.shape for name, value in plan.build(self.shop.task).state_dict().items()}

    @property
    def _blocks(self) -> range:
        """The lengths of its networks."""
        return range(self.space.shortest, len(self.space.widths) + 1)

    @cached_property
    def _training(self) -> Any:
        return self.shop.make_job(self.shop.folder).training

    @cached_property
    def _calibration(self) -> torch.Tensor:
        import torch

        return torch.from_numpy(self.shop.calibrate(RECALIBRATED))

    @cached_property
    def _lengths(self) -> dict[int, tuple[Parts, dict[str, torch.Tensor]]]:
        return {}

    def _part(self, point: Point) -> torch.nn.Module:
        """A network with its slice of the weights that those of its length share."""
        from safetensors.torch import load_file

        blocks, plan = len(point.widths), self.start.plan
        if blocks not in self._lengths:
            parts = Parts(plan.family, self.space.of_length(blocks).largest, self.shop.task, plan.statistics)
            self._lengths[blocks] = parts, load_file(self.share(blocks))
        parts, weights = self._lengths[blocks]
        return recalibrated(parts.loaded(point, weights), self._calibration)

    def _score(self, network: torch.nn.Module) -> float:
        """The primary metric on validation rows, negative where lower is better. Raises TechniqueError."""
        from dl_pipelines.inference.parity import torch_outputs

        return self.shop.score(torch_outputs(network, self.shop.rows.inputs))

    def _sample(self) -> list[Point]:
        """The networks whose costs are measured for the fit: the smallest, the largest and drawn ones."""
        count, last = min(self.given.measured, len(self.space)), len(self.space) - 1
        drawn = random.Random(0).sample(range(1, last), max(0, count - 2))
        return [self.space[place] for place in (0, *sorted(drawn), last)]

    def _measured(self, points: list[Point]) -> dict[str, float]:
        """Costs of networks, and of the start, measured in turns. Raises TechniqueError."""
        from dl_pipelines.inference.export import ExportError, export_onnx

        files: dict[str, Path] = {self.start.name: self.start.onnx}
        for done, point in enumerate(points):
            self.shop.say(f"exporting {point.name}", done, len(points))
            path = self.shop.folder / "measured" / f"{point.name}.onnx"
            try:
                files[point.name] = export_onnx(self._part(point), self.shop.task, path)
            except ExportError as error:
                raise TechniqueError(str(error)) from error
        self.shop.say("timing, interleaved", len(points), len(points))
        return measure_costs(files, self.shop)
