"""10. When the model is trained again, what decides who takes over, and how to go back."""

from __future__ import annotations

from dl_pipelines.evaluation.wording import number, percent, plural
from dl_pipelines.report.cells import Cell, not_applicable, not_measured, told
from dl_pipelines.report.facts import REPORT, Facts, library
from dl_pipelines.report.sections.opening import said

_COLUMNS = ("FREQ", "TRIGGER", "PROCESS", "VAL", "ROLLBACK")


def cells(facts: Facts) -> dict[str, Cell]:
    """The table's cells."""
    family = said(facts.brief["architecture"]["family"]["name"])
    rows = {
        "RETRAIN": _retraining(facts),
        "TUNE": _fine_tuning(facts),
        "AB": _promotion(facts),
        "ARCH": (not_measured(f"only the {family} was trained; no comparison was run"),) * 5,
        "FEAT": _features(facts),
    }
    return {
        f"{prefix}_{column}": cell for prefix, row in rows.items() for column, cell in zip(_COLUMNS, row, strict=True)
    }


def _rollback() -> Cell:
    return told("the version that last served gets the traffic back, byte for byte", library("serving.champion"))


def _retraining(facts: Facts) -> tuple[Cell, ...]:
    hour, drift = facts.of_brief("lifecycle", "retrain_hour"), facts.of_brief("lifecycle", "retrain_on_drift")
    window = facts.of_brief("data", "window_days")
    start = "from new weights" if facts.brief["training"]["warm_epochs"] is None else "from the last model's weights"
    length = f"the last {window.value} days" if window.value else "all history"
    return (
        told(f"daily at {hour.value:02d}:00 {facts.brief['data']['timezone']}", hour.source),
        told("the schedule" + ("; a drift alarm" if drift.value else ""), hour.source, drift.source),
        told(f"trained {start} on {length}, evaluated, compressed, published without traffic",
             window.source, library("training.train")),
        told("every blocking gate: schema, no leak, finite, parity, live parity", library("store.artifacts")),
        _rollback(),
    )  # fmt: skip


def _fine_tuning(facts: Facts) -> tuple[Cell, ...]:
    epochs = facts.of_brief("training", "warm_epochs")
    if epochs.value is None:
        return (not_applicable("every retraining starts from new weights"),) * 5
    frequency, trigger, _, validation, rollback = _retraining(facts)
    return (
        frequency, trigger,
        told(f"{plural(epochs.value, 'epoch')} from the weights of the experiment's last model, where there is one",
             epochs.source, library("training.train")),
        validation, rollback,
    )  # fmt: skip


def _features(facts: Facts) -> tuple[Cell, ...]:
    by_hand = facts.find(REPORT, "described.json#/told/features")
    if isinstance(by_hand, Cell):
        return (not_applicable("the network learns its features from raw inputs"),) * 5
    frequency, trigger, _, validation, rollback = _retraining(facts)
    process = told(f"{by_hand.value}; what they know of the data is fitted anew with each model", by_hand.source)
    return (frequency, trigger, process, validation, rollback)


def _promotion(facts: Facts) -> tuple[Cell, ...]:
    mode, margin = facts.of_brief("lifecycle", "promotion"), facts.of_brief("lifecycle", "margin")
    sure = facts.of_brief("lifecycle", "confidence")
    better = "difference" if facts.metrics[facts.primary].better == "higher" else "decrease"
    return (
        told("each newly published model, against the champion", library("lifecycle")),
        told("a newer model than the champion", library("lifecycle")),
        told("both answer the same held-out validation rows, paired; live traffic is not split; promotion: "
             f"{mode.value}", mode.source, library("lifecycle")),
        told(f"the {percent(sure.value)}% interval of the {better} in {facts.primary} lies above "
             f"{number(-margin.value) if margin.value else 0}",
             sure.source, margin.source),
        _rollback(),
    )  # fmt: skip
