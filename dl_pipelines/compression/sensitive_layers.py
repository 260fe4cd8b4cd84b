"""Which layers stay in float so that the rest may be int8 within the budget: measured, a few graphs only.

Layers are ranked by what the answers lose when one alone is quantized; the most sensitive stay in float until the
budget is met, then each is tried in int8 again (Wu et al., 2020, arXiv:2004.09602, "partial quantization"; the ranking
by the outputs' error in place of accuracy, as one layer seldom changes a decision). It writes no graph itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from dl_pipelines.compression.base import TechniqueError

if TYPE_CHECKING:
    import numpy as np

    from dl_pipelines.compression.workshop import Workshop

Make = Callable[[Sequence[str]], Path]
"""The int8 graph with these layers in float."""
Answers: TypeAlias = "Callable[[Path, str, np.ndarray | None], np.ndarray]"
"""What a graph of this precision answers to rows (None: the validation rows) on the first runtime that takes it."""


@dataclass
class Search:
    """`layers` in the graph's order; `probe` [M, ...] the rows of the ranking; at most `limit` graphs are scored."""

    shop: Workshop
    make: Make
    layers: Sequence[str]
    answers: Answers
    probe: np.ndarray
    limit: int
    scored: int = field(default=0, init=False)

    def find(self, float_graph: Path) -> dict[str, float | None] | None:
        """The fewest layers found that have to stay in float, with the loss that each in int8 would lead to.

        None for a loss that there was no graph left to measure. None for all when nothing meets the budget.
        """
        order = self.ranked(float_graph)
        kept = self._enough(order)
        return None if kept is None else self._needed(kept)

    def ranked(self, float_graph: Path) -> list[str]:
        """The layers by the mean square error of the answers when one alone is quantized, the largest first."""
        import numpy as np

        expected, errors = self.answers(float_graph, "fp32", self.probe), dict[str, float]()
        for done, layer in enumerate(self.layers):
            self.shop.say(f"sensitivity of {layer}", done, len(self.layers))
            try:
                path = self.make([other for other in self.layers if other != layer])
            except TechniqueError:
                errors[layer] = 0.0  # nothing of it is quantized
            else:
                errors[layer] = float(np.square(self.answers(path, "int8", self.probe) - expected).mean())
        return sorted(self.layers, key=lambda layer: -errors[layer])

    def _enough(self, order: list[str]) -> list[str] | None:
        """So many of the first, doubled until the budget is met and then halved back."""
        failed, count = 0, 1
        while True:
            count = min(count, len(order) - 1)
            if count <= failed or self.scored >= self.limit:
                return None
            if self._meets(order[:count]):
                break
            failed, count = count, 2 * count
        while count - failed > 1 and self.scored < self.limit:
            middle = (failed + count) // 2
            if self._meets(order[:middle]):
                count = middle
            else:
                failed = middle
        return order[:count]

    def _needed(self, kept: list[str]) -> dict[str, float | None]:
        """Each of them in int8 again, the least sensitive first: it stays in int8 where the budget is still met."""
        losses: dict[str, float | None] = dict.fromkeys(kept)
        for layer in reversed(kept):
            if self.scored >= self.limit or len(losses) == 1:
                break
            outputs = self._scored([other for other in losses if other != layer])
            if self.shop.within_budget(outputs):
                del losses[layer]
            else:
                losses[layer] = self.shop.loss(outputs)["value"]
        return losses

    def _meets(self, in_float: Sequence[str]) -> bool:
        return self.shop.within_budget(self._scored(in_float))

    def _scored(self, in_float: Sequence[str]) -> np.ndarray:
        """Answers to the validation rows with these layers in float."""
        self.shop.say(f"{len(in_float)} layers in float", self.scored, self.limit)
        self.scored += 1
        return self.answers(self.make(in_float), "int8", None)
