"""10. When the model is trained again, what decides who takes over, and how to go back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from dl_pipelines.evaluation.wording import number, percent, plural
from dl_pipelines.report.cells import Cell, Extra, Source, not_applicable, not_measured, told
from dl_pipelines.report.facts import REPORT, Facts, library
from dl_pipelines.report.sections import comparison
from dl_pipelines.report.sections.opening import said

STAGE, FILE = "ab_experiment", "experiment.json"
TITLE, FOLDED = "Live experiments: every challenger that was tried", 8
_COLUMNS = ("FREQ", "TRIGGER", "PROCESS", "VAL", "ROLLBACK")


def cells(facts: Facts) -> dict[str, Cell]:
    """The table's cells."""
    rows = {
        "RETRAIN": _retraining(facts),
        "TUNE": _fine_tuning(facts),
        "AB": _promotion(facts),
        "ARCH": _architecture(facts),
        "FEAT": _features(facts),
    }
    return {
        f"{prefix}_{column}": cell for prefix, row in rows.items() for column, cell in zip(_COLUMNS, row, strict=True)
    }


def _rollback() -> Cell:
    return told("the version that last served gets the traffic back, byte for byte", library("serving.traffic"))


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


def _architecture(facts: Facts) -> tuple[Cell, ...]:
    """When another family takes over: as the comparison of section 1 is made, and what it came to."""
    asked, found = facts.of_brief("architecture", "comparison"), comparison.compared(facts)
    if found is None:
        family = said(facts.brief["architecture"]["family"]["name"])
        missing = facts.find(comparison.STAGE, "comparison.json") if asked.value["candidates"] else None
        why = not_measured(f"only the {family} was trained; no comparison was run")
        return (missing if isinstance(missing, Cell) else why,) * 5
    best = "is trained from then on" if asked.value["choose"] else "is told, and the brief's own family trained"
    source = comparison.source(facts)
    return (
        told(f"every {plural(asked.value['keep_days'], 'day')}; models of the days between go by the same comparison",
             asked.source),
        told("the first model after that, or other candidates or settings in the brief", asked.source),
        told(f"{plural(len(found['rows']), 'candidate')}, {plural(found['seeds'], 'seed')} each, trained alike on the "
             f"same train rows; the best one {best}", source, asked.source),
        told(f"by validation rows only: {found['why']}; then as every retraining", source),
        _rollback(),
    )  # fmt: skip


def _features(facts: Facts) -> tuple[Cell, ...]:
    by_hand = facts.find(REPORT, "described.json#/told/features")
    if isinstance(by_hand, Cell):
        return (not_applicable("the network learns its features from raw inputs"),) * 5
    frequency, trigger, _, validation, rollback = _retraining(facts)
    process = told(f"{by_hand.value}; what they know of the data is fitted anew with each model", by_hand.source)
    return (frequency, trigger, process, validation, rollback)


def _promotion(facts: Facts) -> tuple[Cell, ...]:
    if facts.brief["lifecycle"].get("evidence") == "live":
        return _experiments(facts)
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


def _experiments(facts: Facts) -> tuple[Cell, ...]:
    """Of a project whose challengers are tried live."""
    mode, given = facts.of_brief("lifecycle", "promotion"), facts.of_brief("lifecycle", "rollout")
    rules, margin = given.value, facts.of_brief("lifecycle", "margin")
    shares = ", ".join("shadow" if share == 0 else f"{percent(share)}%" for share in rules["shares"])
    return (
        told(
            "each newly published model that is not worse on held-out rows, one at a time",
            library("lifecycle.experiment"),
        ),
        told("a newer model than the champion; it waits while another is tried", library("lifecycle.experiment")),
        told(
            f"stages of {shares} of the units, then all; at least {number(rules['min_units'])} units and "
            f"{number(rules['min_hours'])} h each, labels after {number(rules['label_hours'])} h; by assigned arm; "
            f"promotion: {mode.value}",
            given.source, mode.source,
        ),
        told(
            f"at alpha {number(rules['alpha'])}, however often it is looked at: the lower bound of the difference lies "
            f"above {number(-margin.value) if margin.value else 0} and no guardrail (failures, latency) is worse; "
            f"{_tried(facts)}",
            given.source, margin.source, *_sources(facts),
        ),
        _taken_out(facts),
    )  # fmt: skip


def _tried(facts: Facts) -> str:
    """How many experiments there were, and what this model's own came to."""
    found, own = facts.find(STAGE, f"{FILE}#/experiments"), facts.find(STAGE, f"{FILE}#/state")
    if isinstance(found, Cell) or not found.value:
        return "no experiment so far"
    states = Counter(item["state"].replace("_", " ") for item in found.value)
    counted = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    mine = "" if isinstance(own, Cell) else f"; this model's: {own.value.replace('_', ' ')}"
    return f"{plural(len(found.value), 'experiment')} so far: {counted}{mine}"


def _sources(facts: Facts) -> list[Source]:
    found = facts.find(STAGE, f"{FILE}#/experiments")
    return [] if isinstance(found, Cell) else [found.source]


def _taken_out(facts: Facts) -> Cell:
    found = facts.find(STAGE, f"{FILE}#/experiments")
    if isinstance(found, Cell):
        return _rollback()
    ended = [item["seconds"] for item in found.value if item["state"] == "rolled_back" and item["seconds"] is not None]
    last = f"the last time {number(ended[-1])} s after the decision" if ended else "which has not happened yet"
    return told(
        f"shown harm (score, failures, latency, an open breaker) takes the challenger out, in manual mode too, {last}; "
        "`dlp rollback` gives the version that last served the traffic back, byte for byte",
        found.source, library("serving.traffic"),
    )  # fmt: skip


def extras(facts: Facts) -> list[Extra]:
    """The ledger of live experiments; nothing where none was."""
    found = facts.find(STAGE, f"{FILE}#/experiments")
    if isinstance(found, Cell) or not found.value:
        return []
    rows = [(item["challenger"], _line(facts, place, item)) for place, item in enumerate(found.value)]
    return [Extra(TITLE, ("Challenger", "Against", "Began", "Came to", "By", "Why"), rows, folded=len(rows) > FOLDED)]


def _line(facts: Facts, place: int, item: Mapping[str, Any]) -> list[Cell]:
    def cell(name: str, text: str) -> Cell:
        found = facts.find(STAGE, f"{FILE}#/experiments/{place}/{name}")
        return found if isinstance(found, Cell) else told(text, found.source)

    return [
        cell("champion", str(item["champion"])),
        cell("began", f"{item['began'][:16].replace('T', ' ')} UTC"),
        cell("state", f"{item['state'].replace('_', ' ')} in stage {item['stage']}"),
        cell("by", str(item["by"])) if item["by"] else not_measured("it has not ended"),
        cell("reason", str(item["reason"])),
    ]
