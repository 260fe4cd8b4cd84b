"""Charts as inline SVG. Colours are classes, so that the page's light and dark style sheets decide them."""

from __future__ import annotations

import re
from typing import Any

from dl_pipelines.evaluation.svg import drawing, label, line_chart, safe
from dl_pipelines.evaluation.wording import in_unit, number
from dl_pipelines.report.cells import Found
from dl_pipelines.report.facts import Facts
from dl_pipelines.report.figures import figure, keys


def training_curves(facts: Facts) -> Any:
    """Loss of train batches and validation rows, and the primary metric, by epoch."""
    found = facts.find("trained_model", "curves.json")
    if not isinstance(found, Found) or len(found.value) < 2:
        return None
    epochs = [line["epoch"] for line in found.value]
    loss = {"train": [line["train_loss"] for line in found.value]}
    if all("loss" in line["validation"] for line in found.value):
        loss["validation"] = [line["validation"]["loss"] for line in found.value]
    drawn = line_chart("Loss by epoch", epochs, loss, number)
    if all(facts.primary in line["validation"] for line in found.value):
        primary = [line["validation"][facts.primary] for line in found.value]
        unit, name = facts.metrics[facts.primary].unit, f"Validation {facts.primary} by epoch"
        drawn += line_chart(name, epochs, {"validation": primary}, lambda value: in_unit(value, unit), first=1)
    return figure(drawn, "Training curves; the loss of train batches is with augmentation and dropout.")


def experiment(facts: Facts) -> Any:
    """The evidence of the model's own live experiment as it grew, in the page's colours."""
    found = facts.find("ab_experiment", "evidence.svg#")
    if not isinstance(found, Found):
        return None
    bare = re.sub("<style>.*?</style>", "", found.value)
    return figure(bare, "Live experiment: the difference so far, and what it may be however often one looks.")


def drift(facts: Facts) -> Any:
    """Each feature's statistic as a share of its threshold, by live window."""
    found = facts.find("drift_report", "report.json#/windows")
    if not isinstance(found, Found):
        return None
    windows = [
        (window["name"], window["decision"], _ratios(window))
        for window in found.value
        if any(item.get("threshold") for item in window.get("features", []))
    ]
    if not windows:
        return None
    names = list(dict.fromkeys(name for _, _, ratios in windows for name in ratios))
    width, left, step = 700, 150, 14 * len(windows) + 12
    height = 40 + step * len(names)
    most = max(1.5, min(8.0, max(max(ratios.values(), default=0) for _, _, ratios in windows) * 1.05))
    scale = (width - left - 70) / most
    limit = left + scale
    parts = [
        f'<path class="limit" d="M{limit:.1f} 24V{height - 8}"/>', label(limit, 18, "threshold", "middle axis-name"),
    ]  # fmt: skip
    for place, name in enumerate(names):
        y = 34 + place * step
        parts.append(label(left - 8, y + 7 * len(windows) + 3, name, "end"))
        for row, (window, _, ratios) in enumerate(windows):
            if name not in ratios:
                continue
            ratio, top = ratios[name], y + 14 * row
            length = max(1.0, min(ratio, most) * scale)
            over = " over" if ratio > 1 else ""
            parts.append(
                f'<rect class="bar series-{row % 4}{over}" x="{left}" y="{top}" width="{length:.1f}" height="11">'
                f"<title>{safe(window)}: {safe(name)} at {number(round(ratio, 3))} times its threshold</title></rect>"
            )
            parts.append(label(left + length + 6, top + 9, f"{ratio:.2f}", "value small"))
    drawn = drawing(parts, width, height, "Drift by feature against its threshold", wide=True)
    legend = keys([(f"series-{place % 4}", f"{name}: {decision}") for place, (name, decision, _) in enumerate(windows)])
    return figure(drawn, "Drift statistic divided by its threshold; beyond 1 a feature has drifted.", legend)


def _ratios(window: dict[str, Any]) -> dict[str, float]:
    return {
        item["name"]: item["value"] / item["threshold"]
        for item in window.get("features", [])
        if item.get("threshold") and item.get("value") is not None
    }
