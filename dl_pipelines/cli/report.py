"""What a run, a backfill and a home came to, as plain data, tables and an exit code."""

from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dl_pipelines.cli.screen import plain_table, verdict_panel
from dl_pipelines.store import durable
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Workspace

if TYPE_CHECKING:
    from dl_pipelines.brief import Brief
    from dl_pipelines.cli.backfill import Backfill
    from dl_pipelines.cli.run import Ran

_CODES = {"met": 0, "missed": 3}


def verdict_of(ran: Ran) -> dict[str, Any] | None:
    """The verdict of the run's report; None when it made none."""
    return ran.report.read_json("verdict.json") if ran.report else None


def exit_code(ran: Ran) -> int:
    """0 targets met or nothing to judge, 3 missed, 2 the user's data was refused, 1 anything else."""
    if ran.failures:
        return 2 if all(failed.of_input for failed in ran.failures) else 1
    verdict = verdict_of(ran)
    return _CODES.get(verdict["verdict"], 1) if verdict else 0


def report_path(home: Home, project: str, partition: Partition) -> Path:
    """Where the report of a partition is read."""
    return home.reports / project / partition.slug / "report.html"


def close(home: Home, brief: Brief, ran: Ran, screen: Console) -> int:
    """Tell how it ended; the exit code."""
    for failed in ran.failures:
        panel = Panel(Text(failed.message), title=f"{failed.stage} failed", title_align="left", border_style="red",
                      expand=False)  # fmt: skip
        screen.print(panel, soft_wrap=False)  # a soft wrap cuts what is wider than the panel
    verdict = verdict_of(ran)
    if verdict:
        notes = _notes(home, brief, ran)
        path = report_path(home, brief.project, ran.partition)
        screen.print(verdict_panel(verdict, path, notes, f"{brief.project} {ran.partition.key}"))
    elif not ran.failures:
        screen.print(f"{brief.project} {ran.partition.key}: done up to {ran.stages[-1].stage}", markup=False)
    return exit_code(ran)


def _notes(home: Home, brief: Brief, ran: Ran) -> list[str]:
    from dl_pipelines.cli.run import retraining
    from dl_pipelines.serving.champion import champion

    workspace, notes = Workspace(home, brief.project), []
    serves = champion(workspace)
    if serves:
        notes.append(f"serves: {serves.model} ({serves.partition}, {serves.reason})")
    if brief.lifecycle.evidence == "live" and serves:
        notes += _tried_live(workspace, brief)
    asked = retraining(home, brief, ran.partition)
    if asked:
        notes.append(f"retraining requested for {asked.day}: {asked.reason}; `make ui` executes it")
    if not any(end.made for end in ran.stages):
        notes.append("nothing to do: everything was there")
    return notes


def _tried_live(workspace: Workspace, brief: Brief) -> list[str]:
    """Which challenger has a live experiment, and which waits for one."""
    from dl_pipelines import catalog
    from dl_pipelines.lifecycle import ledger
    from dl_pipelines.lifecycle.door import Rules, waiting

    runs, waits = ledger.running(workspace), waiting(workspace, Rules.of(brief, catalog.task_of(brief)))
    found = []
    if runs:
        found.append(f"live experiment: {runs.challenger} is in stage {runs.stage['stage']}; `dlp ab status` shows it")
    if waits:
        found.append(f"{waits['challenger']} waits for its live experiment; `make ui` begins it, or `dlp ab step`")
    return found


def answer(home: Home, brief: Brief, ran: Ran) -> dict[str, Any]:
    """The `--json` object."""
    verdict = verdict_of(ran)
    made = [end for end in ran.stages if end.artifact]
    return {
        "project": brief.project,
        "partition": ran.partition.key,
        "verdict": verdict["verdict"] if verdict else "blocked" if ran.failures else None,
        "targets": verdict["targets"] if verdict else [],
        "stages": [
            {
                "asset": end.stage, "partition": end.partition.key, "seconds": round(end.seconds, 3),
                "artifact": str(end.artifact.path), "digest": end.artifact.digest, "made": end.made,
            }
            for end in made if end.artifact
        ],
        "skipped": [
            {"asset": end.stage, "partition": end.partition.key, "reason": end.skipped}
            for end in ran.stages if end.skipped
        ],
        "failures": [{"asset": item.stage, "message": item.message} for item in ran.failures],
        "report": str(report_path(home, brief.project, ran.partition)) if verdict else None,
    }  # fmt: skip


def backfill_table(runs: list[Ran]) -> Table:
    """One line a partition."""
    rows = []
    for ran in runs:
        verdict = verdict_of(ran)
        model = next((end for end in ran.stages if end.stage == "trained_model"), None)
        trained = ("made" if model.made else "there already") if model else "no"
        why = "; ".join(f"{item.stage}: {item.message}" for item in ran.failures)
        rows.append((ran.partition.key, trained, verdict["verdict"] if verdict else "none", why))
    return plain_table("backfill (no traffic was moved)", ("partition", "model", "targets", "failed"), rows)


def backfill_code(runs: list[Ran]) -> int:
    """The exit code of a backfill: a fault of ours or of the input before a target that was missed."""
    return max((exit_code(ran) for ran in runs), key=lambda code: (code in (1, 2), code))


def plan_table(asked: Backfill) -> list[Table | str]:
    """What a backfill is going to do, in a few lines."""
    missing, work = asked.missing, asked.work
    told: list[Table | str] = [
        f"{len(asked.partitions)} models: {len(asked.finished)} finished, {len(missing)} to train"
    ]
    if missing:
        told.append(f"to train: {_some([item.key for item in missing])}")
    if work:
        told.append(f"to bring in: {len(work)} of {len(asked.days)} days of data, {_some([str(day) for day in work])}")
    else:
        told.append(f"all {len(asked.days)} days of data are there")
    if missing and asked.seconds is None:
        told.append("how long it takes is not known: no model was trained in this home yet")
    elif missing and asked.seconds is not None:
        took = f"{asked.seconds:.0f} s a model, as the last ones took"
        told.append(f"about {timedelta(seconds=round(asked.seconds * len(missing)))}: {took}")
    return told


def _some(found: list[str]) -> str:
    return ", ".join(found) if len(found) <= 6 else f"{', '.join(found[:3])} ... {found[-1]}"


def find_report(home: Home, project: str, day: date | None, experiment: str) -> Path:
    """The report of a day, or of the newest one. Raises ValueError when there is none."""
    folder = home.reports / project
    there = sorted(path.parent.name for path in folder.glob("*/report.html"))
    mine = [slug for slug in there if re.fullmatch(rf"\d{{4}}-\d\d-\d\d_{re.escape(experiment)}", slug)]
    wanted = f"{day}_{experiment}" if day else (mine[-1] if mine else "")
    if wanted not in there:
        projects = ", ".join(sorted(path.name for path in home.reports.glob("*"))) or "none yet"
        known = f"one of {', '.join(there)}" if there else f"a project with reports ({projects})"
        raise ValueError(
            f"found no report of {project} for {day or 'any day'} and {experiment}; expected {known}; run `dlp run` "
            "for its brief"
        )
    return folder / wanted / "report.html"


def status_of(home: Home) -> dict[str, Any]:
    """Plain data: the server, and for each project its champion and the verdict of every partition."""
    from dl_pipelines.serving.champion import champion
    from dl_pipelines.serving.server import TritonServer
    from dl_pipelines.store.owner import OtherHomeError

    state, last = TritonServer(home).state(), TritonServer(home).last()
    projects = []
    for path in sorted(home.briefs.glob("*.yaml")):
        workspace = Workspace(home, path.stem)
        try:
            serves, other = champion(workspace), None
        except OtherHomeError as error:  # says nothing of the projects that are this home's
            serves, other = None, str(error)
        models = []
        for partition in workspace.partitions("trained_model"):
            report = report_path(home, path.stem, partition).with_suffix(".json")
            verdict = durable.read_json(report)["verdict"]["verdict"] if report.exists() else "no report"
            models.append({"partition": partition.key, "verdict": verdict})
        projects.append({
            "project": path.stem, "models": models, "days": len(workspace.days("validated_data")),
            "champion": {"model": serves.model, "partition": serves.partition, "since": serves.since,
                         "reason": serves.reason} if serves else None,
            "refused": other,
        })  # fmt: skip
    shown = ("http", "grpc", "metrics", "pid", "ready", "kept", "restarts", "last_exit", "failing")
    server = {name: getattr(state, name) for name in shown} if state else None
    gone = (last.gave_up or last.last_exit) if last and not state else ""
    return {"home": str(home.root), "server": server, "server_gone": gone, "projects": projects}


def status_tables(found: dict[str, Any]) -> list[Table | str]:
    """The same for people."""
    server = found["server"]
    where = f"127.0.0.1:{server['http']} (HTTP), :{server['grpc']} (gRPC)" if server else "not running"
    if server and server["restarts"]:
        where += f", started again {server['restarts']} times ({server['last_exit']})"
    if server and server["failing"]:
        where += f", can't load {server['failing']}"
    where += f": {found['server_gone']}" if found["server_gone"] else ""
    tables: list[Table | str] = [f"home {found['home']}; server {where}"]
    for project in found["projects"]:
        serves = project["champion"]
        champion = "nothing serves"
        if serves:
            since = serves["since"][:19].replace("T", " ")
            champion = f"{serves['model']} since {since} UTC ({serves['reason']})"
        champion = project["refused"] or champion
        rows = [(model["partition"], model["verdict"]) for model in project["models"]]
        tables.append(f"{project['project']}: {project['days']} days of data; {champion}")
        tables.append(plain_table("", ("model", "targets"), rows))
    if not found["projects"]:
        tables.append("no project yet: dlp run briefs/digits.yaml")
    return tables
