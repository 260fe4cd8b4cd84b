"""2. What each augmentation is worth, with its interval, where the brief asked for it."""

from __future__ import annotations

from typing import Any

from dl_pipelines.evaluation.wording import in_unit, plural
from dl_pipelines.report.cells import Cell, Extra, Found, interval, not_measured, told
from dl_pipelines.report.facts import Facts, pointer

STAGE = "augmentation_ablation"
TITLE = "What each augmentation is worth"
_COLUMNS = ("Augmentation", "With", "Without", "Effect (above 0: better)", "Verdict")


def compared(found: dict[str, Any]) -> dict[str, tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Rows of an ablation by what was left out, each with where it is in `ablation.json`; last, all at once."""
    rows: dict[str, tuple[tuple[str | int, ...], dict[str, Any]]] = {}
    for place, row in enumerate(found["rows"]):
        rows[f"{row['augmentation']} ({row['where']})" if "where" in row else row["augmentation"]] = (
            ("rows", place),
            row,
        )
    if found.get("none"):
        rows["all of them"] = ("none",), found["none"]
    return rows


def ablation(facts: Facts) -> list[Extra]:
    """The effect of each augmentation, or why it was not measured; nothing where the brief names none."""
    plan = facts.brief["data"]["augmentation"]
    names = [f"{ref['name']} ({kind})" for kind in ("offline", "online") for ref in plan[kind]]
    found = facts.find(STAGE, "ablation.json")
    if isinstance(found, Found) and found.value["rows"]:
        rows = [(name, _row(facts, at)) for name, (at, _) in compared(found.value).items()]
        return [Extra(TITLE, _COLUMNS, rows, _note(facts, found.value))]
    if not names:
        return []
    why = not_measured("the brief asks for no ablation (evaluation.ablation.seeds)")
    if isinstance(found, Found):
        why = not_measured(found.value.get("reason") or "the ablation compared nothing")
    elif facts.brief["evaluation"]["ablation"]["seeds"]:
        why = found
    return [Extra(TITLE, _COLUMNS, [(name, [why] * 4) for name in names])]


def _note(facts: Facts, found: dict[str, Any]) -> str:
    metric = facts.metrics.get(found["metric"])
    told_ = f"{metric.label if metric else found['metric']} on validation rows, {plural(found['seeds'], 'seed')} each"
    return f"{told_}; {found['interval']}." if "interval" in found else f"{told_}."


def _row(facts: Facts, at: tuple[str | int, ...]) -> list[Cell]:
    metric = facts.find(STAGE, "ablation.json#/metric")
    unit = facts.metrics[metric.value].unit if isinstance(metric, Found) and metric.value in facts.metrics else ""

    def find(*keys: str) -> Found | Cell:
        return facts.find(STAGE, "ablation.json" + pointer(*at, *keys))

    def show(value: float) -> str:
        return in_unit(value, unit)

    without = find("without") if at != ("none",) else find("value")
    plain = [item if isinstance(item, Cell) else item.cell(unit, show, whole=True) for item in (find("with"), without)]
    value, whole, verdict = find("effect", "value"), find("effect"), find("verdict")
    if isinstance(value, Cell) or isinstance(whole, Cell):
        effect = value if isinstance(value, Cell) else not_measured("no interval")
    else:
        effect = value.cell(unit, show, interval(whole.value, show), whole=True)
    return [*plain, effect, verdict if isinstance(verdict, Cell) else told(str(verdict.value), verdict.source)]
