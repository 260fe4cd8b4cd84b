"""Charts as inline SVG. Colours are classes, so that the page's light and dark style sheets decide them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dl_pipelines.report.cells import Found, number, percent
from dl_pipelines.report.collect import Facts

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 26, 36


def training_curves(facts: Facts) -> Any:
    """Loss of train batches and validation rows, and the primary metric, by epoch."""
    found = facts.find("trained_model", "curves.json")
    if not isinstance(found, Found) or len(found.value) < 2:
        return None
    epochs = [line["epoch"] for line in found.value]
    loss = {"train": [line["train_loss"] for line in found.value]}
    if all("loss" in line["validation"] for line in found.value):
        loss["validation"] = [line["validation"]["loss"] for line in found.value]
    drawn = _lines("Loss by epoch", epochs, loss, number)
    if all(facts.primary in line["validation"] for line in found.value):
        primary = [line["validation"][facts.primary] for line in found.value]
        show = _percent if facts.metrics[facts.primary].unit == "share" else number
        drawn += _lines(f"Validation {facts.primary} by epoch", epochs, {"validation": primary}, show, first=1)
    return _figure(drawn, "Training curves; the loss of train batches is with augmentation and dropout.")


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
                f'fill-opacity="{shade:.2f}"><title>{_text(labels[row])} taken for {_text(labels[column])}: {count}</title>'
                f"</rect>"
            )
            if count:
                parts.append(_label(x + size / 2, y + size / 2 + 4, str(count), f"middle count{deep}"))
    for place, name in enumerate(labels):
        at = place * size + size / 2
        parts.append(_label(margin - 6, 30 + at + 4, name[:8], "end"))
        parts.append(_label(margin + at, 30 + len(labels) * size + 14, name[:4], "middle"))
    side = len(labels) * size
    parts.append(_label(margin + side / 2, 30 + side + 30, "decided", "middle axis-name"))
    parts.append(
        f'<text class="middle axis-name" transform="translate(14 {30 + side / 2:.1f}) rotate(-90)">true</text>'
    )
    drawn = _svg(parts, margin + side + 10, side + 66, "Confusion matrix on test rows")
    return _figure(drawn, "Test rows by true class and decision, through the trained model.")


def ledger_rows(facts: Facts) -> list[dict[str, Any]]:
    """The compression ledger; empty when nothing was compressed."""
    found = facts.find("compressed_model", "outcome.json#/measured/ledger")
    return found.value if isinstance(found, Found) else []


def ledger(facts: Facts) -> Any:
    """Latency with its interval against the primary metric, a point for each row of the ledger."""
    rows = [row for row in ledger_rows(facts) if row["latency_p50_ms"] is not None and facts.primary in row["metrics"]]
    if not rows:
        return None
    width, height, left, right = 700, 44 + 34 * len(rows), 250, 150
    most = max(row["latency_high"] for row in rows) * 1.05
    scale = (width - left - right) / most
    share = facts.metrics[facts.primary].unit == "share"
    parts = [
        _label(left, 20, "latency p50 with its interval, ms a row", "axis-name"),
        _label(width - 8, 20, f"validation {facts.primary}", "end axis-name"),
    ]
    for place, row in enumerate(rows):
        y = 50 + place * 34
        kind = "chosen" if row["chosen"] else "kept" if row["kept"] else "rejected"
        estimate = row["metrics"][facts.primary]
        end = left + row["latency_p50_ms"] * scale
        low, high = left + row["latency_low"] * scale, left + row["latency_high"] * scale
        parts += [
            _label(left - 8, y + 4, f"{row['variant']} · {row['runtime']}", "end"),
            f'<rect class="bar {kind}" x="{left}" y="{y - 8}" width="{max(1, end - left):.1f}" height="16" rx="3">'
            f"<title>{_text(row['reason'])}</title></rect>",
            f'<path class="whisker" d="M{low:.1f} {y}H{high:.1f}M{low:.1f} {y - 4}v8M{high:.1f} {y - 4}v8"/>',
            _label(max(end, high) + 8, y + 4, number(row["latency_p50_ms"]), "value"),
            _label(width - 8, y + 4, _range(estimate, share), "end value"),
        ]
    drawn = _svg(parts, width, height, "Latency and accuracy of every variant tried", wide=True)
    keys = _keys([("chosen", "serves"), ("kept", "could serve"), ("rejected", "rejected")])
    return _figure(drawn, "What was tried: one row at a time, in the process, on validation rows.", keys)


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
        f'<path class="limit" d="M{limit:.1f} 24V{height - 8}"/>', _label(limit, 18, "threshold", "middle axis-name"),
    ]  # fmt: skip
    for place, name in enumerate(names):
        y = 34 + place * step
        parts.append(_label(left - 8, y + 7 * len(windows) + 3, name, "end"))
        for row, (window, _, ratios) in enumerate(windows):
            if name not in ratios:
                continue
            ratio, top = ratios[name], y + 14 * row
            length = max(1.0, min(ratio, most) * scale)
            over = " over" if ratio > 1 else ""
            parts.append(
                f'<rect class="bar series-{row % 4}{over}" x="{left}" y="{top}" width="{length:.1f}" height="11" rx="2">'
                f"<title>{_text(window)}: {_text(name)} at {number(round(ratio, 3))} times its threshold</title></rect>"
            )
            parts.append(_label(left + length + 6, top + 9, f"{ratio:.2f}", "value small"))
    drawn = _svg(parts, width, height, "Drift by feature against its threshold", wide=True)
    keys = _keys([(f"series-{place % 4}", f"{name}: {decision}") for place, (name, decision, _) in enumerate(windows)])
    return _figure(drawn, "Drift statistic divided by its threshold; beyond 1 a feature has drifted.", keys)


def _ratios(window: dict[str, Any]) -> dict[str, float]:
    return {
        item["name"]: item["value"] / item["threshold"]
        for item in window.get("features", [])
        if item.get("threshold") and item.get("value") is not None
    }


def _lines(
    title: str, x: Sequence[float], series: dict[str, list[float]], show: Callable[[Any], str], first: int = 0
) -> str:
    values = [value for line in series.values() for value in line]
    low, high = (0.0, max(values)) if first == 0 else (min(values), max(values))
    span = (high - low) or 1.0
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(at: float, value: float) -> tuple[float, float]:
        return LEFT + across * (at - x[0]) / ((x[-1] - x[0]) or 1), TOP + down * (1 - (value - low) / span)

    parts = [_label(LEFT, 14, title, "title")]
    for share in (0, 0.5, 1):
        y = TOP + down * (1 - share)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(_label(LEFT - 6, y + 4, show(float(f"{low + span * share:.3g}")), "end"))
    for at in dict.fromkeys((x[0], x[len(x) // 2], x[-1])):
        parts.append(_label(place(at, low)[0], HEIGHT - BOTTOM + 16, str(at), "middle"))
    parts.append(_label(LEFT + across / 2, HEIGHT - 4, "epoch", "middle axis-name"))
    for number_, (name, line) in enumerate(series.items(), start=first):
        points = [place(at, value) for at, value in zip(x, line, strict=True)]
        path = "M" + "L".join(f"{across_:.1f} {down_:.1f}" for across_, down_ in points)
        parts.append(f'<path class="line stroke-{number_}" d="{path}"/>')
        parts += [
            f'<circle class="dot series-{number_}" cx="{a:.1f}" cy="{d:.1f}" r="2.5"><title>epoch {at}, {_text(name)}: '
            f"{show(value)}</title></circle>"
            for (a, d), at, value in zip(points, x, line, strict=True)
        ]
    if len(series) > 1:
        for number_, name in enumerate(series, start=first):
            y = TOP + 10 + 15 * (number_ - first)
            parts.append(
                f'<rect class="series-{number_}" x="{WIDTH - 104}" y="{y - 7}" width="10" height="10" rx="2"/>'
            )
            parts.append(_label(WIDTH - 90, y + 2, name, ""))
    return _svg(parts, WIDTH, HEIGHT, title)


def _svg(parts: list[str], width: float, height: float, title: str, wide: bool = False) -> str:
    return (
        f'<svg class="{"wide" if wide else "narrow"}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{_text(title)}">{"".join(parts)}</svg>'
    )


def _figure(drawn: str, caption: str, keys: str = "") -> Any:
    from markupsafe import Markup

    return Markup(f'<figure><div class="drawn">{drawn}</div>{keys}<figcaption>{_text(caption)}</figcaption></figure>')


def _keys(keys: list[tuple[str, str]]) -> str:
    inside = "".join(f'<span><i class="{kind}"></i>{_text(name)}</span>' for kind, name in keys)
    return f'<div class="keys">{inside}</div>'


def _label(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{_text(text)}</text>'


def _text(value: object) -> str:
    from html import escape

    return escape(str(value), quote=True)


def _percent(value: float) -> str:
    return f"{percent(value)}%"


def _range(estimate: dict[str, float], share: bool) -> str:
    show = percent if share else number
    return f"{show(estimate['value'])} [{show(estimate['low'])}, {show(estimate['high'])}]"
