"""Neural architecture search: which widths and depths of the trained family are cheapest within the budget.

One-shot: one training shares its weights among all networks of the space (Guo et al., 2020; Yu and Huang, 2019), which
rank the networks; what is worth it is then trained on its own, from its slice of them. How it ranks is measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from dl_pipelines.brief.registry import Params as BaseParams
from dl_pipelines.compression.base import Network, Technique, TechniqueError, Variant
from dl_pipelines.compression.search_costs import UNITS
from dl_pipelines.compression.search_front import Looked, evenly, front
from dl_pipelines.models.elastic import Space, family_at, searchable

if TYPE_CHECKING:
    from dl_pipelines.compression.search_run import Search
    from dl_pipelines.compression.workshop import Workshop

TOLD = 12
"""Networks of the front that the ledger lists."""
Depth = Annotated[int, Field(ge=1, le=8)]
Share = Annotated[float, Field(gt=0, le=2)]


class ArchitectureSearch(Technique):
    """A variant for each network that is trained on its own: `searched_16x1_32x2`, channels x layers by block."""

    name = "architecture_search"
    phase = "search"
    template_row = "NAS"
    trains = True

    class Params(BaseParams):
        """The space around the trained network, and how much of it is looked at, measured and trained."""

        widths: tuple[Share, ...] = Field(
            default=(0.25, 0.5, 0.75, 1.0), min_length=1, description="of each block's width, as shares of it"
        )
        depths: tuple[Depth, ...] = Field(default=(1, 2), min_length=1, description="layers of each block")
        shortest: int | None = Field(
            default=None, ge=1,
            description="blocks that a network has at least, each length with a shared training of its own; None: all",
        )  # fmt: skip
        epochs: int | None = Field(
            default=None, ge=1, le=10_000, description="of the shared training; None: twice the training's"
        )
        drawn: int = Field(
            default=2, ge=0, le=16, description="networks that each step trains beside the largest and the smallest"
        )
        looked: int = Field(default=256, ge=4, le=100_000, description="networks that are scored with shared weights")
        measured: int = Field(default=10, ge=2, le=200, description="networks whose cost is measured, for the fit")
        slack: float = Field(
            default=0.02, ge=0, le=1,
            description="how much more than the budget a network may lose with shared weights, against the largest",
        )  # fmt: skip
        trained: int = Field(default=2, ge=1, le=16, description="networks that are trained on their own")
        checked: int = Field(
            default=4, ge=0, le=100,
            description="networks that are trained from scratch to tell how well shared weights rank; 0: it isn't told",
        )  # fmt: skip

    params: Params

    def unsuited(self, start: Network, shop: Workshop) -> str | None:
        """A family, or a network of it, without widths and depths to choose."""
        try:
            self._space(start)
        except TechniqueError as error:
            return str(error)
        return None

    def variants(self, start: Network, shop: Workshop) -> list[Variant]:
        """See Technique.variants."""
        from dl_pipelines.compression.search_run import Search

        search = Search(self.params, start, shop, self._space(start))
        looked = search.look()
        chosen = search.choose(looked)
        about = {
            "space": len(search.space), "looked": len(looked), "unit": UNITS[shop.compression.objective],
            "fit_error": search.model.error, "front": [_told(one) for one in evenly(front(looked), TOLD)],
            "rank": search.rank(looked), "seconds": search.seconds(),
        }  # fmt: skip
        return [self._variant(one, search, about) for one in chosen]

    def _variant(self, one: Looked, search: Search, about: dict[str, Any]) -> Variant:
        name, details = f"searched_{one.point.name}", {"found": _told(one), **about}
        try:
            network = search.trained(name, one.point)
        except TechniqueError as error:
            return Variant(name, self.name, "fp32", None, str(error), details=details)
        return Variant(name, self.name, "fp32", network.onnx, network=network, details=details)

    def _space(self, start: Network) -> Space:
        """Raises TechniqueError where there is none, or none to choose from."""
        family, given = start.plan.family, self.params
        if start.plan.cuts:
            raise TechniqueError("found a network with channels cut away; expected a whole one of its family")
        try:
            space = searchable(family).space(given.widths, given.depths, given.shortest)
            if space is not None:
                searchable(family_at(family, space.largest))
        except ValidationError as error:
            told = "; ".join(item["msg"] for item in error.errors())
            raise TechniqueError(f"the largest network of the space can't be: {told}; lower widths") from error
        except ValueError as error:
            raise TechniqueError(str(error)) from error
        if space is None or len(space) < 2:
            raise TechniqueError(
                f"this network of the family {family.name} has no widths or depths to search; expected some to choose "
                "from, as in cnn's plain network"
            )
        return space


def _told(one: Looked) -> dict[str, Any]:
    """With its score by shared weights."""
    return {"network": one.point.name, "score": one.score, "cost": one.cost}
