"""9. What is watched, from which value on it alerts, how often, and who hears of it."""

from __future__ import annotations

from typing import Any

from dl_pipelines.evaluation.wording import number, percent
from dl_pipelines.report.cells import Cell, Found, not_applicable, not_measured, told
from dl_pipelines.report.facts import REPORT, Facts, library

_COLUMNS = ("METRICS", "THRESH", "FREQ", "RESPONSE", "ESCALATE")


def cells(facts: Facts) -> dict[str, Cell]:
    """The table's cells."""
    rows = {"PERF": _performance(facts), "DRIFT": _drift(facts), "PRED": _quality(facts)}
    rows["SYS"] = (not_measured("nothing watches the machine yet; Triton's own metrics are served on loopback"),) * 5
    rows["BIZ"] = (not_applicable("the brief names no business figure"),) * 5
    return {
        f"{prefix}_{column}": cell for prefix, row in rows.items() for column, cell in zip(_COLUMNS, row, strict=True)
    }


def _often(facts: Facts) -> Cell:
    hour = facts.of_brief("lifecycle", "retrain_hour")
    return told(f"each run of the line: daily at {hour.value:02d}:00 {facts.brief['data']['timezone']}", hour.source)


def _escalation(facts: Facts) -> Cell:
    webhook = facts.of_brief("monitoring", "webhook")
    if not webhook.value:
        return told("a line in the log and a row of alerts; the brief names no webhook", webhook.source)
    return told(f"the log, a row of alerts, the webhook {webhook.value}", webhook.source)


def _performance(facts: Facts) -> tuple[Cell, ...]:
    thresholds = facts.of_brief("evaluation", "thresholds")
    names = ", ".join(metric.name for metric in facts.metrics.values())
    limits = "; ".join(
        f"{name} {'≥' if facts.metrics[name].better == 'higher' else '≤'} {number(bound)}"
        for name, bound in thresholds.value.items()
    )
    return (
        told(f"{names} on live rows whose label has come", library("monitoring")),
        told(limits, thresholds.source) if limits else not_applicable("the brief sets no threshold"),
        _often(facts),
        told("with the next report: a check that warns", library("monitoring")),
        _escalation(facts),
    )


def _drift(facts: Facts) -> tuple[Cell, ...]:
    windows = facts.find("drift_report", "report.json#/windows")
    rate = facts.of_brief("monitoring", "false_alarms")
    least = facts.of_brief("monitoring", "min_records")
    on_drift = facts.of_brief("lifecycle", "retrain_on_drift")
    asked = (
        "at the drift sensor's next tick: one retraining is requested"
        if on_drift.value
        else "none: retrain_on_drift is off"
    )
    tail = (_often(facts), told(asked, on_drift.source), _escalation(facts))
    if isinstance(windows, Cell):
        return (windows, windows, *tail)
    features = _features(windows.value)
    if not features:
        why = not_measured(f"no window had {least.value} records")
        return (why, why, *tail)
    limits = ", ".join(f"{name} {number(limit)}" for name, limit in features.items())
    statistics = sorted({item["statistic"] for window in windows.value for item in window.get("features", [])})
    return (
        told(f"{', '.join(statistics)} of {', '.join(features)}", windows.source),
        told(f"{limits}; resampled from the reference for at most {percent(rate.value)}% false alarms a window",
             windows.source, rate.source),
        *tail,
    )  # fmt: skip


def _features(windows: list[dict[str, Any]]) -> dict[str, float]:
    """Thresholds by feature, of the first window that decided on each: residuals wait for labels."""
    found: dict[str, float] = {}
    for window in windows:
        for item in window.get("features", []):
            if item.get("threshold") is not None:
                found.setdefault(item["name"], item["threshold"])
    return found


def _quality(facts: Facts) -> tuple[Cell, ...]:
    gate = facts.find("prediction_log", "outcome.json#/gates")
    windows = facts.find(REPORT, "production.json#/windows")
    if isinstance(gate, Cell):
        return (gate, gate, _often(facts), gate, _escalation(facts))
    count = sum(window.get("labelled", 0) for window in windows.value) if isinstance(windows, Found) else 0
    return (
        told(f"every acknowledged answer is in the log; {count:,} of them have a label", gate.source),
        told("one missing answer", gate.source),
        _often(facts),
        told("at once: the stage fails, and nothing after it runs", gate.source),
        _escalation(facts),
    )
