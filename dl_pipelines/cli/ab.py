"""`dlp ab status`, `step` and `stop`, `dlp demo ab`: their options; what they show is in ab_status.py and demo.py."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dl_pipelines.cli.frame import HomeOption, JsonOption, Project, brief_of, command, home_of, output, say


@command
def status(
    project: Project,
    out: Annotated[Path | None, typer.Option(help="Draw it into FILE.svg (the newest) or FILE.html (all)")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """The live experiments of a project: which stage, what was decided, and the evidence as it grew."""
    with output(as_json) as put:
        from dl_pipelines.cli import ab_status as shown
        from dl_pipelines.cli.screen import console
        from dl_pipelines.store.workspace import Workspace

        place = home_of(home)
        found = shown.status(Workspace(place, brief_of(place, project).project))
        for item in [] if as_json else shown.shown(found):
            console(False).print(item)
        if out:
            count = shown.write(found, out)
            say(f"{out}: {count} drawn")
        put(found)


@command
def step(project: Project, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Do what the rollout sensor would now: look at the evidence, and carry out what it says. For a home without UI."""
    import time

    with output(as_json) as put:
        from dl_pipelines import catalog
        from dl_pipelines.lifecycle import experiment
        from dl_pipelines.store.workspace import Workspace

        place = home_of(home)
        brief = brief_of(place, project)
        workspace, rules = Workspace(place, project), experiment.Rules.of(brief, catalog.task_of(brief))
        done = experiment.step(workspace, rules, time.time())
        for told in done or [experiment.due(workspace, rules, time.time()).told]:
            say(told)
        put({"done": done})


@command
def stop(
    project: Project,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the ledger")] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """End the experiment that runs: its challenger is taken out, the champion gets everything and stays."""
    import getpass

    with output(as_json) as put:
        from dl_pipelines import catalog
        from dl_pipelines.lifecycle import verdict
        from dl_pipelines.lifecycle.door import Rules
        from dl_pipelines.store.workspace import Workspace

        place = home_of(home)
        brief = brief_of(place, project)
        workspace, rules = Workspace(place, brief.project), Rules.of(brief, catalog.task_of(brief))
        row = verdict.stop(workspace, rules, getpass.getuser(), reason)
        say(f"{row['challenger']}: stopped by {row['actor']} ({row['reason']}); {row['champion']} has the traffic")
        put({name: row[name] for name in ("experiment", "event", "champion", "challenger", "reason", "actor", "at")})


@command
def demo(
    home: Annotated[Path, typer.Option("--home", help="A home of its own; what is there is gone on with")] = Path(
        ".dlp/demo-ab"
    ),
    as_json: JsonOption = False,
) -> None:
    """Digits with simulated traffic: a worse challenger is rolled back, a better one promoted, by a real server."""
    with output(as_json) as put:
        from dl_pipelines.cli.demo import run_demo
        from dl_pipelines.cli.screen import console

        put(run_demo(home_of(home).prepare(), console()))
