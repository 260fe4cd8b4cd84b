"""The command line `dlp`: it runs the same assets that Dagster's UI shows, and looks after what they leave behind.

Exit codes: 0 targets met (or done), 3 a target missed, 2 the user's input is wrong, 1 anything else. With `--json` one
object goes to standard output; everything for people goes to standard error.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from dl_pipelines.brief import Brief, BriefError

ROOT = Path(__file__).resolve().parents[2]
MET, OTHER, INPUT, MISSED = 0, 1, 2, 3

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help=__doc__
)
brief_app = typer.Typer(no_args_is_help=True, help="Check a brief, describe its fields, start a new one.")
app.add_typer(brief_app, name="brief")

HomeOption = Annotated[Path | None, typer.Option("--home", help="The home; default DLP_HOME, else .dlp")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output")]
File = Annotated[Path, typer.Argument(help="A brief, YAML")]
Project = Annotated[str, typer.Argument(help="A project that was run in this home, or has a brief in briefs/")]


def main() -> None:
    """Entry point of `dlp`."""
    app()


def command(run: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors into a sentence and an exit code: no traceback for what a user can fix."""

    @functools.wraps(run)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        try:
            return run(*arguments, **options)
        except KeyboardInterrupt:
            _say("interrupted; what this command started has ended")
            raise typer.Exit(OTHER) from None
        except (ValueError, OSError) as error:
            _say(f"error: {_full(error) or error}")
            raise typer.Exit(INPUT if _of_input(error) else OTHER) from None
        except _database_errors() as error:
            if not (full := _full(error)):
                raise
            _say(f"error: {full}")
            raise typer.Exit(OTHER) from None

    return wrapped


def _database_errors() -> type[Exception]:
    """What Dagster's storage and ours raise; imported when something was raised."""
    from sqlalchemy.exc import SQLAlchemyError

    return SQLAlchemyError


def _full(error: Exception) -> str | None:
    """What to tell of a full disk."""
    from dl_pipelines.store.space import no_space

    return no_space(error, os.environ.get("DLP_HOME"))


def _of_input(error: Exception) -> bool:
    """A brief, an argument or the user's data; what a stage refuses or a server lacks is not."""
    from dl_pipelines.data.sources.base import SourceError
    from dl_pipelines.serving.client import PredictError

    return isinstance(error, BriefError | SourceError | PredictError) or type(error) is ValueError


def _say(text: str) -> None:
    from dl_pipelines.cli.screen import console

    console().print(text, markup=False)


@contextlib.contextmanager
def _output(as_json: bool) -> Iterator[Callable[[Any], None]]:
    """Where the one JSON object goes: while it is open, whatever else writes to standard output goes to the error."""
    if not as_json:
        yield lambda _: None
        return
    sys.stdout.flush()
    try:
        kept, target = os.dup(1), sys.stdout
        os.dup2(2, 1)
    except OSError:
        yield lambda value: typer.echo(json.dumps(value))
        return
    value: list[Any] = []
    try:
        yield value.append
    finally:
        target.flush()
        os.dup2(kept, 1)
        os.close(kept)
        for item in value:
            typer.echo(json.dumps(item))


def _day(text: str | None, option: str) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"found {option} {text!r}; expected YYYY-MM-DD") from None


def _home(given: Path | None):
    """The home that a command works in; the stages find it too."""
    from dl_pipelines.store.home import Home

    home = Home.find(given)
    os.environ["DLP_HOME"] = str(home.root)
    return home


def _brief_of(home: Any, project: str) -> Brief:
    """The brief of a project: its snapshot in the home, else the one in briefs/. Raises ValueError."""
    from dl_pipelines import catalog

    snapshot = home.briefs / f"{project}.yaml"
    if snapshot.exists():
        return catalog.load_brief(snapshot)
    known = {path.stem for path in home.briefs.glob("*.yaml")}
    for path in sorted((ROOT / "briefs").glob("*.yaml")):
        brief = catalog.load_brief(path)
        known.add(brief.project)
        if brief.project == project:
            return brief
    raise ValueError(
        f"found no project {project!r} in {home.root}; expected one of {', '.join(sorted(known)) or 'none yet'}; "
        "run `dlp run` for its brief first"
    )


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

    checks = run_checks(_home(home).root, quick)
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
    with _output(as_json) as put:
        from dl_pipelines.cli.report import answer, close
        from dl_pipelines.cli.run import Interrupted, chosen_day, last_stage, line, settle_experiment, snapshot
        from dl_pipelines.cli.screen import Screen, console

        place = _home(home).prepare()
        last_stage(until)
        at = chosen_day(brief, _day(day, "--date"))
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
    with _output(as_json) as put:
        from dl_pipelines.cli.backfill import chosen_days, plan_backfill
        from dl_pipelines.cli.report import answer, backfill_code, backfill_table, plan_table
        from dl_pipelines.cli.run import Interrupted, fill, line, snapshot
        from dl_pipelines.cli.screen import Screen, console

        start, end = _day(first, "--from"), _day(last, "--to")
        assert start and end
        place, days = _home(home).prepare(), chosen_days(brief, start, end, every)
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

    found = status_of(_home(home))
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

    path = find_report(_home(home), project, _day(day, "--date"), experiment)
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
    with _output(as_json) as put:
        from dl_pipelines.cli import verify as shown
        from dl_pipelines.cli.screen import console

        place = _home(home)
        brief = _brief_of(place, project)
        found = shown.verify(place, brief, _day(day, "--date"), experiment, fault, at)
        if not as_json:
            console(False).print(shown.table(found, project))
            for line in shown.told(found):
                console(False).print(line, markup=False)
        put(found.plain())
    raise typer.Exit(MISSED if found.broken else MET)


@app.command()
@command
def serve(
    project: Project,
    http: Annotated[int | None, typer.Option(help="Port of 127.0.0.1; default: a free one")] = None,
    grpc: Annotated[int | None, typer.Option(help="Port of 127.0.0.1; default: a free one")] = None,
    home: HomeOption = None,
) -> None:
    """Start the server with the project's champion and leave it running; `dlp stop` ends it."""
    from dl_pipelines.serving import champion
    from dl_pipelines.serving.server import TritonServer
    from dl_pipelines.store.workspace import Workspace

    place = _home(home)
    brief = _brief_of(place, project)
    workspace, server = Workspace(place, brief.project), TritonServer(place, http, grpc)
    champion.artifact_of(workspace)
    champion.reconcile(workspace)
    state = server.start(keep=True)
    champion.ensure_served(workspace, server)
    serving = champion.champion(workspace)
    assert serving is not None
    typer.echo(f"{project} serves {serving.model}: http://127.0.0.1:{state.http}/v2/models/{project}/infer, "
               f"gRPC 127.0.0.1:{state.grpc} (model {project})")  # fmt: skip


def _shortened(value: Any) -> Any:
    """A long list by its first values and its last one."""
    if not isinstance(value, list) or len(value) <= 5:
        return value
    return f"[{', '.join(map(str, value[:3]))}, ..., {value[-1]}] ({len(value)} values)"


@app.command()
@command
def predict(project: Project, files: list[str], home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Ask the champion for each file; a server that isn't there is started for this command."""
    import time

    with _output(as_json) as put:
        import numpy as np

        from dl_pipelines import catalog
        from dl_pipelines.cli.screen import console
        from dl_pipelines.serving.client import predict as ask
        from dl_pipelines.store.workspace import Workspace

        place = _home(home)
        brief = _brief_of(place, project)
        task = catalog.task_of(brief)
        inputs = np.stack([task.read_input(path) for path in files])
        ids = [f"predict-{time.time_ns()}-{number}" for number in range(len(files))]
        outputs = ask(Workspace(place, project), task, inputs, ids)
        answers = [
            {"file": path, "request_id": name, **task.answer(output)}
            for path, name, output in zip(files, ids, outputs, strict=True)
        ]
        for item in [] if as_json else answers:
            facts = ", ".join(f"{key} {_shortened(value)}" for key, value in item.items() if key != "file")
            console(False).print(f"{item['file']}: {facts}", markup=False)
        put({"predictions": answers})


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
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the compressed model as files for another machine, held to the answers of the model that serves."""
    with _output(as_json) as put:
        from dl_pipelines.bundles.base import TRITON_IMAGE, Options
        from dl_pipelines.cli import bundle as making
        from dl_pipelines.cli.screen import console

        place = _home(home)
        options = Options(triton_image or TRITON_IMAGE, image, memory)
        asked = making.Asked(_brief_of(place, project), target, out, _day(day, "--date"), experiment, options, force)
        made = making.bundle(place, asked, console())
        put(making.answer(made))
    if not as_json:
        typer.echo(made.path)


@app.command()
@command
def stop(home: HomeOption = None) -> None:
    """End the server of this home."""
    from dl_pipelines.serving.server import TritonServer

    ended = TritonServer(_home(home)).stop()
    typer.echo("the server has ended" if ended else "no server was running")


@app.command()
@command
def gc(
    home: HomeOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go")] = False,
) -> None:
    """Remove artifacts beyond each brief's retention; what serves, served last or is cited by a report is kept."""
    from dl_pipelines.lifecycle.retention import collect_garbage
    from dl_pipelines.store.workspace import Workspace

    place, total = _home(home), 0
    for path in sorted(place.briefs.glob("*.yaml")):
        brief = _brief_of(place, path.stem)
        removed = collect_garbage(Workspace(place, brief.project), brief.lifecycle.keep, dry_run)
        total += len(removed)
        for item in removed:
            typer.echo(str(item))
    typer.echo(f"{total} {'would be ' if dry_run else ''}removed")


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

    raise typer.Exit(serve_ui(_home(home).prepare(), port))


if __name__ == "__main__":
    main()
