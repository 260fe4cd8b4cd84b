"""The stage `implementation_report`: the template filled from the artifacts, the verdict, and both read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dl_pipelines.brief import Brief
from dl_pipelines.report import scoring
from dl_pipelines.report.assemble import FilledReport, assemble
from dl_pipelines.report.collect import Collected, collect, read
from dl_pipelines.report.facts import Facts
from dl_pipelines.report.render import headline, to_html, to_markdown
from dl_pipelines.report.sections import all_cells, all_extras
from dl_pipelines.report.template import TEMPLATES, framework, parse
from dl_pipelines.report.verdict import judge
from dl_pipelines.report.verify import Reader, cells, problems
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact, Draft, Gate
from dl_pipelines.store.digest import digest_file, digest_json, list_files
from dl_pipelines.store.workspace import Partition, Workspace
from dl_pipelines.tasks.base import Task

STAGE = "implementation_report"
FILES = ("report.md", "report.html", "report.json")


def make_implementation_report(workspace: Workspace, partition: Partition, brief: Brief, task: Task) -> Artifact:
    """`report.md`, `report.html`, `report.json`, `verdict.json`; copied to `reports/<project>/<partition>/`.

    `brief` is the brief as the partition's experiment sees it. Gates: `complete` (blocking), `targets`. What has not
    run is in the report with that reason. Raises ArtifactError when an artifact is damaged.
    """
    collected = collect(workspace, partition, task)

    def build(draft: Draft) -> None:
        _build(draft, workspace, partition, brief, task, collected)

    settings = {"brief": brief.model_dump(mode="json"), "partition": partition.key, "missing": dict(collected.missing),
                "written_by": _code()}  # fmt: skip
    artifact = workspace.make(STAGE, partition, build, settings=settings, parents=collected.parents, version=1)
    folder = workspace.home.reports / workspace.project / partition.slug
    for name in FILES:
        content = artifact.file(name).read_bytes()
        if not (folder / name).is_file() or (folder / name).read_bytes() != content:
            durable.write_bytes(folder / name, content)
    return artifact


def _code() -> str:
    """A digest of this room: a report is cheap, so it is written anew whenever the code that writes it changes."""
    folder = TEMPLATES.parent
    names = [name for name in list_files(folder) if name.endswith((".py", ".j2", ".css", ".md"))]
    return digest_json({name: digest_file(folder / name) for name in names})


def _build(
    draft: Draft, workspace: Workspace, partition: Partition, brief: Brief, task: Task, collected: Collected
) -> None:
    count = len(collected.artifacts) + sum(map(len, collected.days.values()))
    workspace.progress(STAGE, f"reading {count:,} artifacts")
    own: dict[str, Any] = {
        "brief.json": brief.model_dump(mode="json"),
        "signature.json": scoring.signature(task),
        "described.json": scoring.described(task, collected),
        "production.json": scoring.production(brief, task, collected),
    }
    scored = scoring.compressed_on_test(workspace, partition, brief, task, collected)
    if scored is not None:
        own["compressed_test.json"] = scored
    for name, value in own.items():
        draft.write_json(name, value)
    facts = read(collected, partition, brief, task, own)
    report = assemble(framework(), all_cells(facts), all_extras(facts))
    verdict = judge(facts)
    plain = _plain(facts, report, verdict, collected)
    draft.write_json("verdict.json", verdict)
    draft.write_json("report.json", plain)
    text = to_markdown(facts, report, plain)
    draft.write_text("report.md", text)
    draft.write_text("report.html", to_html(facts, report, plain))
    _gates(draft, problems(framework(), parse(text), text, plain, Reader(workspace, own, collected.digests)), plain)
    _show(draft, workspace, partition, plain)


def _plain(facts: Facts, report: FilledReport, verdict: Mapping[str, Any], collected: Collected) -> dict[str, Any]:
    return {
        "project": facts.brief["project"],
        "partition": facts.partition,
        "verdict": verdict,
        **report.plain(),
        "lineage": collected.lineage(),
        "missing": dict(collected.missing),
    }


def _gates(draft: Draft, wrong: list[str], report: Mapping[str, Any]) -> None:
    count = sum(1 for _ in cells(report))
    summary = (
        f"{count} cells have a value or a reason" if not wrong else f"{len(wrong)} problems: {'; '.join(wrong[:5])}"
    )
    draft.gate(Gate("complete", not wrong, summary, blocking=True, facts={"cells": count, "problems": wrong[:20]}))
    targets = report["verdict"]["targets"]
    missed = [target["name"] for target in targets if target["met"] is False]
    told = headline(report["verdict"]) + (f"; not met: {'; '.join(missed)}" if missed else "")
    blocked = report["verdict"]["blocked_by"]
    if blocked:
        told += f"; blocked by {blocked[0]}"
    draft.gate(Gate("targets", report["verdict"]["verdict"] == "met", told, facts={"missed": missed}))


def _show(draft: Draft, workspace: Workspace, partition: Partition, report: Mapping[str, Any]) -> None:
    found = list(cells(report))
    measured = sum(cell["value"] is not None for _, cell in found)
    lines = ["| target | measured | met |", "|---|---|---|"]
    for target in report["verdict"]["targets"]:
        value = "not measured" if target["measured"] is None else f"{target['measured']:.6g} {target['unit']}"
        lines.append(f"| {target['name']} | {value} | {target['met']} |")
    draft.measure(cells=len(found), cells_with_a_value=measured)
    draft.show(
        verdict=report["verdict"]["verdict"],
        cells=len(found),
        cells_with_a_value=measured,
        report=f"reports/{workspace.project}/{partition.slug}/report.html in the home",
        targets={"md": "\n".join(lines)},
    )
