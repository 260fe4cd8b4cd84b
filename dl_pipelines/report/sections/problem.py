"""1. Architectures beside each other: only what was trained in this run has figures."""

from __future__ import annotations

from dl_pipelines.evaluation.wording import number
from dl_pipelines.models.registry import FAMILIES
from dl_pipelines.report.cells import Cell, Found, not_applicable, not_measured
from dl_pipelines.report.facts import Facts
from dl_pipelines.report.sections.evaluation import estimate
from dl_pipelines.report.sections.opening import said

ROWS = {
    "CNN (ConvNet)": "CNN", "RNN/LSTM/GRU": "RNN", "Transformer": "TRANS", "GAN": "GAN", "Autoencoder": "AE",
    "Custom Hybrid": "CUSTOM",
}  # fmt: skip
_COLUMNS = ("FIT", "PARAMS", "TRAIN", "INFER", "ACC")


def cells(facts: Facts) -> dict[str, Cell]:
    """The table's cells; the family of the brief is the row that was measured."""
    family = facts.brief["architecture"]["family"]["name"]
    row, name = FAMILIES.load(family).template_row, said(family)
    trained = ROWS.get(row, "CUSTOM")
    made: dict[str, Cell] = {}
    for prefix in ROWS.values():
        if prefix == trained:
            made |= {f"{prefix}_{column}": cell for column, cell in zip(_COLUMNS, _measured(facts), strict=True)}
        else:
            made |= {f"{prefix}_{column}": not_measured(f"only the {name} was trained") for column in _COLUMNS}
    return made


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
