"""1. Architectures beside each other: as the comparison measured them; without one, the family that was trained."""

from __future__ import annotations

from dl_pipelines.evaluation.wording import number
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.report.cells import Cell, Extra, Found, not_applicable, not_measured
from dl_pipelines.report.facts import Facts
from dl_pipelines.report.sections.comparison import STAGE, candidates, compared, row_cells
from dl_pipelines.report.sections.evaluation import estimate
from dl_pipelines.report.sections.opening import said

ROWS = {
    "CNN (ConvNet)": "CNN", "RNN/LSTM/GRU": "RNN", "Transformer": "TRANS", "GAN": "GAN", "Autoencoder": "AE",
    "Custom Hybrid": "CUSTOM",
}  # fmt: skip
_COLUMNS = ("FIT", "PARAMS", "TRAIN", "INFER", "ACC")


def cells(facts: Facts) -> dict[str, Cell]:
    """The table's cells."""
    made: dict[str, Cell] = {}
    rows = _compared(facts) if compared(facts) else _trained(facts)
    for prefix, found in rows.items():
        made |= {f"{prefix}_{column}": cell for column, cell in zip(_COLUMNS, found, strict=True)}
    return made


def extras(facts: Facts) -> list[Extra]:
    """Every candidate, where there were some."""
    return candidates(facts)


def _compared(facts: Facts) -> dict[str, tuple[Cell, ...]]:
    return {prefix: row_cells(facts, row) for row, prefix in ROWS.items()}


def _trained(facts: Facts) -> dict[str, tuple[Cell, ...]]:
    """The family that was trained is the row that was measured."""
    found = facts.find("trained_model", "model.json#/family/name")
    family = found.value if isinstance(found, Found) else facts.brief["architecture"]["family"]["name"]
    why = not_measured(f"only the {said(family)} was trained")
    if facts.brief["architecture"]["comparison"]["candidates"]:
        missing = facts.find(STAGE, "comparison.json")
        why = missing if isinstance(missing, Cell) else why
    mine = ROWS.get(FAMILIES.load(family).template_row, "CUSTOM")
    return {prefix: _measured(facts) if prefix == mine else (why,) * len(_COLUMNS) for prefix in ROWS.values()}


def _measured(facts: Facts) -> tuple[Cell, ...]:
    parameters = facts.find("trained_model", "model.json#/parameters")
    seconds = facts.find("trained_model", "outcome.json#/measured/seconds")
    latency = facts.find("compressed_model", "outcome.json#/measured/baseline/latency_p50_ms")
    return (
        not_measured("a fit needs other families to compare with; only this one was trained"),
        parameters.cell("parameters", lambda count: number(count / 1e6), f"({number(parameters.value)})")
        if isinstance(parameters, Found) else parameters,
        seconds.cell("s", lambda value: number(value / 3600), f"({number(seconds.value)} s)")
        if isinstance(seconds, Found) else seconds,
        latency.cell("ms", note="(p50, one row, fp32 in ONNX Runtime)") if isinstance(latency, Found) else latency,
        _accuracy(facts),
    )  # fmt: skip


def _accuracy(facts: Facts) -> Cell:
    metric = facts.metric("ACC")
    if metric is None:
        return not_applicable("this task has no accuracy")
    return estimate(facts, "evaluation", ("metrics.json", "test"), metric, "Accuracy").noted("(test rows)")
