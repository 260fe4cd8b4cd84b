"""What `dlp ab status` shows: the experiments of a project, and the evidence of one as it grew, in text and as SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from dl_pipelines.cli.screen import plain_table
from dl_pipelines.evaluation.pictures import alone
from dl_pipelines.lifecycle import ledger
from dl_pipelines.lifecycle.ab_picture import Course, courses, pictures, together, units, worded
from dl_pipelines.lifecycle.ledger import Experiment, Row
from dl_pipelines.store import durable
from dl_pipelines.store.workspace import Workspace

WIDTH, HEIGHT = 64, 9
"""Characters of a plot."""


def status(workspace: Workspace) -> dict[str, Any]:
    """Every experiment with its rows and looks, oldest first, as plain data."""
    looks = ledger.looks(workspace)
    return {
        "project": workspace.project,
        "experiments": [
            {
                "experiment": item.name, "champion": item.champion, "challenger": item.challenger,
                "partition": item.first["partition"], "state": state(item), "stage": item.stage["stage"],
                "share": item.stage["share"], "rows": [_row(row) for row in item.rows],
                "looks": [_look(row) for row in looks if row["experiment"] == item.name],
            }
            for item in ledger.experiments(workspace)
        ],
    }  # fmt: skip


def state(experiment: Experiment) -> str:
    """Running, proposed, or how it ended."""
    if experiment.end:
        return experiment.end["event"].replace("_", " ")
    return "proposed" if experiment.proposed else "running"


def _row(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("id", "event", "stage", "share", "decision", "reason", "actor", "at")}


def _look(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("stage", "evidence", "decision", "at")}


def shown(found: Mapping[str, Any]) -> list[RenderableType]:
    """The experiments as a table, then the newest one's evidence."""
    if not found["experiments"]:
        return [Text(f"{found['project']} has had no live experiment (lifecycle.evidence: live begins one)")]
    columns = ("Challenger", "Against", "State", "Stage", "Share", "Began", "Why")
    rows = [
        [
            item["challenger"], item["champion"], item["state"], str(item["stage"]), f"{item['share']:.1%}",
            item["rows"][0]["at"][:16].replace("T", " "), item["rows"][-1]["reason"],
        ]
        for item in found["experiments"]
    ]  # fmt: skip
    table = plain_table("", columns, rows)
    return [table, *evidence(found["experiments"][-1])]


def evidence(item: Mapping[str, Any]) -> list[RenderableType]:
    """Each stage's last look as a table, and the primary metric as a plot of characters."""
    if not item["looks"]:
        return [Text(f"{item['challenger']}: no look at the evidence has been taken yet")]
    parts: list[RenderableType] = []
    for stage in dict.fromkeys(look["stage"] for look in item["looks"]):
        mine = [look for look in item["looks"] if look["stage"] == stage]
        drawn = courses(mine)
        if drawn and drawn[0].units:
            parts.append(Group(Text(""), plot(drawn[0], f"Stage {stage}: {drawn[0].name}")))
        parts.append(_bounds(mine[-1]))
    return parts


def _bounds(look: Mapping[str, Any]) -> Table:
    seen, decision = look["evidence"], look["decision"]
    rows = [
        [
            bound["name"],
            *("-" if bound[name] is None else worded(bound[name], bound["unit"]) for name in ("value", "low", "high")),
            worded(bound["margin"], bound["unit"]),
            bound["state"].replace("_", " "),
        ]
        for bound in decision["bounds"]
    ]
    table = plain_table("", ("", "Better by", "Low", "High", "Worse by at most", "State"), rows)
    table.caption = Text(
        f"{units(seen):,} units in {seen['hours']:.2f} h, {seen['challenger']['labelled']:,} of the challenger's "
        f"{seen['challenger']['matured']:,} and {seen['champion']['labelled']:,} of the champion's "
        f"{seen['champion']['matured']:,} that are old enough have labels; {decision['action']}: {decision['reason']}"
    )
    table.caption_justify = "left"
    return table


def plot(course: Course, title: str) -> Text:
    """A bound by units seen: `o` the difference, `|` what it may be, `-` what the challenger may be worse by."""
    known = [item for line in (course.value, course.low, course.high) for item in line if item is not None]
    bottom, top = min([*known, -course.margin, 0.0]), max([*known, 0.0])
    scale = (HEIGHT - 1) / (top - bottom or 1.0)
    rows = [[" "] * WIDTH for _ in range(HEIGHT)]
    limit = round((top + course.margin) * scale)
    rows[limit] = ["-"] * WIDTH
    begin, end = course.units[0], course.units[-1]
    for seen, value, low, high in zip(course.units, course.value, course.low, course.high, strict=True):
        at = round((seen - begin) / ((end - begin) or 1.0) * (WIDTH - 1))
        if low is not None and high is not None:
            for row in range(round((top - high) * scale), round((top - low) * scale) + 1):
                rows[row][at] = "|"
        if value is not None:
            rows[round((top - value) * scale)][at] = "o"
    names = {0: worded(round(top, 4), course.unit), HEIGHT - 1: worded(round(bottom, 4), course.unit)}
    names[limit] = worded(-course.margin, course.unit)
    lines = [f"{names.get(place, ''):>10} {''.join(row)}" for place, row in enumerate(rows)]
    foot = f"{'units':>10} {f'{begin:,.0f}':<{WIDTH // 2}}{f'{end:,.0f}':>{WIDTH - WIDTH // 2}}"
    return Text("\n".join([f"{title} against the champion, above 0 is better", *lines, foot]))


def write(found: Mapping[str, Any], path: Path) -> int:
    """The newest experiment's evidence as `.svg`, or every one's as `.html`; how many were drawn. Raises ValueError."""
    if path.suffix not in (".svg", ".html"):
        raise ValueError(f"found --out {path}; expected a name that ends in .svg or .html")
    chosen: Sequence[Mapping[str, Any]] = found["experiments"]
    if path.suffix == ".svg":
        chosen = chosen[-1:]
        durable.write_text(path, alone(together(pictures(chosen[0]["looks"]) if chosen else [])))
        return len(chosen)
    durable.write_text(path, page(found))
    return len(chosen)


def page(found: Mapping[str, Any], simulated: bool = False) -> str:
    """Every experiment as a page of its own; `simulated` says so of its traffic."""
    from html import escape

    parts = []
    for item in found["experiments"]:
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in (
                row["at"][:19].replace("T", " "), row["event"].replace("_", " "), row["stage"], f"{row['share']:.1%}",
                row["actor"], row["reason"],
            )) + "</tr>"
            for row in item["rows"]
        )  # fmt: skip
        head = "".join(f"<th>{name}</th>" for name in ("At (UTC)", "Event", "Stage", "Share", "By", "Why"))
        parts.append(
            f"<h2>{escape(item['challenger'])} against {escape(item['champion'])}: {escape(item['state'])}</h2>"
            f"<div><table><tr>{head}</tr>{rows}</table>{alone(together(pictures(item['looks'], simulated)))}</div>"
        )
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;max-width:1060px;margin:24px auto;padding:0 16px}"
        "td,th{text-align:left;padding:2px 12px 2px 0;vertical-align:top}td:first-child{white-space:nowrap}"
        "td:last-child{min-width:16em}h1,h2{overflow-wrap:anywhere}svg{overflow:visible}"
        "div{overflow-x:auto;padding-left:8px;margin-left:-8px}"
    )
    title = f"Live experiments of {escape(found['project'])}{' (simulated traffic)' if simulated else ''}"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{style}</style>"
        f"</head><body><h1>{title}</h1>{''.join(parts) or '<p>none yet</p>'}</body></html>\n"
    )
