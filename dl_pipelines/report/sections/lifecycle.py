"""10. When the model is trained again, what decides who takes over, and how to go back."""

from __future__ import annotations

from dl_pipelines.report.cells import Cell, not_applicable, not_measured, number, percent, told
from dl_pipelines.report.collect import Facts, library

_COLUMNS = ("FREQ", "TRIGGER", "PROCESS", "VAL", "ROLLBACK")


def cells(facts: Facts) -> dict[str, Cell]:
    """The table's cells."""
    family = facts.brief["architecture"]["family"]["name"].upper()
    rows = {
        "RETRAIN": _retraining(facts),
        "TUNE": (not_applicable("every retraining starts from new weights"),) * 5,
        "AB": _promotion(facts),
        "ARCH": (not_measured(f"only the {family} was trained; no comparison was run"),) * 5,
        "FEAT": (not_applicable("the network learns its features from raw inputs"),) * 5,
    }
    return {
        f"{prefix}_{column}": cell for prefix, row in rows.items() for column, cell in zip(_COLUMNS, row, strict=True)
    }


def _rollback() -> Cell:
    return told("the version that last served gets the traffic back, byte for byte", library("serving.champion"))


def _retraining(facts: Facts) -> tuple[Cell, ...]:
    hour, drift = facts.of_brief("lifecycle", "retrain_hour"), facts.of_brief("lifecycle", "retrain_on_drift")
    window = facts.of_brief("data", "window_days")
    length = f"the last {window.value} days" if window.value else "all history"
    return (
        told(f"daily at {hour.value:02d}:00 {facts.brief['data']['timezone']}", hour.source),
        told("the schedule" + ("; a drift alarm" if drift.value else ""), hour.source, drift.source),
        told(f"trained from new weights on {length}, evaluated, compressed, published without traffic",
             window.source, library("training.train")),
        told("every blocking gate: schema, no leak, finite, parity, live parity", library("store.artifacts")),
        _rollback(),
    )  # fmt: skip


def _promotion(facts: Facts) -> tuple[Cell, ...]:
    mode, margin = facts.of_brief("lifecycle", "promotion"), facts.of_brief("lifecycle", "margin")
    sure = facts.of_brief("lifecycle", "confidence")
    return (
        told("each newly published model, against the champion", library("lifecycle")),
        told("a newer model than the champion", library("lifecycle")),
        told("both answer the same held-out validation rows, paired; live traffic is not split; promotion: "
             f"{mode.value}", mode.source, library("lifecycle")),
        told(f"the {percent(sure.value)}% interval of the difference in {facts.primary} lies above "
             f"-{number(margin.value)}" if margin.value else
             f"the {percent(sure.value)}% interval of the difference in {facts.primary} lies above 0",
             sure.source, margin.source),
        _rollback(),
    )  # fmt: skip
