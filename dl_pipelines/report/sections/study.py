"""4. What a hyperparameter study says: range, method and importance of each row, and a table of all it searched."""

from __future__ import annotations

from typing import Any

from dl_pipelines.evaluation.wording import number, plural
from dl_pipelines.report.cells import Cell, Extra, Found, interval, not_applicable, not_measured, told
from dl_pipelines.report.facts import Facts, pointer

STAGE = "hyperparameter_study"
TITLE = "What the search tried"
NO_SEARCH = "no search was run"
_COLUMNS = ("Field", "Brief", "Search range", "Importance", "Best")


def study(facts: Facts) -> Found | None:
    """`study.json` of a study that was asked for."""
    found = facts.find(STAGE, "study.json")
    return found if isinstance(found, Found) and found.value["rows"] else None


def searched(facts: Facts, row: str) -> list[tuple[int, dict[str, Any]]]:
    """The fields that a study searched for a row of the template, each with its place in the study's rows."""
    found = study(facts)
    return [] if found is None else [item for item in enumerate(found.value["rows"]) if item[1]["row"] == row]


def in_row(facts: Facts, row: str) -> dict[str, Cell]:
    """Range, method and impact of a row of the template."""
    fields, plain = searched(facts, row), facts.of_brief("training").source
    if not fields:
        why = _unsearched(facts)
        none = told("none: set by the brief", plain)
        return {f"{row}_RANGE": why, f"{row}_METHOD": none, f"{row}_IMPACT": why}
    places = [place for place, _ in fields]
    named = len(fields) > 1
    ranges = "; ".join(f"{one['label']} {one['range']}" if named else one["range"] for _, one in fields)
    return {
        f"{row}_RANGE": told(ranges, *_sources(facts, places, "range")),
        f"{row}_METHOD": told(fields[0][1]["method"], *_sources(facts, places[:1], "method")),
        f"{row}_IMPACT": _impact(facts, fields),
    }


def _unsearched(facts: Facts) -> Cell:
    """Why a row has no range."""
    if study(facts) is not None:
        return not_applicable("the search space has no such field")
    found = facts.find(STAGE, "study.json#/reason")
    if isinstance(found, Found):
        return not_measured(f"{NO_SEARCH}: {found.value}")
    return found if STAGE in facts.missing else not_measured(NO_SEARCH)


def _impact(facts: Facts, fields: list[tuple[int, dict[str, Any]]]) -> Cell:
    """The share of the differences between configurations that a row's fields explain, each with its interval."""
    shown = [(place, one) for place, one in fields if one["importance"]]
    if not shown:
        return not_measured("too few configurations to tell an importance")
    texts = [f"{one['label'] + ' ' if len(fields) > 1 else ''}{_share(one['importance'])}" for _, one in shown]
    return told("; ".join(texts), *_sources(facts, [place for place, _ in shown], "importance"))


def _share(importance: dict[str, float]) -> str:
    """In whole percent: the intervals are wider than that."""
    return f"{importance['value']:.0%} {interval(importance, lambda value: f'{value:.0%}')}"


def _sources(facts: Facts, places: list[int], key: str) -> list[Any]:
    found = [facts.find(STAGE, "study.json" + pointer("rows", place, key)) for place in places]
    return [one.source for one in found if isinstance(one, Found)]


def extras(facts: Facts) -> list[Extra]:
    """A row for each field that was searched; nothing where no study was asked for."""
    found = study(facts)
    if found is None:
        return []
    rows = [(_name(one), _cells(facts, place, one)) for place, one in enumerate(found.value["rows"])]
    return [Extra(TITLE, _COLUMNS, rows, _note(facts, found.value))]


def _name(one: dict[str, Any]) -> str:
    return f"{one['label']} ({one['field']})"


def _cells(facts: Facts, place: int, one: dict[str, Any]) -> list[Cell]:
    def find(key: str) -> Cell:
        cell = facts.find(STAGE, "study.json" + pointer("rows", place, key))
        return cell if isinstance(cell, Cell) else cell.cell()

    best = find("best").noted("(at the edge of its range)" if one["at_edge"] else "")
    brief = find("brief") if one["brief"] is not None else not_applicable("the brief sets none")
    return [brief, find("range"), _impact(facts, [(place, one)]), best]


def _note(facts: Facts, found: dict[str, Any]) -> str:
    counts, metric = found["counts"], facts.metrics.get(found["metric"])
    label = metric.label if metric else found["metric"]
    told_ = (
        f"{plural(found['trials'], 'configuration')}: {counts['complete']} trained to the end, {counts['pruned']} "
        f"given up early, {counts['failed']} failed; judged by {label} on "
        f"{plural(found['validation_rows'], 'validation row')} after training on {plural(found['train_rows'], 'row')}"
    )
    why = found["why"][:1].upper() + found["why"][1:]
    return (
        f"{told_}. {why}. Importance: share of the variance of the configurations' ranks that a field explains alone "
        f"(fANOVA), with a {number(100 * found['confidence'])}% interval over resampled configurations."
    )
