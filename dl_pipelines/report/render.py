"""Markdown and a self-contained page from the filled template; nothing is worked out here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dl_pipelines.evaluation.wording import in_unit, number, percent, plural
from dl_pipelines.report import (
    charts,
    compression_figures,
    evaluated,
    selection_figures,
    serving_figures,
    study_figures,
)
from dl_pipelines.report.assemble import FilledReport, FilledRow
from dl_pipelines.report.cells import NOT_MEASURED, Cell, Found, interval
from dl_pipelines.report.collect import MODEL, ON_DEMAND
from dl_pipelines.report.facts import Facts, digest_of
from dl_pipelines.report.sections.against import unbeaten
from dl_pipelines.report.template import TEMPLATES, Filled
from dl_pipelines.store.digest import SHORT
from dl_pipelines.training.selected import CHOOSING

LABELS = {
    "latency_p50_ms": "Latency p50", "latency_p95_ms": "Latency p95", "latency_p99_ms": "Latency p99",
    "throughput_rps": "Throughput", "size_mb": "Size",
    "accuracy_budget": "Loss by compression",
}  # fmt: skip


_CODE = re.compile("`([^`]+)`")


def to_markdown(facts: Facts, report: FilledReport, plain: Mapping[str, Any]) -> str:
    """report.md."""
    return _environment(escape=False).get_template("report.md.j2").render(**_context(facts, report, plain))


def to_html(facts: Facts, report: FilledReport, plain: Mapping[str, Any]) -> str:
    """report.html: one file, no script, nothing loaded from elsewhere."""
    context = _context(facts, report, plain)
    drawn = {
        1: [selection_figures.pareto(facts)], 2: [evaluated.ablation(facts)],
        4: [charts.training_curves(facts), study_figures.plots(facts)],
        5: [selection_figures.scaling(facts)],
        6: [evaluated.confusion(facts), *evaluated.pictured(facts)],
        7: [compression_figures.steps(facts), compression_figures.pareto(facts)],
        8: [serving_figures.rates(facts)], 9: [charts.drift(facts)],
        10: [charts.experiment(facts)],
    }  # fmt: skip
    context["charts"] = {number_: [chart for chart in found if chart] for number_, found in drawn.items()}
    return _environment(escape=True).get_template("report.html.j2").render(**context)


def _environment(escape: bool) -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=escape, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"line": one_line, "where": told_source, "runs": runs, "short": lambda text: text[:SHORT]}
    environment.filters["coded"] = coded
    return environment


def _context(facts: Facts, report: FilledReport, plain: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "report": report,
        "plain": plain,
        "brief": facts.brief,
        "verdict": plain["verdict"],
        "headline": headline(plain["verdict"]),
        "targets": [_target(facts, target) for target in plain["verdict"]["targets"]],
        "unbeaten": unbeaten(facts),
        "lineage": lineage(facts),
        "gates": list(_gates(facts)),
        "slices": _slices(facts),
        "reads": _reads(facts),
        "sure": percent(facts.brief["evaluation"]["confidence"]),
        "made_at": max((item["made_at"] for item in plain["lineage"]), default=""),
    }


def state(target: Mapping[str, Any]) -> str:
    """met, missed, not measured, or undecided."""
    if target["measured"] is None:
        return "not measured"
    return {True: "met", False: "missed", None: "undecided"}[target["met"]]


def headline(verdict: Mapping[str, Any]) -> str:
    """The verdict in one line."""
    states = [state(target) for target in verdict["targets"]]
    counts = ", ".join(f"{states.count(name)} {name}" for name in dict.fromkeys(states))
    if verdict["verdict"] == "blocked":
        return "An integrity gate did not pass, so nothing after it may be used"
    if not states:
        return "The brief names no target"
    if verdict["verdict"] == "met" and "undecided" not in states:
        return f"Every target is met ({len(states)} of {len(states)})"
    return f"Of {plural(len(states), 'target')}: {counts}"


def _target(facts: Facts, target: Mapping[str, Any]) -> dict[str, Any]:
    def show(value: float | None) -> str:
        return "not measured" if value is None else in_unit(value, target["unit"])

    label = facts.metrics[target["metric"]].label if target["metric"] in facts.metrics else LABELS[target["metric"]]
    sliced = target["name"].partition(" on ")[2].partition(" (")[0]
    return {
        **target,
        "label": label + (f" on {sliced}" if sliced else ""),
        "wanted": f"{'≥' if target['op'] == '>=' else '≤'} {show(target['target'])}",
        "shown": show(target["measured"]),
        "interval": "" if target["low"] is None else f"[{show(target['low'])}, {show(target['high'])}]",
        "state": state(target),
        "why": target["nearest"] or target["reason"] or "",
    }


def lineage(facts: Facts) -> list[dict[str, Any]]:
    """The line from raw records to the drift report: stages with their digests, or why they are missing."""
    line: list[dict[str, Any]] = []
    for stage, documents in facts.days.items():
        if documents:
            digest = digest_of([document.digest for document in documents])[:SHORT]
            several = f"{len(documents):,} days, {documents[0].day} to " if len(documents) > 1 else ""
            line.append({"stage": stage, "digest": digest, "note": f"{several}{documents[-1].day}"})
        else:
            line.append({"stage": stage, "digest": None, "note": _why(facts, stage)})
    there = [name for name in ON_DEMAND if name in facts.documents]
    before = [name for name in there if name in CHOOSING]
    for stage in ("training_window", *before, *MODEL, *(name for name in there if name not in before)):
        found = facts.documents.get(stage)
        note = _seconds(found.files["outcome.json"]["seconds"]) if found else _why(facts, stage)
        line.append({"stage": stage, "digest": found.short if found else None, "note": note})
    return line


def _why(facts: Facts, stage: str) -> str:
    return facts.missing.get(stage, "").removeprefix(NOT_MEASURED).removeprefix(f"{stage} ")


def _seconds(value: float) -> str:
    return f"{number(value)} s"


def _slices(facts: Facts) -> list[dict[str, Any]]:
    found = facts.find("evaluation", "slices.json")

    def show(value: float) -> str:
        return in_unit(value, facts.metrics[facts.primary].unit)

    return [
        {**row, "shown": f"{show(row[facts.primary]['value'])} {interval(row[facts.primary], show)}"}
        for row in (found.value if isinstance(found, Found) else [])
    ]


def _reads(facts: Facts) -> str:
    """How often the test rows were looked at, up to this evaluation."""
    found = facts.find("evaluation", "outcome.json#/measured/test_reads")
    rows = facts.find("evaluation", "rows.json#/test")
    if not isinstance(found, Found) or not isinstance(rows, Found):
        return ""
    told = f"The {plural(rows.value, 'test row')} had been looked at {plural(found.value, 'time')} in this project"
    return f"{told} once this model was evaluated; nothing is chosen from them."


def _gates(facts: Facts) -> Any:
    documents = [*(items[-1] for items in facts.days.values() if items), *facts.documents.values()]
    for document in documents:
        for gate in document.files["outcome.json"]["gates"]:
            state = {True: "passed", False: "failed", None: "undecided"}[gate["passed"]]
            yield {**gate, "stage": document.stage, "state": state}


def one_line(text: str) -> str:
    """Text that can stand in a Markdown cell or list: no line breaks, no bars, no tags."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def coded(text: str) -> Any:
    """Text for the page: what stands between backticks is code."""
    from markupsafe import Markup, escape

    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def told_source(filled: Filled) -> str:
    """Where the values of a place come from, for a tooltip."""
    return "; ".join(dict.fromkeys(text for cell in filled.cells.values() for text in _sources(cell)))


def _sources(cell: Cell) -> list[str]:
    def walk(source: Mapping[str, Any]) -> list[str]:
        if "op" in source:
            found = [text for item in source["of"] for text in walk(item)]
            return [f"{source['op']} of {', '.join(found[:4])}" + (" ..." if len(found) > 4 else "")]
        days = f"of {source['days']:,} days" if "days" in source else ""
        return [" ".join(part for part in (source["stage"], source["digest"][:SHORT], source["field"], days) if part)]

    return walk(cell.source) if cell.source else []


def runs(row: FilledRow) -> list[tuple[Filled, int]]:
    """The cells of a row with how many columns each spans: the same reason in neighbours is said once."""
    merged: list[tuple[Filled, int]] = []
    for filled in row.cells:
        if merged and filled.reason and merged[-1][0].reason == filled.reason:
            merged[-1] = (merged[-1][0], merged[-1][1] + 1)
        else:
            merged.append((filled, 1))
    return merged
