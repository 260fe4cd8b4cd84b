"""Figures of what was evaluated: the confusion matrix, calibration, and every picture that there is data of."""

from __future__ import annotations

from typing import Any

from dl_pipelines.evaluation import bars, pictures
from dl_pipelines.evaluation.svg import drawing, label, safe
from dl_pipelines.evaluation.wording import in_unit, percent
from dl_pipelines.report.cells import Found
from dl_pipelines.report.facts import Facts
from dl_pipelines.report.figures import figure
from dl_pipelines.report.sections.ablation import STAGE, compared


def confusion(facts: Facts) -> Any:
    """Counts of test rows by true class and decision."""
    found = facts.find("evaluation", "confusion.json")
    if not isinstance(found, Found) or not 2 <= len(found.value["labels"]) <= 30:
        return None
    labels, counts = found.value["labels"], found.value["counts"]
    size, margin = max(16, min(28, 420 // len(labels))), 60
    most = max(max(row) for row in counts) or 1
    parts = []
    for row, line in enumerate(counts):
        for column, count in enumerate(line):
            x, y = margin + column * size, 30 + row * size
            kind = "right" if row == column else "wrong"
            shade = 0.12 + 0.88 * count / most if count else 0
            deep = " deep" if shade > 0.55 else ""
            parts.append(
                f'<rect class="{kind}" x="{x}" y="{y}" width="{size - 1}" height="{size - 1}" rx="2" '
                f'fill-opacity="{shade:.2f}"><title>{safe(labels[row])} taken for {safe(labels[column])}: '
                f"{count}</title></rect>"
            )
            if count:
                parts.append(label(x + size / 2, y + size / 2 + 4, str(count), f"middle count{deep}"))
    for place, name in enumerate(labels):
        at = place * size + size / 2
        parts.append(label(margin - 6, 30 + at + 4, name[:8], "end"))
        parts.append(label(margin + at, 30 + len(labels) * size + 14, name[:4], "middle"))
    side = len(labels) * size
    parts.append(label(margin, 16, "Confusion matrix", "title"))
    parts.append(label(margin + side / 2, 30 + side + 30, "decided", "middle axis-name"))
    parts.append(
        f'<text class="middle axis-name" transform="translate(14 {30 + side / 2:.1f}) rotate(-90)">true</text>'
    )
    drawn = drawing(parts, margin + side + 10, side + 66, "Confusion matrix on test rows") + _reliability(facts)
    return figure(drawn, "Test rows by true class and decision, and how often a confidence came true; trained model.")


def _reliability(facts: Facts) -> str:
    """A point for each bin of confidence, its area the rows in it; on the diagonal, confidence can be believed."""
    found = facts.find("evaluation", "calibration.json")
    if not isinstance(found, Found) or not found.value:
        return ""
    left, top, side = 50, 30, 250
    parts = [f'<path class="limit" d="M{left} {top + side}L{left + side} {top}"/>']
    for share in (0, 0.5, 1):
        at = side * share
        parts.append(f'<path class="grid" d="M{left} {top + at:g}h{side}"/>')
        parts.append(label(left - 6, top + side - at + 4, _percent(share), "end"))
        parts.append(label(left + at, top + side + 16, _percent(share), "middle"))
    most = max(item["rows"] for item in found.value)
    for item in found.value:
        x, y = left + side * item["confidence"], top + side * (1 - item["accuracy"])
        radius = 3 + 9 * (item["rows"] / most) ** 0.5
        parts.append(
            f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{item["rows"]} rows: confidence '
            f"{_percent(item['confidence'])}, right {_percent(item['accuracy'])}</title></circle>"
        )
    parts.append(label(left, 16, "Right, by confidence", "title"))
    parts.append(label(left + side / 2, top + side + 34, "confidence", "middle axis-name"))
    return drawing(parts, left + side + 24, top + side + 44, "Calibration on test rows")


def pictured(facts: Facts) -> list[Any]:
    """Forecasts, errors by horizon and over time, bars of baselines: whatever the evaluation has data of."""
    details, compared = facts.find("evaluation", "details.json"), facts.find("evaluation", "against.json")
    known = details.value if isinstance(details, Found) else {}
    others = compared.value if isinstance(compared, Found) else {}
    given = facts.metrics, facts.simulated
    kinds = (
        (
            pictures.forecasts(known, facts.simulated),
            "Forecasts of the last test origin, and what came to pass.",
        ),
        (pictures.by_horizon(known, *given), "Test rows by how far ahead, with intervals."),
        (
            pictures.backtest(known, *given),
            "Backtest: rolling origins of the test rows, each forecast without what came later.",
        ),
        (bars.baselines(others, *given), "Test rows, with intervals; the same rows for each."),
    )
    return [figure("".join(drawn for _, drawn in found), caption) for found, caption in kinds if found]


def ablation(facts: Facts) -> Any:
    """What each augmentation is worth, with its interval."""
    found = facts.find(STAGE, "ablation.json")
    if not isinstance(found, Found):
        return None
    rows = [(name, row["effect"]) for name, (_, row) in compared(found.value).items()]
    if not rows:
        return None
    metric = facts.metrics.get(found.value["metric"])
    unit, name = (metric.unit, metric.label) if metric else ("", found.value["metric"])
    title = f"Effect on {name}{' (simulated)' if facts.simulated else ''}"
    drawn = bars.effects(title, rows, lambda value: in_unit(value, unit))
    return figure(
        drawn,
        "Trainings with all and without each augmentation, above 0: better; an interval across 0 shows no effect.",
    )


def _percent(value: float) -> str:
    return f"{percent(value)}%"
