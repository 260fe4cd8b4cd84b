"""2. What each augmentation is worth, with its interval, where the brief asked for it."""

from __future__ import annotations

from dl_pipelines.evaluation.wording import in_unit
from dl_pipelines.report.cells import Cell, Extra, Found, interval, not_measured, told
from dl_pipelines.report.collect import Facts, pointer

STAGE = "augmentation_ablation"
_COLUMNS = ("Augmentation", "Effect", "Verdict")


def ablation(facts: Facts) -> list[Extra]:
    """The effect of each augmentation, or why it was not measured; nothing where the brief names none."""
    plan = facts.brief["data"]["augmentation"]
    names = list(dict.fromkeys(ref["name"] for kind in ("offline", "online") for ref in plan[kind]))
    found = facts.find(STAGE, "ablation.json")
    if isinstance(found, Found):
        rows = [(row["augmentation"], _row(facts, place)) for place, row in enumerate(found.value["rows"])]
        about = facts.metrics.get(found.value["metric"])
        note = f"Effect on {about.label if about else found.value['metric']}, {found.value['seeds']} seeds each."
        return [Extra("What each augmentation is worth", _COLUMNS, rows, note)]
    if not names:
        return []
    asked = facts.brief["evaluation"]["ablation"]["seeds"]
    why = found if asked else not_measured("the brief asks for no ablation (evaluation.ablation.seeds)")
    return [Extra("What each augmentation is worth", _COLUMNS, [(name, [why, why]) for name in names])]


def _row(facts: Facts, place: int) -> list[Cell]:
    at = "ablation.json" + pointer("rows", place)
    metric = facts.find(STAGE, "ablation.json#/metric")
    unit = facts.metrics[metric.value].unit if isinstance(metric, Found) and metric.value in facts.metrics else ""
    value, whole = facts.find(STAGE, f"{at}/effect/value"), facts.find(STAGE, f"{at}/effect")
    verdict = facts.find(STAGE, f"{at}/verdict")
    if isinstance(value, Cell) or isinstance(whole, Cell):
        effect = value if isinstance(value, Cell) else not_measured("no interval")
    else:
        note = interval(whole.value, lambda bound: in_unit(bound, unit))
        effect = value.cell(unit, lambda found: in_unit(found, unit), note, whole=True)
    return [effect, verdict if isinstance(verdict, Cell) else told(str(verdict.value), verdict.source)]
