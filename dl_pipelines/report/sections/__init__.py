"""One file per section of the template: from plain data to cells by placeholder. Nothing here reads a file."""

from __future__ import annotations

from collections.abc import Callable

from dl_pipelines.report.cells import Cell, Extra
from dl_pipelines.report.facts import Facts
from dl_pipelines.report.sections import (
    architecture,
    compression,
    data,
    distributed,
    evaluation,
    lifecycle,
    monitoring,
    opening,
    problem,
    rates,
    serving,
    study,
    training,
)

Make = Callable[[Facts], dict[str, Cell]]

SECTIONS: tuple[Make, ...] = (
    opening.cells, problem.cells, data.cells, architecture.cells, training.cells, distributed.cells,
    evaluation.cells, compression.cells, serving.cells, monitoring.cells, lifecycle.cells,
)  # fmt: skip
"""The opening sentence, then the ten."""


def all_cells(facts: Facts) -> dict[str, Cell]:
    """A cell for every placeholder of the template."""
    cells: dict[str, Cell] = {}
    for make in SECTIONS:
        made = make(facts)
        assert not cells.keys() & made.keys(), f"two cells for {sorted(cells.keys() & made.keys())}"
        cells |= made
    return cells


def all_extras(facts: Facts) -> dict[int, list[Extra]]:
    """Tables of ours by the number of the section that they stand behind."""
    return {
        1: problem.extras(facts), 2: data.extras(facts), 3: architecture.extras(facts), 4: study.extras(facts),
        5: distributed.extras(facts),
        6: evaluation.extras(facts), 7: compression.extras(facts), 8: rates.extras(facts), 10: lifecycle.extras(facts),
    }  # fmt: skip
