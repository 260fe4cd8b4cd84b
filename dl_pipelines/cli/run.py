"""The line run by Dagster in this process, on the persistent instance of the home: what `dlp run` and `backfill` do.

Three runs, because one run has one kind of partition: the days, the window, the model with its report. Stages are
memoised by the library, so what is there already is found, not made again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

import dagster as dg
import yaml
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.events import RunFailureReason
from dagster._utils.warnings import disable_dagster_warnings

from assets.partitions import contiguous, experiments_name, source_days
from assets.project import DATA, MODEL, WINDOW, names, project_assets
from assets.stage import key_of
from dl_pipelines import catalog
from dl_pipelines.brief import BASE, Brief, experiment_name, parse_settings
from dl_pipelines.cli.backfill import Backfill, settle_model
from dl_pipelines.data.plan import plan_days, settle_days
from dl_pipelines.data.registry import SOURCES
from dl_pipelines.data.stages import daily_stages
from dl_pipelines.data.window import window_days
from dl_pipelines.serving.server import running
from dl_pipelines.store import durable
from dl_pipelines.store.artifacts import Artifact
from dl_pipelines.store.database import Database
from dl_pipelines.store.home import Home
from dl_pipelines.store.workspace import Partition, Progress, Workspace
from resources.attempt import NO_SPACE
from resources.instance import open_instance
from resources.lost import process_tags, reap
from resources.machine import holders
from resources.workspaces import RESOURCE, Finished, Watcher, Workspaces
from sensors.jobs import PROJECT, RANGE

if TYPE_CHECKING:
    from dagster._core.execution.execution_result import ExecutionResult

STAGES = names((*DATA, *WINDOW, *MODEL))
REPORT = STAGES[-1]
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
_INTERRUPTIONS = (DagsterExecutionInterruptedError.__name__, KeyboardInterrupt.__name__)
WAIT_SECONDS = 1.0


class Interrupted(Exception):
    """Ctrl-C, after everything that was started has ended."""


@dataclass(frozen=True)
class Failed:
    """A stage that did not make its artifact, or whose blocking gates failed, in the library's words."""

    stage: str
    message: str
    crashed: bool

    @property
    def of_input(self) -> bool:
        """Whether the user's data is at fault: it was refused before a model was trained on it."""
        return not self.crashed and self.stage in names((*DATA, *WINDOW))


@dataclass
class Ran:
    """What a run came to. `stages` are the ends of all stages, in order; `report` the report's artifact, if any."""

    partition: Partition
    stages: list[Finished] = field(default_factory=list)
    failures: list[Failed] = field(default_factory=list)
    report: Artifact | None = None


class Recorder:
    """Passes what happens on to another watcher and keeps how the stages ended."""

    def __init__(self, inner: Watcher, ends: list[Finished]):
        self._inner, self._ends = inner, ends
        self.started, self.progress = inner.started, inner.progress

    def finished(self, end: Finished) -> None:
        """See Watcher."""
        self._ends.append(end)
        self._inner.finished(end)


def settle_experiment(home: Home, brief: Brief, experiment: str | None, settings: Sequence[str]) -> str:
    """Save what `--set` says as an experiment and return its name. Raises BriefError, ValueError."""
    overrides = parse_settings(settings)
    if not overrides:
        catalog.brief_of(home, brief, experiment)
        return experiment or BASE
    name = experiment or experiment_name(overrides)
    catalog.save_experiment(home, brief, name, overrides)
    return name


def snapshot(home: Home, brief: Brief) -> None:
    """Keep the brief of a run in the home. Secrets are names in it, never values.

    Raises DatabaseError when the project is another home's in a shared database, before anything is kept or made.
    """
    Database.claim(home, brief.project)
    path, text = home.briefs / f"{brief.project}.yaml", yaml.safe_dump(brief.model_dump(mode="json"), sort_keys=False)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        durable.write_text(path, text)


def chosen_day(brief: Brief, day: date | None) -> date:
    """The day that was asked for, or the source's default. Raises SourceError, ValueError when it has no records."""
    found = source_days(brief)
    if day is None:
        return SOURCES.make(brief.data.source).default_day()
    if day not in found:
        near = f"from {found[0]} to {found[-1]}" if found else "none"
        raise ValueError(f"found no records of {brief.project} on {day}; expected a day with records ({near})")
    return day


def last_stage(until: str | None) -> int:
    """Position of the last stage to run. Raises ValueError for an unknown name."""
    if until is None:
        return len(STAGES) - 1
    if until not in STAGES:
        raise ValueError(f"found --until {until!r}; expected one of {', '.join(STAGES)}")
    return STAGES.index(until)


@contextlib.contextmanager
def line(home: Home, brief: Brief, watcher: Watcher, ends: list[Finished], keep: bool) -> Iterator[Line]:
    """The line of one brief, ready to run partitions; a server that they start ends with the block, unless kept."""
    with disable_dagster_warnings():
        defs = dg.Definitions(
            assets=project_assets(brief),
            resources={RESOURCE: Workspaces(home, Recorder(watcher, ends))},
            executor=dg.in_process_executor,
        )
        job = defs.resolve_implicit_global_asset_job_def()
        with open_instance(home) as instance, running(home, keep=keep, lazy=not keep):
            reap(instance)
            yield Line(home, brief, instance, job, ends, watcher)


@dataclass
class Line:
    """One brief's assets as a job in this process."""

    home: Home
    brief: Brief
    instance: dg.DagsterInstance
    job: Any
    ends: list[Finished]
    watcher: Watcher

    def run(
        self, day: date, experiment: str = BASE, until: str | None = None, tags: Mapping[str, str] | None = None,
        days: Sequence[date] | None = None,
    ) -> Ran:  # fmt: skip
        """Everything that the partition needs, up to `until`. Raises Interrupted; a failed stage is in the answer.

        `days` are brought in first, by default those of its window.
        """
        partition, stop = Partition(day, experiment), last_stage(until)
        self.instance.add_dynamic_partitions(experiments_name(self.brief), sorted({BASE, experiment}))
        ran, before = Ran(partition), len(self.ends)
        if days is None:
            days = window_days(source_days(self.brief), day, self.brief.data.window_days)
        with _interruptible():
            self._stages(ran, stop, days, dict(tags or {}))
        ran.stages = self.ends[before:]
        ran.report = next((end.artifact for end in ran.stages if end.stage == REPORT), None)
        if ran.report and not ran.failures:
            settle_model(self.home, self.brief, partition)
        return ran

    def bring_in(self, days: Sequence[date], tags: Mapping[str, str] | None = None) -> Ran:
        """The data stages of these days, in one run where no day between them is left out. Raises Interrupted."""
        ran, before = Ran(Partition(max(days))), len(self.ends)
        with _interruptible():
            self._days(ran, self._wanted(DATA, len(STAGES)), days, dict(tags or {}))
        ran.stages = self.ends[before:]
        return ran

    def finished(self, partition: Partition) -> Ran:
        """What is there of a partition whose report is there; nothing is run."""
        workspace, stages = Workspace(self.home, self.brief.project), self._wanted((*WINDOW, *MODEL), len(STAGES))
        places = [(stage, partition.daily if stage in names(WINDOW) else partition) for stage in stages]
        ends = [Finished(stage, place, 0.0, workspace.get(stage, place)) for stage, place in places]
        return Ran(partition, ends, report=ends[-1].artifact)

    def _wanted(self, stages: Sequence[Any], stop: int) -> list[str]:
        """Names of those of some stages that the task has and that are not behind the position `stop`."""
        left_out = catalog.task_of(self.brief).not_applicable
        return [name for name in names(tuple(stages)) if name not in left_out and STAGES.index(name) <= stop]

    def _stages(self, ran: Ran, stop: int, days: Sequence[date], tags: dict[str, str]) -> None:
        if days:
            self._days(ran, self._wanted(DATA, stop), days, tags)
        if not ran.failures and (window := self._wanted(WINDOW, stop)):
            self._one(ran, window, str(ran.partition.day), tags)
        if not ran.failures and (model := self._wanted(MODEL, stop)):
            self._one(ran, model, ran.partition.key, tags)
            if ran.failures and REPORT in model:
                # The report also says what could not be made, and why.
                self._one(Ran(ran.partition), [REPORT], ran.partition.key, tags)

    def _days(self, ran: Ran, stages: list[str], days: Sequence[date], tags: dict[str, str]) -> None:
        """The data stages of the days that need work; those that are right are left alone."""
        workspace, task = Workspace(self.home, self.brief.project), catalog.task_of(self.brief)
        self.watcher.started(stages[0], Partition(max(days)))
        self.watcher.progress(Progress(stages[0], f"looking at {len(days)} days"))
        plan = plan_days(workspace, self.brief.data, task, days)
        for first, last in contiguous(list(plan.work), source_days(self.brief)):
            self._one(ran, stages, None, {**tags, **dict(zip(RANGE, (str(first), str(last)), strict=True))})
        if stages == list(daily_stages(task)):
            settle_days(workspace, self.brief.data, task, plan.work)
        self.ends += [Finished(stage, Partition(day), 0.0, artifacts[stage])
                      for stage in stages for day, artifacts in plan.right.items()]  # fmt: skip

    def _one(self, ran: Ran, stages: list[str], partition: str | None, tags: dict[str, str]) -> None:
        self._wait(stages[0], ran.partition)
        result = self.job.execute_in_process(
            instance=self.instance,
            asset_selection=[key_of(self.brief, name) for name in stages],
            partition_key=partition,
            raise_on_error=False,
            run_config=_QUIET,
            tags={**tags, PROJECT: self.brief.project, **process_tags()},
        )
        if interrupted(result):
            raise Interrupted
        if not result.success:
            ran.failures += list(failures(result)) or [Failed(stages[0], "the run failed before its first step", True)]

    def _wait(self, stage: str, partition: Partition) -> None:
        """Until no other run (of the UI, of another terminal) has the machine."""
        told = False
        while others := holders(self.instance):
            if not told:
                self.watcher.started(stage, partition)
                self.watcher.progress(Progress(stage, f"waiting for the run {', '.join(sorted(others))} to end"))
                told = True
            time.sleep(WAIT_SECONDS)
            reap(self.instance)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C as Interrupted, wherever it comes."""
    try:
        yield
    except (DagsterExecutionInterruptedError, KeyboardInterrupt) as error:
        raise Interrupted from error


def interrupted(result: ExecutionResult) -> bool:
    """Whether Ctrl-C ended a run; Dagster tells of it as of any other failure, in a step or between two."""
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.RUN_FAILURE:
            if event.job_failure_data.failure_reason == RunFailureReason.UNEXPECTED_TERMINATION:
                return True
        elif event.is_step_failure:
            cause = event.step_failure_data.error
            while cause:
                if cause.cls_name in _INTERRUPTIONS:
                    return True
                cause = cause.cause
    return False


def failures(result: ExecutionResult) -> Iterator[Failed]:
    """Why each failed step failed: the gates that block, the library's own words, or an exception of ours."""
    blocked: dict[str, list[str]] = {}
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check: Any = event.event_specific_data
            if check.blocking and not check.passed:
                day = f" ({check.partition})" if check.partition else ""
                blocked.setdefault(check.asset_key.path[-1], []).append(f"{check.check_name}{day}: {check.description}")
    for event in result.all_events:
        if not event.is_step_failure:
            continue
        stage = str(event.step_key).partition("__")[2]
        data = event.step_failure_data
        if stage in blocked:
            yield Failed(stage, "; ".join(blocked[stage]), False)
        elif data.user_failure_data:
            told = data.user_failure_data
            yield Failed(stage, told.description or "", NO_SPACE in told.metadata)
        else:
            cause = data.error
            while cause and cause.cause:
                cause = cause.cause
            yield Failed(stage, (cause.message.strip() if cause else "no reason was given"), True)


def fill(line: Line, asked: Backfill, tags: Mapping[str, str]) -> list[Ran]:
    """Bring the data in once, then make the models that are missing, each day after the one before it.

    A model may start from the one before it: the order is kept. Raises Interrupted.
    """
    refused = line.bring_in(asked.days, tags).failures if asked.missing and asked.work else []
    runs = []
    for partition in asked.partitions:
        if partition in asked.finished:
            runs.append(line.finished(partition))
        else:
            ran = line.run(partition.day, str(partition.experiment), tags=tags, days=())
            if ran.failures:
                ran.failures[:0] = refused  # its window says that a day is missing, these say why
            runs.append(ran)
    return runs


def retraining(home: Home, brief: Brief, partition: Partition) -> Any:
    """The retraining that the partition's drift report asks for, stored once, or None. The daemon executes it."""
    from dl_pipelines.lifecycle.retraining import Retraining, settle_retraining

    workspace = Workspace(home, brief.project)
    report = workspace.find("drift_report", partition)
    if report is None:
        return None
    decision = settle_retraining(workspace, report, partition, source_days(brief), brief.lifecycle.retrain_on_drift)
    return decision if isinstance(decision, Retraining) else None
