"""The command line `dlp`: it runs the same assets that Dagster's UI shows, and looks after what they leave behind.

Exit codes: 0 targets met (or done), 3 a target missed, 2 the user's input is wrong, 1 anything else. With `--json` one
object goes to standard output; everything for people goes to standard error.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from dl_pipelines.cli import ab, ab_simulate, labels, predict, serve, served
from dl_pipelines.cli.frame import (
    MET,
    MISSED,
    OTHER,
    File,
    HomeOption,
    JsonOption,
    Project,
    brief_of,
    command,
    day_of,
    home_of,
    output,
    say,
)

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__
)
brief_app = typer.Typer(no_args_is_help=True, help="Check a brief, describe its fields, start a new one.")
app.add_typer(brief_app, name="brief")
ab_app = typer.Typer(no_args_is_help=True, help="Live experiments: what challengers have shown, what rules would do.")
app.add_typer(ab_app, name="ab")
ab_app.command("simulate")(ab_simulate.simulate)
ab_app.command("status")(ab.status)
ab_app.command("step")(ab.step)
ab_app.command("stop")(ab.stop)
demo_app = typer.Typer(no_args_is_help=True, help="Something to watch, in a home of its own.")
app.add_typer(demo_app, name="demo")
demo_app.command("ab")(ab.demo)
app.command("predict")(predict.predict)
app.command("labels")(labels.labels)
app.command("serve")(serve.serve)
app.command("stop")(serve.stop)
app.command("served")(served.served)
app.command("promote")(served.promote)
app.command("rollback")(served.rollback)


def main() -> None:
    """Entry point of `dlp`."""
    app()


@app.command()
@command
def doctor(
    home: HomeOption = None,
    quick: Annotated[bool, typer.Option(help="Leave out what starts other processes")] = False,
    as_json: JsonOption = False,
) -> None:
    """Tell line by line what is there, what is missing, and the command that mends it."""
    from dl_pipelines.cli.screen import console
    from dl_pipelines.doctor import run_checks

    checks = run_checks(home_of(home).root, quick)
    if as_json:
        typer.echo(json.dumps([check.__dict__ for check in checks]))
    for check in [] if as_json else checks:
        console(False).print(f"{'ok  ' if check.ok else 'MISS'} {check.name:<12} {check.found}", markup=False)
        if check.remedy:
            console(False).print(f"     {'':<12} -> {check.remedy}", markup=False)
    raise typer.Exit(MET if all(check.ok for check in checks) else OTHER)


@brief_app.command("check")
@command
def brief_check(file: File) -> None:
    """Say every problem of a brief at once, or what it is about."""
    from dl_pipelines import catalog

    brief = catalog.load_brief(file)
    task = catalog.task_of(brief)
    typer.echo(f"{file}: {brief.project} is valid: {task.name}, source {brief.data.source.name}, "
               f"{len(brief.problem.targets)} targets")  # fmt: skip


@brief_app.command("schema")
@command
def brief_schema() -> None:
    """Print the JSON Schema of a brief, for editors."""
    from dl_pipelines.cli.brief import schema

    typer.echo(json.dumps(schema(), indent=1))


@brief_app.command("new")
@command
def brief_new(
    name: str,
    task: Annotated[str, typer.Option(help="What the model does")] = "image_classification",
    folder: Annotated[Path, typer.Option(help="Where to write it")] = Path("briefs"),
) -> None:
    """Write a small brief to start from; an existing file is never overwritten."""
    from dl_pipelines.cli.brief import new

    typer.echo(f"wrote {new(name, folder, task)}; change it, then: dlp brief check {folder / name}.yaml")


@app.command()
@command
def run(
    file: File,
    day: Annotated[str | None, typer.Option("--date", help="YYYY-MM-DD; default: the source's")] = None,
    experiment: Annotated[str | None, typer.Option(help="A named set of overrides")] = None,
    until: Annotated[str | None, typer.Option(help="The last stage to run")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="path=value, from training on")] = None,
    home: HomeOption = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server running")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run the whole line for one day: from the brief to a served model and a report."""
    from dl_pipelines import catalog

    brief = catalog.load_brief(file)
    with output(as_json) as put:
        from dl_pipelines.cli.report import answer, close
        from dl_pipelines.cli.run import Interrupted, chosen_day, last_stage, line, settle_experiment, snapshot
        from dl_pipelines.cli.screen import Screen, console

        place = home_of(home).prepare()
        last_stage(until)
        at = chosen_day(brief, day_of(day, "--date"))
        name = settle_experiment(place, brief, experiment, settings or [])
        snapshot(place, brief)
        ends: list[Any] = []
        try:
            with Screen(console()) as screen, line(place, brief, screen, ends, keep) as ready:
                ran = ready.run(at, name, until)
        except Interrupted:
            raise KeyboardInterrupt from None
        code = close(place, brief, ran, console())
        put(answer(place, brief, ran))
    raise typer.Exit(code)


@app.command()
@command
def backfill(
    file: File,
    first: Annotated[str, typer.Option("--from", help="YYYY-MM-DD")],
    last: Annotated[str, typer.Option("--to", help="YYYY-MM-DD")],
    experiment: Annotated[list[str] | None, typer.Option(help="One or several; default: base")] = None,
    every: Annotated[int, typer.Option(help="Days from one model to the next")] = 1,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be made, and how long it takes")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train and report models of past days; moves no traffic. What is finished is passed over, so it may go on."""
    from dl_pipelines import catalog

    brief = catalog.load_brief(file)
    with output(as_json) as put:
        from dl_pipelines.cli.backfill import chosen_days, plan_backfill
        from dl_pipelines.cli.report import answer, backfill_code, backfill_table, plan_table
        from dl_pipelines.cli.run import Interrupted, fill, line, snapshot
        from dl_pipelines.cli.screen import Screen, console

        start, end = day_of(first, "--from"), day_of(last, "--to")
        assert start and end
        place, days = home_of(home).prepare(), chosen_days(brief, start, end, every)
        asked = plan_backfill(place, brief, days, experiment or ["base"])
        for item in plan_table(asked):
            console().print(item)
        if plan:
            put(asked.plain())
            return
        snapshot(place, brief)
        try:
            with Screen(console()) as screen, line(place, brief, screen, [], False) as ready:
                runs = fill(ready, asked, {"dlp/backfill": f"{start}:{end}"})
        except Interrupted:
            raise KeyboardInterrupt from None
        console().print(backfill_table(runs))
        put({"runs": [answer(place, brief, ran) for ran in runs]})
    raise typer.Exit(backfill_code(runs))


@app.command()
@command
def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """What this home has: projects, what serves since when, models and their verdicts, the server."""
    from dl_pipelines.cli.report import status_of, status_tables
    from dl_pipelines.cli.screen import console

    found = status_of(home_of(home))
    if as_json:
        typer.echo(json.dumps(found))
    else:
        for table in status_tables(found):
            console(False).print(table)


@app.command()
@command
def report(
    project: Project,
    day: Annotated[str | None, typer.Option("--date", help="YYYY-MM-DD; default: the newest")] = None,
    experiment: Annotated[str, typer.Option(help="Experiment")] = "base",
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser")] = False,
    home: HomeOption = None,
) -> None:
    """Print where the report of a model is."""
    from dl_pipelines.cli.report import find_report

    path = find_report(home_of(home), project, day_of(day, "--date"), experiment)
    typer.echo(path)
    if show:
        import webbrowser

        webbrowser.open(path.as_uri())


@app.command()
@command
def verify(
    project: Project,
    fault: Annotated[
        str | None, typer.Option("--inject", help="norm-swap, dropped-operator, perturbed-weights: into a copy")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="Where the fault goes: onnx (the default), optimised, quantized")
    ] = None,
    day: Annotated[str | None, typer.Option("--date", help="YYYY-MM-DD; default: what serves, else the newest")] = None,
    experiment: Annotated[str, typer.Option(help="Experiment")] = "base",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare torch, ONNX, optimised and served files of a model link by link; exit code 3 where the chain breaks."""
    with output(as_json) as put:
        from dl_pipelines.cli import verify as shown
        from dl_pipelines.cli.screen import console

        place = home_of(home)
        brief = brief_of(place, project)
        found = shown.verify(place, brief, day_of(day, "--date"), experiment, fault, at)
        if not as_json:
            console(False).print(shown.table(found, project))
            for line in shown.told(found):
                console(False).print(line, markup=False)
        put(found.plain())
    raise typer.Exit(MISSED if found.broken else MET)


@app.command()
@command
def bundle(
    project: Project,
    target: Annotated[str, typer.Option(help="edge, mobile, embedded or cloud")],
    out: Annotated[Path | None, typer.Option(help="The bundle's folder; default: in the home, below bundles/")] = None,
    day: Annotated[str | None, typer.Option("--date", help="YYYY-MM-DD; default: what serves, else the newest")] = None,
    experiment: Annotated[str, typer.Option(help="Experiment")] = "base",
    force: Annotated[bool, typer.Option("--force", help="Replace another bundle that is there")] = False,
    triton_image: Annotated[str | None, typer.Option(help="cloud: the official image, with its tag")] = None,
    image: Annotated[str, typer.Option(help="cloud: what the image will be called, with its tag")] = "",
    memory: Annotated[str, typer.Option(help="cloud: memory of a pod")] = "2Gi",
    max_pods: Annotated[int, typer.Option("--max-pods", min=1, help="cloud: pods that an autoscaler may start")] = 1,
    host: Annotated[str, typer.Option(help="cloud: the name that clients outside of the cluster use")] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the compressed model as files for another machine, held to the answers of the model that serves."""
    with output(as_json) as put:
        from dl_pipelines.bundles.base import TRITON_IMAGE, Options
        from dl_pipelines.cli import bundle as making
        from dl_pipelines.cli.screen import console

        place = home_of(home)
        options = Options(triton_image or TRITON_IMAGE, image, memory, max_pods, host)
        asked = making.Asked(brief_of(place, project), target, out, day_of(day, "--date"), experiment, options, force)
        made = making.bundle(place, asked, console())
        put(making.answer(made))
    if not as_json:
        typer.echo(made.path)


@app.command()
@command
def gc(
    home: HomeOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go")] = False,
) -> None:
    """Remove artifacts beyond each brief's retention; what serves, served last or is cited by a report is kept.

    Answers of live requests go by serving.log.keep_days; a dry run does not look at them.
    """
    from dl_pipelines.lifecycle.retention import collect_garbage
    from dl_pipelines.serving.expiry import expire_log
    from dl_pipelines.store.owner import OtherHomeError
    from dl_pipelines.store.workspace import Workspace

    place, total, code = home_of(home), 0, MET
    for path in sorted(place.briefs.glob("*.yaml")):
        brief = brief_of(place, path.stem)
        workspace = Workspace(place, brief.project)
        try:
            removed = collect_garbage(workspace, brief.lifecycle.keep, dry_run)
        except OtherHomeError as error:  # says nothing of the projects that are this home's
            say(f"error: {error}")
            code = OTHER
            continue
        total += len(removed)
        for item in removed:
            typer.echo(str(item))
        expired = 0 if dry_run else expire_log(workspace, brief.serving.log.keep_days)
        if expired:
            typer.echo(f"{expired:,} rows and segments of {brief.project}'s log older than serving.log.keep_days")
    typer.echo(f"{total} {'would be ' if dry_run else ''}removed")
    raise typer.Exit(code)


@app.command()
@command
def mpijob(
    file: File,
    image: Annotated[str, typer.Option(help="Image with this project, sshd and ssh")],
    namespace: Annotated[str, typer.Option(help="Namespace of the cluster")] = "default",
    slots: Annotated[int, typer.Option(min=1, help="Workers a pod")] = 1,
    memory: Annotated[str, typer.Option(help="Memory of a pod")] = "4Gi",
    gpus: Annotated[int, typer.Option(min=0, help="NVIDIA GPUs of a worker's pod")] = 0,
    claim: Annotated[str, typer.Option(help="Volume claim that all pods may write: the home")] = "dlp-home",
    secret: Annotated[str, typer.Option(help="Secret with the variables that the brief names")] = "dlp-secrets",
    variable: Annotated[list[str] | None, typer.Option(help="One more of its variables: DLP_DATABASE_URL")] = None,
    until: Annotated[str, typer.Option(help="The last stage to run")] = "trained_model",
    crd: Annotated[Path | None, typer.Option(help="The cluster's definition of MPIJob, to check against")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print an MPIJob for Kubernetes that runs a brief over several pods; apply it with kubectl."""
    from dl_pipelines import catalog
    from dl_pipelines.cli.mpijob import written
    from dl_pipelines.cli.run import last_stage
    from dl_pipelines.training.mpijob import Cluster

    brief = catalog.load_brief(file)
    last_stage(until)
    cluster = Cluster(image, namespace, slots, memory, gpus, claim, secret, tuple(variable or ()))
    typer.echo(written(brief, file.read_text(encoding="utf-8"), cluster, until, crd, as_json), nl=as_json)


@app.command()
@command
def ui(port: Annotated[int, typer.Option(help="Port of 127.0.0.1")] = 3000, home: HomeOption = None) -> None:
    """Dagster's UI with every brief's assets, checks, schedule and sensors, and the daemon that runs them."""
    from dl_pipelines.cli.ui import serve_ui

    raise typer.Exit(serve_ui(home_of(home).prepare(), port))


if __name__ == "__main__":
    main()
