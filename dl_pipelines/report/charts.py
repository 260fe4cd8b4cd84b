"""Charts as inline SVG. Colours are classes, so that the page's light and dark style sheets decide them."""

from __future__ import annotations

from typing import Any

from dl_pipelines.evaluation import pictures
from dl_pipelines.evaluation.svg import drawing, label, line_chart, safe
from dl_pipelines.evaluation.wording import in_unit, number, percent
from dl_pipelines.report.cells import Found
from dl_pipelines.report.collect import Facts
from dl_pipelines.report.figures import figure, keys
from dl_pipelines.report.sections.ablation import STAGE, compared


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
        show = _percent if facts.metrics[facts.primary].unit == "share" else number
        drawn += line_chart(f"Validation {facts.primary} by epoch", epochs, {"validation": primary}, show, first=1)
    return figure(drawn, "Training curves; the loss of train batches is with augmentation and dropout.")


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


def evaluated(facts: Facts) -> list[Any]:
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
        (pictures.by_horizon(known, *given), "Errors on test rows by steps ahead, with intervals."),
        (
            pictures.backtest(known, *given),
            "Rolling origins of the test rows, each without what came later.",
        ),
        (pictures.baselines(others, *given), "Test rows, with intervals; the same rows for each."),
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
    drawn = pictures.effects(title, rows, lambda value: in_unit(value, unit))
    return figure(
        drawn,
        "Trainings with all and without each augmentation, above 0: better; an interval across 0 shows no effect.",
    )


def ledger_rows(facts: Facts) -> list[dict[str, Any]]:
    """The compression ledger; empty when nothing was compressed."""
    found = facts.find("compressed_model", "outcome.json#/measured/ledger")
    return found.value if isinstance(found, Found) else []


def ledger(facts: Facts) -> Any:
    """Latency with its interval against the primary metric, a point for each row of the ledger."""
    rows = [row for row in ledger_rows(facts) if row["latency_p50_ms"] is not None and facts.primary in row["metrics"]]
    if not rows:
        return None
    width, height, left, right = 760, 44 + 34 * len(rows), 250, 230
    most = max(row["latency_high"] for row in rows) * 1.05
    scale = (width - left - right) / most
    share = facts.metrics[facts.primary].unit == "share"
    parts = [
        label(left, 20, "latency p50 with its interval, ms a row", "axis-name"),
        label(width - 8, 20, f"validation {facts.primary}", "end axis-name"),
    ]
    for place, row in enumerate(rows):
        y = 50 + place * 34
        kind = "chosen" if row["chosen"] else "kept" if row["kept"] else "rejected"
        estimate = row["metrics"][facts.primary]
        end = left + row["latency_p50_ms"] * scale
        low, high = left + row["latency_low"] * scale, left + row["latency_high"] * scale
        parts += [
            label(left - 8, y + 4, f"{row['variant']} · {row['runtime']}", "end"),
            f'<rect class="bar {kind}" x="{left}" y="{y - 8}" width="{max(1, end - left):.1f}" height="16" rx="3">'
            f"<title>{safe(row['reason'])}</title></rect>",
            f'<path class="whisker" d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 4}v8M{high:.1f} {y - 4}v8"/>',
            label(max(end, high) + 8, y + 4, number(row["latency_p50_ms"]), "value"),
            label(width - 8, y + 4, _range(estimate, share), "end value"),
        ]
    drawn = drawing(parts, width, height, "Latency and accuracy of every variant tried", wide=True)
    legend = keys([("chosen", "serves"), ("kept", "could serve"), ("rejected", "rejected")])
    return figure(drawn, "What was tried: one row at a time, in the process, on validation rows.", legend)


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


def _percent(value: float) -> str:
    return f"{percent(value)}%"


def _range(estimate: dict[str, float], share: bool) -> str:
    show = percent if share else number
    return f"{show(estimate['value'])} [{show(estimate['low'])}, {show(estimate['high'])}]"
