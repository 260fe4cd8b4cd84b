"""2. Where the records come from, how they are cleaned, what the model makes of them, how they are multiplied."""

from __future__ import annotations

from typing import Any

from dl_pipelines.evaluation.wording import number, percent, plural
from dl_pipelines.report.cells import NOT_APPLICABLE, Cell, Extra, Found, made, not_applicable, told
from dl_pipelines.report.facts import REPORT, Facts, library, pointer
from dl_pipelines.report.sections.ablation import ablation

_COUNTS = ("clean", "records", "quarantined", "duplicates", "unreadable")


def cells(facts: Facts) -> dict[str, Cell]:
    """The section's cells."""
    return {**_sources(facts), **_cleaning(facts), **_features(facts), **_augmentation(facts)}


def extras(facts: Facts) -> list[Extra]:
    """What each augmentation is worth."""
    return ablation(facts)


def _sources(facts: Facts) -> dict[str, Cell]:
    volume = facts.over_days("raw_data", "outcome.json#/measured/megabytes")
    if isinstance(volume, Found):
        total, days = made("sum", [volume]), len(volume.value)
        volume = total.cell(
            "MB", lambda value: number(value / 1000), f"({number(total.value)} MB, {plural(days, 'day')})"
        )
    about = {
        name: _cell(facts.find("raw_data", f"source.json#/{key}"))
        for name, key in (
            ("DATA_TYPES", "types"), ("UPDATE_FREQ", "update_frequency"), ("STORAGE_FORMAT", "format"),
            ("ACCESS_METHOD", "access"),
        )
    }  # fmt: skip
    if facts.simulated:
        volume = volume.noted("(simulated)")
        if "simulated" not in about["DATA_TYPES"].text:
            about["DATA_TYPES"] = about["DATA_TYPES"].noted("(simulated)")
    return {"RAW_VOLUME": volume, **about}


def _cleaning(facts: Facts) -> dict[str, Cell]:
    counts = {name: facts.over_days("validated_data", f"quality.json#/{name}") for name in _COUNTS}
    for reason in counts.values():
        if isinstance(reason, Cell):
            return dict.fromkeys(("CLEAN_PROCESS", "MISSING_STRATEGY", "OUTLIER_STRATEGY", "QUALITY_SCORE"), reason)
    read = {name: found for name, found in counts.items() if isinstance(found, Found)}
    totals = {name: made("sum", [found]) for name, found in read.items()}
    suite = facts.find("validated_data", "expectations.json")
    checks = len(suite.value) if isinstance(suite, Found) else 0
    held = sum(bool(item["success"]) for item in suite.value) if isinstance(suite, Found) else 0
    return {
        "CLEAN_PROCESS": told(
            f"{totals['clean'].value:,} of {totals['records'].value:,} records kept; "
            f"{totals['quarantined'].value:,} quarantined with the reason ({totals['duplicates'].value:,} of them "
            f"repeat another, {totals['unreadable'].value:,} unreadable); {held} of {checks} expectations hold on the "
            f"last day{_overlooked(facts)}",
            *(total.source for total in totals.values()),
        ),
        "MISSING_STRATEGY": _fitted(facts, "missing") or told(
            "quarantined: a record without id, time, checksum or target is kept out; nothing is imputed",
            library("data.cleaning"),
        ),
        "OUTLIER_STRATEGY": _fitted(facts, "outliers") or told(
            f"quarantined when the target is out of range{_range(facts)}",
            facts.of_brief("data", "validation", "mean_range").source, library("data.validation"),
        ),
        "QUALITY_SCORE": made("ratio", [read["clean"], read["records"]]).cell("share", percent),
    }  # fmt: skip


def _overlooked(facts: Facts) -> str:
    """What lay in the source at the last run and belongs to no day, if anything."""
    found = facts.find("raw_data", "outcome.json#/measured/overlooked")
    if not isinstance(found, Found) or not found.value:
        return ""
    return f"; lines or files of the source that belong to no day (unreadable, without a date): {found.value:,}"


def _range(facts: Facts) -> str:
    """What a day's mean may be, where the brief or the task says so."""
    low, high = facts.brief["data"]["validation"]["mean_range"] or facts.own["signature.json"]["range"]
    if low is None or high is None:
        return ""
    return f"; a day whose records' mean leaves {number(low)} to {number(high)} is refused"


def _fitted(facts: Facts, key: str) -> Cell | None:
    """What the task says of the statistics that the model was trained with, if it says anything."""
    found = facts.find(REPORT, "described.json" + pointer("fitted", key))
    return told(str(found.value), found.source) if isinstance(found, Found) else None


def _features(facts: Facts) -> dict[str, Cell]:
    inside = told("inside the model: the served model takes raw inputs", library("models"))
    statistics = facts.find("trained_model", "model.json#/statistics")
    shape = facts.find(REPORT, "signature.json#/input/shape")
    labels = facts.find(REPORT, "signature.json#/labels")
    encoded = told(f"the class's position, 0 to {len(labels.value) - 1}", labels.source) if isinstance(
        labels, Found) and labels.value else not_applicable("the task has no classes")  # fmt: skip
    none = statistics if isinstance(statistics, Cell) else not_applicable("the task normalises nothing")
    dimensions = told(" x ".join(map(str, shape.value)), shape.source) if isinstance(shape, Found) else shape
    return {
        "TRANSFORMATIONS": _fitted(facts, "transformations") or inside,
        "NORMALIZATION": _fitted(facts, "normalization") or none,
        "ENCODING_METHOD": _fitted(facts, "encoding") or encoded,
        "DIMENSIONS": _fitted(facts, "dimensions") or dimensions,
    }


def _augmentation(facts: Facts) -> dict[str, Cell]:
    plan = facts.brief["data"]["augmentation"]
    where = facts.of_brief("data", "augmentation").source
    splits = facts.find("training_window", "window.json#/splits")
    copies = facts.find("training_window", "window.json#/copies")
    parts = [f"{name}: {', '.join(map(_transform, plan[name]))}" for name in ("offline", "online") if plan[name]]
    kinds = [name for name in ("offline", "online") if plan[name]]
    factor = facts.of_brief("data", "augmentation", "factor").cell("records per train record")
    stored = facts.missing.get("augmented_dataset", "")
    if stored.startswith(NOT_APPLICABLE):
        factor = Cell(reason=stored)
    elif isinstance(splits, Found) and isinstance(copies, Found):
        factor = factor.noted(f"({splits.value['train']:,} train records, {copies.value:,} stored copies)")
    return {
        "AUGMENT_TECH": told("; ".join(parts), where) if parts else not_applicable("the brief names no augmentation"),
        "AUGMENT_FACTOR": factor,
        "AUGMENT_TYPE": told(" and ".join(kinds), where) if kinds else not_applicable("the brief names none"),
        "VAL_SPLIT": _share(facts, splits),
    }


def _share(facts: Facts, splits: Found | Cell) -> Cell:
    if isinstance(splits, Cell):
        return splits
    parts = [facts.find("training_window", f"window.json#/splits/{name}") for name in ("validation", "train", "test")]
    share = made("share", [part for part in parts if isinstance(part, Found)])
    asked = facts.brief["data"]["split"]["validation"]
    how = facts.words("split", "by the task's own rule").value
    note = f"({splits.value['validation']:,} records, {how}; the brief asks for {percent(asked)}%)"
    return share.cell("share", percent, note)


def _transform(ref: dict[str, Any]) -> str:
    params = ", ".join(f"{name} {value}" for name, value in ref["params"].items())
    return f"{ref['name']} ({params})" if params else ref["name"]


def _cell(found: Found | Cell) -> Cell:
    return found if isinstance(found, Cell) else found.cell()
